//! What the command did, for people. No I/O.

use std::collections::BTreeMap;
use std::io::Write;

use super::letter::Letter;

/// The dead letters that were redriven, and what was left.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(super) letters: Vec<Letter>,
    pub(super) skipped: usize,
    /// Dead letters of other pipelines with the same topic.
    pub(super) foreign: usize,
    /// Chosen dead letters whose task was left out, because it was too large.
    pub(super) incomplete: Vec<Letter>,
    /// Partitions that were not read to their ends, and why.
    pub(super) unread: BTreeMap<i32, String>,
}

impl Report {
    /// Whether every dead letter was read, and every chosen one could be redriven.
    pub(crate) fn is_complete(&self) -> bool {
        self.unread.is_empty() && self.incomplete.is_empty()
    }

    /// Writes the report for people.
    pub(crate) fn write(&self, out: &mut impl Write, dry_run: bool) -> std::io::Result<()> {
        for letter in &self.letters {
            writeln!(out, "{letter}")?;
        }
        for letter in &self.incomplete {
            writeln!(
                out,
                "{letter}\n  not redriven: its task was too large to be kept. Send it again."
            )?;
        }
        let verb = if dry_run {
            "would be redriven"
        } else {
            "redriven"
        };
        let (count, skipped) = (self.letters.len(), self.skipped);
        let noun = if count == 1 {
            "dead letter"
        } else {
            "dead letters"
        };
        write!(out, "{count} {noun} {verb}, {skipped} skipped")?;
        if self.foreign > 0 {
            write!(out, ", {} of other pipelines", self.foreign)?;
        }
        writeln!(out)?;
        for (partition, why) in &self.unread {
            writeln!(
                out,
                "partition {partition} was not read to its end: {why}. Run the command again."
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::letter::tests::letter;
    use super::*;

    #[test]
    fn a_report_names_what_was_not_read_and_is_not_a_success() {
        let mut report = Report {
            letters: vec![letter(Some("f"), "Encrypted")],
            skipped: 2,
            ..Report::default()
        };
        let text = |report: &Report| {
            let mut text = Vec::new();
            report.write(&mut text, false).unwrap();
            String::from_utf8(text).unwrap()
        };
        assert!(report.is_complete());
        assert!(text(&report).ends_with("1 dead letter redriven, 2 skipped\n"));
        report.foreign = 3;
        report.unread.insert(7, "no leader".into());
        assert!(!report.is_complete());
        let text = text(&report);
        assert!(text.contains("2 skipped, 3 of other pipelines\n"), "{text}");
        assert!(
            text.contains("partition 7 was not read to its end: no leader"),
            "{text}"
        );
    }
}
