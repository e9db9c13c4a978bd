//! Vectors of two models never mix: a document and a question of another model are refused, until
//! the collection was embedded again.

use std::collections::BTreeMap;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::TryStreamExt;
use layra_crds::{IndexStatus, IngestionPipelineStatus};
use layra_e2e::audit::Audit;
use layra_e2e::cluster::{condition, eventually};
use layra_e2e::rebuild::Reindex;
use layra_e2e::stores::MODELS;
use layra_e2e::worker_cli::WorkerCli;
use layra_e2e::{milvus_admin, pdf};
use milvus::v2::prelude::{DescribeCollectionRequest, ListCollectionsRequest};
use mongodb::bson::{Document, doc};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::scene::{Stage, on_stage};
use crate::serve::Server;
use crate::visual::{MODEL, serve_checkpoint};

const MINUTE: Duration = Duration::from_mins(1);
const OTHER: &str = "tiny-colqwen2";
/// How long a request may be in flight, here: the servers are local.
const LATE_WRITES: Duration = Duration::from_secs(3);
/// More than are embedded and recorded together.
const FILES: usize = 10;
const QUESTION: &str = "Why is there high tide?";

/// A command that runs beside the test.
struct Running {
    child: Child,
    log: std::path::PathBuf,
}

impl Running {
    /// Ingests files with the model of a configuration.
    fn ingest(cli: &WorkerCli, knowledge_base: &str, files: &[&str]) -> Result<Self> {
        let log = cli.directory().join("ingest.log");
        let arguments = [&["ingest", "--knowledge-base", knowledge_base][..], files].concat();
        let child = cli
            .command(&arguments, "ingest")
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .spawn()?;
        Ok(Self { child, log })
    }

    fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    async fn succeed(mut self) -> Result<()> {
        let status = eventually("the files to be ingested", 3 * MINUTE, async || {
            self.ended()
        });
        match status.await? {
            status if status.success() => Ok(()),
            status => bail!("{status}: {}", self.log()?),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collection(stage: &Stage, knowledge_base: &str) -> String {
    let base = knowledge_base.replace('-', "_");
    format!("{}_{base}", stage.name.replace('-', "_"))
}

/// The commands of a pipeline without workers, with the first model.
async fn with_first_model(stage: &Stage) -> Result<WorkerCli> {
    let collection = collection(stage, "{knowledge_db_id}");
    let patch = json!({"spec": {
        "stores": {"milvus": {
            "collection": collection, "rebuild": {"vectorsPerSecond": 1000},
        }},
        "embedding": {"model": {"family": "colqwen2_5", "uri": format!("s3://{MODELS}/{MODEL}")}},
        "scaling": {"mode": "Manual", "replicas": 0},
    }});
    stage.apply_until_ready(&patch).await?;
    WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await
}

/// The same with the other one.
async fn with_other_model(stage: &Stage) -> Result<WorkerCli> {
    let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
    let first = cli.configuration()?;
    let other = first
        .replace("family: colqwen2_5", "family: colqwen2")
        .replace(&format!("/{MODEL}"), &format!("/{OTHER}"));
    ensure!(first != other && !other.contains(MODEL), "{first}");
    std::fs::write(cli.directory().join("worker.yaml"), other)?;
    Ok(cli)
}

fn document(cli: &WorkerCli, name: &str, pages: &[&str]) -> Result<String> {
    let path = cli.directory().join(name);
    std::fs::write(&path, pdf::with_pages(pages))?;
    let path = path.into_os_string().into_string();
    path.ok().context("a path of letters")
}

/// The rows that the ledger says each document has.
async fn recorded(stage: &Stage, knowledge_base: &str) -> Result<BTreeMap<String, i64>> {
    let ledger = stage
        .stores
        .mongodb
        .collection::<Document>("ingestion_ledger");
    let found = ledger.find(doc! { "knowledge_db_id": knowledge_base });
    let entries: Vec<Document> = found.await?.try_collect().await?;
    let mut rows = BTreeMap::new();
    for entry in entries {
        ensure!(entry.get_str("state")? == "done", "{entry:?}");
        rows.insert(entry.get_str("_id")?.to_owned(), entry.get_i64("vectors")?);
    }
    Ok(rows)
}

async fn id_of(stage: &Stage, collection: &str) -> Result<i64> {
    let request = DescribeCollectionRequest::builder()
        .collection_name(collection)
        .build()?;
    let found = stage.stores.milvus.describe_collection(request).await?;
    Ok(found.description().get_collection_id())
}

/// The record of the model of a collection.
async fn model_of(stage: &Stage, id: i64) -> Result<Option<Document>> {
    let records = stage
        .stores
        .mongodb
        .collection::<Document>("ingestion_collection_models");
    Ok(records.find_one(doc! { "_id": id }).await?)
}

/// Kills a first run in the middle, and lets a second one finish.
async fn reembed_killed_once(stage: &Stage, cli: &WorkerCli, name: &str) -> Result<String> {
    let rebuilds = stage
        .stores
        .mongodb
        .collection::<Document>("ingestion_rebuilds");
    let run = Reindex::reembed(cli, name, LATE_WRITES)?;
    let begun = eventually("some files to be embedded", 2 * MINUTE, async || {
        let rebuild = rebuilds.find_one(doc! { "_id": name }).await?;
        Ok(rebuild.filter(|rebuild| rebuild.get_str("last_file").is_ok()))
    })
    .await?;
    run.kill()?;
    let run = Reindex::reembed(cli, name, LATE_WRITES)?;
    run.finish(3 * MINUTE, cli).await?;
    ensure!(rebuilds.find_one(doc! { "_id": name }).await?.is_none());
    Ok(begun.get_str("token")?.to_owned())
}

fn search(knowledge_base: &str) -> Value {
    json!({ "question": QUESTION, "knowledge_bases": [knowledge_base], "top": 3 })
}

async fn check_refused(server: &Server, search: &Value) -> Result<()> {
    let (status, problem) = server.search(search).await?;
    ensure!(status == StatusCode::CONFLICT, "{status}: {problem}");
    ensure!(problem["reason"] == "ModelMismatch", "{problem}");
    let detail = problem["detail"].as_str().unwrap_or_default();
    ensure!(detail.contains("layra-worker reembed"), "{problem}");
    Ok(())
}

/// Every page is there once, and the ledger has the number of the vectors.
async fn check_counts(stage: &Stage, knowledge_base: &str, collection: &str) -> Result<()> {
    let rows = recorded(stage, knowledge_base).await?;
    ensure!(rows.len() == FILES + 1, "{rows:?}");
    let audit = Audit::of(&stage.stores, knowledge_base, collection).await?;
    ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);
    let pages = u64::try_from(FILES + 2)?;
    ensure!(audit.total_pages() == pages, "{audit:?}");
    let all: i64 = rows.values().sum();
    ensure!(i64::try_from(audit.vectors)? == all, "{rows:?}: {audit:?}");
    Ok(())
}

/// The old vectors are gone.
async fn check_nothing_is_left(stage: &Stage, token: &str) -> Result<()> {
    let request = ListCollectionsRequest::builder().build()?;
    let answer = stage.stores.milvus.list_collections(request).await?;
    let names = answer.collection_names();
    ensure!(!names.iter().any(|name| name.contains(token)), "{names:?}");
    Ok(())
}

#[tokio::test]
async fn a_collection_of_another_model_is_refused_until_it_was_embedded_again() -> Result<()> {
    on_stage("reembed", async |stage| {
        for model in [MODEL, OTHER] {
            serve_checkpoint(stage, model).await?;
        }
        let first = with_first_model(stage).await?;
        let other = with_other_model(stage).await?;
        let user = stage.user().await?;
        let base = user.knowledge_base.as_str();
        let name = collection(stage, base);
        let mut files = Vec::new();
        for number in 0..FILES {
            let text = format!("The moon pulls the water of sea {number}.");
            files.push(document(&first, &format!("{number}.pdf"), &[&text])?);
        }
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        Running::ingest(&first, base, &files)?.succeed().await?;
        let before = recorded(stage, base).await?;
        ensure!(before.len() == FILES, "{before:?}");
        let old = id_of(stage, &name).await?;
        let record = model_of(stage, old).await?.context("a record")?;
        ensure!(!record.get_bool("adopted")?, "{record:?}");
        ensure!(
            record.get_document("model")?.get_str("family")? == "colqwen2_5",
            "{record:?}"
        );

        // Neither a document nor a question of another model is compared with these vectors.
        let late = document(&other, "late.pdf", &["The tide comes in.", "It goes out."])?;
        let mut waits = Running::ingest(&other, base, &[&late])?;
        eventually("the document to be refused", 2 * MINUTE, async || {
            Ok(waits.log()?.contains("ModelMismatch").then_some(()))
        })
        .await?;
        ensure!(waits.ended()?.is_none(), "it must wait: {}", waits.log()?);
        let server = Server::start(&other, base).await?;
        check_refused(&server, &search(base)).await?;
        ensure!(
            first.search(QUESTION, base, 3).await?.len() == 3,
            "the first model still finds pages"
        );

        let token = reembed_killed_once(stage, &other, &name).await?;
        waits.succeed().await?;
        check_counts(stage, base, &name).await?;
        check_nothing_is_left(stage, &token).await?;
        let new = id_of(stage, &name).await?;
        ensure!(model_of(stage, old).await?.is_none() && old != new);
        let record = model_of(stage, new).await?.context("a record")?;
        let model = record.get_document("model")?;
        ensure!(model.get_str("family")? == "colqwen2", "{record:?}");

        // A search may miss writes of the last seconds.
        eventually("the page to be found", 2 * MINUTE, async || {
            let (status, answer) = server.search(&search(base)).await?;
            ensure!(status == StatusCode::OK, "{status}: {answer}");
            let found = answer["pages"].as_array().map_or(0, Vec::len);
            Ok((found == 3).then_some(()))
        })
        .await?;
        let refused = first.search(QUESTION, base, 3).await;
        ensure!(
            refused.is_err_and(|error| error.to_string().contains("ModelMismatch")),
            "a question of the first model"
        );
        milvus_admin::drop(&stage.stores.milvus, &name).await
    })
    .await
}

/// A pipeline with a worker from the start. What is in flight has landed or failed after seconds: the
/// servers are local.
fn with_worker(stage: &Stage, family: &str, model: &str) -> Value {
    let late_writes = LATE_WRITES.as_secs().to_string();
    let env = json!([{"name": "LAYRA_LATE_WRITES_SECONDS", "value": late_writes}]);
    json!({
        "metadata": {"annotations": {
            "ingest.layra.io/confirm-change": format!("embedding.model.family={family}"),
        }},
        "spec": {
            "stores": {"milvus": {
                "collection": collection(stage, "{knowledge_db_id}"),
                "onModelChange": "ReembedBeside",
            }},
            "embedding": {"model": {"family": family, "uri": format!("s3://{MODELS}/{model}")}},
            "worker": {"podTemplate": {"spec": {"containers": [{"name": "worker", "env": env}]}}},
            "scaling": {"minReplicas": 1},
        },
    })
}

fn models(status: &IngestionPipelineStatus) -> Option<&IndexStatus> {
    status.models.as_ref()
}

#[tokio::test]
async fn a_change_of_the_model_reaches_every_collection_while_documents_flow_in() -> Result<()> {
    on_stage("models", async |stage| {
        for model in [MODEL, OTHER] {
            serve_checkpoint(stage, model).await?;
        }
        let first = with_worker(stage, "colqwen2_5", MODEL);
        stage.apply_until_ready(&first).await?;
        let user = stage.user().await?;
        let pages = pdf::with_pages(&["The first page.", "The second page."]);
        let before = user.upload_bytes("before.pdf", pages.clone()).await?;
        stage.wait_tasks(&[before], "completed", 2 * MINUTE).await?;
        let name = collection(stage, &user.knowledge_base);
        let old = id_of(stage, &name).await?;
        stage
            .scene
            .wait_status(&stage.name, "no other model", MINUTE, |status| {
                status.confirmed.is_some() && models(status).is_some_and(|it| it.drifted == 0)
            })
            .await?;

        let other = with_worker(stage, "colqwen2", OTHER);
        stage.scene.apply(&stage.pipeline(&other)).await?;
        let meanwhile = user.upload_bytes("meanwhile.pdf", pages).await?;
        stage
            .scene
            .wait_status(&stage.name, "the Job", 2 * MINUTE, |status| {
                let condition = condition(status, "VectorStoreReady");
                condition.is_some_and(|it| it.reason == "Reembedding")
                    && models(status).is_some_and(|it| it.start_time.is_some())
            })
            .await?;
        stage
            .scene
            .wait_status(&stage.name, "the model of the spec", 3 * MINUTE, |status| {
                let is_over = |it: &IndexStatus| it.drifted == 0 && it.start_time.is_none();
                models(status).is_some_and(is_over)
            })
            .await?;
        stage
            .wait_tasks(&[meanwhile], "completed", 2 * MINUTE)
            .await?;
        eventually("every page once", MINUTE, async || {
            let audit = Audit::of(&stage.stores, &user.knowledge_base, &name).await?;
            Ok((audit.violations.is_empty() && audit.total_pages() == 4).then_some(()))
        })
        .await?;
        let new = id_of(stage, &name).await?;
        ensure!(old != new, "the collection was not replaced");
        let record = model_of(stage, new).await?.context("a record")?;
        let model = record.get_document("model")?;
        ensure!(model.get_str("family")? == "colqwen2", "{record:?}");
        milvus_admin::drop(&stage.stores.milvus, &name).await
    })
    .await
}
