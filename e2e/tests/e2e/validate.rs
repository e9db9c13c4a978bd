//! `kubectl layra validate` on the test-bed: a good pipeline passes, also when faults hit a copy of it;
//! what does not reach what is expected fails with its words; and nothing is left, not even what a
//! killed call had left.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::routing::get;
use axum::{Json, Router};
use futures::TryStreamExt;
use k8s_openapi::api::batch::v1::Job;
use layra_crds::{IngestionPipeline, validation_suffix};
use layra_e2e::cluster::eventually;
use layra_e2e::layra::random_id;
use layra_e2e::pdf;
use milvus::v2::prelude::ListCollectionsRequest;
use mongodb::bson::{DateTime, Document, doc};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use serde_json::{Value, json};

use crate::scene::{Stage, on_stage};

const USERNAME: &str = "layraload";
/// Few documents.
const FEW: [&str; 4] = ["--documents", "2", "--pages", "3"];

#[tokio::test]
async fn a_good_pipeline_passes_validation_and_nothing_is_left() -> Result<()> {
    on_stage("validate", async |stage| {
        let patch = json!({"spec": {"scaling": {"minReplicas": 1}}});
        stage.apply_until_ready(&patch).await?;
        let remainder = leave_a_remainder(stage).await?;

        let (code, report) = validate(stage, &FEW).await?;
        ensure!(code == 0, "{report}");
        let verdicts = verdicts(&report);
        for name in [
            "pipeline",
            "documents",
            "lag",
            "restarts",
            "stores",
            "recall",
        ] {
            ensure!(verdicts.get(name) == Some(&"pass"), "{name}: {report}");
        }
        ensure!(verdicts.get("deletion") == Some(&"pass"), "{report}");
        ensure!(verdicts.get("scraping") == Some(&"notChecked"), "{report}");
        ensure!(!is_left(stage, &remainder).await?, "the remainder is left");
        nothing_is_left(stage, &stage.topic()).await?;

        // Nobody is that fast.
        let impossible = ["--expect-pages-per-second", "1000000"];
        let (code, report) = validate(stage, &[&FEW[..], &impossible].concat()).await?;
        ensure!(code == 1, "{report}");
        ensure!(failures(&report).len() == 1, "{report}");
        let speed = failure(&report, "speed")?;
        let expected = speed["expected"].as_str().unwrap_or_default();
        ensure!(expected == "at least 1000000 pages/s, as asked", "{report}");
        nothing_is_left(stage, &stage.topic()).await
    })
    .await
}

/// The speed is another one, above.
#[tokio::test]
async fn planted_faults_fail_validation_with_their_words() -> Result<()> {
    on_stage("planted", async |stage| {
        let limits = json!({"limits": {"maxVectors": 1}});
        let mut patch = json!({"spec": {"documents": limits, "scaling": {"minReplicas": 1}}});
        stage.apply_until_ready(&patch).await?;
        let prometheus = empty_prometheus().await?;
        let asked = [&FEW[..], &["--prometheus", &prometheus]].concat();
        let (code, report) = validate(stage, &asked).await?;
        ensure!(code == 1, "{report}");
        let documents = failure(&report, "documents")?.to_string();
        for words in ["0 of 2 searchable", "2 failed", "TooManyVectors"] {
            ensure!(documents.contains(words), "{words}: {report}");
        }
        let alerts = failure(&report, "alerts")?.to_string();
        ensure!(alerts.contains("GPUMemoryHigh"), "{report}");
        ensure!(
            verdicts(&report).get("deletion") == Some(&"pass"),
            "{report}"
        );

        // A field that is misspelt. The workers go on as they are.
        patch["spec"]["worker"] = json!({"podTemplate": {"spec": {"nodeSelectors": {}}}});
        stage.scene.apply(&stage.pipeline(&patch)).await?;
        let (stalled, reason) = ("Stalled", "TemplateRefused");
        let limit = Duration::from_mins(1);
        let scene = &stage.scene;
        scene
            .wait_condition(&stage.name, stalled, "True", reason, limit)
            .await?;
        let (code, report) = validate(stage, &["--documents", "1", "--pages", "2"]).await?;
        ensure!(code == 1, "{report}");
        let pipeline = failure(&report, "pipeline")?.to_string();
        ensure!(pipeline.contains("nodeSelectors"), "{report}");

        let stop = ["pause", &stage.name, "--stop-workers"];
        let output = scene.kubectl_layra(scene.kubeconfig(), &stop).await?;
        ensure!(output.status.success(), "{output:?}");
        let output = call(stage, &FEW).await?;
        let notes = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(125), "{output:?}");
        ensure!(notes.contains("are stopped"), "{output:?}");
        nothing_is_left(stage, &stage.topic()).await
    })
    .await
}

/// The other faults are tried by hand: a full disk and a container without memory would slow down the
/// tests beside this one.
#[tokio::test]
async fn faults_hit_a_copy_which_goes_on_and_of_which_nothing_is_left() -> Result<()> {
    on_stage("faults", async |stage| {
        // A short session: the partitions of a killed worker wait for its end.
        let kafka = json!({"kafka": {"sessionTimeoutSeconds": 6}});
        let patch = json!({"spec": {"scaling": {"minReplicas": 1}, "source": kafka}});
        stage.apply_until_ready(&patch).await?;
        let before = stage.scene.get(&stage.name).await?;

        let faults = ["--disruptive", "--faults", "killed-worker,milvus-cut-off"];
        let size = ["--documents", "5", "--pages", "4"];
        let (code, report) = validate(stage, &[&size[..], &faults].concat()).await?;
        ensure!(code == 0, "{report}");
        let verdicts = verdicts(&report);
        for name in [
            "documents",
            "copy of the pipeline",
            "killed worker",
            "Milvus cut off",
            "removal of the copy",
        ] {
            ensure!(verdicts.get(name) == Some(&"pass"), "{name}: {report}");
        }
        // The pipeline itself has not been touched.
        ensure!(verdicts.get("restarts") == Some(&"pass"), "{report}");
        ensure!(stage.scene.get(&stage.name).await?.spec == before.spec);
        let restarts = stage.scene.worker_pods(&stage.name).await?;
        let restarts = restarts.iter().filter_map(|pod| pod.status.as_ref());
        let containers = restarts.filter_map(|status| status.container_statuses.as_ref());
        let count: i32 = containers
            .flatten()
            .map(|status| status.restart_count)
            .sum();
        ensure!(count == 0, "{count} restarts of workers of the pipeline");

        let copy = format!("{}-validate", stage.name);
        let proxy = format!("{copy}-milvus");
        let scene = &stage.scene;
        ensure!(
            scene
                .api::<IngestionPipeline>()
                .get_opt(&copy)
                .await?
                .is_none()
        );
        ensure!(scene.api::<Job>().get_opt(&proxy).await?.is_none());
        // Kubernetes collects what the copy owned, and the pod of the Job.
        eventually("no pod of the copy", Duration::from_mins(1), async || {
            let pods = scene.worker_pods(&copy).await?;
            Ok(pods.is_empty().then_some(()))
        })
        .await?;
        let uid = before.metadata.uid.as_deref().unwrap_or_default();
        let suffix = validation_suffix(uid).context("a UUID")?;
        let topic = format!("{}{suffix}", stage.topic());
        for end in ["", ".ranges", ".dlq"] {
            let partitions = stage.partitions(&format!("{topic}{end}"))?;
            ensure!(partitions == 0, "topic {topic}{end} is left");
        }
        nothing_is_left(stage, &topic).await?;
        nothing_is_left(stage, &stage.topic()).await
    })
    .await
}

/// Runs the command.
async fn call(stage: &Stage, more: &[&str]) -> Result<Output> {
    let start = ["validate", &stage.name, "--wait", "3m", "-o", "json"];
    let scene = &stage.scene;
    let arguments = [&start[..], more].concat();
    scene.kubectl_layra(scene.kubeconfig(), &arguments).await
}

/// The exit code of the command, and its report.
async fn validate(stage: &Stage, more: &[&str]) -> Result<(i32, Value)> {
    let output = call(stage, more).await?;
    let code = output.status.code().context("an exit code")?;
    let report = serde_json::from_slice(&output.stdout);
    Ok((code, report.with_context(|| format!("{output:?}"))?))
}

fn failures(report: &Value) -> Vec<&Value> {
    let checks = report["checks"].as_array().into_iter().flatten();
    checks.filter(|check| check["verdict"] == "fail").collect()
}

fn failure<'a>(report: &'a Value, name: &str) -> Result<&'a Value> {
    let mut failures = failures(report).into_iter();
    let found = failures.find(|check| check["name"] == name);
    found.with_context(|| format!("{name} has not failed: {report}"))
}

/// A Prometheus that scrapes nothing and has no rules. Returns its address.
async fn empty_prometheus() -> Result<String> {
    let answer = |data: Value| Json(json!({"status": "success", "data": data}));
    let targets = answer(json!({"activeTargets": []}));
    let rules = answer(json!({"groups": []}));
    let router = Router::new()
        .route("/api/v1/targets", get(move || std::future::ready(targets)))
        .route("/api/v1/rules", get(move || std::future::ready(rules)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(format!("http://{address}"))
}

fn verdicts(report: &Value) -> BTreeMap<&str, &str> {
    let checks = report["checks"].as_array().into_iter().flatten();
    checks
        .filter_map(|check| Some((check["name"].as_str()?, check["verdict"].as_str()?)))
        .collect()
}

/// What a call that was killed after its first upload has left.
async fn leave_a_remainder(stage: &Stage) -> Result<String> {
    let knowledge_base = format!("{USERNAME}_{}", random_id());
    let key = format!("layra-load/{}/{knowledge_base}_00001.pdf", stage.topic());
    let content = PutPayload::from(pdf::with_pages(&["left"]));
    let objects = &stage.stores.objects;
    objects.put(&Path::from(key), content).await?;
    let bases = stage.stores.mongodb.collection("knowledge_bases");
    bases
        .insert_one(doc! {
            "knowledge_base_id": &knowledge_base, "knowledge_base_name": &knowledge_base,
            "username": USERNAME, "files": [], "used_chat": [], "created_at": DateTime::now(),
            "last_modify_at": DateTime::now(), "is_delete": false,
        })
        .await?;
    Ok(knowledge_base)
}

async fn is_left(stage: &Stage, knowledge_base: &str) -> Result<bool> {
    let bases = stage
        .stores
        .mongodb
        .collection::<Document>("knowledge_bases");
    let found = bases.find_one(doc! { "knowledge_base_id": knowledge_base });
    Ok(found.await?.is_some())
}

/// Nothing of the documents of a topic is left, of which the ledger remembers the knowledge bases.
async fn nothing_is_left(stage: &Stage, topic: &str) -> Result<()> {
    let mongodb = &stage.stores.mongodb;
    let of_topic = doc! { "origin": { "$gte": format!("{topic}/"), "$lt": format!("{topic}0") } };
    let ledger = mongodb.collection::<Document>("ingestion_ledger");
    let entries: Vec<Document> = ledger.find(of_topic).await?.try_collect().await?;
    let bases = entries.iter().map(|entry| entry.get_str("knowledge_db_id"));
    let bases: BTreeSet<&str> = bases.collect::<Result<_, _>>()?;
    ensure!(!bases.is_empty(), "the ledger knows no document of {topic}");
    for (name, field) in [
        ("knowledge_bases", "knowledge_base_id"),
        ("files", "knowledge_db_id"),
    ] {
        let collection = mongodb.collection::<Document>(name);
        let found = collection
            .find_one(doc! { field: { "$in": bases.iter().copied().collect::<Vec<_>>() } })
            .await?;
        ensure!(found.is_none(), "{name}: {found:?}");
    }
    let request = ListCollectionsRequest::builder().build()?;
    let collections = stage.stores.milvus.list_collections(request).await?;
    for base in &bases {
        let base = base.replace('-', "_");
        let mut names = collections.collection_names().iter();
        let left = names.find(|name| name.ends_with(&base));
        ensure!(left.is_none(), "{left:?}");
    }
    let folder = Path::from(format!("layra-load/{topic}"));
    let objects = stage.stores.objects.list(Some(&folder));
    let objects: Vec<_> = objects.try_collect().await?;
    ensure!(objects.is_empty(), "{objects:?}");
    Ok(())
}
