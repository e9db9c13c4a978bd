//! Floors by the clock: times at which there are at least so many workers, for known peaks.

use std::str::FromStr;

use croner::{Cron, Direction};
use jiff::{Timestamp, tz::TimeZone};
use layra_crds::{FloorSpec, ScalingSpec};

/// A floor whose times cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScheduleError {
    /// No cron expression.
    #[error(
        "scaling.floors: `{expression}` is no schedule (minute, hour, day of month, month, day of week): {reason}"
    )]
    Expression {
        /// As it stands in the object.
        expression: String,
        /// What is wrong.
        reason: String,
    },
    /// No time zone of the IANA database.
    #[error("scaling.floors: there is no time zone `{0}`; write for example Europe/Berlin")]
    TimeZone(String),
}

/// The fewest workers at this time: `minReplicas`, or the highest floor that holds now.
pub(crate) fn floor_now(spec: &ScalingSpec, now: Timestamp) -> Result<u32, ScheduleError> {
    let mut fewest = spec.min_replicas;
    for floor in &spec.floors {
        if floor.min_replicas > fewest && holds(floor, now)? {
            fewest = floor.min_replicas;
        }
    }
    Ok(u32::try_from(fewest).unwrap_or(0))
}

/// A floor holds when it began after it ended last.
fn holds(floor: &FloorSpec, now: Timestamp) -> Result<bool, ScheduleError> {
    let zone = TimeZone::get(&floor.time_zone)
        .map_err(|_| ScheduleError::TimeZone(floor.time_zone.clone()))?;
    let began = last(&floor.start, now, &zone)?;
    let ended = last(&floor.end, now, &zone)?;
    Ok(began.is_some_and(|began| ended.is_none_or(|ended| began > ended)))
}

/// When the schedule came round last; `None`: it never did.
fn last(
    expression: &str,
    now: Timestamp,
    zone: &TimeZone,
) -> Result<Option<Timestamp>, ScheduleError> {
    let cron = Cron::from_str(expression).map_err(|error| ScheduleError::Expression {
        expression: expression.to_owned(),
        reason: error.to_string(),
    })?;
    let now = now.to_zoned(zone.clone());
    let found = cron.find_occurrence(&now, true, Direction::Backward);
    Ok(found.ok().map(|(at, _)| at.timestamp()))
}
