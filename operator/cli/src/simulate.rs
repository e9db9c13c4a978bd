//! `kubectl layra simulate`: reads a pipeline from a file and simulates it with `layra-simulator`.
//! Needs no cluster.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::Args;
use layra_crds::{IngestionPipeline, IngestionPipelineSpec};
use layra_policy::{fewest, policy};
use layra_simulator::{FIGURES, Pipeline, SimulateArgs};

use crate::object_file;

/// Simulate how a pipeline scales on a trace of arrivals.
///
/// Runs the operator's own autoscaler against a model of Kafka partitions, a consumer group that
/// rebalances, and pods that need time to start. Needs no cluster.
#[derive(Args)]
#[command(after_help = FIGURES)]
pub(crate) struct Command {
    /// An `IngestionPipeline` as YAML. Its spec has the partitions, the limits and the drain target.
    #[arg(long, value_name = "FILE")]
    pipeline: PathBuf,

    #[command(flatten)]
    args: SimulateArgs,
}

/// Runs the simulation and returns its report.
pub(crate) fn run(command: &Command) -> anyhow::Result<String> {
    let pipeline = read_pipeline(&command.pipeline)?;
    layra_simulator::run(simulated(&pipeline), &command.args)
}

fn simulated(pipeline: &IngestionPipeline) -> Pipeline {
    let spec = &pipeline.spec;
    Pipeline {
        partitions: u32::try_from(wanted_partitions(spec)).unwrap_or(1),
        range_pages: spec.documents.range_pages.max(1),
        policy: policy(spec, fewest(&spec.scaling)),
    }
}

fn wanted_partitions(spec: &IngestionPipelineSpec) -> i32 {
    let kafka = &spec.source.kafka;
    kafka.wanted_partitions(spec.scaling.max_replicas)
}

/// Reads a pipeline and refuses one that cannot be simulated.
fn read_pipeline(path: &Path) -> anyhow::Result<IngestionPipeline> {
    let file = path.display();
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--pipeline: {file} cannot be read"))?;
    parse_pipeline(&text).with_context(|| format!("--pipeline: {file}"))
}

fn parse_pipeline(text: &str) -> anyhow::Result<IngestionPipeline> {
    let pipeline = object_file::parse(text)?;
    let scaling = &pipeline.spec.scaling;
    let partitions = wanted_partitions(&pipeline.spec);
    ensure!(
        (1..=10_000).contains(&partitions),
        "spec.source.kafka.partitions: found {partitions}; expected 1 to 10000"
    );
    ensure!(
        scaling.max_replicas >= 1,
        "spec.scaling.maxReplicas: found {}; expected at least 1",
        scaling.max_replicas
    );
    ensure!(
        (0..=scaling.max_replicas).contains(&scaling.min_replicas),
        "spec.scaling.minReplicas: found {}; expected 0 to maxReplicas ({})",
        scaling.min_replicas,
        scaling.max_replicas
    );
    ensure!(
        scaling.max_replicas <= partitions,
        "spec.scaling.maxReplicas: found {}; expected at most source.kafka.partitions ({partitions}): further workers would be idle",
        scaling.max_replicas
    );
    ensure!(
        (5..=86_400).contains(&scaling.drain_target_seconds),
        "spec.scaling.drainTargetSeconds: found {}; expected 5 to 86400",
        scaling.drain_target_seconds
    );
    Ok(pipeline)
}

#[cfg(test)]
#[path = "simulate_tests.rs"]
mod tests;
