//! `cargo faults`: documents flow while processes and servers die, and then all is counted.
//!
//! The last line reads `documents=N kills=K dead_lettered=D lost=L duplicated=U orphans=O`; the
//! exit code is 0 only when the last three are.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use layra_e2e::cluster::Scene;
use layra_e2e::faults::{self, Plan};
use layra_e2e::stores::Stores;
use layra_testbed::arguments;
use layra_testbed::{Testbed, check_prerequisites};

/// Kills workers, renderers and servers while documents flow, and counts what became of each.
#[derive(Parser)]
#[command(name = "cargo faults", bin_name = "cargo faults")]
struct Arguments {
    /// Documents.
    #[arg(long, default_value_t = 1000)]
    documents: usize,
    /// Faults.
    #[arg(long, default_value_t = 50)]
    kills: usize,
    /// Decides documents and faults: the same seed makes the same ones.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Worker processes.
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
    let was_running = Testbed::find().await?.is_some();
    if !was_running {
        check_prerequisites()?;
    }
    let testbed = Testbed::obtain().await?;
    let images = testbed.images().await?;
    let stores = Stores::prepare(&testbed).await?;
    let scene = Scene::open(&testbed, &images, "faults").await?;
    let plan = Plan {
        documents,
        kills,
        seed,
        workers,
    };
    let totals = faults::run(&testbed, &scene, &stores, plan).await;
    scene.close().await?;
    if !was_running {
        Testbed::down().await?;
    }
    let totals = totals?;
    println!("{totals}");
    Ok(if totals.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
