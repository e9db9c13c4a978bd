//! `kubectl layra validate NAME`: the guide's checks before production, on a live installation. It
//! uses the pipeline itself, with documents in a knowledge base of their own, and for faults a copy:
//! `docs/decisions/0045-validate-uses-the-pipeline-itself.md`.

mod disruptive;
mod judge;
mod prometheus;
pub(crate) mod workers;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use layra_crds::ValidationFault;

use crate::checks::{Check, Report, Reporting};
use crate::cluster::{Access, Cluster};
use crate::conditions::in_words;
use crate::load::{self, Load, Outcome};
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
///
/// With --disruptive it then makes a copy of the pipeline, with one worker, a topic, a consumer group
/// and collections of its own, and injects faults into it while documents are in progress: the
/// pipeline itself meets none. The copy needs a worker more, and the permissions of Kubernetes' role
/// `edit`.
#[derive(Args)]
#[command(after_help = "\
Exit codes: 0 everything that was checked passes; 1 a check fails; 2 wrong usage; 124 the Job took too
long; 125 it could not be run; 130 Ctrl-C. What is not checked fails nothing.

Examples:
  kubectl layra validate contracts --report validate.html
  kubectl layra validate contracts --documents 2 --pages 3
  kubectl layra validate contracts --disruptive --report validate.html
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
    #[arg(long, conflicts_with = "disruptive")]
    keep: bool,

    /// Then inject faults into a copy of the pipeline: a killed renderer, a killed worker, a full
    /// disk, a Milvus that is cut off, and a worker without memory.
    #[arg(long)]
    disruptive: bool,

    /// Only these faults: killed-renderer, killed-worker, full-disk, milvus-cut-off, out-of-memory.
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires = "disruptive", value_parser = disruptive::fault)]
    faults: Vec<ValidationFault>,

    /// The longest time from the end of a fault until documents become searchable again.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5m", requires = "disruptive")]
    expect_recovery_within: Duration,

    #[command(flatten)]
    reporting: Reporting,
}

pub(crate) async fn run(args: &ValidateArgs, access: &Access) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect(access).await?;
    let name = &args.pipeline;
    let began = Timestamp::now();
    let pipeline = cluster.pipeline(name).await?;
    load::refuse_stopped(&pipeline)?;
    if args.disruptive {
        disruptive::refuse(&pipeline)?;
    }
    let image = args.reporting.image();
    let removing = disruptive::remove_remainders(&cluster, access, &pipeline, image);
    Box::pin(removing).await?;
    let load = Load {
        pipeline: name,
        image,
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
    if args.disruptive {
        match Box::pin(disruptive::run(args, access, &cluster, &pipeline)).await? {
            disruptive::Ended::Checked(more) => checks.extend(more),
            disruptive::Ended::Interrupted(code) => return Ok(code),
        }
    }
    let report = Report::new("validate", &cluster.namespace, name, began, checks);
    args.reporting.finish(&report)
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
