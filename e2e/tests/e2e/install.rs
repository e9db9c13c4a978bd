//! The life of a release: installed, upgraded under load, rolled back, uninstalled. Its namespace is
//! its own, beside that of the other tests: two releases in one cluster.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use layra_crds::IngestionPipeline;
use layra_e2e::cluster::{Scene, chart, eventually};
use layra_e2e::layra::{Upload, User};
use layra_e2e::pdf;
use serde_json::{Value, json};

use crate::pairs::restarts;
use crate::scene::{Stage, on_stage};

const MINUTE: Duration = Duration::from_mins(1);
/// A worker that is there all the time, and no other.
fn one_worker() -> Value {
    json!({"spec": {"scaling": {"minReplicas": 1, "maxReplicas": 1}}})
}

#[tokio::test]
async fn a_release_is_upgraded_under_load_rolled_back_and_uninstalled() -> Result<()> {
    on_stage("install", async |stage| {
        let namespace = format!("{}-install", stage.scene.namespace);
        let scene = stage.scene.beside(&stage.testbed, &namespace).await?;
        let result = Box::pin(life(stage, &scene)).await;
        if result.is_err() {
            eprintln!("{}", scene.logs().await);
        }
        // Nothing that would have to be finalised keeps the namespace, though no operator runs.
        scene.close().await.context("deleting the namespace")?;
        result
    })
    .await
}

async fn life(stage: &Stage, scene: &Scene) -> Result<()> {
    let object = scene.pipeline(&stage.name, &stage.topic(), &one_worker());
    scene.apply(&object).await?;
    scene
        .wait_condition(
            &stage.name,
            "WorkersAvailable",
            "True",
            "WorkersReady",
            3 * MINUTE,
        )
        .await?;
    let workers = pods(scene, "worker").await?;
    let user = stage.user().await?;

    let is_over = AtomicBool::new(false);
    let load = documents_until(&user, &is_over);
    let change = async {
        let result = upgrade_and_roll_back(scene).await;
        is_over.store(true, Ordering::Relaxed);
        result
    };
    let (uploads, changed) = tokio::join!(load, change);
    changed?;
    let mut uploads = uploads?;
    stage.wait_tasks(&uploads, "completed", 2 * MINUTE).await?;
    ensure!(
        pods(scene, "worker").await? == workers,
        "a worker was replaced"
    );

    scene.helm(&["uninstall", scene.release()]).await?;
    eventually("the operator to be gone", MINUTE, async || {
        Ok(pods(scene, "operator").await?.is_empty().then_some(()))
    })
    .await?;
    // The definition, the pipelines and their workers stay, and work on.
    scene.get(&stage.name).await?;
    let last = user
        .upload_bytes("last.pdf", pdf::with_pages(&["The last page."]))
        .await?;
    uploads.push(last);
    stage.wait_tasks(&uploads, "completed", MINUTE).await?;
    ensure!(
        pods(scene, "worker").await? == workers,
        "a worker was replaced"
    );
    let audit = stage.audit(&user).await?;
    ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
    ensure!(audit.pages.len() == uploads.len(), "{audit:?}");

    prune(stage, scene).await?;
    // For the deletion of the namespace.
    scene.apply(&object).await
}

/// Deletes the pipeline as Argo CD and Flux do: in the foreground, dependents first.
async fn prune(stage: &Stage, scene: &Scene) -> Result<()> {
    let pipelines = scene.api::<IngestionPipeline>();
    pipelines
        .delete(&stage.name, &DeleteParams::foreground())
        .await?;
    eventually(
        "the pipeline and its pods to be gone",
        2 * MINUTE,
        async || {
            let is_gone = pipelines.get_opt(&stage.name).await?.is_none()
                && scene.worker_pods(&stage.name).await?.is_empty();
            Ok(is_gone.then_some(()))
        },
    )
    .await
}

/// Uploads a document of one page twice a second.
async fn documents_until(user: &User, is_over: &AtomicBool) -> Result<Vec<Upload>> {
    let mut uploads = Vec::new();
    while uploads.is_empty() || !is_over.load(Ordering::Relaxed) {
        let number = uploads.len();
        let page = format!("Document {number} arrives during an upgrade.");
        let content = pdf::with_pages(&[page.as_str()]);
        uploads.push(user.upload_bytes(&format!("{number}.pdf"), content).await?);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(uploads)
}

async fn upgrade_and_roll_back(scene: &Scene) -> Result<()> {
    let wait = ["--wait", "--timeout", "120s"];
    let first = pods(scene, "operator").await?;
    let operator = chart("layra-operator");
    let upgrade = ["upgrade", scene.release(), &operator, "--reuse-values"];
    let value = ["--set", "logLevel=layra_operator=debug"];
    scene.helm(&[&upgrade[..], &value, &wait].concat()).await?;
    let second = replaced(scene, &first).await?;

    let rollback = ["rollback", scene.release(), "1"];
    scene.helm(&[&rollback[..], &wait].concat()).await?;
    replaced(scene, &second).await?;
    Ok(())
}

/// Waits until none of these operators is left, and returns those that came.
async fn replaced(
    scene: &Scene,
    before: &BTreeSet<(String, i32)>,
) -> Result<BTreeSet<(String, i32)>> {
    eventually("the operator to be replaced", MINUTE, async || {
        let now = pods(scene, "operator").await?;
        Ok((!now.is_empty() && now.is_disjoint(before)).then_some(now))
    })
    .await
}

/// Names of the pods of a component, each with its restarts.
async fn pods(scene: &Scene, component: &str) -> Result<BTreeSet<(String, i32)>> {
    let selector = format!("app.kubernetes.io/component={component}");
    let pods = scene
        .api::<Pod>()
        .list(&ListParams::default().labels(&selector))
        .await?;
    Ok(pods
        .iter()
        .map(|pod| (pod.name_any(), restarts(pod)))
        .collect())
}
