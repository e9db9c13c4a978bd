//! A list of checks: what is expected, what was measured, and whether it passes. As a table, as JSON
//! and as a page.

mod page;
mod reporting;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use crate::style::{Colour, Style};
pub(crate) use reporting::Reporting;

/// Whether a check passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Verdict {
    Pass,
    Fail,
    /// Nothing is expected.
    Measured,
    /// It could not be checked, or was not asked for.
    NotChecked,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::Measured => "measured",
            Self::NotChecked => "not checked",
        }
    }

    fn colour(self) -> Option<Colour> {
        match self {
            Self::Pass => Some(Colour::Green),
            Self::Fail => Some(Colour::Red),
            Self::Measured => None,
            Self::NotChecked => Some(Colour::Yellow),
        }
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) verdict: Verdict,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) expected: String,
    pub(crate) measured: String,
    /// What to do if it fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) to_do: Option<String>,
}

impl Check {
    /// Something of which nothing is expected.
    pub(crate) fn measured(name: &'static str, measured: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Measured,
            expected: String::new(),
            measured: measured.into(),
            to_do: None,
        }
    }

    pub(crate) fn not_checked(name: &'static str, why: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::NotChecked,
            ..Self::measured(name, why)
        }
    }

    /// It passes or fails.
    pub(crate) fn judged(
        name: &'static str,
        passes: bool,
        expected: impl Into<String>,
        measured: impl Into<String>,
        to_do: impl Into<String>,
    ) -> Self {
        Self {
            name,
            verdict: if passes { Verdict::Pass } else { Verdict::Fail },
            expected: expected.into(),
            measured: measured.into(),
            to_do: (!passes).then(|| to_do.into()),
        }
    }
}

/// The checks of one call of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// For example `validate`.
    pub(crate) command: &'static str,
    pub(crate) namespace: String,
    pub(crate) pipeline: String,
    /// When it began.
    pub(crate) time: String,
    pub(crate) passed: bool,
    pub(crate) checks: Vec<Check>,
}

impl Report {
    pub(crate) fn new(
        command: &'static str,
        namespace: &str,
        pipeline: &str,
        time: jiff::Timestamp,
        checks: Vec<Check>,
    ) -> Self {
        Self {
            command,
            namespace: namespace.to_owned(),
            pipeline: pipeline.to_owned(),
            time: time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            passed: checks.iter().all(|check| check.verdict != Verdict::Fail),
            checks,
        }
    }

    /// For people.
    pub(crate) fn text(&self, style: Style) -> String {
        const INDENT: usize = 13;
        let indent = " ".repeat(INDENT);
        let mut lines = Vec::new();
        for check in &self.checks {
            let word = check.verdict.word();
            let fill = " ".repeat(INDENT - word.len());
            let word = style.paint(check.verdict.colour(), word);
            let what = format!("{}: {}", check.name, check.measured);
            lines.push(format!("{word}{fill}{}", style.wrap(&what, INDENT)));
            if !check.expected.is_empty() && check.verdict == Verdict::Fail {
                let expected = style.wrap(&check.expected, INDENT + 10);
                lines.push(format!("{indent}expected: {expected}"));
            }
            if let Some(to_do) = &check.to_do {
                lines.push(format!("{indent}do: {}", style.wrap(to_do, INDENT + 4)));
            }
        }
        lines.push(String::new());
        lines.push(self.summary());
        lines.join("\n") + "\n"
    }

    fn summary(&self) -> String {
        let count = |verdict| {
            let checks = self.checks.iter();
            checks.filter(|check| check.verdict == verdict).count()
        };
        let mut text = format!(
            "{}: {} passed, {} failed",
            self.pipeline,
            count(Verdict::Pass),
            count(Verdict::Fail)
        );
        if count(Verdict::NotChecked) > 0 {
            let _ = write!(text, ", {} not checked", count(Verdict::NotChecked));
        }
        text + "."
    }

    pub(crate) fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Writes a page, or JSON where the name of the file says so.
    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        let is_json = file
            .extension()
            .is_some_and(|extension| extension == "json");
        let text = if is_json {
            self.json()?
        } else {
            page::of(self)
        };
        std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let time = "2026-11-28T02:13:04Z".parse().unwrap();
        let checks = vec![
            Check::judged("recall", true, "at least 95 %", "100 %", "Rebuild it."),
            Check::judged(
                "lag",
                false,
                "all messages committed",
                "7 <left>",
                "Look at the logs.",
            ),
            Check::measured("documents", "10"),
            Check::not_checked("alerts", "no Prometheus was named"),
        ];
        Report::new("validate", "rag", "contracts", time, checks)
    }

    #[test]
    fn people_see_what_failed_what_was_expected_and_what_to_do() {
        let expected = "\
pass         recall: 100 %
FAIL         lag: 7 <left>
             expected: all messages committed
             do: Look at the logs.
measured     documents: 10
not checked  alerts: no Prometheus was named

contracts: 1 passed, 1 failed, 1 not checked.
";
        assert_eq!(report().text(Style::default()), expected);
    }

    #[test]
    fn what_is_not_checked_fails_nothing() {
        let mut report = report();
        assert!(!report.passed);
        report.checks.remove(1);
        let time = "2026-11-28T02:13:04Z".parse().unwrap();
        assert!(Report::new("validate", "rag", "contracts", time, report.checks).passed);
    }

    #[test]
    fn the_name_of_the_file_says_its_format() {
        let folder = tempfile::tempdir().unwrap();
        let (page, json) = (folder.path().join("a.html"), folder.path().join("a.json"));
        report().write(&page).unwrap();
        report().write(&json).unwrap();
        let page = std::fs::read_to_string(page).unwrap();
        assert!(page.starts_with("<!doctype html>"), "{page}");
        assert!(page.contains("7 &lt;left&gt;"), "{page}");
        let json = std::fs::read_to_string(json).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["checks"][1]["verdict"], "fail");
        assert_eq!(json["passed"], false);
    }
}
