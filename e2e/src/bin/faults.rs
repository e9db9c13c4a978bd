//! `cargo faults`: ingests documents while processes and servers are killed, and counts the
//! results.
//!
//! The last line has the totals, for example `documents=1000 kills=60 dead_lettered=26 lost=0
//! duplicated=0 orphans=0 wrong_letters=0 originals_lost=0`. The exit code is 0 only if the last five
//! are 0 and no worker exited by itself.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use layra_e2e::command::{NewTestbed, in_namespace};
use layra_e2e::faults::{self, FaultPlan};
use layra_testbed::{Ended, arguments};

/// Kills workers, renderers and servers while documents are ingested, and counts the results.
#[derive(Parser)]
#[command(name = "cargo faults", bin_name = "cargo faults")]
struct Arguments {
    /// Number of documents to send.
    #[arg(long, default_value_t = 1000)]
    documents: usize,
    /// Number of faults to inject.
    #[arg(long, default_value_t = 50)]
    kills: usize,
    /// Determines documents and faults: the same seed gives the same ones.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of worker processes.
    #[arg(long, default_value_t = 3)]
    workers: usize,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let Arguments {
        documents,
        kills,
        seed,
        workers,
    } = Arguments::parse_from(arguments::of_alias());
    let plan = FaultPlan {
        documents,
        kills,
        seed,
        workers,
    };
    let run = in_namespace(
        "faults",
        NewTestbed::Stop,
        async |testbed, scene, stores| faults::run(testbed, scene, stores, plan).await,
    );
    let totals = match run.await? {
        Ended::Finished(totals) => totals,
        Ended::Interrupted(code) => return Ok(code),
    };
    println!("{totals}");
    Ok(if totals.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
