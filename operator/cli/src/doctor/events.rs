//! Warning events of the last hour about the pipeline's objects. Pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Event;
use kube::ResourceExt;

use super::finding::{Finding, Seen, Severity};
use crate::conditions::in_words;

const RECENT: SignedDuration = SignedDuration::from_hours(1);
/// Events of a cause that lasts come again and again.
const NOW: SignedDuration = SignedDuration::from_mins(10);
/// More of them say nothing more.
const MOST: usize = 8;

/// Documents are missing, however long ago it was.
const LOST: &str = "RecordsLost";

/// Events whose cause keeps a worker from running, and what to do.
const CAUSES: [(&str, &str); 5] = [
    (
        "FailedCreate",
        "Correct what the message names: a quota, an admission policy or a missing service account.",
    ),
    (
        "FailedMount",
        "Create the object or the volume that the message names.",
    ),
    (
        "FailedAttachVolume",
        "Find out which node has the volume: a ReadWriteOnce volume is on one node at a time.",
    ),
    (
        "FailedCreatePodSandBox",
        "Look at the node's network plugin and disk with `kubectl describe node`.",
    ),
    (
        LOST,
        "Raise the retention of the topic and send the documents again.",
    ),
];

pub(super) fn check(seen: &Seen) -> Vec<Finding> {
    // Their conditions are findings themselves.
    let conditions = in_words(seen.pipeline.status.as_ref());
    let mut latest: BTreeMap<(String, String), (Timestamp, String, String)> = BTreeMap::new();
    for event in &seen.events {
        let object = &event.involved_object;
        let kind = object.kind.clone().unwrap_or_default();
        let name = object.name.clone().unwrap_or_default();
        let reason = event.reason.clone().unwrap_or_default();
        let is_shown = conditions.iter().any(|one| one.reason == reason);
        let Some(time) = time(event).filter(|_| is_ours(&kind, &name, seen) && !is_shown) else {
            continue;
        };
        if seen.now.duration_since(time) > RECENT {
            continue;
        }
        let message = event.message.clone().unwrap_or_default();
        let about = format!("{} {name}", lower(&kind));
        let entry = latest
            .entry((reason, kind))
            .or_insert((time, about.clone(), message.clone()));
        if entry.0 <= time {
            *entry = (time, about, message);
        }
    }
    let mut events: Vec<_> = latest.into_iter().collect();
    events.sort_by_key(|(_, (time, ..))| std::cmp::Reverse(*time));
    let findings = events.into_iter().take(MOST);
    let findings = findings.map(|((reason, kind), (time, about, message))| {
        let age = seen.now.duration_since(time);
        let cause = CAUSES.into_iter().find(|(known, _)| *known == reason);
        let lasts = age < NOW && (kind != "Pod" || !all_ready(seen));
        let severity = match cause {
            Some(_) if reason == LOST => Severity::Problem,
            Some(_) if lasts => Severity::Warning,
            _ => Severity::Note,
        };
        let minutes = age.as_mins().max(0);
        let what = format!("Event {reason}, {minutes} min ago: {message}");
        let to_do = cause.filter(|_| severity != Severity::Note);
        Finding::new(severity, about, what, to_do.map_or("", |(_, to_do)| to_do))
    });
    findings.collect()
}

/// `ReplicaSet` stays as it is written; `Pod` is `pod`, as in other findings.
fn lower(kind: &str) -> &str {
    if kind == "Pod" { "pod" } else { kind }
}

fn is_ours(kind: &str, name: &str, seen: &Seen) -> bool {
    let workers = format!("{}-worker", seen.name);
    match kind {
        "IngestionPipeline" => name == seen.name,
        "Pod" => seen.pods.iter().any(|pod| pod.name_any() == name),
        "Deployment" => name == workers,
        // A hash follows, which has no hyphen.
        "ReplicaSet" => name
            .strip_prefix(&format!("{workers}-"))
            .is_some_and(|hash| !hash.contains('-')),
        "Job" | "CronJob" => ["reindex", "reembed", "retain", "retention"]
            .iter()
            .any(|job| name.starts_with(&format!("{}-{job}", seen.name))),
        _ => false,
    }
}

fn all_ready(seen: &Seen) -> bool {
    seen.pods.iter().all(|pod| {
        let conditions = pod
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_ref());
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
    })
}

/// When it happened last.
fn time(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref();
    series
        .and_then(|series| series.last_observed_time.as_ref())
        .map(|time| time.0)
        .or_else(|| event.last_timestamp.as_ref().map(|time| time.0))
        .or_else(|| event.event_time.as_ref().map(|time| time.0))
        .or_else(|| {
            event
                .metadata
                .creation_timestamp
                .as_ref()
                .map(|time| time.0)
        })
}
