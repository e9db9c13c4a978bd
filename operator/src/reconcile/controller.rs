//! The controller of one namespace: watches pipelines and the objects that belong to them, and
//! reconciles a pipeline when something changed or its interval has passed.

use std::{convert::Infallible, sync::Arc};

use futures::{FutureExt, StreamExt, stream};
use kube::{
    Api, ResourceExt,
    runtime::{
        Predicate, PredicateConfig, WatchStreamExt,
        controller::{self, ReconcileRequest},
        predicates,
        reflector::ObjectRef,
        watcher,
    },
};
use layra_crds::IngestionPipeline;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    Context, Shared, bursts,
    pipelines::PipelineCache,
    reconcile, retry,
    stores::{self, Stores},
};

/// Queued triggers before the watches block.
const TRIGGERS: usize = 1024;

/// Where a client-side `kubectl apply` keeps what it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Reconciles the pipelines of `namespace` until `stop`, and finishes reconciles in progress.
pub(crate) async fn run(
    shared: Arc<Shared>,
    namespace: String,
    (pipelines, writer): PipelineCache,
    stop: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    let (triggers, mut triggered) = mpsc::channel(TRIGGERS);
    let stores = Stores::start(&shared.client, &namespace, &triggers, &mut tasks);
    let filled = tokio::select! {
        filled = until_filled(stores.filled(), &mut triggered) => filled.is_ok(),
        () = stop.cancelled() => false,
    };
    if !filled {
        return;
    }
    let api: Api<IngestionPipeline> = Api::namespaced(shared.client.clone(), &namespace);
    let context = Arc::new(Context::new(shared, namespace.clone(), stores, triggers));

    let absent = (Arc::clone(&context), pipelines.clone());
    let ended = (Arc::clone(&context), pipelines.clone());
    let edited = watcher(api, watcher::Config::default().page_size(stores::PAGE))
        .modify(|pipeline| {
            pipeline.managed_fields_mut().clear();
            // A copy of the whole object.
            pipeline.annotations_mut().remove(LAST_APPLIED);
        })
        .default_backoff()
        .reflect(writer)
        .inspect(move |event| {
            let (context, pipelines) = &absent;
            match event {
                Ok(watcher::Event::Delete(pipeline)) => {
                    context.forget_if_absent(&pipeline.name_any(), pipelines);
                }
                Ok(watcher::Event::InitDone) => context.forget_absent(pipelines),
                _ => {}
            }
        })
        .applied_objects()
        // The operator's own status updates change neither the generation nor the annotations, one
        // of which confirms a change.
        .predicate_filter(
            predicates::generation.combine(predicates::annotations),
            PredicateConfig::default(),
        )
        .filter_map(|event| async move {
            event
                .inspect_err(
                    |error| tracing::warn!(%error, "watch of pipelines interrupted, retrying"),
                )
                .ok()
        })
        .map(|pipeline| ObjectRef::from_obj(&pipeline));
    let changed = stream::unfold(triggered, |mut triggered: mpsc::Receiver<_>| async move {
        triggered.recv().await.map(|pipeline| (pipeline, triggered))
    });
    let triggered = stream::select(edited.boxed(), changed.boxed());
    let queue = bursts::merged(triggered)
        .map(|pipeline| Ok::<_, watcher::Error>(ReconcileRequest::from(pipeline)))
        .take_until(stop.cancelled_owned());

    // Unbounded concurrency: a reconcile that waits for an unreachable Kafka must not delay others.
    let config = controller::Config::default();
    controller::applier(
        |pipeline, context| reconcile(pipeline, context).boxed(),
        |pipeline, error, context| retry(&pipeline, error, &context),
        context,
        pipelines,
        queue,
        config,
    )
    .for_each(|result| {
        let name = match result {
            Ok((pipeline, _)) => Some(pipeline.name),
            Err(
                controller::Error::ObjectNotFound(pipeline)
                | controller::Error::ReconcilerFailed(_, pipeline),
            ) => Some(pipeline.name),
            Err(error) => {
                tracing::warn!(%error, "controller error, continuing");
                None
            }
        };
        if let Some(name) = name {
            let (context, pipelines) = &ended;
            context.forget_if_absent(&name, pipelines);
        }
        std::future::ready(())
    })
    .await;
    tasks.shutdown().await;
    tracing::info!(namespace, "controller stopped");
}

/// Waits until the caches have their first lists, and drops what triggers reconciles meanwhile: a
/// watch that cannot send its triggers does not get to the end of its list. Every pipeline is
/// reconciled when its own list comes, afterwards.
async fn until_filled<F: Future, Trigger>(
    filled: F,
    triggered: &mut mpsc::Receiver<Trigger>,
) -> F::Output {
    let dropped = async {
        while triggered.recv().await.is_some() {}
        // No watch is left: whoever waits for the caches hears of it.
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        filled = filled => filled,
        never = dropped => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An operator that starts with more objects than the queue holds.
    #[tokio::test]
    async fn caches_are_filled_whatever_the_number_of_objects() {
        let (triggers, mut triggered) = mpsc::channel(2);
        let filled = async {
            for object in 0..100 {
                triggers.send(object).await.unwrap();
            }
            "filled"
        };
        let minute = std::time::Duration::from_mins(1);
        let ended = tokio::time::timeout(minute, until_filled(filled, &mut triggered));
        assert_eq!(ended.await, Ok("filled"));
    }
}
