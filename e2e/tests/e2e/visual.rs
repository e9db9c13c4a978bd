//! Visual embedding: a tiny ColQwen2.5 checkpoint from the S3 server must give pages and questions
//! the same vectors as the reference implementation.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use layra_e2e::audit::Audit;
use layra_e2e::clients::bucket;
use layra_e2e::cluster::{condition, eventually};
use layra_e2e::rows::Rows;
use layra_e2e::stores::MODELS;
use layra_e2e::worker_cli::WorkerCli;
use object_store::{ObjectStoreExt, PutPayload};
use reqwest::StatusCode;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::scene::{Stage, on_stage};
use crate::serve::Server;

const MINUTE: Duration = Duration::from_mins(1);
pub(crate) const MODEL: &str = "tiny-colqwen2.5";
const PAGES: usize = 3;
/// Largest accepted difference of a stored value from the reference.
const VECTOR_TOLERANCE: f32 = 1e-5;
const SCORE_TOLERANCE: f64 = 2e-4;

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../worker/embedding/tests/fixtures")
}

/// Uploads the checkpoint, with checksums for the worker to verify.
pub(crate) async fn serve_model(stage: &Stage) -> Result<()> {
    serve_checkpoint(stage, MODEL).await
}

/// The same with another of the tiny checkpoints.
pub(crate) async fn serve_checkpoint(stage: &Stage, model: &str) -> Result<()> {
    let models = bucket(&stage.testbed.endpoints().s3, MODELS)?;
    let mut sums = String::new();
    for entry in std::fs::read_dir(fixtures().join(model))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.filter(|name| path.is_file() && !name.starts_with("reference"))
        else {
            continue;
        };
        let content = std::fs::read(&path)?;
        writeln!(sums, "{:x}  {name}", Sha256::digest(&content))?;
        let key = format!("{model}/{name}");
        models
            .put(&key.as_str().into(), PutPayload::from(content))
            .await?;
    }
    let key = format!("{model}/SHA256SUMS");
    models
        .put(&key.as_str().into(), PutPayload::from(sums))
        .await?;
    Ok(())
}

/// The collections have a name of their own, because those of another model would be in conflict with
/// other tests.
fn pipeline(family: &str) -> Value {
    json!({"spec": {
        "stores": {"milvus": {"collection": format!("visual_{family}_{{knowledge_db_id}}")}},
        // High enough that no page is scaled down before the model gets it.
        "documents": {"render": {"dpi": [{"dpi": 200}]}},
        "embedding": {"model": {"family": family, "uri": format!("s3://{MODELS}/{MODEL}")}},
    }})
}

/// The rows of a reference tensor.
pub(crate) fn reference(file: &SafeTensors<'_>, name: &str) -> Result<Vec<Vec<f32>>> {
    let tensor = file.tensor(name)?;
    let width = *tensor.shape().last().context("a matrix")?;
    let values: Vec<f32> = tensor
        .data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect();
    Ok(values.chunks_exact(width).map(<[f32]>::to_vec).collect())
}

/// A file's vectors in Milvus, in the order in which they were written.
async fn stored(stage: &Stage, collection: &str, file_id: &str) -> Result<Vec<Vec<f32>>> {
    let mut batches = Rows::of(&stage.stores, collection, &["vector"]).of_file(file_id);
    let mut rows = BTreeMap::new();
    while let Some(batch) = batches.next().await? {
        for row in batch.results().rows()? {
            rows.insert(row.get_i64("pk")?, row.get_float_vector("vector")?.to_vec());
        }
    }
    Ok(rows.into_values().collect())
}

/// Each page has the tiles that a question concerns, and the hottest has the weight 1.
async fn check_heat(stage: &Stage, base: &str) -> Result<()> {
    let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
    let server = Server::start(&cli, base).await?;
    let search = json!({
        "question": "What is shown?", "knowledge_bases": [base], "heat": true,
    });
    // A search may miss writes of the last seconds, and its answer is remembered for a minute.
    let answer = eventually("all pages to be found", 3 * MINUTE, async || {
        let (status, answer) = server.search(&search).await?;
        ensure!(status == StatusCode::OK, "{status}: {answer}");
        let pages = answer["pages"].as_array().map(Vec::len);
        Ok((pages == Some(PAGES)).then_some(answer))
    })
    .await?;
    for page in answer["pages"].as_array().into_iter().flatten() {
        let heat = page["heat"].as_array().context("heat")?;
        let hottest = heat.iter().filter(|part| part["weight"] == 1.0);
        ensure!(hottest.count() > 0, "{page:#}");
        let inside = |part: &Value, edge: &str, side: &str| {
            let (edge, side) = (part[edge].as_f64(), part[side].as_f64());
            edge.zip(side)
                .is_some_and(|(edge, side)| edge >= 0.0 && side > 0.0 && edge + side < 1.001)
        };
        let is_inside =
            |part: &Value| inside(part, "left", "width") && inside(part, "top", "height");
        ensure!(heat.iter().all(is_inside), "{page:#}");
    }
    Ok(())
}

#[tokio::test]
async fn pages_and_questions_get_the_vectors_of_the_reference() -> Result<()> {
    on_stage("visual", async |stage| {
        serve_model(stage).await?;
        stage.apply_until_ready(&pipeline("colqwen2_5")).await?;
        let user = stage.user().await?;
        let mut uploads = Vec::new();
        for page in 0..PAGES {
            let file = fixtures().join(format!("pages/page{page}.png"));
            uploads.push(user.upload(&file).await?);
        }
        stage.wait_tasks(&uploads, "completed", 3 * MINUTE).await?;
        let base = user.knowledge_base.replace('-', "_");
        let collection = format!("visual_colqwen2_5_{base}");
        let audit = Audit::of(&stage.stores, &user.knowledge_base, &collection).await?;
        ensure!(audit.violations.is_empty(), "{:#?}", audit.violations);

        let bytes = std::fs::read(fixtures().join(MODEL).join("reference.safetensors"))?;
        let file = SafeTensors::deserialize(&bytes)?;
        for (page, upload) in uploads.iter().enumerate() {
            let expected = reference(&file, &format!("page{page}.embeddings"))?;
            let found = stored(stage, &collection, &upload.file_id).await?;
            ensure!(
                found.len() == expected.len(),
                "page {page}: {} vectors instead of {}",
                found.len(),
                expected.len()
            );
            let pairs = found.concat().into_iter().zip(expected.concat());
            let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            ensure!(worst <= VECTOR_TOLERANCE, "page {page} is off by {worst:e}");
        }
        check_scores(stage, &user.knowledge_base, &reference(&file, "scores")?).await?;
        check_heat(stage, &user.knowledge_base).await?;
        check_status(stage).await
    })
    .await
}

/// Checks that `layra-worker search` gives every page the score of the reference.
async fn check_scores(stage: &Stage, knowledge_base: &str, expected: &[Vec<f32>]) -> Result<()> {
    let facts = std::fs::read(fixtures().join(MODEL).join("reference.json"))?;
    let facts: Value = serde_json::from_slice(&facts)?;
    let questions = facts["queries"].as_array().context("queries")?;
    let cli = WorkerCli::of_pipeline(&stage.scene, &stage.testbed, &stage.name).await?;
    for (question, expected) in questions.iter().zip(expected) {
        let question = question.as_str().context("a question")?;
        let hits = cli.search(question, knowledge_base, 3).await?;
        ensure!(hits.len() == PAGES, "{question}: {hits:?}");
        for hit in hits {
            let page: usize = hit
                .file
                .trim_start_matches("page")
                .trim_end_matches(".png")
                .parse()?;
            let difference = (hit.score - f64::from(expected[page])).abs();
            ensure!(
                difference <= SCORE_TOLERANCE,
                "{question}: {hit:?} instead of {}",
                expected[page]
            );
        }
    }
    Ok(())
}

/// Checks that the status names the model that the workers have loaded.
async fn check_status(stage: &Stage) -> Result<()> {
    let pipeline = stage
        .scene
        .wait_status(&stage.name, "the model in the status", MINUTE, |status| {
            status.model.is_some()
        })
        .await?;
    let model = pipeline
        .status
        .and_then(|status| status.model)
        .context("the model")?;
    ensure!(model.dimensions == 128, "{model:?}");
    let hexadecimal = model.checksum.strip_prefix("sha256:").context("sha256")?;
    ensure!(hexadecimal.len() == 64, "{model:?}");
    ensure!(model.bytes > 1_400_000, "{model:?}");
    Ok(())
}

#[tokio::test]
async fn a_checkpoint_of_another_family_is_reported_before_any_work() -> Result<()> {
    on_stage("family", async |stage| {
        serve_model(stage).await?;
        let mut object = pipeline("colqwen3");
        object["spec"]["scaling"] = json!({"minReplicas": 1});
        stage.scene.apply(&stage.pipeline(&object)).await?;
        let wanted = "of family colqwen2_5, not colqwen3";
        stage
            .scene
            .wait_status(&stage.name, wanted, 2 * MINUTE, |status| {
                condition(status, "WorkersAvailable")
                    .is_some_and(|c| c.status == "False" && c.message.contains(wanted))
            })
            .await?;
        Ok(())
    })
    .await
}
