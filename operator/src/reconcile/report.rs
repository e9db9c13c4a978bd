//! Reports a reconcile: status, events, metrics. The status is written only when it changed.

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
    plan::{PipelineEvent, Plan},
};

/// A status of which only the lag changed is written at most this often.
const LAG_INTERVAL: SignedDuration = SignedDuration::from_secs(10);

/// When the status was last written.
#[derive(Default)]
pub(super) struct Reported(Option<Timestamp>);

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
        status,
        plan.decision.as_ref(),
    );
    let before = pipeline.status.clone().unwrap_or_default();
    if is_due(&before, status, reported.0, now) {
        write(context, pipeline, status).await?;
        reported.0 = Some(now);
    }
    let reference = pipeline.object_ref(&());
    for event in events {
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
    let waited = reported.is_none_or(|at| now.duration_since(at) >= LAG_INTERVAL);
    waited || without_lag(before) != without_lag(after)
}

fn without_lag(status: &IngestionPipelineStatus) -> IngestionPipelineStatus {
    let mut status = status.clone();
    status.lag = None;
    status
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
}
