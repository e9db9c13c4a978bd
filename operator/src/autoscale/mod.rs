//! How many workers there should be, and why.
//!
//! Pure: no I/O, no clock of its own, no Kubernetes. A reading of the backlog goes in, a decision
//! with its explanation comes out; what has to be remembered between two decisions is the caller's
//! [`History`].

mod history;

use jiff::{SignedDuration, Timestamp};
use layra_crds::ScalingSpec;

pub(crate) use history::History;

/// What is known when a decision is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observation {
    /// Tasks that are not yet done, those in work included. `None`: it could not be read.
    pub(crate) lag: Option<i64>,
    /// Workers asked for at present.
    pub(crate) current: i32,
    /// Partitions of the topic. `None`: not known, and then no limit.
    pub(crate) partitions: Option<i32>,
}

/// The rules that the user gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// The fewest workers.
    pub(crate) min: i32,
    /// The most workers.
    pub(crate) max: i32,
    /// One worker for each so many tasks.
    pub(crate) target_lag_per_replica: i64,
    /// How long fewer workers must have been enough before workers are stopped.
    pub(crate) scale_down_delay: SignedDuration,
}

impl From<&ScalingSpec> for Policy {
    fn from(spec: &ScalingSpec) -> Self {
        Self {
            min: spec.min_replicas,
            max: spec.max_replicas,
            target_lag_per_replica: spec.target_lag_per_replica,
            scale_down_delay: SignedDuration::from_secs(spec.scale_down_delay_seconds.into()),
        }
    }
}

/// How many workers there should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Workers to ask for.
    pub(crate) desired: i32,
    /// One sentence for a person.
    pub(crate) message: String,
    /// What kept the decision from following the backlog alone.
    pub(crate) limit: Option<Limit>,
}

/// What kept a decision from following the backlog alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// The backlog asks for fewer.
    MinReplicas,
    /// The backlog asks for more.
    MaxReplicas,
    /// The backlog asks for more, but a partition has one worker at a time.
    Partitions,
    /// Fewer would do, but not for long enough yet.
    ScaleDownDelay,
    /// The backlog is unknown.
    UnknownLag,
}

/// Decides how many workers there should be: one for each `target_lag_per_replica` tasks, within
/// the bounds. More are asked for at once; fewer only when fewer have been enough for the whole
/// delay. An unknown backlog changes nothing. The backlog counts tasks until they are committed,
/// so that no worker is stopped for lack of work while there is work in flight.
pub(crate) fn decide(
    observation: &Observation,
    policy: &Policy,
    history: &mut History,
    now: Timestamp,
) -> Decision {
    let Bounds { floor, ceiling } = Bounds::of(observation, policy);
    let current = observation.current.clamp(floor, ceiling);

    let Some(lag) = observation.lag else {
        history.record(now, current, policy.scale_down_delay);
        return Decision {
            desired: current,
            message: format!("The backlog is unknown: keeping {}.", workers(current)),
            limit: Some(Limit::UnknownLag),
        };
    };

    let asked = lag
        .max(0)
        .unsigned_abs()
        .div_ceil(policy.target_lag_per_replica.unsigned_abs().max(1));
    let asked = i32::try_from(asked).unwrap_or(i32::MAX);
    let wanted = asked.clamp(floor, ceiling);
    history.record(now, wanted, policy.scale_down_delay);

    if wanted >= current {
        let (limit, because) = limit_of(asked, floor, ceiling, policy);
        return Decision {
            desired: wanted,
            message: follow(lag, asked, policy, because),
            limit,
        };
    }
    match history.enough_since(now, policy.scale_down_delay) {
        Ok(largest) if largest < current => Decision {
            desired: largest,
            message: format!(
                "{}: {} been enough for {} seconds.",
                waiting(lag),
                if largest == 1 {
                    "1 worker has".to_owned()
                } else {
                    format!("{} have", workers(largest))
                },
                policy.scale_down_delay.as_secs()
            ),
            limit: (asked < floor).then_some(Limit::MinReplicas),
        },
        Ok(_) | Err(_) => Decision {
            desired: current,
            message: format!(
                "{}: {} would do, but not yet for {} seconds; keeping {current}.",
                waiting(lag),
                workers(wanted),
                policy.scale_down_delay.as_secs(),
            ),
            limit: Some(Limit::ScaleDownDelay),
        },
    }
}

struct Bounds {
    floor: i32,
    ceiling: i32,
}

impl Bounds {
    /// A topic with fewer partitions than `min` lowers the floor too: the rest would be idle.
    fn of(observation: &Observation, policy: &Policy) -> Self {
        let ceiling = observation
            .partitions
            .map_or(policy.max, |count| policy.max.min(count))
            .max(0);
        Self {
            floor: policy.min.clamp(0, ceiling),
            ceiling,
        }
    }
}

fn limit_of(
    asked: i32,
    floor: i32,
    ceiling: i32,
    policy: &Policy,
) -> (Option<Limit>, &'static str) {
    if asked < floor {
        (Some(Limit::MinReplicas), "minReplicas")
    } else if asked <= ceiling {
        (None, "")
    } else if ceiling < policy.max {
        (Some(Limit::Partitions), "the number of partitions")
    } else {
        (Some(Limit::MaxReplicas), "maxReplicas")
    }
}

fn follow(lag: i64, asked: i32, policy: &Policy, because: &str) -> String {
    let asks = if lag > 0 {
        format!(
            ", one worker for each {} makes {asked}",
            policy.target_lag_per_replica
        )
    } else {
        String::new()
    };
    let limit = if because.is_empty() {
        String::new()
    } else {
        format!("; {because} is the limit")
    };
    format!("{}{asks}{limit}.", waiting(lag))
}

fn waiting(lag: i64) -> String {
    match lag {
        i64::MIN..=0 => "No task waits".to_owned(),
        1 => "1 task waits".to_owned(),
        more => format!("{more} tasks wait"),
    }
}

fn workers(count: i32) -> String {
    if count == 1 {
        "1 worker".to_owned()
    } else {
        format!("{count} workers")
    }
}

#[cfg(test)]
mod tests;
