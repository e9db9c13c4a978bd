//! The `redrive` command: sends dead letters to the pipeline's topic again.
//!
//! A dead letter is redriven once: the ledger records it. Dead letters without an entry in the
//! ledger, for example because they are not valid tasks, are redriven only if they are chosen by
//! reason or file. Dead letters of other pipelines are left alone. A redriven task is a new request:
//! it also counts after a deletion.
//!
//! The topic is read twice, message by message: first to choose, then to send. Only the positions
//! of chosen messages are in memory.

mod choice;
mod letter;
mod report;
mod topic;

use std::collections::HashMap;

use rdkafka::Message as _;
use rdkafka::message::OwnedMessage;

use crate::assembly::Common;
use crate::document::task;
use crate::kafka::outbox::Outbox;
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::ledger::Ledger;
use choice::{Candidates, Position, is_wanted, may_be_redriven};
use letter::Letter;
use topic::Letters;

pub(crate) use choice::Choice;
pub(crate) use report::Report;

/// Files that the ledger is asked about at once.
const FILES_AT_ONCE: usize = 100;

/// The failed round of a document. `None`: the ledger has no entry of it.
type FailedRound = Option<(String, String)>;

pub(crate) async fn redrive(common: &Common, choice: &Choice) -> Result<Report, Failure> {
    let documents = common.documents().await?;
    let ledger = common.ledger(&documents).await?;
    let outbox = Outbox::new(&common.settings)?;

    let mut report = Report::default();
    let candidates = find_candidates(common, choice, &mut report).await?;
    let mut chosen = choose(common, &ledger, choice, candidates, &mut report).await?;
    if chosen.is_empty() {
        return Ok(report);
    }
    let topics = own_topics(common);
    let mut letters = Letters::read(&common.settings);
    while let Some(message) = letters.next().await {
        let Some(failed) = chosen.remove(&(message.partition(), message.offset())) else {
            continue;
        };
        let letter = Letter::read(&message, &topics);
        if letter.is_complete {
            if !choice.dry_run {
                send(common, &outbox, &ledger, &message, &failed).await?;
            }
            report.letters.push(letter);
        } else {
            report.incomplete.push(letter);
        }
        if chosen.is_empty() {
            return Ok(report);
        }
    }
    let unread = letters.ended().await?;
    for (partition, _) in chosen.into_keys() {
        let why = unread.get(&partition).cloned();
        let why = why.unwrap_or_else(|| "a dead letter has disappeared".to_owned());
        report.unread.insert(partition, why);
    }
    Ok(report)
}

/// The topics of the pipeline's tasks and page ranges.
fn own_topics(common: &Common) -> [String; 2] {
    let kafka = &common.settings.config.source.kafka;
    [kafka.topic.clone(), kafka.ranges_topic()]
}

/// Reads the whole topic and keeps the positions of wanted dead letters.
async fn find_candidates(
    common: &Common,
    choice: &Choice,
    report: &mut Report,
) -> Result<Candidates, Failure> {
    let topics = own_topics(common);
    let mut candidates = Candidates::default();
    let mut letters = Letters::read(&common.settings);
    while let Some(message) = letters.next().await {
        let letter = Letter::read(&message, &topics);
        if !letter.is_own {
            report.foreign += 1;
        } else if is_wanted(&letter, choice) {
            report.skipped += candidates.add(&letter, &message);
        } else {
            report.skipped += 1;
        }
    }
    report.unread = letters.ended().await?;
    Ok(candidates)
}

/// Asks the ledger which candidates may be redriven.
async fn choose(
    common: &Common,
    ledger: &Ledger,
    choice: &Choice,
    candidates: Candidates,
    report: &mut Report,
) -> Result<HashMap<Position, FailedRound>, Failure> {
    let retry = common.retry();
    let mut chosen: HashMap<Position, FailedRound> = HashMap::new();
    let files: Vec<(String, Position)> = candidates
        .files
        .into_iter()
        .map(|(file_id, (_, position))| (file_id, position))
        .collect();
    for files in files.chunks(FILES_AT_ONCE) {
        let ids: Vec<&str> = files.iter().map(|(file_id, _)| file_id.as_str()).collect();
        let find = |_| ledger.find_all(&ids);
        let entries = retry.run(Stage::Mongodb, &common.stop, find).await?;
        for (file_id, position) in files {
            let entry = entries.iter().find(|entry| entry.file_id == *file_id);
            if may_be_redriven(entry, choice) {
                let failed = entry.map(|entry| (file_id.clone(), entry.round.clone()));
                chosen.insert(*position, failed);
            } else {
                report.skipped += 1;
            }
        }
    }
    chosen.extend(candidates.without_file.into_iter().map(|at| (at, None)));
    Ok(chosen)
}

/// Reason and message of the last dead letter of a file in the topic. `None`: it has none.
pub(crate) async fn find_letter(
    common: &Common,
    file_id: &str,
) -> Result<Option<(String, String)>, Failure> {
    let topics = own_topics(common);
    let mut last = None;
    let mut letters = Letters::read(&common.settings);
    while let Some(message) = letters.next().await {
        let letter = Letter::read(&message, &topics);
        let named = || {
            let ids = task::progress_ids(message.payload().unwrap_or_default())?;
            ids.1
        };
        let file = letter.file_id.clone().or_else(named);
        let at = message.timestamp().to_millis().unwrap_or_default();
        let is_later = last.as_ref().is_none_or(|(latest, _)| at >= *latest);
        if letter.is_own && is_later && file.as_deref() == Some(file_id) {
            last = Some((at, (letter.reason, letter.message)));
        }
    }
    let unread = letters.ended().await?;
    match (last, unread.into_iter().next()) {
        (Some((_, letter)), _) => Ok(Some(letter)),
        (None, None) => Ok(None),
        (None, Some((partition, why))) => {
            let message = format!("partition {partition} was not read to its end: {why}");
            let reason = Reason::KafkaUnavailable;
            Err(Failure::transient(Stage::DeadLetter, reason, message))
        }
    }
}

async fn send(
    common: &Common,
    outbox: &Outbox,
    ledger: &Ledger,
    message: &OwnedMessage,
    failed: &FailedRound,
) -> Result<(), Failure> {
    let (retry, stop) = (common.retry(), &common.stop);
    let redrive = |_| outbox.redrive(message);
    retry.run(Stage::DeadLetter, stop, redrive).await?;
    if let Some((file_id, round)) = failed {
        let record = |_| ledger.record_redrive(file_id, round);
        retry.run(Stage::Mongodb, stop, record).await?;
    }
    Ok(())
}
