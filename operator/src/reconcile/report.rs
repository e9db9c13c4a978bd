//! Reports a reconcile: status, events, metrics. The status is written only when it changed.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::events::Recorder,
};
use layra_crds::{
    API_GROUP, CollectionRebuild, IndexStatus, IngestionPipeline, IngestionPipelineStatus,
    ScalingStatus,
};
use serde_json::json;

use super::{
    Context, FIELD_MANAGER, ReconcileError,
    plan::{PipelineEvent, Plan},
    reason::Reason,
};

/// A status of which only the lag, or the explanation of the same number of workers, changed is
/// written at most this often.
const DETAILS_INTERVAL: SignedDuration = SignedDuration::from_secs(10);
/// An event with the reason of a condition is published at most this often: the condition shows the
/// current message. After an edit it starts over.
const EVENT_INTERVAL: SignedDuration = SignedDuration::from_mins(10);

/// What was reported.
#[derive(Default)]
pub(super) struct Reported {
    /// When the status was last written.
    written: Option<Timestamp>,
    /// The generation that the events below are of: an edit has events of its own.
    generation: Option<i64>,
    /// When an event of a condition was last published, by reason.
    events: BTreeMap<Reason, Timestamp>,
    /// Pods and runs about which an event was published.
    pods: BTreeSet<String>,
}

impl Reported {
    /// The events to publish, which are noted as published.
    fn new_events<'a>(
        &mut self,
        events: &'a [PipelineEvent],
        generation: Option<i64>,
        now: Timestamp,
    ) -> Vec<&'a PipelineEvent> {
        if self.generation != generation {
            self.generation = generation;
            self.events.clear();
        }
        let named: BTreeSet<&String> = events.iter().filter_map(|e| e.pod.as_ref()).collect();
        self.pods.retain(|pod| named.contains(pod));
        let is_new = |event: &&PipelineEvent| {
            if let Some(pod) = &event.pod {
                return self.pods.insert(pod.clone());
            }
            if !event.of_condition {
                return true;
            }
            let last = self.events.get(&event.reason);
            let is_due = last.is_none_or(|last| now.duration_since(*last) >= EVENT_INTERVAL);
            if is_due {
                self.events.insert(event.reason, now);
            }
            is_due
        };
        events.iter().filter(is_new).collect()
    }
}

/// Writes the status if it changed, and publishes events and metrics.
pub(super) async fn report(
    context: &Context,
    pipeline: &IngestionPipeline,
    plan: &Plan,
    events: &[PipelineEvent],
    reported: &mut Reported,
    now: Timestamp,
) -> Result<(), ReconcileError> {
    let status = &plan.status;
    context.metrics.observe(
        &context.namespace,
        &pipeline.name_any(),
        pipeline.spec.scaling.drain_target_seconds,
        status,
        plan.decision.as_ref(),
    );
    let before = pipeline.status.clone().unwrap_or_default();
    if is_due(&before, status, reported.written, now) {
        write(context, pipeline, status).await?;
        reported.written = Some(now);
    }
    let reference = pipeline.object_ref(&());
    for event in reported.new_events(events, status.observed_generation, now) {
        let reason = event.reason.as_str();
        tracing::info!(reason, note = event.message, "publishing event");
        // One recorder per event: a shared one would aggregate events of one reason for minutes
        // and keep the first message. A plan has events for changes only.
        let recorder = Recorder::new(context.client.clone(), context.reporter.clone());
        if let Err(error) = recorder.publish(&event.to_kubernetes(), &reference).await {
            // The condition has the same message, so the reconcile is not retried for an event.
            tracing::warn!(%error, reason, "event not published");
        }
    }
    Ok(())
}

fn is_due(
    before: &IngestionPipelineStatus,
    after: &IngestionPipelineStatus,
    reported: Option<Timestamp>,
    now: Timestamp,
) -> bool {
    if before == after {
        return false;
    }
    let waited = reported.is_none_or(|at| now.duration_since(at) >= DETAILS_INTERVAL);
    waited || without_details(before) != without_details(after)
}

/// The status without what changes often while the number of workers and the conditions stay.
fn without_details(status: &IngestionPipelineStatus) -> IngestionPipelineStatus {
    let scaling = status.scaling.as_ref().map(|scaling| ScalingStatus {
        desired_replicas: scaling.desired_replicas,
        learned: scaling.learned.clone(),
        stuck_partitions: scaling.stuck_partitions.clone(),
        last_scale_time: scaling.last_scale_time.clone(),
        ..ScalingStatus::default()
    });
    IngestionPipelineStatus {
        lag: None,
        scaling,
        index: status.index.as_ref().map(without_progress),
        ..status.clone()
    }
}

/// The status of the indexes without what changes with every copied vector.
fn without_progress(index: &IndexStatus) -> IndexStatus {
    let rebuilds = index.rebuilds.iter().map(|rebuild| CollectionRebuild {
        name: rebuild.name.clone(),
        phase: rebuild.phase.clone(),
        ..CollectionRebuild::default()
    });
    IndexStatus {
        eta_seconds: None,
        message: String::new(),
        rebuilds: rebuilds.collect(),
        ..index.clone()
    }
}

async fn write(
    context: &Context,
    pipeline: &IngestionPipeline,
    status: &IngestionPipelineStatus,
) -> Result<(), ReconcileError> {
    let api: Api<IngestionPipeline> = Api::namespaced(context.client.clone(), &context.namespace);
    let body = json!({
        "apiVersion": format!("{API_GROUP}/v1alpha1"),
        "kind": "IngestionPipeline",
        "metadata": {"name": pipeline.name_any(), "uid": pipeline.uid()},
        "status": status,
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch_status(&pipeline.name_any(), &parameters, &Patch::Apply(&body))
        .await
        .map_err(|source| ReconcileError::Status(Box::new(source)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn lag(lag: i64) -> IngestionPipelineStatus {
        IngestionPipelineStatus {
            lag: Some(lag),
            ..IngestionPipelineStatus::default()
        }
    }

    #[test]
    fn an_unchanged_status_is_not_written() {
        assert!(!is_due(&lag(1), &lag(1), None, at(100)));
    }

    #[test]
    fn a_changed_lag_is_written_every_ten_seconds() {
        assert!(is_due(&lag(1), &lag(2), None, at(100)));
        assert!(!is_due(&lag(1), &lag(2), Some(at(91)), at(100)));
        assert!(is_due(&lag(1), &lag(2), Some(at(90)), at(100)));
    }

    #[test]
    fn any_other_change_is_written_at_once() {
        let ready = IngestionPipelineStatus {
            ready_replicas: Some(1),
            ..lag(1)
        };
        assert!(is_due(&lag(1), &ready, Some(at(100)), at(100)));
    }

    #[test]
    fn another_explanation_of_the_same_number_of_workers_waits() {
        let explained = |desired_replicas, message: &str| IngestionPipelineStatus {
            scaling: Some(ScalingStatus {
                desired_replicas,
                message: message.to_owned(),
                limits: vec![message.to_owned()],
                ..ScalingStatus::default()
            }),
            ..lag(1)
        };
        let written = Some(at(91));
        let before = explained(2, "Settling");
        assert!(!is_due(
            &before,
            &explained(2, "ScaleDownDelay"),
            written,
            at(100)
        ));
        assert!(is_due(
            &before,
            &explained(2, "ScaleDownDelay"),
            written,
            at(101)
        ));
        assert!(is_due(&before, &explained(3, "Settling"), written, at(100)));
    }

    #[test]
    fn a_condition_that_flips_publishes_an_event_every_ten_minutes_at_most() {
        let event = |reason, of_condition, pod: Option<&str>| PipelineEvent {
            warning: true,
            reason,
            message: "a message".to_owned(),
            of_condition,
            pod: pod.map(str::to_owned),
        };
        let mut reported = Reported::default();
        let mut published_of = |event: &PipelineEvent, generation, second| {
            let events = std::slice::from_ref(event);
            let new = reported.new_events(events, Some(generation), at(second));
            !new.is_empty()
        };
        let mut published = |event: &PipelineEvent, second| published_of(event, 1, second);
        let away = event(Reason::MilvusUnreachable, true, None);
        assert!(published(&away, 0));
        assert!(!published(&away, 599));
        assert!(published(&away, 600));
        let scaled = event(Reason::ScaledUp, false, None);
        assert!(published(&scaled, 601) && published(&scaled, 602));
        let evicted = event(Reason::WorkerEvicted, false, Some("a"));
        assert!(published(&evicted, 603));
        assert!(!published(&evicted, 9999), "once for each pod");
        let another = event(Reason::WorkerEvicted, false, Some("b"));
        assert!(published(&another, 9999));
        assert!(published(&away, 10_000) && !published(&away, 10_001));
        assert!(
            published_of(&away, 2, 10_002),
            "it starts over after an edit"
        );
    }
}
