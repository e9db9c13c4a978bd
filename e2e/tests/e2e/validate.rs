//! `kubectl layra validate` on the test-bed: a good pipeline passes, what does not reach what is
//! expected fails with its words, and nothing is left, not even what a killed call had left.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use layra_e2e::layra::random_id;
use layra_e2e::pdf;
use mongodb::bson::{DateTime, Document, doc};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use serde_json::{Value, json};

use crate::scene::{Stage, on_stage};

const USERNAME: &str = "layraload";

#[tokio::test]
async fn a_good_pipeline_passes_validation_and_nothing_is_left() -> Result<()> {
    on_stage("validate", async |stage| {
        let patch = json!({"spec": {"scaling": {"minReplicas": 1}}});
        stage.apply_until_ready(&patch).await?;
        let remainder = leave_a_remainder(stage).await?;

        let (code, report) = validate(stage, &[]).await?;
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
        nothing_is_left(stage).await?;

        // Nobody is that fast.
        let impossible = ["--expect-pages-per-second", "1000000"];
        let (code, report) = validate(stage, &impossible).await?;
        ensure!(code == 1, "{report}");
        let failed: Vec<&Value> = report["checks"]
            .as_array()
            .context("checks")?
            .iter()
            .filter(|check| check["verdict"] == "fail")
            .collect();
        ensure!(failed.len() == 1, "{report}");
        ensure!(failed[0]["name"] == "speed", "{report}");
        let expected = failed[0]["expected"].as_str().unwrap_or_default();
        ensure!(expected == "at least 1000000 pages/s, as asked", "{report}");
        nothing_is_left(stage).await
    })
    .await
}

/// The exit code of the command, and its report.
async fn validate(stage: &Stage, more: &[&str]) -> Result<(i32, Value)> {
    let name = stage.name.as_str();
    let start = ["validate", name, "--documents", "2", "--pages", "3"];
    let end = ["--wait", "3m", "-o", "json"];
    let arguments = [&start[..], &end[..], more].concat();
    let scene = &stage.scene;
    let output = scene.kubectl_layra(scene.kubeconfig(), &arguments).await?;
    let code = output.status.code().context("an exit code")?;
    let report = serde_json::from_slice(&output.stdout);
    Ok((code, report.with_context(|| format!("{output:?}"))?))
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
    let key = format!("{}/{knowledge_base}_00001.pdf", folder(stage));
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

/// No other test uses this user.
async fn nothing_is_left(stage: &Stage) -> Result<()> {
    for name in ["knowledge_bases", "files"] {
        let collection = stage.stores.mongodb.collection::<Document>(name);
        let found = collection.find_one(doc! { "username": USERNAME }).await?;
        ensure!(found.is_none(), "{name}: {found:?}");
    }
    let folder = Path::from(folder(stage));
    let objects = stage.stores.objects.list(Some(&folder));
    let objects: Vec<_> = objects.try_collect().await?;
    ensure!(objects.is_empty(), "{objects:?}");
    Ok(())
}

fn folder(stage: &Stage) -> String {
    format!("layra-load/{}", stage.topic())
}
