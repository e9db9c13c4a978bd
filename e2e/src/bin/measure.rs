//! `cargo measure`: the figures of `docs/measurements.md` that need servers.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use layra_e2e::command::{NewTestbed, in_namespace};
use layra_e2e::measure::{
    collections, fairness, gap, ingest, memory, queries, reindex, scaling, soak, tune, upgrade,
};
use layra_testbed::{Ended, arguments};

/// Measures the worker on the test-bed's servers. The test-bed keeps running afterwards.
#[derive(Parser)]
#[command(name = "cargo measure", bin_name = "cargo measure")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Check the indexes of very many collections of one page each: time of the first check of all,
    /// time until a change by hand is seen, size of the status, memory of the operator.
    Collections {
        /// Number of collections.
        #[arg(long, default_value_t = 1000)]
        collections: usize,
    },
    /// The wait of a single file behind many of another knowledge base.
    Fairness {
        /// Number of files of the other knowledge base, of one page each.
        #[arg(long, default_value_t = 2000)]
        files: usize,
        /// Time that the embedder takes per page, in milliseconds.
        #[arg(long, default_value_t = 20)]
        page_ms: u64,
    },
    /// Rebuild small collections one after the other: for how long clients that never pause do not
    /// find each while its new collection takes its place.
    Gap {
        /// Number of collections, each of which is rebuilt once.
        #[arg(long, default_value_t = 10)]
        swaps: usize,
    },
    /// Ingest documents with the worker and with a Python script that has LAYRA's stages.
    Ingest {
        /// Number of documents, the smallest of the demo's.
        #[arg(long, default_value_t = 4)]
        documents: usize,
        /// Rounds; each ingests all documents once with the worker and once with the script.
        #[arg(long, default_value_t = 2)]
        rounds: usize,
        /// Resolution in dots per inch.
        #[arg(long, default_value_t = 200)]
        dpi: u32,
        /// A Python interpreter with `e2e/bench/requirements-ingest.txt` (and pdftoppm in the
        /// path).
        #[arg(long)]
        python: PathBuf,
    },
    /// Ingest a document of 2,000 pages together with short ones: peak memory of a worker.
    Memory,
    /// Questions to `layra-worker serve`: recall by candidates, answers while pages are embedded, and
    /// the stages of searches in large collections.
    Queries {
        /// Number of documents, the smallest of the demo's.
        #[arg(long, default_value_t = 8)]
        documents: usize,
        /// Questions at the same time.
        #[arg(long, default_value_t = 200)]
        concurrent: usize,
        /// Seconds of each of the three phases under load.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        /// Numbers of vectors of the large collections, for example `200000,1000000`.
        #[arg(long, value_delimiter = ',', default_values_t = [200_000])]
        vectors: Vec<usize>,
    },
    /// Rebuild a collection beside the one that serves, while files are added, deleted and
    /// searched: duration, failed searches, lost or doubled pages, recall, speed of searches and
    /// writes before and during it.
    Reindex {
        /// Vectors of the collection.
        #[arg(long, default_value_t = 200_000)]
        vectors: usize,
        /// How often the rebuild is killed.
        #[arg(long, default_value_t = 0)]
        kills: usize,
    },
    /// Ingest with several workers whose embedder takes a fixed time per page.
    Scaling {
        /// The numbers of workers to measure.
        #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8])]
        workers: Vec<usize>,
        /// Milliseconds that the embedder takes per page.
        #[arg(long, default_value_t = 500)]
        page_ms: u64,
        /// Seconds per measurement.
        #[arg(long, default_value_t = 40)]
        seconds: u64,
    },
    /// Documents of every kind come, change and go for hours, beside faults, a rebuild and a run of
    /// retention: memory, open files and tasks of every process, sizes of topics and of the ledger, as
    /// a picture and as slopes; lost or doubled pages.
    Soak {
        /// How long documents come, for example `2` or `0.1`.
        #[arg(long)]
        hours: f64,
        /// Determines documents and faults.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Directory of the samples, the picture and the table, instead of `target/soak`.
        #[arg(long)]
        output: Option<PathBuf>,
    },
    /// Measure index presets, number formats and pooling on the vectors of some documents.
    Tune {
        /// Number of documents, the smallest of the demo's.
        #[arg(long, default_value_t = 8)]
        documents: usize,
        /// A file with a question in each line, instead of questions from held-out pages.
        #[arg(long)]
        questions: Option<String>,
    },
    /// Install the version before, upgrade it under load to the present one, and roll back: lost and
    /// doubled pages, workers that were replaced, time without a leader.
    Upgrade {
        /// The revision to upgrade from, instead of the newest release before this one.
        #[arg(long)]
        from: Option<String>,
    },
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let what = Arguments::parse_from(arguments::of_alias()).what;
    let run = in_namespace(
        "measure",
        NewTestbed::Keep,
        async |testbed, scene, stores| match what {
            What::Collections { collections } => {
                Box::pin(collections::run(scene, stores, collections)).await
            }
            What::Fairness { files, page_ms } => {
                let plan = fairness::FairnessPlan {
                    files,
                    page: Duration::from_millis(page_ms),
                };
                Box::pin(fairness::run(testbed, scene, stores, &plan)).await
            }
            What::Gap { swaps } => Box::pin(gap::run(testbed, scene, stores, swaps)).await,
            What::Ingest {
                documents,
                rounds,
                dpi,
                python,
            } => {
                let plan = ingest::IngestPlan {
                    documents,
                    rounds,
                    dpi,
                    python,
                };
                Box::pin(ingest::run(testbed, scene, stores, &plan)).await
            }
            What::Memory => Box::pin(memory::run(testbed, scene, stores)).await,
            What::Queries {
                documents,
                concurrent,
                seconds,
                vectors,
            } => {
                let plan = queries::QueriesPlan {
                    documents,
                    concurrent,
                    seconds,
                    vectors,
                };
                Box::pin(queries::run(testbed, scene, stores, &plan)).await
            }
            What::Reindex { vectors, kills } => {
                let plan = reindex::ReindexPlan { vectors, kills };
                Box::pin(reindex::run(testbed, scene, stores, &plan)).await
            }
            What::Scaling {
                workers,
                page_ms,
                seconds,
            } => {
                let plan = scaling::ScalingPlan {
                    workers,
                    page: Duration::from_millis(page_ms),
                    window: Duration::from_secs(seconds),
                };
                Box::pin(scaling::run(testbed, scene, stores, &plan)).await
            }
            What::Soak {
                hours,
                seed,
                output,
            } => {
                let plan = soak::SoakPlan {
                    length: Duration::try_from_secs_f64(hours * 3600.0)?,
                    seed,
                    output,
                };
                Box::pin(soak::run(testbed, scene, stores, &plan)).await
            }
            What::Tune {
                documents,
                questions,
            } => tune::run(testbed, scene, documents, questions.as_deref()).await,
            What::Upgrade { from } => {
                let plan = upgrade::UpgradePlan { from };
                Box::pin(upgrade::run(testbed, scene, stores, &plan)).await
            }
        },
    );
    Ok(match run.await? {
        Ended::Finished(()) => ExitCode::SUCCESS,
        Ended::Interrupted(code) => code,
    })
}
