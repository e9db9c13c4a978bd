//! What a reconcile tells: status, events, metrics. The status is written only when it changed.

use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::events::Recorder,
};
use layra_crds::{API_GROUP, IngestionPipeline, IngestionPipelineStatus};
use serde_json::json;

use super::{
    Context, FIELD_MANAGER, ReconcileError,
    plan::{Note, Plan},
};

/// A status that differs in numbers alone is written at most this often.
const NUMBERS_INTERVAL: SignedDuration = SignedDuration::from_secs(10);

/// When the status was written last.
#[derive(Default)]
pub(super) struct Reported(Option<Timestamp>);

/// Writes the status if it changed, and publishes events and metrics.
pub(super) async fn report(
    context: &Context,
    pipeline: &IngestionPipeline,
    plan: &Plan,
    notes: &[Note],
    reported: &mut Reported,
    now: Timestamp,
) -> Result<(), ReconcileError> {
    let status = &plan.status;
    context
        .metrics
        .observe(pipeline, status, plan.decision.as_ref());
    let before = pipeline.status.clone().unwrap_or_default();
    if is_due(&before, status, reported.0, now) {
        write(context, pipeline, status).await?;
        reported.0 = Some(now);
    }
    let reference = pipeline.object_ref(&());
    for note in notes {
        tracing::info!(reason = note.reason, message = note.message, "event");
        // A recorder of its own for each: a shared one would show the first sentence of a reason
        // for minutes, and a plan notes changes only.
        let recorder = Recorder::new(context.client.clone(), context.reporter.clone());
        if let Err(error) = recorder.publish(&note.to_event(), &reference).await {
            // The condition says it too; a lost event is no reason to repeat the reconcile.
            tracing::warn!(%error, reason = note.reason, "event not published");
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
    let waited = reported.is_none_or(|at| now.duration_since(at) >= NUMBERS_INTERVAL);
    waited || without_numbers(before) != without_numbers(after)
}

fn without_numbers(status: &IngestionPipelineStatus) -> IngestionPipelineStatus {
    let mut status = status.clone();
    status.lag = None;
    status
}

async fn write(
    context: &Context,
    pipeline: &IngestionPipeline,
    status: &IngestionPipelineStatus,
) -> Result<(), ReconcileError> {
    let namespace = pipeline.namespace().unwrap_or_default();
    let api: Api<IngestionPipeline> = Api::namespaced(context.client.clone(), &namespace);
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
    fn numbers_alone_are_written_every_ten_seconds() {
        assert!(is_due(&lag(1), &lag(2), None, at(100)));
        assert!(!is_due(&lag(1), &lag(2), Some(at(91)), at(100)));
        assert!(is_due(&lag(1), &lag(2), Some(at(90)), at(100)));
    }

    #[test]
    fn anything_else_is_written_at_once() {
        let ready = IngestionPipelineStatus {
            ready_replicas: Some(1),
            ..lag(1)
        };
        assert!(is_due(&lag(1), &ready, Some(at(100)), at(100)));
    }
}
