//! The `load` command: sends documents of its own to the pipeline, as LAYRA sends those of its
//! users, and measures until they are searchable. Then it checks what the stores hold and deletes
//! all of it. `kubectl layra load` and `kubectl layra validate` run it as a Job.
//!
//! The originals lie in a folder of the bucket, so that the next call finds and removes what a
//! killed one has left.

mod checks;
mod documents;
mod removal;
mod sending;
mod topics;
mod watch;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use layra_crds::{LoadLine, LoadResult, SourceFormat};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::assembly::Common;
use crate::cli::WorkerArgs;
use crate::kafka::committed::Committed;
use crate::kafka::outbox::Outbox;
use crate::program::common;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::Stores;
use sending::Sent;
use watch::Watch;

/// The owner of the knowledge bases. It is no user of LAYRA.
const USERNAME: &str = "layraload";
/// The folder of the originals in the bucket.
const FOLDER: &str = "layra-load";
/// How long the removal may take.
const REMOVAL: Duration = Duration::from_mins(10);

// The help text of the command is the comment on its arguments.
/// Send documents of its own to the pipeline, measure until they are searchable, and delete them.
///
/// They are PDFs in a knowledge base of their own. What an earlier call has left is removed first, so
/// two calls for one pipeline must not run at the same time. Prints JSON lines: the progress, and at
/// the end the result.
#[derive(Clone, Debug, Args)]
pub(crate) struct LoadArgs {
    /// Number of documents.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    documents: u32,
    /// Pages of each.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    pages: u32,
    /// Documents each second. Default: all at once.
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Wait at most this number of minutes until they are searchable.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    wait_minutes: u32,
    /// Only measure: ask for no page.
    #[arg(long)]
    no_checks: bool,
    /// Delete nothing at the end. The next call does.
    #[arg(long)]
    keep: bool,
    /// For `kubectl layra validate --disruptive` only: send nothing, remove what earlier calls have
    /// left, and delete the topics of the pipeline, whose workers must have ended.
    #[arg(long, hide = true)]
    remove_topics: bool,
    #[command(flatten)]
    worker: WorkerArgs,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    let is_possible = rate.is_finite() && rate > 0.0;
    is_possible
        .then_some(rate)
        .ok_or_else(|| "expected a number above 0".to_owned())
}

pub(crate) async fn run(args: LoadArgs) -> anyhow::Result<ExitCode> {
    let common = common(args.worker.clone())?;
    let result = Box::pin(load(&common, &args)).await?;
    print(&LoadLine::Result(Box::new(result)))?;
    // Whoever reads the result judges it.
    Ok(ExitCode::SUCCESS)
}

/// One call of the command.
struct Load<'a> {
    common: &'a Common,
    args: &'a LoadArgs,
    stores: Stores,
    outbox: Outbox,
    committed: Committed,
    knowledge_base: String,
    /// Cancelled by a signal, and when the time is over.
    stop: CancellationToken,
    started: Instant,
    /// Set once the knowledge base exists.
    exists: OnceCell<()>,
    /// What was sent so far.
    sent: Mutex<Vec<Sent>>,
}

async fn load(common: &Common, args: &LoadArgs) -> Result<LoadResult, Failure> {
    if common.settings.config.source.kafka.format == SourceFormat::S3Event {
        let message = "the pipeline ingests what is in its bucket: it reads no tasks";
        return Err(Failure::permanent(
            Stage::Intake,
            Reason::InvalidTask,
            message,
        ));
    }
    let stores = common.stores().await?;
    let (remainders, mut left) = Box::pin(removal::remove_remainders(common, &stores)).await?;
    if args.remove_topics {
        left.extend(topics::remove(&common.settings).await?);
        return Ok(LoadResult {
            remainders,
            left: Some(left),
            ..LoadResult::default()
        });
    }
    let load = Load {
        common,
        args,
        stores,
        outbox: Outbox::new(&common.settings)?,
        committed: Committed::new(&common.settings)?,
        knowledge_base: format!("{USERNAME}_{}", uuid::Uuid::new_v4()),
        stop: common.stop.child_token(),
        started: Instant::now(),
        exists: OnceCell::new(),
        sent: Mutex::default(),
    };
    let mut result = LoadResult {
        knowledge_base: load.knowledge_base.clone(),
        documents: args.documents,
        pages: args.pages,
        remainders,
        ..LoadResult::default()
    };
    if let Err(failure) = Box::pin(load.measure(&mut result)).await
        && !common.stop.is_cancelled()
    {
        result.problem = Some(failure.to_string());
    }
    result.stopped = common.stop.is_cancelled();
    if !args.keep {
        match Box::pin(load.remove()).await {
            Ok(left) => result.left = Some(left),
            Err(failure) => {
                let message = format!("the documents were not deleted: {failure}");
                result.problem = Some(result.problem.map_or_else(
                    || message.clone(),
                    |earlier| format!("{earlier}; {message}"),
                ));
            }
        }
    }
    Ok(result)
}

impl Load<'_> {
    async fn measure(&self, result: &mut LoadResult) -> Result<(), Failure> {
        let limit = Duration::from_mins(self.args.wait_minutes.into());
        let timer = cancel_after(self.stop.clone(), limit);
        let mut watch = Watch::default();
        let (sent, watched) = tokio::join!(Box::pin(self.send()), Box::pin(watch.run(self)));
        let problem = sent.and(watched);
        watch.conclude(&self.sent_documents(), result);
        let is_whole = problem.is_ok() && result.searchable == self.args.documents;
        if is_whole {
            result.committed = Some(self.wait_for_commits().await?);
        }
        timer.abort();
        if is_whole && !self.args.no_checks {
            Box::pin(checks::check(self, result)).await?;
        }
        problem
    }

    /// Waits until the group has committed everything that was sent until now. False: it has not
    /// within a minute.
    async fn wait_for_commits(&self) -> Result<bool, Failure> {
        const PATIENCE: Duration = Duration::from_mins(1);
        let now = jiff::Timestamp::now().as_millisecond();
        let (retry, started) = (self.common.retry(), Instant::now());
        while !self.stop.is_cancelled() && started.elapsed() < PATIENCE {
            let asked = |_| self.committed.is_everything_before(now);
            if retry.run(Stage::Intake, &self.stop, asked).await? {
                return Ok(true);
            }
            self.pause(Duration::from_millis(500)).await;
        }
        Ok(false)
    }

    /// Waits, or until the end.
    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(time) => {}
        }
    }

    fn sent_documents(&self) -> Vec<Sent> {
        self.sent.lock().map_or_else(
            |poisoned| poisoned.into_inner().clone(),
            |sent| sent.clone(),
        )
    }

    /// Deletes everything, also after a signal. Returns what is left.
    async fn remove(&self) -> Result<Vec<String>, Failure> {
        let mut common = self.common.clone();
        common.stop = CancellationToken::new();
        let timer = cancel_after(common.stop.clone(), REMOVAL);
        let sent = self.sent_documents();
        let originals: Vec<String> = sent.into_iter().map(|sent| sent.key).collect();
        let removal = removal::remove(&common, &self.stores, &self.knowledge_base, &originals);
        let left = Box::pin(removal).await;
        timer.abort();
        left
    }
}

fn cancel_after(token: CancellationToken, time: Duration) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        tokio::time::sleep(time).await;
        token.cancel();
    })
}

fn print(line: &LoadLine) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_above_zero() {
        assert_eq!(rate("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "NaN", "inf", "fast"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
