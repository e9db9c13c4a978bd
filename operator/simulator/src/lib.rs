//! Simulates the autoscaler in a model of Kafka, pods and workers, and compares it with our
//! implementations of the published formulas of other autoscalers. No cluster and no clock; the
//! same seed gives the same result.

mod flink;
mod group;
mod hpa;
mod keda;
mod layra;
mod llmd;
mod numaflow;
mod policies;
mod queues;
mod scaler;
mod scenario;
mod shapes;
mod simulation;
mod suite;
mod svg;
mod table;
mod trace;
mod world;

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use layra_autoscaler::{Learned, Policy};
use serde::Serialize;

use self::{
    policies::{Peer, Settings},
    scenario::{PAGES_PER_DOCUMENT, Scenario},
    shapes::Shape,
    simulation::{Change, Figures, Outcome},
    trace::Trace,
    world::Setup,
};

/// The definitions of the output's figures, for a command's help.
pub const FIGURES: &str = "\
Figures, from the start of the trace until an hour after its end, for every policy:
  gpu_seconds          a pod holds a GPU from its scheduling until it has terminated, including its
                       start-up
  seconds_over_target  seconds in which the oldest unprocessed document has waited for longer than
                       drainTargetSeconds
  rescales             number of changes of the desired replicas
  max_lag_documents    the most documents that had arrived and were not processed
  drained_at_second    when the last document was processed; null or `never`: some were not
  p95_wait_seconds     95 of 100 documents took no longer from arrival to processed
  peak_gpus            largest number of allocated GPUs
JSON adds unfinished_documents, mean_wait_seconds, gpu_utilization (the part of the GPU-seconds with
work), rebalances, seconds, and each change with its explanation.

Scheduled floors and the fallback of the spec have no effect: a trace has no calendar, and the
model's Kafka always answers.";

/// The part of a pipeline that a simulation uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    /// Partitions of the tasks topic, at least one.
    pub partitions: u32,
    /// Pages per range of a split document, at least one.
    pub range_pages: u32,
    /// The scaling rules.
    pub policy: Policy,
}

/// The arguments of a simulation on the command line.
#[derive(Args)]
pub struct SimulateArgs {
    #[command(flatten)]
    input: Input,

    /// Seconds from a pod's scheduling to its first page.
    #[arg(long, value_name = "N", default_value_t = 60, conflicts_with = "suite")]
    startup_seconds: u32,

    /// Pages per second of one worker.
    #[arg(long, value_name = "X", default_value_t = 5.0, value_parser = speed)]
    pages_per_second: f64,

    /// Seed of everything random. The same seed gives the same result.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Number of GPUs; further pods are pending. Default: unlimited.
    #[arg(long, value_name = "N")]
    gpus: Option<u32>,

    /// The autoscaler knows the workers' speed, the documents' size and the start-up time from the
    /// start, as after a restart of the operator. Default: it learns them.
    #[arg(long)]
    learned: bool,

    /// Compare with our implementations of these systems' published formulas. Default: none; with
    /// --suite all.
    #[arg(long, value_enum, value_delimiter = ',')]
    compare: Vec<Peer>,

    /// Tune the peers' settings for the workers' true speed and the drain target. Default: their
    /// documented defaults.
    #[arg(long)]
    tuned: bool,

    /// Output format.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,

    /// Draw lag, waits and replicas into this file. With --suite: one picture for each trace into
    /// this folder.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// Arrivals as CSV with the header `second,documents,pages_per_document[,partition]`. Rows may
    /// repeat a second; seconds without a row have no arrivals. Documents without a partition go to
    /// a random one.
    #[arg(long, value_name = "FILE.csv")]
    trace: Option<PathBuf>,

    /// A synthetic trace.
    #[arg(long, value_enum)]
    shape: Option<Shape>,

    /// Every synthetic trace with start-up times of 10, 120 and 480 seconds, as compared in
    /// docs/scaling.md.
    #[arg(long)]
    suite: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// Aligned text.
    Table,
    /// `{"policies": {"layra": {...}, ...}}`.
    Json,
}

#[derive(Serialize)]
struct Results {
    policies: BTreeMap<&'static str, PolicyResult>,
}

#[derive(Serialize)]
struct PolicyResult {
    #[serde(flatten)]
    figures: Figures,
    changes: Vec<Change>,
}

/// Runs the simulation, and returns its output.
pub fn run(pipeline: Pipeline, args: &SimulateArgs) -> anyhow::Result<String> {
    let scenario = scenario(pipeline, args);
    if args.input.suite {
        let peers = if args.compare.is_empty() {
            Peer::value_variants()
        } else {
            &args.compare
        };
        let suite = suite::run(&scenario, peers, args.svg.as_ref())?;
        return match args.output {
            Output::Table => Ok(suite.table()),
            Output::Json => json(&suite),
        };
    }
    let (name, trace) = read_trace(args, scenario.setup.partitions)?;
    let outcomes = scenario.run(&trace, &args.compare);
    if let Some(path) = &args.svg {
        let title = format!("{name}, start-up {} s", args.startup_seconds);
        let picture = svg::draw(&title, &outcomes, scenario.drain_target());
        suite::write(path, &picture)?;
    }
    match args.output {
        Output::Table => Ok(table::outcomes(&outcomes)),
        Output::Json => json(&results(outcomes)),
    }
}

fn scenario(pipeline: Pipeline, args: &SimulateArgs) -> Scenario {
    Scenario {
        setup: Setup {
            partitions: pipeline.partitions,
            range_pages: pipeline.range_pages,
            startup_seconds: args.startup_seconds,
            pages_per_second: args.pages_per_second,
            gpus: args.gpus,
            seed: args.seed,
        },
        learned: args.learned.then_some(Learned {
            pages_per_second: args.pages_per_second,
            pages_per_document: PAGES_PER_DOCUMENT,
            provisioning_seconds: 0.0,
            startup_seconds: args.startup_seconds.into(),
            longest_seconds: 0.0,
        }),
        settings: if args.tuned {
            Settings::ForDrainTarget
        } else {
            Settings::Defaults
        },
        policy: pipeline.policy,
    }
}

fn read_trace(args: &SimulateArgs, partitions: u32) -> anyhow::Result<(String, Trace)> {
    if let Some(shape) = args.input.shape {
        return Ok((shape.name(), shape.trace(args.seed)));
    }
    let path = args
        .input
        .trace
        .as_ref()
        .context("one of --trace, --shape and --suite is needed")?;
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("--trace: {} cannot be read", path.display()))?;
    let trace = trace::from_csv(path, &text, partitions)?;
    Ok((path.display().to_string(), trace))
}

fn results(outcomes: Vec<Outcome>) -> Results {
    let result = |outcome: Outcome| {
        let result = PolicyResult {
            figures: outcome.figures,
            changes: outcome.changes,
        };
        (outcome.policy, result)
    };
    Results {
        policies: outcomes.into_iter().map(result).collect(),
    }
}

fn json(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn speed(text: &str) -> Result<f64, String> {
    let parsed: Option<f64> = text.parse().ok();
    parsed
        .filter(|speed| (0.001..=100_000.0).contains(speed))
        .ok_or_else(|| "expected pages per second, a number from 0.001 to 100000".to_owned())
}

/// A float rounded towards zero, within the bounds of the type.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, as intended"
)]
fn whole(value: f64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests;
