//! Conditions: verdicts with the bookkeeping that Kubernetes asks for. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::reconcile::world::Problem;

/// Everything is in order: workers can run, and results can be stored.
pub(crate) const READY: &str = "Ready";
/// Both topics exist as the spec says.
pub(crate) const TOPIC_READY: &str = "TopicReady";
/// Milvus answers.
pub(crate) const VECTOR_STORE_READY: &str = "VectorStoreReady";
/// As many workers run as are needed, or none are.
pub(crate) const WORKERS_AVAILABLE: &str = "WorkersAvailable";
/// The number of workers follows the backlog, or the user.
pub(crate) const SCALING: &str = "Scaling";
/// Only while true: the operator is still at it (kstatus: in progress).
pub(crate) const RECONCILING: &str = "Reconciling";
/// Only while true: the spec cannot be reached without another spec (kstatus: failed).
pub(crate) const STALLED: &str = "Stalled";

/// Whether something holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    /// It does.
    True,
    /// It does not.
    False,
    /// That cannot be told at present.
    Unknown,
}

impl Holds {
    fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// What a condition is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Whether it holds.
    pub(crate) holds: Holds,
    /// Why: a stable word.
    pub(crate) reason: String,
    /// Why, and what to do: a sentence.
    pub(crate) message: String,
}

impl Verdict {
    /// It holds.
    pub(crate) fn yes(reason: &str, message: impl Into<String>) -> Self {
        Self {
            holds: Holds::True,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    /// It does not hold.
    pub(crate) fn no(reason: &str, message: impl Into<String>) -> Self {
        Self {
            holds: Holds::False,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    /// It cannot be told.
    pub(crate) fn unknown(reason: &str, message: impl Into<String>) -> Self {
        Self {
            holds: Holds::Unknown,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    /// Whether it holds.
    pub(crate) fn is_true(&self) -> bool {
        self.holds == Holds::True
    }
}

impl From<&Problem> for Verdict {
    fn from(problem: &Problem) -> Self {
        Self::no(problem.reason, problem.message.clone())
    }
}

/// The condition of a type, if there is one.
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
    // Kubernetes keeps whole seconds; anything finer would differ from what is read back.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    verdicts
        .into_iter()
        .map(|(type_, verdict)| {
            let status = verdict.holds.as_str();
            let since = find(previous, type_)
                .filter(|condition| condition.status == status)
                .map_or(Time(now), |condition| {
                    condition.last_transition_time.clone()
                });
            Condition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: verdict.reason,
                message: verdict.message,
                observed_generation: generation,
                last_transition_time: since,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_transition_time_changes_only_with_the_status() {
        let first = update(
            &[],
            vec![(READY, Verdict::no("A", "first"))],
            Some(1),
            at(10),
        );
        let same = update(
            &first,
            vec![(READY, Verdict::no("B", "second"))],
            Some(2),
            at(20),
        );
        assert_eq!(same[0].last_transition_time, Time(at(10)));
        assert_eq!(
            (same[0].reason.as_str(), same[0].observed_generation),
            ("B", Some(2))
        );

        let turned = update(&same, vec![(READY, Verdict::yes("C", ""))], Some(2), at(30));
        assert_eq!(turned[0].last_transition_time, Time(at(30)));
    }

    #[test]
    fn what_is_no_longer_said_is_gone() {
        let before = update(&[], vec![(STALLED, Verdict::yes("A", ""))], Some(1), at(10));
        assert!(
            update(
                &before,
                vec![(READY, Verdict::yes("B", ""))],
                Some(1),
                at(20)
            )
            .iter()
            .all(|condition| condition.type_ != STALLED)
        );
    }

    #[test]
    fn times_have_whole_seconds() {
        let now = Timestamp::from_millisecond(10_999).unwrap();
        let conditions = update(&[], vec![(READY, Verdict::yes("A", ""))], None, now);
        assert_eq!(conditions[0].last_transition_time, Time(at(10)));
    }
}
