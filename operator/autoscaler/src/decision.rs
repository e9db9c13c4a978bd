//! A decision and its explanation: the inputs, the terms of the law, what bounded it, and one
//! sentence.

use std::fmt::Write as _;

use super::{learned::Learned, observation::Partition};

/// How many workers there should be, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Workers to ask for.
    pub desired: u32,
    /// The stable word for what decided.
    pub reason: &'static str,
    /// One sentence for a person.
    pub message: String,
    /// What kept the number from following the work alone, the strongest first.
    pub limits: Vec<Limit>,
    /// What was seen.
    pub inputs: Inputs,
    /// What the law made of it. `None` while the backlog is unknown.
    pub terms: Option<Terms>,
    /// What is known of the workers, and whether it was seen or is only assumed.
    pub learned: Learned,
    /// Whether `learned` was seen; else it is assumed.
    pub is_learned: bool,
    /// Partitions whose work does not move.
    pub stuck: Vec<Partition>,
}

/// Nothing is to be done.
pub(crate) const IDLE: &str = "Idle";
/// Steady arrivals ask for most.
pub(crate) const KEEPING_UP: &str = "KeepingUp";
/// The backlog asks for most.
pub(crate) const DRAINING: &str = "Draining";

/// What was seen. Absent: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Inputs {
    /// Documents that are not done.
    pub documents: Option<i64>,
    /// Ranges of split documents that are not done.
    pub ranges: Option<i64>,
    /// Pages of both.
    pub pages: Option<f64>,
    /// For at least so many seconds the oldest has waited.
    pub oldest_seconds: Option<f64>,
    /// Pages that arrive a second.
    pub arriving: Option<f64>,
    /// Partitions of the topic with the tasks.
    pub partitions: Option<u32>,
    /// Partitions with work, of both topics.
    pub partitions_with_work: Option<u32>,
    /// Workers that work.
    pub ready: u32,
    /// Workers that start.
    pub starting: u32,
    /// Workers that wait for a node.
    pub waiting: u32,
}

/// What the law made of it, in workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// To keep up with arrivals.
    pub for_arrivals: u32,
    /// To get done what waits, in time.
    pub for_backlog: u32,
    /// The same with a tenth in hand: fewer are not enough to stop workers.
    pub to_scale_down: u32,
    /// The fewest.
    pub floor: u32,
    /// The most, by the spec and the partitions.
    pub ceiling: u32,
    /// The most that were wanted within the scale-down delay; `None`: not that long on record.
    pub window: Option<u32>,
    /// The scale-down delay, in seconds.
    pub window_seconds: i64,
}

/// What kept a decision from following the work alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The work asks for fewer than `minReplicas`, or the floor of this time.
    Floor,
    /// The work asks for more than `maxReplicas`.
    MaxReplicas,
    /// The work asks for more than there are partitions.
    Partitions,
    /// More workers would do it in time if more partitions had work.
    PartitionsWithWork,
    /// So many workers wait for a node that no more are asked for.
    PendingWorkers,
    /// The last scale-up brought nothing.
    IneffectiveScaleUp,
    /// Fewer would do, but work is overdue.
    DrainTargetAtRisk,
    /// Fewer would do, but workers are still leaving.
    Settling,
    /// Fewer would do, but what the workers get done is not known.
    MetricsMissing,
    /// Fewer would do, but not for long enough yet.
    ScaleDownDelay,
    /// The backlog is not known.
    Unknown,
    /// The backlog has been unknown for long.
    Fallback,
}

impl Limit {
    /// The stable word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Floor => "Floor",
            Self::MaxReplicas => "MaxReplicas",
            Self::Partitions => "Partitions",
            Self::PartitionsWithWork => "PartitionsWithWork",
            Self::PendingWorkers => "PendingWorkers",
            Self::IneffectiveScaleUp => "IneffectiveScaleUp",
            Self::DrainTargetAtRisk => "DrainTargetAtRisk",
            Self::Settling => "Settling",
            Self::MetricsMissing => "MetricsMissing",
            Self::ScaleDownDelay => "ScaleDownDelay",
            Self::Unknown => "Unknown",
            Self::Fallback => "Fallback",
        }
    }

    /// The end of a sentence.
    fn phrase(self) -> &'static str {
        match self {
            Self::Floor => "the floor holds",
            Self::MaxReplicas => "maxReplicas is the limit",
            Self::Partitions => "the number of partitions is the limit",
            Self::PartitionsWithWork => "no more partitions have work",
            Self::PendingWorkers => "no more are asked for while these wait for a node",
            Self::IneffectiveScaleUp => "the last scale-up brought nothing, so no more are added",
            Self::DrainTargetAtRisk => "none is stopped while work is overdue",
            Self::Settling => "workers are still leaving",
            Self::MetricsMissing => "none is stopped while it is not known what they get done",
            Self::ScaleDownDelay => "fewer would do, but not for long enough yet",
            Self::Unknown => "the workers stay as they are",
            Self::Fallback => "the fallback holds",
        }
    }
}

/// The sentence of a decision that follows the work.
pub(super) fn sentence(
    inputs: &Inputs,
    terms: &Terms,
    learned: &Learned,
    desired: u32,
    limits: &[Limit],
    target_seconds: f64,
) -> String {
    let lag = inputs.documents.unwrap_or(0) + inputs.ranges.unwrap_or(0);
    let mut text = what_waits(inputs, lag, target_seconds);
    let speed = rounded(learned.pages_per_second);
    if terms.for_arrivals > terms.for_backlog {
        let _ = write!(
            text,
            "; to keep up with the {} pages/s that arrive takes {} at {speed} pages/s each",
            rounded(inputs.arriving.unwrap_or(0.0)),
            workers(terms.for_arrivals),
        );
    } else if lag > 0 {
        let _ = write!(
            text,
            "; to get it done within {target_seconds} s takes {} at {speed} pages/s each",
            workers(terms.for_backlog),
        );
    }
    for limit in limits {
        text += "; ";
        text += limit.phrase();
    }
    format!("{text}: {}.", workers(desired))
}

/// The sentence while the backlog is unknown.
pub(super) fn blind_sentence(why: &str, desired: u32, limit: Limit) -> String {
    let why = why.trim_end_matches('.');
    format!("{why}; {}: {}.", limit.phrase(), workers(desired))
}

fn what_waits(inputs: &Inputs, lag: i64, target_seconds: f64) -> String {
    if lag == 0 {
        return "Nothing waits".to_owned();
    }
    let documents = match inputs.documents.unwrap_or(0) {
        0 => None,
        1 => Some("1 document".to_owned()),
        more => Some(format!("{more} documents")),
    };
    let ranges = match inputs.ranges.unwrap_or(0) {
        0 => None,
        1 => Some("1 range of pages".to_owned()),
        more => Some(format!("{more} ranges of pages")),
    };
    let what: Vec<String> = [documents, ranges].into_iter().flatten().collect();
    let verb = if lag == 1 { "waits" } else { "wait" };
    // What is overdue is not remembered for longer.
    let oldest = match inputs.oldest_seconds.unwrap_or(0.0) {
        late if late > target_seconds => format!("more than {target_seconds}"),
        seconds => seconds.round().to_string(),
    };
    format!(
        "{} {verb}, about {} pages, the oldest for {oldest} s",
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
    fn the_age_of_what_is_overdue_is_a_bound_and_said_to_be_one() {
        let told = |oldest| {
            let inputs = Inputs {
                documents: Some(2),
                pages: Some(20.0),
                oldest_seconds: Some(oldest),
                ..Inputs::default()
            };
            what_waits(&inputs, 2, 600.0)
        };
        assert_eq!(
            told(600.0),
            "2 documents wait, about 20 pages, the oldest for 600 s"
        );
        assert_eq!(
            told(607.0),
            "2 documents wait, about 20 pages, the oldest for more than 600 s"
        );
    }
}
