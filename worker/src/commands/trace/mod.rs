//! The `trace` command: where a document is, from its message in Kafka to its pages in the stores.
//!
//! The ledger knows documents that a worker has begun. The others are looked for in Kafka: messages
//! that the group has not committed, and dead letters of messages that are no valid tasks. The
//! command only reads.

mod advice;
mod queue;
mod report;
mod whereabouts;

use clap::Args;
use mongodb::bson::DateTime;

use crate::assembly::Common;
use crate::cli::{Output, WorkerArgs};
use crate::commands::redrive::find_letter;
use crate::runtime::failure::{Failure, Stage};
use crate::stores::ledger::{Entry, Ledger, RangeEntry, State};
use queue::Queues;
use whereabouts::{Known, Letter, NotRead};

pub(crate) use whereabouts::Trace;

// The help text of the command is the comment on its arguments.
/// Show where a document is: queued, in work, done, dead-lettered or unknown.
///
/// Shows the message that waits in Kafka and how many are before it, the worker and its progress, the
/// pages and the time of each stage, or why the document failed and what to do. It only reads. It fails
/// if nothing is known of the document.
#[derive(Clone, Debug, Args)]
pub(crate) struct TraceArgs {
    /// The `file_id` of the document.
    #[arg(value_name = "FILE_ID")]
    file: String,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) worker: WorkerArgs,
}

/// Looks for a document.
pub(crate) async fn trace(common: &Common, args: &TraceArgs) -> Result<Trace, Failure> {
    let documents = common.documents().await?;
    let ledger = common.ledger(&documents).await?;
    let file_id = args.file.as_str();
    let retry = common.retry();
    let find = |_| ledger.find(file_id);
    let mut known = Known {
        entry: retry.run(Stage::Mongodb, &common.stop, find).await?,
        ..Known::default()
    };
    if known.entry.as_ref().is_none_or(may_be_queued) {
        look_in_queues(common, &ledger, file_id, &mut known).await;
    }
    if known.entry.is_none() && known.queued.is_none() {
        look_at_dead_letters(common, file_id, &mut known).await;
    }
    let pipeline = &common.settings.config.pipeline;
    Ok(Trace::of(pipeline, file_id, known, DateTime::now()))
}

/// Whether a message about the document may wait that no worker has begun.
fn may_be_queued(entry: &Entry) -> bool {
    let in_work = entry.units.values().any(RangeEntry::is_claimed);
    entry.state != State::Working || !(in_work || entry.waits_for_room())
}

async fn look_in_queues(common: &Common, ledger: &Ledger, file_id: &str, known: &mut Known) {
    let topics = match Queues::open(&common.settings) {
        Ok(topics) => topics,
        Err(failure) => return known.not_read.push(NotRead::Queue(failure.message)),
    };
    match topics.find(file_id).await {
        Ok(queued) => known.queued = queued,
        Err(failure) => known.not_read.push(NotRead::Queue(failure.message)),
    }
    let Some(queued) = known.queued.as_ref().filter(|queued| !queued.is_range) else {
        return;
    };
    // Without it, the expected time is not known.
    let recent = topics.recent_documents(queued.position.partition).await;
    let recent = recent.unwrap_or_default();
    let ids: Vec<&str> = recent.iter().map(String::as_str).collect();
    let entries = ledger.find_all(&ids).await.unwrap_or_default();
    let finished = entries.iter().filter_map(|entry| entry.finished_at);
    known.recently_finished = finished.collect();
}

async fn look_at_dead_letters(common: &Common, file_id: &str, known: &mut Known) {
    match find_letter(common, file_id).await {
        Ok(letter) => {
            known.letter = letter.map(|(reason, message)| Letter { reason, message });
        }
        Err(failure) => known.not_read.push(NotRead::DeadLetters(failure.message)),
    }
}
