//! Findings about one server, in words that the rules share.

use layra_crds::{Finding, Verdict};

/// An answer of a server, or why there is none.
pub(super) type Answer<T> = Result<T, String>;

/// Makes the findings of one server.
pub(super) struct Server {
    name: String,
}

impl Server {
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// A setting that is as asked.
    pub(super) fn good(
        &self,
        setting: &str,
        asked: impl Into<String>,
        found: impl Into<String>,
    ) -> Finding {
        self.finding(setting, asked, found, Verdict::Good, None)
    }

    /// A setting that is good, or else has to change.
    pub(super) fn judge(
        &self,
        is_good: bool,
        setting: &str,
        asked: impl Into<String>,
        found: impl Into<String>,
        change: impl FnOnce() -> String,
    ) -> Finding {
        if is_good {
            return self.good(setting, asked, found);
        }
        self.finding(setting, asked, found, Verdict::Change, Some(change()))
    }

    /// A setting that no server can tell.
    pub(super) fn advice(
        &self,
        setting: &str,
        asked: impl Into<String>,
        change: impl Into<String>,
    ) -> Finding {
        let found = "cannot be read from here";
        self.finding(setting, asked, found, Verdict::Advice, Some(change.into()))
    }

    /// A setting that was not read, and why.
    pub(super) fn unread(
        &self,
        setting: &str,
        asked: impl Into<String>,
        why: impl Into<String>,
    ) -> Finding {
        self.finding(setting, asked, why, Verdict::Unread, None)
    }

    fn finding(
        &self,
        setting: &str,
        asked: impl Into<String>,
        found: impl Into<String>,
        verdict: Verdict,
        change: Option<String>,
    ) -> Finding {
        Finding {
            server: self.name.clone(),
            setting: setting.to_owned(),
            asked: asked.into(),
            found: one_line(&found.into()),
            verdict,
            change,
        }
    }
}

/// Servers' words may have several lines, and a table has not.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(160) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// A size in GiB, or MiB below one.
pub(super) fn size(bytes: f64) -> String {
    const MIB: f64 = 1_048_576.0;
    let mib = bytes / MIB;
    if mib >= 1024.0 {
        format!("{:.1} GiB", mib / 1024.0)
    } else {
        format!("{mib:.0} MiB")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_server_fill_one_line_of_the_table() {
        let server = Server::new("Redis");
        let found = server.unread("a", "b", format!("no\n  answer {}", "é".repeat(300)));
        assert!(found.found.starts_with("no answer é"), "{found:?}");
        assert!(found.found.chars().count() < 170);
        assert!(found.found.ends_with("..."));
    }

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!(size(4.0 * 1_073_741_824.0), "4.0 GiB");
        assert_eq!(size(1_048_576.0), "1 MiB");
    }
}
