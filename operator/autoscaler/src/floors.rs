//! Scheduled floors: the fewest workers at given times, for known peaks.

use jiff::Timestamp;

use crate::schedule::{ScheduleError, window};

/// A floor with the times at which it applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor<'a> {
    /// The cron expression of its start: minute, hour, day of month, month, day of week.
    pub start: &'a str,
    /// The cron expression of its end.
    pub end: &'a str,
    /// The IANA name of the time zone of both.
    pub time_zone: &'a str,
    /// The fewest workers between the two.
    pub workers: u32,
}

/// The fewest workers at this time: `fewest`, or the highest floor that applies now.
pub fn floor_now<'a>(
    fewest: u32,
    floors: impl IntoIterator<Item = Floor<'a>>,
    now: Timestamp,
) -> Result<u32, ScheduleError> {
    floors.into_iter().try_fold(fewest, |fewest, floor| {
        let is_higher = floor.workers > fewest && applies(floor, now)?;
        Ok(if is_higher { floor.workers } else { fewest })
    })
}

fn applies(floor: Floor<'_>, now: Timestamp) -> Result<bool, ScheduleError> {
    let window = window(floor.start, floor.end, floor.time_zone, now)?;
    Ok(window.is_open)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floor<'a>(start: &'a str, end: &'a str, time_zone: &'a str) -> Floor<'a> {
        Floor {
            start,
            end,
            time_zone,
            workers: 3,
        }
    }

    fn at(time: &str, floor: Floor<'_>) -> u32 {
        floor_now(1, [floor], time.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_floor_applies_between_its_start_and_its_end_in_its_time_zone() {
        let office = floor("0 8 * * MON-FRI", "0 18 * * MON-FRI", "Europe/Berlin");
        for (time, fewest) in [
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
            assert_eq!(at(time, office), fewest, "{time}");
        }
    }

    #[test]
    fn a_floor_may_span_midnight() {
        let night = floor("0 22 * * *", "0 4 * * *", "UTC");
        assert_eq!(at("2026-11-25T23:00:00Z", night), 3);
        assert_eq!(at("2026-11-25T03:00:00Z", night), 3);
        assert_eq!(at("2026-11-25T12:00:00Z", night), 1);
    }

    #[test]
    fn an_invalid_schedule_is_named() {
        let now = "2026-11-25T12:00:00Z".parse().unwrap();
        let refused = |floor| floor_now(1, [floor], now).unwrap_err();
        let error = refused(floor("0 25 * * *", "0 4 * * *", "UTC"));
        assert!(
            error
                .to_string()
                .contains("`0 25 * * *` is not a valid cron schedule"),
            "{error}"
        );
        let error = refused(floor("0 1 * * *", "0 4 * * *", "Mars/Base"));
        assert!(error.to_string().contains("`Mars/Base`"), "{error}");
    }
}
