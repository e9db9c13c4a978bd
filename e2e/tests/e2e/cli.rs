//! `kubectl layra`, run by a person who has the permissions of the chart's Role and no others.

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use layra_e2e::cluster::{Scene, eventually};
use layra_e2e::pdf;
use layra_e2e::worker_cli::Hit;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::scene::on_stage;

const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test]
async fn the_charts_role_suffices_to_explain_and_to_run_worker_commands() -> Result<()> {
    on_stage("cli", async |stage| {
        stage.apply_until_ready(&json!({})).await?;
        let user = stage.user().await?;
        let pages = [
            "Bread dough rises because yeast makes carbon dioxide.",
            "Bake the loaf in a hot oven for forty minutes.",
        ];
        let upload = user
            .upload_bytes("bread.pdf", pdf::with_pages(&pages))
            .await?;
        stage.wait_tasks(&[upload], "completed", 2 * MINUTE).await?;
        let scene = &stage.scene;
        let person = Person::create(scene, &stage.name).await?;

        let refused = person.layra(scene, &["explain", &stage.name]).await?;
        ensure!(refused.status.code() == Some(1), "{refused:?}");
        let right = "no permission to get ingestionpipelines.ingest.layra.io";
        ensure!(notes(&refused).contains(right), "{refused:?}");

        person.bind(scene, "layra-operator-cli").await?;
        let explained = eventually("the right to read pipelines", MINUTE, async || {
            let explained = person
                .layra(scene, &["explain", &stage.name, "-o", "json"])
                .await?;
            Ok(explained.status.success().then_some(explained))
        })
        .await?;
        let explained: Value = serde_json::from_slice(&explained.stdout)?;
        let status = scene.get(&stage.name).await?.status.context("a status")?;
        ensure!(
            explained["scaling"]["desiredReplicas"].is_u64() && status.scaling.is_some(),
            "{explained}"
        );

        let run = async |arguments: &[&str]| {
            let start = ["run", &stage.name, "--timeout", "3m", "--"];
            let command = [&start[..], arguments].concat();
            person.layra(scene, &command).await
        };
        let knowledge_base = user.knowledge_base.as_str();
        let question = "Why does dough get bigger?";
        let found = run(&[
            "search",
            question,
            "--knowledge-base",
            knowledge_base,
            "--output",
            "json",
        ])
        .await?;
        ensure!(found.status.success(), "{found:?}");
        let hits = hits(&found)?;
        let best = hits.first().context("an answer")?;
        ensure!(
            (best.file.as_str(), best.page) == ("bread.pdf", 1),
            "{hits:?}"
        );

        let listed = ["documents", &stage.name, "--timeout", "3m", "-o", "json"];
        let listed = person.layra(scene, &listed).await?;
        ensure!(listed.status.success(), "{listed:?}");
        let log = String::from_utf8_lossy(&listed.stdout);
        let start = log.find("[\n").with_context(|| format!("{listed:?}"))?;
        let mut documents = serde_json::Deserializer::from_str(&log[start..]).into_iter();
        let documents: Value = documents.next().context("a list")??;
        let document = &documents[0];
        ensure!(document["name"] == "bread.pdf", "{documents}");
        ensure!(document["state"] == "done", "{documents}");
        ensure!(document["storedPages"] == 2, "{documents}");

        let redriven = run(&["redrive", "--dry-run"]).await?;
        ensure!(redriven.status.success(), "{redriven:?}");
        // In an ordinary container.
        let checked = run(&["sandbox", "check"]).await?;
        ensure!(checked.status.success(), "{checked:?}");
        let failed = run(&["search", question, "--knowledge-base", "nobody_nothing"]).await?;
        ensure!(failed.status.code() == Some(1), "{failed:?}");
        let log = String::from_utf8_lossy(&failed.stdout);
        ensure!(
            log.contains("nobody_nothing has no collection"),
            "{failed:?}"
        );

        let selector = format!("ingest.layra.io/pipeline={}", stage.name);
        let of_commands = ListParams::default().labels(&selector);
        let jobs = scene.api::<Job>().list(&of_commands).await?;
        ensure!(jobs.items.is_empty(), "Jobs are left: {jobs:?}");
        eventually("the commands' pods to be gone", MINUTE, async || {
            let pods = scene.api::<Pod>().list(&of_commands).await?;
            Ok(pods.items.is_empty().then_some(()))
        })
        .await
    })
    .await
}

#[tokio::test]
async fn status_shows_the_pipeline_and_doctor_finds_a_secret_without_a_key() -> Result<()> {
    on_stage("doctor", async |stage| {
        stage.apply_until_ready(&json!({})).await?;
        let (scene, name) = (&stage.scene, stage.name.as_str());
        let layra =
            async |arguments: &[&str]| scene.kubectl_layra(scene.kubeconfig(), arguments).await;

        let listed = layra(&["status", "-o", "json"]).await?;
        ensure!(listed.status.success(), "{listed:?}");
        let rows: Value = serde_json::from_slice(&listed.stdout)?;
        let rows = rows.as_array().context("a list")?;
        let row = rows.iter().find(|row| row["name"] == name);
        let row = row.context("the pipeline")?;
        ensure!(row["namespace"] == scene.namespace.as_str(), "{row}");
        ensure!(row["conditions"][0]["words"].is_string(), "{row}");
        let table = layra(&["status", name]).await?;
        let text = String::from_utf8_lossy(&table.stdout).into_owned();
        ensure!(
            text.contains(name) && text.contains("topics exist"),
            "{text}"
        );
        ensure!(
            !text.contains('\u{1b}'),
            "colours without a terminal: {text}"
        );

        // The definition, the operator and its lease are as this build installs them.
        let (code, report) = eventually("a good installation", MINUTE, async || {
            let (code, report) = doctor(scene, name).await?;
            let is_good = report["installation"] == json!([]);
            Ok(is_good.then_some((code, report)))
        })
        .await?;
        ensure!(report["notRead"] == json!([]), "{report}");
        ensure!(code == i32::from(has_findings(&report)), "{code}: {report}");
        let secrets = |report: &Value| {
            findings(report).iter().any(|finding| {
                let about = finding["about"].as_str().unwrap_or_default();
                about.starts_with("Secret ") || about.starts_with("ConfigMap ")
            })
        };
        ensure!(!secrets(&report), "{report}");

        let secret = format!("{name}-half");
        scene
            .create_secret(&secret, &json!({"accessKey": "a"}))
            .await?;
        let reference = json!({"name": secret});
        let half = json!({"spec": {"documents": {"objectStore": {
            "accessKeySecretRef": reference, "secretKeySecretRef": reference}}}});
        scene.apply(&stage.pipeline(&half)).await?;
        // It reads the Secret itself: the operator need not have seen the change.
        let (code, report) = doctor(scene, name).await?;
        ensure!(code == 1, "{code}: {report}");
        let found = findings(&report);
        let finding = found
            .iter()
            .find(|finding| finding["about"] == format!("Secret {secret}"));
        let finding = finding.with_context(|| format!("the Secret: {report}"))?;
        ensure!(finding["severity"] == "problem", "{finding}");
        let what = finding["what"].as_str().unwrap_or_default();
        ensure!(what.contains("lacks the key secretKey"), "{finding}");
        ensure!(finding["toDo"].is_string(), "{finding}");
        // Then its condition says so, too, with the guide's advice.
        eventually("the condition among the findings", 2 * MINUTE, async || {
            let (_, report) = doctor(scene, name).await?;
            let reason = |finding: &Value| {
                let what = finding["what"].as_str().unwrap_or_default();
                what.starts_with("SecretKeyMissing: ") && finding["toDo"].is_string()
            };
            Ok(findings(&report).iter().any(reason).then_some(()))
        })
        .await
    })
    .await
}

/// The exit code of `doctor`, and its report.
async fn doctor(scene: &Scene, pipeline: &str) -> Result<(i32, Value)> {
    let arguments = ["doctor", pipeline, "-o", "json"];
    let output = scene.kubectl_layra(scene.kubeconfig(), &arguments).await?;
    let code = output.status.code().context("an exit code")?;
    let report = serde_json::from_slice(&output.stdout);
    Ok((code, report.with_context(|| format!("{output:?}"))?))
}

/// What it found about the pipeline.
fn findings(report: &Value) -> Vec<Value> {
    let findings = report["pipelines"][0]["findings"].as_array();
    findings.cloned().unwrap_or_default()
}

fn has_findings(report: &Value) -> bool {
    findings(report)
        .iter()
        .any(|finding| finding["severity"] != "note")
}

/// A service account with a kubeconfig.
struct Person {
    name: String,
    directory: TempDir,
}

impl Person {
    /// Creates an account without any permissions.
    async fn create(scene: &Scene, name: &str) -> Result<Self> {
        scene.kubectl(&["create", "serviceaccount", name]).await?;
        let token = scene.kubectl(&["create", "token", name]).await?;
        let administrators = std::fs::read_to_string(scene.kubeconfig())?;
        let mut config: serde_yaml_ng::Value = serde_yaml_ng::from_str(&administrators)?;
        let users = config["users"].as_sequence_mut().context("users")?;
        for user in users {
            user["user"] = serde_yaml_ng::to_value(json!({"token": token.trim()}))?;
        }
        let person = Self {
            name: name.to_owned(),
            directory: TempDir::new()?,
        };
        std::fs::write(person.kubeconfig(), serde_yaml_ng::to_string(&config)?)?;
        Ok(person)
    }

    async fn bind(&self, scene: &Scene, role: &str) -> Result<()> {
        let Self { name, .. } = self;
        let role = format!("--role={role}");
        let account = format!("--serviceaccount={}:{name}", scene.namespace);
        scene
            .kubectl(&["create", "rolebinding", name, &role, &account])
            .await?;
        Ok(())
    }

    async fn layra(&self, scene: &Scene, arguments: &[&str]) -> Result<Output> {
        scene.kubectl_layra(&self.kubeconfig(), arguments).await
    }

    fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("config")
    }
}

fn notes(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The answers of `search --output json`. The log has warnings, too, if there are any.
fn hits(output: &Output) -> Result<Vec<Hit>> {
    let log = String::from_utf8_lossy(&output.stdout);
    let start = log
        .find("[\n")
        .with_context(|| format!("no answer in {log}"))?;
    let mut answers = serde_json::Deserializer::from_str(&log[start..]).into_iter();
    let hits = answers.next().context("an array")?;
    hits.with_context(|| format!("the answer is no JSON: {log}"))
}
