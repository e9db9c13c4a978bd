//! What `layra-worker advise` finds on the servers of a pipeline. `kubectl layra advise` reads it
//! from the log of a Job.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The findings, server by server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advice {
    /// One for each setting.
    pub findings: Vec<Finding>,
}

/// A setting of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// For example `MongoDB`, or `Kafka, topic tasks`.
    pub server: String,

    /// Its name on the server, or in words.
    pub setting: String,

    /// What the tuning guide or this product asks for.
    pub asked: String,

    /// What the server said, or why it said nothing.
    pub found: String,

    /// What follows.
    pub verdict: Verdict,

    /// What to change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
}

/// What follows from a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// As asked.
    Good,
    /// Not as asked.
    Change,
    /// Nothing that a server can tell; for people to check.
    Advice,
    /// The server, a command or a permission is missing.
    Unread,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Change => "CHANGE",
            Self::Advice => "advice",
            Self::Unread => "unread",
        }
    }
}

/// A table for people. What to change follows in a line of its own.
impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = |finding: &Finding| {
            let Finding {
                server,
                setting,
                asked,
                found,
                ..
            } = finding;
            [server, setting, asked, found].map(Clone::clone)
        };
        let title = ["SERVER", "SETTING", "ASKED", "FOUND"].map(str::to_owned);
        let mut widths = title.clone().map(|text| text.chars().count());
        for finding in &self.findings {
            for (width, text) in widths.iter_mut().zip(columns(finding)) {
                *width = text.chars().count().max(*width);
            }
        }
        let mut line = |verdict: &str, texts: [String; 4]| {
            write!(f, "{verdict:<8}")?;
            let [server, setting, asked, found] = texts;
            let [a, b, c, _] = widths;
            writeln!(f, "{server:<a$}  {setting:<b$}  {asked:<c$}  {found}")
        };
        line("VERDICT", title)?;
        for finding in &self.findings {
            line(finding.verdict.word(), columns(finding))?;
        }
        let changes = self.findings.iter().filter_map(|finding| {
            let change = finding.change.as_ref()?;
            Some((finding, change))
        });
        for (number, (finding, change)) in changes.enumerate() {
            if number == 0 {
                writeln!(f, "\nwhat to change")?;
            }
            writeln!(f, "  {}, {}: {change}", finding.server, finding.setting)?;
        }
        let count = |verdict| {
            let findings = self.findings.iter();
            findings
                .filter(|finding| finding.verdict == verdict)
                .count()
        };
        writeln!(
            f,
            "\n{} good, {} to change, {} for you to check, {} unread. Nothing was changed.",
            count(Verdict::Good),
            count(Verdict::Change),
            count(Verdict::Advice),
            count(Verdict::Unread)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(setting: &str, verdict: Verdict, change: Option<&str>) -> Finding {
        Finding {
            server: "Redis".into(),
            setting: setting.into(),
            asked: "noeviction".into(),
            found: "allkeys-lru".into(),
            verdict,
            change: change.map(str::to_owned),
        }
    }

    #[test]
    fn the_table_has_aligned_columns_changes_and_a_sum() {
        let advice = Advice {
            findings: vec![
                finding("policy", Verdict::Change, Some("set it")),
                finding("a longer name", Verdict::Good, None),
            ],
        };
        let expected = "\
VERDICT SERVER  SETTING        ASKED       FOUND
CHANGE  Redis   policy         noeviction  allkeys-lru
good    Redis   a longer name  noeviction  allkeys-lru

what to change
  Redis, policy: set it

1 good, 1 to change, 0 for you to check, 0 unread. Nothing was changed.
";
        assert_eq!(advice.to_string(), expected);
    }

    #[test]
    fn findings_are_read_as_they_are_written() {
        let advice = Advice {
            findings: vec![finding("a", Verdict::Unread, None)],
        };
        let json = serde_json::to_string(&advice).unwrap();
        assert!(json.contains("\"verdict\":\"Unread\""), "{json}");
        assert!(!json.contains("change"), "{json}");
        assert_eq!(serde_json::from_str::<Advice>(&json).unwrap(), advice);
    }
}
