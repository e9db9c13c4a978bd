//! What an audit found and repaired. No I/O.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

/// Findings of one kind that are listed. The others are counted.
const MOST_LISTED: usize = 1_000;

/// The kinds of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Kind {
    /// No knowledge base has this collection.
    CollectionWithoutKnowledgeBase,
    /// A rebuild that is not going on has left a collection.
    RebuildLeftover,
    /// Milvus has rows of a file that `files` does not have.
    RowsWithoutDocument,
    /// The bucket has an object that no document names.
    ObjectWithoutDocument,
    /// The text of a page is kept that `files` does not have.
    TextWithoutPage,
    /// A knowledge base lists a file that `files` does not have.
    EntryWithoutDocument,
    /// `files` has a document of a knowledge base that does not exist.
    DocumentWithoutKnowledgeBase,
    /// The ledger calls the document done, and Milvus or MongoDB does not hold it exactly once.
    DocumentIncomplete,
}

/// What became of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Outcome {
    /// `--repair` would remove it, or send the document's task again.
    Found,
    /// It is left alone; the note says why.
    Kept,
    /// It was removed.
    Removed,
    /// The document's task was sent again.
    Requeued,
}

/// Something that should not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finding {
    pub(crate) kind: Kind,
    /// The collection, file id or key.
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) knowledge_base: Option<String>,
    pub(crate) outcome: Outcome,
    /// Details for people.
    pub(crate) note: String,
}

/// All findings.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) findings: Vec<Finding>,
    /// Numbers of all findings, also of those that are not listed.
    pub(crate) counts: BTreeMap<Kind, usize>,
    /// Findings that a repair with these settings has not removed.
    pub(crate) left: usize,
    /// What could not be checked, and why.
    pub(crate) unchecked: Vec<String>,
    /// Documents whose rows were counted.
    pub(crate) documents: usize,
    /// Objects of LAYRA's form that were looked up.
    pub(crate) objects: usize,
}

impl Report {
    pub(super) fn add(&mut self, finding: Finding) {
        if matches!(finding.outcome, Outcome::Found | Outcome::Kept) {
            self.left += 1;
        }
        let count = self.counts.entry(finding.kind).or_default();
        *count += 1;
        if *count <= MOST_LISTED {
            self.findings.push(finding);
        }
    }

    /// Whether everything was checked and nothing is left that should not be.
    pub(crate) fn is_clean(&self) -> bool {
        self.left == 0 && self.unchecked.is_empty()
    }

    /// Writes the report for people.
    pub(crate) fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        for finding in &self.findings {
            let Finding {
                kind,
                name,
                outcome,
                note,
                ..
            } = finding;
            writeln!(out, "{kind:?}  {name}  {outcome:?}: {note}")?;
        }
        for (kind, count) in &self.counts {
            let more = count.saturating_sub(MOST_LISTED);
            if more > 0 {
                writeln!(out, "{kind:?}  {more} more")?;
            }
        }
        for what in &self.unchecked {
            writeln!(out, "not checked: {what}")?;
        }
        let found: usize = self.counts.values().sum();
        writeln!(
            out,
            "{} documents and {} objects checked, {found} findings, {} left",
            self.documents, self.objects, self.left
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(outcome: Outcome) -> Finding {
        Finding {
            kind: Kind::RowsWithoutDocument,
            name: "u_f".into(),
            knowledge_base: Some("u_kb".into()),
            outcome,
            note: "7 rows".into(),
        }
    }

    #[test]
    fn only_what_is_left_is_no_success() {
        let mut report = Report::default();
        report.add(finding(Outcome::Removed));
        assert!(report.is_clean());
        report.add(finding(Outcome::Kept));
        assert!(!report.is_clean());
        let mut text = Vec::new();
        report.write(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.contains("RowsWithoutDocument  u_f  Kept: 7 rows\n"),
            "{text}"
        );
        assert!(text.ends_with("2 findings, 1 left\n"), "{text}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["counts"]["RowsWithoutDocument"], 2);
        assert_eq!(json["findings"][0]["knowledgeBase"], "u_kb");
    }

    #[test]
    fn a_report_about_very_many_objects_stays_short() {
        let mut report = Report::default();
        for _ in 0..5_000 {
            report.add(finding(Outcome::Found));
        }
        assert_eq!(report.findings.len(), MOST_LISTED);
        assert_eq!(report.left, 5_000);
    }
}
