//! Every state of a pipeline, judged by the rules of kstatus (Flux) and by the script of Argo CD.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::Api;
use layra_crds::IngestionPipeline;
use layra_e2e::cluster::condition;
use tokio::task::JoinHandle;

use crate::scene::Stage;

/// Records every state of a pipeline.
pub struct Recording {
    seen: Arc<Mutex<Vec<IngestionPipeline>>>,
    task: JoinHandle<()>,
}

impl Recording {
    pub fn of(stage: &Stage) -> Self {
        let seen: Arc<Mutex<Vec<IngestionPipeline>>> = Arc::default();
        let (into, api, name) = (Arc::clone(&seen), stage.scene.api(), stage.name.clone());
        let task = tokio::spawn(async move {
            let api: Api<IngestionPipeline> = api;
            loop {
                if let Ok(Some(now)) = api.get_opt(&name).await {
                    let mut seen = into.lock().unwrap_or_else(PoisonError::into_inner);
                    let last = seen.last().map(ResourceExt::resource_version);
                    if last != Some(now.resource_version()) {
                        seen.push(now);
                    }
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self { seen, task }
    }

    /// Judges what was recorded by the rules of kstatus, and returns the reasons of Ready in turn.
    pub fn judged(self) -> Result<Vec<String>> {
        self.task.abort();
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        let mut reasons: Vec<String> = Vec::new();
        for pair in seen.windows(2) {
            transition_times_follow_the_status(&pair[0], &pair[1])?;
        }
        for pipeline in seen.iter().filter(|pipeline| pipeline.status.is_some()) {
            let ready = judge(pipeline)?;
            if reasons.last() != Some(&ready) {
                reasons.push(ready);
            }
        }
        Ok(reasons)
    }
}

/// The reason of Ready, if kstatus can read the status.
fn judge(pipeline: &IngestionPipeline) -> Result<String> {
    let status = pipeline.status.clone().unwrap_or_default();
    let is_true = |kind| condition(&status, kind).is_some_and(|found| found.status == "True");
    let ready = condition(&status, "Ready").context("no Ready")?;
    let transient = ["Reconciling", "Stalled"].map(|kind| condition(&status, kind));
    ensure!(
        transient.iter().flatten().count() < 2,
        "Reconciling and Stalled: {status:?}"
    );
    for found in transient.iter().flatten() {
        ensure!(found.status == "True", "{found:?}");
        ensure!(ready.status == "False", "Ready beside {found:?}");
    }
    for found in &status.conditions {
        ensure!(
            found.observed_generation == status.observed_generation,
            "{found:?}"
        );
    }
    if ready.status == "True" {
        let workers = condition(&status, "WorkersAvailable").context("no WorkersAvailable")?;
        ensure!(
            is_true("TopicReady") && is_true("VectorStoreReady"),
            "{status:?}"
        );
        ensure!(
            workers.status == "True" || workers.reason == "WorkersStarting",
            "{workers:?}"
        );
    }
    // Argo CD shows as healthy what kstatus calls current, and nothing else.
    let is_current = ready.status == "True"
        && transient.iter().flatten().count() == 0
        && status.observed_generation == pipeline.metadata.generation
        && !pipeline.spec.paused;
    let shown = layra_charts::argo_cd::health(&serde_json::to_value(pipeline)?)?;
    ensure!(
        (shown.status == "Healthy") == is_current,
        "{shown:?} {status:?}"
    );
    Ok(ready.reason.clone())
}

fn transition_times_follow_the_status(
    before: &IngestionPipeline,
    after: &IngestionPipeline,
) -> Result<()> {
    let (before, after) = (before.status.as_ref(), after.status.as_ref());
    let (Some(before), Some(after)) = (before, after) else {
        return Ok(());
    };
    for new in &after.conditions {
        if let Some(old) = condition(before, &new.type_)
            && old.status == new.status
        {
            ensure!(
                old.last_transition_time == new.last_transition_time,
                "{old:?} {new:?}"
            );
        }
    }
    Ok(())
}
