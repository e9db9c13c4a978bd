//! A decision with its explanation: inputs, terms of the law, limits and a message.

use std::fmt::Write as _;

use super::{
    learned::Learned,
    observation::{Partition, Phase, Worker, count},
    unknown::UnknownBacklog,
};

/// How many workers there should be, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The number of workers.
    pub desired: u32,
    /// What determined it.
    pub reason: Reason,
    /// The explanation for people, in full sentences.
    pub message: String,
    /// What kept the number from following the work alone, the strongest first.
    pub limits: Vec<Limit>,
    /// What was observed.
    pub inputs: Inputs,
    /// What the law computed from it. `None` while the backlog is unknown.
    pub terms: Option<Terms>,
    /// Speed, sizes and times of the workers.
    pub learned: Learned,
    /// Whether `learned` was measured; otherwise it is assumed.
    pub is_learned: bool,
    /// Partitions whose work makes no progress.
    pub stuck: Vec<Partition>,
    /// The servers that workers wait for with all of their work, in alphabetical order.
    pub waiting_for: Vec<String>,
    /// For how long [`Limit::StoresAway`] has applied, in seconds. 0: it does not.
    pub outage_seconds: f64,
    /// Ready workers whose counts have not been read for a minute.
    pub unmeasured: u32,
    /// Rechecks that the workers last reported as due within 15 minutes.
    pub open_rechecks: u64,
}

/// What determined a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no work.
    Idle,
    /// Keeping up with arrivals requires the most workers.
    KeepingUp,
    /// Draining the backlog requires the most workers.
    Draining,
    /// There is no backlog, but rechecks are due, and one worker makes them.
    Rechecking,
    /// The backlog is unknown.
    Unknown(UnknownBacklog),
}

impl Reason {
    /// The stable `CamelCase` word for conditions and the status.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::KeepingUp => "KeepingUp",
            Self::Draining => "Draining",
            Self::Rechecking => "Rechecking",
            Self::Unknown(cause) => cause.as_str(),
        }
    }
}

/// What was observed. `None`: unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Inputs {
    /// Documents that are not processed.
    pub documents: Option<i64>,
    /// Ranges of split documents that are not processed.
    pub ranges: Option<i64>,
    /// Pages of both.
    pub pages: Option<f64>,
    /// The oldest message has waited for at least this many seconds.
    pub oldest_seconds: Option<f64>,
    /// Pages that arrive per second.
    pub arriving: Option<f64>,
    /// Partitions of the tasks topic.
    pub partitions: Option<u32>,
    /// Partitions with work, of both topics.
    pub partitions_with_work: Option<u32>,
    /// Workers that are ready.
    pub ready: u32,
    /// Workers that are starting, or not ready because a server does not respond.
    pub starting: u32,
    /// Workers that no node has room for.
    pub pending: u32,
}

impl Inputs {
    /// The workers alone; everything else is unknown.
    pub(crate) fn of_workers(workers: &[Worker]) -> Self {
        Self {
            ready: count(workers, |phase| phase == Phase::Ready),
            starting: count(workers, |phase| {
                matches!(phase, Phase::Starting { .. } | Phase::Waiting { .. })
            }),
            pending: count(workers, |phase| matches!(phase, Phase::Pending { .. })),
            ..Self::default()
        }
    }
}

/// What the law computed, in workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Required to keep up with arrivals.
    pub for_arrivals: u32,
    /// Required to drain the backlog within the drain target.
    pub for_backlog: u32,
    /// Required for both at nine tenths of the speed: no scale-down goes below this.
    pub to_scale_down: u32,
    /// The fewest workers.
    pub floor: u32,
    /// The most workers, by the spec and the partitions.
    pub ceiling: u32,
    /// The most that were required during the scale-down delay. `None`: not recorded that long.
    pub window: Option<u32>,
    /// The scale-down delay, in seconds.
    pub window_seconds: i64,
}

/// What kept a decision from following the work alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The work requires fewer workers than `minReplicas` or the current scheduled floor.
    Floor,
    /// The work requires more workers than `maxReplicas`.
    MaxReplicas,
    /// The work requires more workers than there are partitions.
    Partitions,
    /// More workers would meet the drain target only if more partitions had work.
    PartitionsWithWork,
    /// The backlog is too small and too young to start the first worker.
    Activation,
    /// Every worker waits for a server, so more workers would not help.
    StoresAway,
    /// Every worker waits because a quota of the pipeline is reached: one of them is enough to
    /// notice that there is room again.
    QuotaReached,
    /// No node has come for pending workers, so only a few are requested at a time.
    PendingWorkers,
    /// The last scale-up did not increase the throughput.
    IneffectiveScaleUp,
    /// Fewer workers would suffice, but work is overdue.
    DrainTargetAtRisk,
    /// Fewer workers would suffice, but others are still shutting down.
    Settling,
    /// Fewer workers would suffice, but the workers' progress is unknown.
    MetricsMissing,
    /// Fewer workers would suffice for the partitions whose offsets could be read.
    PartitionsUnread,
    /// Fewer workers would suffice, but the scale-down delay has not passed.
    ScaleDownDelay,
    /// The backlog is unknown.
    Unknown,
    /// The backlog has been unknown for at least the fallback's delay.
    Fallback,
}

impl Limit {
    /// Every limit, for metrics that show the absent ones too.
    pub const ALL: [Self; 16] = [
        Self::Floor,
        Self::MaxReplicas,
        Self::Partitions,
        Self::PartitionsWithWork,
        Self::Activation,
        Self::StoresAway,
        Self::QuotaReached,
        Self::PendingWorkers,
        Self::IneffectiveScaleUp,
        Self::DrainTargetAtRisk,
        Self::Settling,
        Self::MetricsMissing,
        Self::PartitionsUnread,
        Self::ScaleDownDelay,
        Self::Unknown,
        Self::Fallback,
    ];

    /// The stable `CamelCase` word for the status and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Floor => "Floor",
            Self::MaxReplicas => "MaxReplicas",
            Self::Partitions => "Partitions",
            Self::PartitionsWithWork => "PartitionsWithWork",
            Self::Activation => "Activation",
            Self::StoresAway => "StoresAway",
            Self::QuotaReached => "QuotaReached",
            Self::PendingWorkers => "PendingWorkers",
            Self::IneffectiveScaleUp => "IneffectiveScaleUp",
            Self::DrainTargetAtRisk => "DrainTargetAtRisk",
            Self::Settling => "Settling",
            Self::MetricsMissing => "MetricsMissing",
            Self::PartitionsUnread => "PartitionsUnread",
            Self::ScaleDownDelay => "ScaleDownDelay",
            Self::Unknown => "Unknown",
            Self::Fallback => "Fallback",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::Floor => "minReplicas or a scheduled floor is the limit.",
            Self::MaxReplicas => "maxReplicas is the limit.",
            Self::Partitions => "The number of partitions is the limit.",
            Self::PartitionsWithWork => "The number of partitions with work is the limit.",
            Self::Activation => {
                "No worker is started before the backlog reaches scaling.activation."
            }
            Self::StoresAway => {
                "Every worker waits for a server, so the number of workers does not follow the backlog."
            }
            Self::QuotaReached => {
                "A quota of the pipeline is reached, so no worker starts a document, and one is enough."
            }
            Self::PendingWorkers => {
                "No node has come for pending workers, so only a few are requested at a time."
            }
            Self::IneffectiveScaleUp => {
                "The last scale-up did not increase the throughput, so no workers are added."
            }
            Self::DrainTargetAtRisk => "No worker is stopped while work is overdue.",
            Self::Settling => "No worker is stopped while others are shutting down.",
            Self::MetricsMissing => "No worker is stopped while the workers' progress is unknown.",
            Self::PartitionsUnread => {
                "No worker is stopped while the offsets of some partitions are unknown."
            }
            Self::ScaleDownDelay => {
                "Fewer workers would suffice, but the scale-down delay has not passed."
            }
            Self::Unknown => "The number of workers is held.",
            Self::Fallback => "scaling.fallback applies.",
        }
    }
}

/// The message of a decision that follows the work.
pub(super) fn message(
    inputs: &Inputs,
    terms: &Terms,
    learned: &Learned,
    (desired, limits): (u32, &[Limit]),
    open_rechecks: u64,
    target_seconds: f64,
) -> String {
    let lag = inputs.documents.unwrap_or(0) + inputs.ranges.unwrap_or(0);
    let mut text = backlog(inputs, lag, target_seconds);
    let speed = rounded(learned.pages_per_second);
    // Writing to a string cannot fail.
    if terms.for_arrivals > terms.for_backlog {
        let _ = write!(
            text,
            " Keeping up with arrivals of {} pages/s requires {} at {speed} pages/s each.",
            rounded(inputs.arriving.unwrap_or(0.0)),
            workers(terms.for_arrivals),
        );
    } else if lag > 0 {
        let _ = write!(
            text,
            " Draining the backlog within {target_seconds} s requires {} at {speed} pages/s each.",
            workers(terms.for_backlog),
        );
    }
    if lag == 0 && open_rechecks > 0 {
        let rechecks = match open_rechecks {
            1 => "1 document has".to_owned(),
            more => format!("{more} documents have"),
        };
        let _ = write!(
            text,
            " {rechecks} a recheck within 15 minutes, which requires 1 worker."
        );
    }
    for limit in limits {
        text += " ";
        text += limit.sentence();
    }
    format!("{text} Desired: {}.", workers(desired))
}

/// The message while the backlog is unknown.
pub(super) fn message_for_unknown(cause: &UnknownBacklog, desired: u32, limit: Limit) -> String {
    format!(
        "{cause}. {} Desired: {}.",
        limit.sentence(),
        workers(desired)
    )
}

fn backlog(inputs: &Inputs, lag: i64, target_seconds: f64) -> String {
    if lag == 0 {
        return "The backlog is empty.".to_owned();
    }
    let documents = match inputs.documents.unwrap_or(0) {
        0 => None,
        1 => Some("1 document".to_owned()),
        more => Some(format!("{more} documents")),
    };
    let ranges = match inputs.ranges.unwrap_or(0) {
        0 => None,
        1 => Some("1 page range".to_owned()),
        more => Some(format!("{more} page ranges")),
    };
    let what: Vec<String> = [documents, ranges].into_iter().flatten().collect();
    // Overdue work is not timed any further.
    let oldest = match inputs.oldest_seconds.unwrap_or(0.0) {
        overdue if overdue > target_seconds => format!("more than {target_seconds}"),
        seconds => seconds.round().to_string(),
    };
    format!(
        "Backlog: {}, about {} pages, the oldest waiting for {oldest} s.",
        what.join(" and "),
        rounded(inputs.pages.unwrap_or(0.0)),
    )
}

/// Three digits are enough for a person.
fn rounded(value: f64) -> f64 {
    if value.abs() >= 100.0 {
        value.round()
    } else {
        (value * 100.0).round() / 100.0
    }
}

fn workers(count: u32) -> String {
    if count == 1 {
        "1 worker".to_owned()
    } else {
        format!("{count} workers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_overdue_work_is_shown_as_a_lower_bound() {
        let shown = |oldest| {
            let inputs = Inputs {
                documents: Some(2),
                pages: Some(20.0),
                oldest_seconds: Some(oldest),
                ..Inputs::default()
            };
            backlog(&inputs, 2, 600.0)
        };
        assert_eq!(
            shown(600.0),
            "Backlog: 2 documents, about 20 pages, the oldest waiting for 600 s."
        );
        assert_eq!(
            shown(607.0),
            "Backlog: 2 documents, about 20 pages, the oldest waiting for more than 600 s."
        );
    }
}
