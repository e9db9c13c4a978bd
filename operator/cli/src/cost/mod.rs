//! `kubectl layra cost NAME`: what ingestion and storage cost, from the object, its status and a
//! price file.

mod formulas;
mod inputs;
mod prices;
mod report;
mod savings;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, ValueEnum};

use crate::cluster::{Access, Cluster};
use crate::object_file;
use prices::Prices;

/// Compute what a pipeline costs, and what other settings would save.
///
/// Prints the cost of 1,000 pages and of a file, GPU hours at present arrivals, the storage of each
/// store now and in a year, and what WebP, pooling, an automatic resolution, float16 and an archive
/// would save. Every number says whether it was measured, derived or is from the price file. What
/// cannot be computed is left out, and the inputs that it lacks are named.
#[derive(Args)]
#[command(after_help = "\
Examples:
  kubectl layra cost contracts --prices prices.yaml
  kubectl layra cost --file pipeline.yaml --prices prices.yaml -o json

docs/prices.yaml is an example of a price file.")]
pub(crate) struct CostArgs {
    /// Name of the pipeline.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pipeline: Option<String>,

    /// An `IngestionPipeline` as YAML, in place of one in the cluster. It may have a status.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Prices of hardware and storage, as YAML. Without it only hours and sizes are computed.
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,

    /// Format of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// A table.
    Table,
    Json,
}

pub(crate) async fn run(args: &CostArgs, access: &Access) -> anyhow::Result<ExitCode> {
    // A wrong file is refused before anything is asked.
    let prices = args.prices.as_deref().map(Prices::read).transpose()?;
    let pipeline = match (&args.pipeline, &args.file) {
        (_, Some(file)) => object_file::read(file, "--file")?,
        (Some(name), None) => Cluster::connect(access).await?.pipeline(name).await?,
        (None, None) => bail!("name a pipeline, or a file with --file"),
    };
    let report = report::report(&pipeline, prices.as_ref());
    crate::print(&match args.output {
        Output::Table => table::table(&report),
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
    })
}

#[cfg(test)]
#[path = "cost_tests.rs"]
mod tests;
