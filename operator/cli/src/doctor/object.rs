//! The object itself: its conditions, and whether an operator has seen it. Pure.

use super::finding::{Finding, Read, Seen, Severity};
use crate::conditions::{Concern, in_words, to_attend};
use crate::guide;
use crate::pause::is_stopped;

pub(super) fn check(seen: &Seen) -> Vec<Finding> {
    let Seen {
        name,
        pipeline,
        namespace,
        ..
    } = seen;
    let status = pipeline.status.as_ref();
    let conditions = in_words(status);
    let mut findings = Vec::new();
    if conditions.is_empty() {
        findings.push(Finding::new(
            Severity::Problem,
            format!("IngestionPipeline {name}"),
            "It has no status: no operator has handled it.",
            format!(
                "Install an operator that watches namespace {namespace}, or wait a minute if it was \
                 just created."
            ),
        ));
        return findings;
    }
    for condition in to_attend(&conditions) {
        let severity = match condition.concern {
            Concern::Problem => Severity::Problem,
            Concern::Warning => Severity::Warning,
            Concern::Progress | Concern::Fine => Severity::Note,
        };
        let mut to_do = guide::advice(&condition.reason, &condition.status).unwrap_or_default();
        if condition.reason == "Paused" {
            to_do = format!("`kubectl layra resume {name} -n {namespace}`, if that is over.");
        }
        findings.push(Finding::new(
            severity,
            format!("condition {}", condition.kind),
            format!("{}: {}", condition.reason, condition.message),
            to_do,
        ));
    }
    if is_stopped(pipeline) {
        findings.push(Finding::new(
            Severity::Warning,
            format!("IngestionPipeline {name}"),
            "Its workers were stopped by `kubectl layra pause --stop-workers`: messages wait.",
            format!("`kubectl layra resume {name} -n {namespace}`, if that is over."),
        ));
    }
    let (edited, handled) = (
        pipeline.metadata.generation,
        status.and_then(|status| status.observed_generation),
    );
    if handled < edited && !pipeline.spec.paused {
        findings.push(Finding::new(
            Severity::Note,
            format!("IngestionPipeline {name}"),
            "The operator has not handled its last edit yet.",
            "Wait a few seconds and look again; if it stays so, read the operator's log.",
        ));
    }
    if seen.deployment == Read::Absent && findings.is_empty() {
        findings.push(Finding::new(
            Severity::Problem,
            format!("Deployment {name}-worker"),
            "It does not exist, so no worker can run.",
            "Nothing, if the operator runs: it creates it again within a minute.",
        ));
    }
    findings
}
