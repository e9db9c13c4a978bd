//! `cargo measure queries`: `layra-worker serve` under load. Questions beside pages that are embedded,
//! the stages of a search in large collections, and what candidates cost in recall.

mod load;
mod recall;
mod server;
mod stages;

use anyhow::{Context, Result};
use layra_testbed::Testbed;
use layra_testbed::artifacts::PDFS;
use layra_testbed::settings::repository;
use serde::Serialize;
use serde_json::{Value, json};

use super::{MINUTE, smallest_pdfs};
use crate::cluster::Scene;
use crate::layra::random_id;
use crate::stores::Stores;
use crate::worker_cli::WorkerCli;
use server::Server;

/// Settings of the measurement.
#[derive(Clone, Debug)]
pub struct QueriesPlan {
    /// Documents that are ingested, the smallest of the demo's.
    pub documents: usize,
    /// Questions at the same time.
    pub concurrent: usize,
    /// Seconds of each phase under load.
    pub seconds: u64,
    /// Numbers of vectors of collections whose searches are measured stage by stage.
    pub vectors: Vec<usize>,
}

/// Measures, and prints tables and then everything as JSON.
pub async fn run(
    testbed: &Testbed,
    scene: &Scene,
    stores: &Stores,
    plan: &QueriesPlan,
) -> Result<()> {
    let id = random_id();
    let name = format!("queries-{}", &id[..6]);
    let patch = json!({"spec": {"scaling": {"mode": "Manual", "replicas": 0}}});
    let topic = format!("{name}-tasks");
    scene.apply(&scene.pipeline(&name, &topic, &patch)).await?;
    let ready = scene.wait_condition(&name, "TopicReady", "True", "", MINUTE);
    ready.await?;
    let cli = WorkerCli::of_pipeline(scene, testbed, &name).await?;
    let base = format!("queries_{id}");
    let files = smallest_pdfs(&PDFS.path(testbed.settings()), plan.documents)?;
    let files: Vec<String> = files
        .iter()
        .map(|file| file.to_string_lossy().into_owned())
        .collect();
    let mut arguments = vec!["ingest", "--knowledge-base", &base];
    arguments.extend(files.iter().map(String::as_str));
    println!("{}", cli.run(&arguments).await?);

    let questions = questions()?;
    let server = Server::start(&cli).await?;
    let curve = recall::curve(stores, &server, &base, &questions).await?;
    recall::print(&curve);
    let load = load::measure(&server, &base, &questions, plan).await;
    cli.run(&["delete", "--knowledge-base", &base]).await?;
    let load = load?;
    load::print(&load);
    let mut stages = Vec::new();
    for vectors in &plan.vectors {
        stages.push(stages::measure(stores, &server, &questions, *vectors).await?);
    }
    stages::print(&stages);
    println!(
        "\n{}",
        serde_json::to_string(&json!({ "recall": curve, "load": load, "stages": stages }))?
    );
    Ok(())
}

/// The questions that were written about the documents.
fn questions() -> Result<Vec<String>> {
    let file = repository().join("e2e/questions/queries.jsonl");
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            let line: Value = serde_json::from_str(line)?;
            Ok(line["text"].as_str().context("a text")?.to_owned())
        })
        .collect()
}

/// The middle and the slowest of a hundred, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Quantiles {
    p50_ms: f64,
    p99_ms: f64,
}

impl Quantiles {
    fn of(milliseconds: &[f64]) -> Self {
        let mut sorted = milliseconds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |per_cent: usize| {
            let index = sorted.len().saturating_sub(1) * per_cent / 100;
            sorted.get(index).copied().unwrap_or_default()
        };
        Self {
            p50_ms: at(50),
            p99_ms: at(99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        let expected = Quantiles {
            p50_ms: 50.0,
            p99_ms: 99.0,
        };
        assert_eq!(Quantiles::of(&values), expected);
        assert_eq!(Quantiles::of(&[]), Quantiles::default());
    }

    #[test]
    fn there_are_questions() {
        assert!(questions().unwrap().len() >= 60);
    }
}
