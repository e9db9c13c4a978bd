//! `kubectl layra validate NAME`: the guide's checks before production, on a live installation. It
//! uses the pipeline itself, with documents in a knowledge base of their own:
//! `docs/decisions/0045-validate-uses-the-pipeline-itself.md`.

mod judge;
mod prometheus;
pub(crate) mod workers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use crate::checks::{Check, Report};
use crate::cluster::{Access, Cluster};
use crate::conditions::in_words;
use crate::load::{self, Load, Outcome, Output};
use crate::run::duration;
pub(crate) use judge::memory_of;
use judge::{Expected, Observed};
use prometheus::Place;

/// Check that a pipeline works, from the first page to the last trace of a deletion.
///
/// Sends documents of its own to the pipeline, as LAYRA does, in a knowledge base of their own, and
/// measures: conditions, pages/s, memory of the workers, lag, time until searchable, what the stores
/// hold, recall, what the deletion leaves, logs, and with --prometheus whether the workers are
/// scraped and the alerts are loaded. Deletes everything at the end, also on Ctrl-C; what a killed
/// call has left, the next one deletes. Do not run two for one pipeline at the same time.
#[derive(Args)]
#[command(after_help = "\
Exit codes: 0 everything that was checked passes; 1 a check fails; 2 wrong usage; 124 the Job took too
long; 125 it could not be run; 130 Ctrl-C. What is not checked fails nothing.

Examples:
  kubectl layra validate contracts --report validate.html
  kubectl layra validate contracts --documents 2 --pages 3
  kubectl layra validate contracts --expect-pages-per-second 1.5 \\
    --prometheus monitoring/prometheus-operated:9090")]
pub(crate) struct ValidateArgs {
    /// Name of the pipeline.
    pipeline: String,

    /// Number of documents, which are sent at once.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    documents: u32,

    /// Pages of each.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    pages: u32,

    /// The least speed of the pipeline. Default, from 100 pages on: half of what the operator has
    /// learned about one worker.
    #[arg(long, value_name = "NUMBER")]
    expect_pages_per_second: Option<f64>,

    /// The longest time until a document is searchable. Default: it is only measured.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    expect_searchable_within: Option<Duration>,

    /// The least share of pages that are found, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 95, value_parser = clap::value_parser!(u32).range(0..=100))]
    expect_recall: u32,

    /// Prometheus, as an address that this machine reaches, or as NAMESPACE/SERVICE:PORT, which is
    /// asked through the API server. Default: scraping and alerts are not checked.
    #[arg(long, value_name = "PLACE")]
    prometheus: Option<Place>,

    /// How long to wait until the documents are searchable.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30m")]
    wait: Duration,

    /// Delete nothing at the end. The next call does.
    #[arg(long)]
    keep: bool,

    /// Write a report into this file: HTML, or JSON if its name ends with .json.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Image of the command. Default: spec.worker.image, else that of the worker Deployment.
    #[arg(long)]
    image: Option<String>,

    /// Format of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

pub(crate) async fn run(args: &ValidateArgs, access: &Access) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect(access).await?;
    let name = &args.pipeline;
    let began = Timestamp::now();
    let pipeline = cluster.pipeline(name).await?;
    load::refuse_stopped(&pipeline)?;
    let load = Load {
        pipeline: name,
        image: args.image.as_deref(),
        documents: args.documents,
        pages: args.pages,
        rate: None,
        wait: args.wait,
        checks: true,
        keep: args.keep,
    };
    let mut seen = workers::Seen::default();
    let outcome = tokio::select! {
        outcome = load.run(access) => outcome?,
        never = seen.watch(&cluster, name) => match never {},
    };
    let result = match outcome {
        Outcome::Measured(result) => *result,
        Outcome::Ended(code) => return Ok(code),
    };
    let logs = workers::logs(&cluster, name, began, result.example.as_deref()).await;
    let after = cluster.pipeline(name).await?;
    let learned = [&after, &pipeline].into_iter().find_map(|pipeline| {
        let scaling = pipeline.status.as_ref()?.scaling.as_ref()?;
        scaling.learned.as_ref()
    });
    let observed = Observed {
        // Before the load: workers may be starting for it now.
        conditions: in_words(pipeline.status.as_ref()),
        learned_pages_per_second: learned.map(|learned| learned.pages_per_second),
        workers: seen,
        logs,
        result,
    };
    let expected = Expected {
        pages_per_second: args.expect_pages_per_second,
        searchable_within: args.expect_searchable_within,
        recall_percent: args.expect_recall,
    };
    let mut checks = judge::judge(&observed, &expected);
    checks.extend(monitoring(args, &cluster).await);
    let report = Report::new("validate", &cluster.namespace, name, began, checks);
    if let Some(file) = &args.report {
        report.write(file)?;
    }
    args.output.print(&report)?;
    Ok(load::code(&report))
}

/// Whether Prometheus scrapes the workers and has the alerts.
async fn monitoring(args: &ValidateArgs, cluster: &Cluster) -> Vec<Check> {
    let Some(place) = &args.prometheus else {
        return prometheus::not_named();
    };
    let pods = workers::pods(cluster, &args.pipeline).await;
    let answer = match pods {
        Ok(pods) => {
            let old = workers::older_than(&pods, Timestamp::now(), prometheus::SCRAPED_AFTER);
            place.ask(cluster).await.map(|found| (found, old))
        }
        Err(error) => Err(error),
    };
    match answer {
        Ok((found, pods)) => prometheus::judge(&found, &pods),
        Err(error) => prometheus::no_answer(&format!("{error:#}")),
    }
}
