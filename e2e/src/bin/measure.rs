//! `cargo measure`: figures of `docs/measurements.md` that need servers.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use layra_e2e::cluster::Scene;
use layra_e2e::measure::{ingest, memory, scaling};
use layra_e2e::stores::Stores;
use layra_testbed::arguments;
use layra_testbed::{Testbed, artifacts};

/// Measures the worker on the test-bed's servers. The bed stays up.
#[derive(Parser)]
#[command(name = "cargo measure", bin_name = "cargo measure")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Documents to searchable pages, beside a Python script with LAYRA's stages.
    Ingest {
        /// Documents, the smallest of the demo's.
        #[arg(long, default_value_t = 4)]
        documents: usize,
        /// Turns of each.
        #[arg(long, default_value_t = 2)]
        rounds: usize,
        /// Dots per inch.
        #[arg(long, default_value_t = 200)]
        dpi: u32,
        /// A Python with `e2e/bench/requirements-ingest.txt` (and pdftoppm in the path).
        #[arg(long)]
        python: PathBuf,
    },
    /// A document of 2,000 pages beside short ones: how much of it a worker holds at a time.
    Memory,
    /// Several workers with an embedder that takes a fixed time for each page.
    Scaling {
        /// Numbers of workers.
        #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8])]
        workers: Vec<usize>,
        /// Milliseconds that the embedder takes for a page.
        #[arg(long, default_value_t = 500)]
        page_ms: u64,
        /// Seconds of each measurement.
        #[arg(long, default_value_t = 40)]
        seconds: u64,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let what = Arguments::parse_from(arguments::of_alias()).what;
    let testbed = Testbed::obtain().await?;
    artifacts::provide(testbed.settings(), artifacts::FILES).await?;
    let images = testbed.images().await?;
    let stores = Stores::prepare(&testbed).await?;
    let scene = Scene::open(&testbed, &images, "measure").await?;
    let result = match what {
        What::Ingest {
            documents,
            rounds,
            dpi,
            python,
        } => {
            let plan = ingest::Plan {
                documents,
                rounds,
                dpi,
                python,
            };
            Box::pin(ingest::run(&testbed, &scene, &stores, &plan)).await
        }
        What::Memory => Box::pin(memory::run(&testbed, &scene, &stores)).await,
        What::Scaling {
            workers,
            page_ms,
            seconds,
        } => {
            let plan = scaling::Plan {
                workers,
                page: Duration::from_millis(page_ms),
                window: Duration::from_secs(seconds),
            };
            Box::pin(scaling::run(&testbed, &scene, &stores, &plan)).await
        }
    };
    scene.close().await?;
    result
}
