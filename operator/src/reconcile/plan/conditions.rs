//! Conditions: verdicts with the bookkeeping that Kubernetes expects. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::reconcile::{
    reason::{Progress, Reason},
    world::Problem,
};

/// The status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    True,
    False,
    Unknown,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// The content of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) status: Status,
    pub(crate) reason: Reason,
    /// Full sentences: what is wrong and what to do.
    pub(crate) message: String,
}

impl Verdict {
    pub(crate) fn yes(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(Status::True, reason, message)
    }

    pub(crate) fn no(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(Status::False, reason, message)
    }

    pub(crate) fn unknown(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(Status::Unknown, reason, message)
    }

    fn new(status: Status, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status,
            reason,
            message: message.into(),
        }
    }

    /// The verdict of an earlier status; `None` if another version of the operator wrote it.
    pub(crate) fn of(condition: &Condition) -> Option<Self> {
        let status = match condition.status.as_str() {
            "True" => Status::True,
            "False" => Status::False,
            _ => Status::Unknown,
        };
        let reason = Reason::from_word(&condition.reason)?;
        Some(Self::new(status, reason, condition.message.clone()))
    }

    pub(crate) fn is_true(&self) -> bool {
        self.status == Status::True
    }

    /// What kstatus makes of it.
    pub(crate) fn progress(&self) -> Option<Progress> {
        self.reason.progress().filter(|_| !self.is_true())
    }
}

impl From<&Problem> for Verdict {
    fn from(problem: &Problem) -> Self {
        Self::no(problem.reason, problem.message.clone())
    }
}

/// The condition of this type, if there is one.
pub(crate) fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// The conditions after a reconcile, in a fixed order. A transition time changes only with the
/// status of its condition.
pub(crate) fn update(
    previous: &[Condition],
    verdicts: Vec<(&'static str, Verdict)>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    // Kubernetes stores whole seconds; a finer time would differ from the one that is read back.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    verdicts
        .into_iter()
        .map(|(type_, verdict)| {
            let status = verdict.status.as_str();
            let since = find(previous, type_)
                .filter(|condition| condition.status == status)
                .map_or(Time(now), |condition| {
                    condition.last_transition_time.clone()
                });
            Condition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: verdict.reason.as_str().to_owned(),
                message: verdict.message,
                observed_generation: generation,
                last_transition_time: since,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use layra_crds::condition_types::{READY, SCALING, STALLED};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_transition_time_changes_only_with_the_status() {
        let no = |reason| vec![(READY, Verdict::no(reason, "a message"))];
        let first = update(&[], no(Reason::WorkersStarting), Some(1), at(10));
        let same = update(&first, no(Reason::WorkersCrashing), Some(2), at(20));
        assert_eq!(same[0].last_transition_time, Time(at(10)));
        assert_eq!(
            (same[0].reason.as_str(), same[0].observed_generation),
            ("WorkersCrashing", Some(2))
        );

        let ready = vec![(READY, Verdict::yes(Reason::PipelineReady, ""))];
        let turned = update(&same, ready, Some(2), at(30));
        assert_eq!(turned[0].last_transition_time, Time(at(30)));
    }

    #[test]
    fn a_condition_without_a_verdict_is_removed() {
        let stalled = vec![(STALLED, Verdict::yes(Reason::Paused, ""))];
        let before = update(&[], stalled, Some(1), at(10));
        let ready = vec![(READY, Verdict::yes(Reason::PipelineReady, ""))];
        assert!(
            update(&before, ready, Some(1), at(20))
                .iter()
                .all(|condition| condition.type_ != STALLED)
        );
    }

    #[test]
    fn times_have_whole_seconds() {
        let now = Timestamp::from_millisecond(10_999).unwrap();
        let ready = vec![(READY, Verdict::yes(Reason::PipelineReady, ""))];
        let conditions = update(&[], ready, None, now);
        assert_eq!(conditions[0].last_transition_time, Time(at(10)));
    }

    #[test]
    fn a_verdict_is_read_back_from_its_condition() {
        let verdict = Verdict::unknown(Reason::KafkaUnreachable, "Kafka does not respond.");
        let mut conditions = update(&[], vec![(SCALING, verdict.clone())], None, at(10));
        assert_eq!(Verdict::of(&conditions[0]), Some(verdict));
        conditions[0].reason = "FromTheFuture".to_owned();
        assert_eq!(Verdict::of(&conditions[0]), None);
    }

    #[test]
    fn a_true_condition_is_neither_in_progress_nor_stalled() {
        let reason = Reason::RolloutInProgress;
        assert_eq!(
            Verdict::no(reason, "").progress(),
            Some(Progress::InProgress)
        );
        assert_eq!(Verdict::yes(reason, "").progress(), None);
    }
}
