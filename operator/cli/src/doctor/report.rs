//! The findings for people and for programs. Pure.

use serde::Serialize;

use super::finding::{Finding, Severity};
use crate::style::{Colour, Style, clean};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) namespace: String,
    /// About the operator, the definition and the versions.
    pub(super) installation: Vec<Finding>,
    pub(super) pipelines: Vec<OfPipeline>,
    /// What this person may not read.
    pub(super) not_read: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OfPipeline {
    pub(super) name: String,
    pub(super) findings: Vec<Finding>,
}

impl Report {
    /// The worst first.
    pub(super) fn sort(&mut self) {
        let of_pipelines = self.pipelines.iter_mut().map(|one| &mut one.findings);
        for findings in of_pipelines.chain([&mut self.installation]) {
            findings.sort_by_key(|finding| finding.severity);
        }
    }

    /// Whether somebody has to act. Notes do not count.
    pub(super) fn has_findings(&self) -> bool {
        self.count(Severity::Problem) + self.count(Severity::Warning) > 0
    }

    /// What somebody has to act on, in words.
    pub(super) fn concerns(&self) -> Vec<String> {
        let of_pipelines = self.pipelines.iter().flat_map(|one| &one.findings);
        let all = self.installation.iter().chain(of_pipelines);
        all.filter(|finding| finding.severity != Severity::Note)
            .map(|finding| format!("{}: {}", finding.about, finding.what))
            .collect()
    }

    fn count(&self, severity: Severity) -> usize {
        let of_pipelines = self.pipelines.iter().flat_map(|one| &one.findings);
        let all = self.installation.iter().chain(of_pipelines);
        all.filter(|finding| finding.severity == severity).count()
    }

    pub(super) fn text(&self, style: Style) -> String {
        let mut lines = Vec::new();
        let namespace = &self.namespace;
        let title = format!("installation, namespace {namespace}");
        let sections = self
            .pipelines
            .iter()
            .map(|one| (format!("pipeline {}", one.name), &one.findings));
        for (title, findings) in std::iter::once((title, &self.installation)).chain(sections) {
            lines.push(style.paint(Some(Colour::Bold), &title));
            if findings.is_empty() {
                let good = style.paint(Some(Colour::Green), "good");
                lines.push(format!("  {good}"));
            }
            for finding in findings {
                lines.extend(of_finding(finding, style));
            }
            lines.push(String::new());
        }
        if !self.not_read.is_empty() {
            lines.push(style.paint(Some(Colour::Bold), "not looked at, for lack of permission"));
            lines.extend(
                self.not_read
                    .iter()
                    .map(|what| format!("  {}", clean(what))),
            );
            lines.push(String::new());
        }
        lines.push(self.summary());
        lines.join("\n") + "\n"
    }

    fn summary(&self) -> String {
        let words = |severity, one: &str, many: &str| match self.count(severity) {
            0 => None,
            1 => Some(format!("1 {one}")),
            count => Some(format!("{count} {many}")),
        };
        let parts: Vec<String> = [
            words(Severity::Problem, "problem", "problems"),
            words(Severity::Warning, "warning", "warnings"),
            words(Severity::Note, "note", "notes"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let sum = parts.join(", ");
        match (self.has_findings(), sum.is_empty()) {
            (true, _) => format!("{sum}."),
            (false, true) => "Nothing is wrong.".to_owned(),
            (false, false) => format!("Nothing is wrong; {sum}."),
        }
    }
}

fn of_finding(finding: &Finding, style: Style) -> Vec<String> {
    const INDENT: usize = 11;
    let (word, colour) = match finding.severity {
        Severity::Problem => ("PROBLEM", Some(Colour::Red)),
        Severity::Warning => ("WARNING", Some(Colour::Yellow)),
        Severity::Note => ("note   ", None),
    };
    let word = style.paint(colour, word);
    let about = clean(&finding.about);
    let what = style.wrap(&format!("{about}: {}", finding.what), INDENT);
    let mut lines = vec![format!("  {word}  {what}")];
    if let Some(to_do) = &finding.to_do {
        let indent = " ".repeat(INDENT);
        lines.push(format!("{indent}do: {}", style.wrap(to_do, INDENT + 4)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report {
            namespace: "rag".to_owned(),
            installation: Vec::new(),
            pipelines: vec![OfPipeline {
                name: "contracts".to_owned(),
                findings: vec![
                    Finding::new(
                        Severity::Note,
                        "pod a",
                        "Event Unhealthy, 3 min ago: 503",
                        "",
                    ),
                    Finding::new(
                        Severity::Problem,
                        "Secret s3",
                        "It lacks the key secretKey.",
                        "Add the key.",
                    ),
                ],
            }],
            not_read: vec!["get secrets in namespace rag".to_owned()],
        };
        report.sort();
        report
    }

    #[test]
    fn each_finding_has_a_sentence_and_what_to_do() {
        let expected = "\
installation, namespace rag
  good

pipeline contracts
  PROBLEM  Secret s3: It lacks the key secretKey.
           do: Add the key.
  note     pod a: Event Unhealthy, 3 min ago: 503

not looked at, for lack of permission
  get secrets in namespace rag

1 problem, 1 note.
";
        assert_eq!(report().text(Style::default()), expected);
    }

    #[test]
    fn notes_alone_are_no_finding() {
        let mut report = report();
        assert!(report.has_findings());
        report.pipelines[0].findings.remove(0);
        assert!(!report.has_findings());
        assert!(report.concerns().is_empty());
        assert_eq!(report.summary(), "Nothing is wrong; 1 note.");
        report.pipelines.clear();
        assert_eq!(report.summary(), "Nothing is wrong.");
    }
}
