//! The conditions of a pipeline in words, and which of them need attention. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use layra_crds::IngestionPipelineStatus;
use layra_crds::condition_types::{
    READY, RECONCILING, SCALING, STALLED, TOPIC_READY, VECTOR_STORE_READY, WORKERS_AVAILABLE,
};
use serde::Serialize;

use crate::guide;

/// The reasons of conditions while nothing is wrong.
pub(crate) const NORMAL: [&str; 9] = [
    "TopicsExist",
    "IndexesMatch",
    "WorkersReady",
    "ScaledToZero",
    "PipelineReady",
    "QueryReplicasReady",
    "FollowingBacklog",
    "RecommendOnly",
    "Manual",
];

/// Whether somebody has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Concern {
    /// As it should be.
    Fine,
    /// It goes on by itself.
    Progress,
    /// The pipeline works, with a restriction.
    Warning,
    /// Something does not work.
    Problem,
}

/// A condition in words.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InWords {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) words: &'static str,
    pub(crate) concern: Concern,
}

/// All conditions, in the order of the status.
pub(crate) fn in_words(status: Option<&IngestionPipelineStatus>) -> Vec<InWords> {
    let conditions = status.map(|status| status.conditions.as_slice());
    conditions
        .unwrap_or_default()
        .iter()
        .map(|condition| InWords {
            kind: condition.type_.clone(),
            status: condition.status.clone(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
            words: words(&condition.type_, &condition.status),
            concern: concern(condition),
        })
        .collect()
}

/// Those that need attention, each reason once: `Ready` repeats the reason of another condition.
pub(crate) fn to_attend(all: &[InWords]) -> Vec<&InWords> {
    let mut chosen: Vec<&InWords> = Vec::new();
    let by_itself = |one: &&InWords| !matches!(one.kind.as_str(), READY | RECONCILING | STALLED);
    let derived = |one: &&InWords| !by_itself(one);
    for one in all
        .iter()
        .filter(by_itself)
        .chain(all.iter().filter(derived))
    {
        let is_known = chosen.iter().any(|known| known.reason == one.reason);
        if one.concern != Concern::Fine && !is_known {
            chosen.push(one);
        }
    }
    chosen.sort_by_key(|one| std::cmp::Reverse(one.concern));
    chosen
}

fn concern(condition: &Condition) -> Concern {
    let Condition { reason, status, .. } = condition;
    let is_true = status == "True";
    match condition.type_.as_str() {
        RECONCILING if is_true => return Concern::Progress,
        STALLED if is_true => return Concern::Problem,
        RECONCILING | STALLED => return Concern::Fine,
        _ => {}
    }
    if is_true && NORMAL.contains(&reason.as_str()) {
        return Concern::Fine;
    }
    let advice = guide::advice(reason, status).unwrap_or_default();
    let nothing_to_do = advice.starts_with("Wait") || advice.contains("Nothing to do");
    match (nothing_to_do, is_true || reason == "Paused") {
        (true, _) => Concern::Progress,
        (false, true) => Concern::Warning,
        (false, false) => Concern::Problem,
    }
}

fn words(kind: &str, status: &str) -> &'static str {
    match (kind, status) {
        (READY, "True") => "ready",
        (READY, "False") => "not ready",
        (READY, _) => "readiness unknown",
        (TOPIC_READY, "True") => "topics exist",
        (TOPIC_READY, "False") => "topics not ready",
        (TOPIC_READY, _) => "topics unknown",
        (VECTOR_STORE_READY, "True") => "vector store works",
        (VECTOR_STORE_READY, "False") => "vector store does not work",
        (VECTOR_STORE_READY, _) => "vector store not checked yet",
        (WORKERS_AVAILABLE, "True") => "workers available",
        (WORKERS_AVAILABLE, "False") => "workers not available",
        (WORKERS_AVAILABLE, _) => "workers unknown",
        (SCALING, "True") => "scaling works",
        (SCALING, "False") => "does not scale",
        (SCALING, _) => "replicas held, backlog unknown",
        (RECONCILING, "True") => "in progress",
        (STALLED, "True") => "waits for an edit of the object",
        _ => "",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Condition {
        serde_json::from_value(json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": "2026-11-28T02:00:00Z",
        }))
        .unwrap()
    }

    pub(crate) fn status(conditions: Vec<Condition>) -> IngestionPipelineStatus {
        IngestionPipelineStatus {
            conditions,
            ..IngestionPipelineStatus::default()
        }
    }

    #[test]
    fn the_concern_follows_from_status_and_reason() {
        for (kind, status, reason, expected) in [
            (TOPIC_READY, "True", "TopicsExist", Concern::Fine),
            (WORKERS_AVAILABLE, "True", "ScaledToZero", Concern::Fine),
            (
                WORKERS_AVAILABLE,
                "True",
                "WorkersCrashing",
                Concern::Warning,
            ),
            (WORKERS_AVAILABLE, "True", "UpgradeHeld", Concern::Progress),
            (
                WORKERS_AVAILABLE,
                "False",
                "WorkersStarting",
                Concern::Progress,
            ),
            (
                WORKERS_AVAILABLE,
                "False",
                "WorkersCrashing",
                Concern::Problem,
            ),
            (
                VECTOR_STORE_READY,
                "Unknown",
                "MilvusChecking",
                Concern::Progress,
            ),
            (SCALING, "Unknown", "KafkaUnreachable", Concern::Problem),
            (SCALING, "True", "AtMaxReplicas", Concern::Warning),
            (READY, "False", "Paused", Concern::Warning),
            (RECONCILING, "True", "WorkersStarting", Concern::Progress),
            (STALLED, "True", "Conflict", Concern::Problem),
            (SCALING, "True", "FromTheFuture", Concern::Warning),
        ] {
            let condition = condition(kind, status, reason, "");
            assert_eq!(concern(&condition), expected, "{kind} {status} {reason}");
        }
    }

    #[test]
    fn a_cause_that_several_conditions_have_is_shown_once_and_the_worst_first() {
        let all = in_words(Some(&status(vec![
            condition(READY, "False", "KafkaUnreachable", "no broker"),
            condition(SCALING, "True", "AtMaxReplicas", "4"),
            condition(TOPIC_READY, "False", "KafkaUnreachable", "no broker"),
            condition(WORKERS_AVAILABLE, "True", "WorkersReady", "2"),
        ])));
        let shown: Vec<&str> = to_attend(&all)
            .iter()
            .map(|one| one.kind.as_str())
            .collect();
        assert_eq!(shown, [TOPIC_READY, SCALING]);
    }
}
