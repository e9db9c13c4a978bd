//! `cargo measure tune`: what index presets, number formats and pooling do to vectors of real
//! documents. `layra-worker tune` measures; this command ingests the documents for it.

use anyhow::Result;
use layra_testbed::Testbed;
use layra_testbed::artifacts::PDFS;
use serde_json::json;

use super::{MINUTE, smallest_pdfs};
use crate::cluster::Scene;
use crate::layra::random_id;
use crate::worker_cli::WorkerCli;

/// Ingests this number of documents, the smallest of the demo's, and measures.
pub async fn run(
    testbed: &Testbed,
    scene: &Scene,
    documents: usize,
    questions: Option<&str>,
) -> Result<()> {
    let id = random_id();
    let name = format!("tune-{}", &id[..6]);
    let patch = json!({"spec": {"scaling": {"mode": "Manual", "replicas": 0}}});
    let topic = format!("{name}-tasks");
    scene.apply(&scene.pipeline(&name, &topic, &patch)).await?;
    let ready = scene.wait_condition(&name, "TopicReady", "True", "", MINUTE);
    ready.await?;
    let cli = WorkerCli::of_pipeline(scene, testbed, &name).await?;
    let base = format!("tune_{id}");
    let files = smallest_pdfs(&PDFS.path(testbed.settings()), documents)?;
    let files: Vec<String> = files
        .iter()
        .map(|file| file.to_string_lossy().into_owned())
        .collect();
    let mut arguments = vec!["ingest", "--knowledge-base", &base];
    arguments.extend(files.iter().map(String::as_str));
    println!("{}", cli.run(&arguments).await?);
    let mut arguments = vec!["tune", "--knowledge-base", &base];
    arguments.extend(questions.into_iter().flat_map(|file| ["--questions", file]));
    println!("{}", cli.run(&arguments).await?);
    cli.run(&["delete", "--knowledge-base", &base]).await?;
    Ok(())
}
