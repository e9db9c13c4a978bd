//! The `redrive` command: sends dead letters to the pipeline's topic again.
//!
//! A dead letter is redriven once: the ledger records it. Dead letters without an entry in the
//! ledger, for example because they are not valid tasks, are redriven only if they are chosen by
//! reason or file. Dead letters of other pipelines are left alone.
//!
//! The topic is read twice, message by message: first to choose, then to send. Only the positions
//! of chosen messages are in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, OwnedMessage};
use rdkafka::metadata::MetadataTopic;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use tokio::sync::mpsc;

use crate::assembly::Common;
use crate::document::task::{self, Message};
use crate::kafka::client::{client_config, describe_error};
use crate::kafka::outbox::{Outbox, failure_header};
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::settings::Settings;
use crate::stores::ledger::{Entry, Ledger, State};

/// Partitions that have sent nothing for this long were not read to their ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the metadata of a topic.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages between the consumer and the rest. They are at most 1 MiB long by default.
const READ_AHEAD: usize = 8;

/// Selects dead letters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    /// Only dead letters with this word as their reason. Any version of the worker may have sent
    /// them.
    pub(crate) reason: Option<String>,
    /// Only dead letters of this file.
    pub(crate) file_id: Option<String>,
    pub(crate) dry_run: bool,
}

/// The dead letters that were redriven, and what was left.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    letters: Vec<Letter>,
    skipped: usize,
    /// Dead letters of other pipelines with the same topic.
    foreign: usize,
    /// Chosen dead letters whose task was left out, because it was too large.
    incomplete: Vec<Letter>,
    /// Partitions that were not read to their ends, and why.
    unread: BTreeMap<i32, String>,
}

#[derive(Clone, Debug)]
struct Letter {
    file_id: Option<String>,
    name: Option<String>,
    reason: String,
    message: String,
    /// Whether this pipeline has sent it.
    is_own: bool,
    /// Whether it holds the task.
    is_complete: bool,
}

/// The position of a message in the dead-letter topic.
type Position = (i32, i64);

impl Report {
    /// Whether every dead letter was read, and every chosen one could be redriven.
    pub(crate) fn is_complete(&self) -> bool {
        self.unread.is_empty() && self.incomplete.is_empty()
    }

    /// Writes the report for people.
    pub(crate) fn write(&self, out: &mut impl Write, dry_run: bool) -> std::io::Result<()> {
        for letter in &self.letters {
            writeln!(out, "{letter}")?;
        }
        for letter in &self.incomplete {
            writeln!(
                out,
                "{letter}\n  not redriven: its task was too large to be kept. Send it again."
            )?;
        }
        let verb = if dry_run {
            "would be redriven"
        } else {
            "redriven"
        };
        let (count, skipped) = (self.letters.len(), self.skipped);
        let noun = if count == 1 {
            "dead letter"
        } else {
            "dead letters"
        };
        write!(out, "{count} {noun} {verb}, {skipped} skipped")?;
        if self.foreign > 0 {
            write!(out, ", {} of other pipelines", self.foreign)?;
        }
        writeln!(out)?;
        for (partition, why) in &self.unread {
            writeln!(
                out,
                "partition {partition} was not read to its end: {why}. Run the command again."
            )?;
        }
        Ok(())
    }
}

impl std::fmt::Display for Letter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let file = self.file_id.as_deref().unwrap_or("(no file)");
        let name = self.name.as_deref().unwrap_or_default();
        write!(f, "{file}  {name}  {}: {}", self.reason, self.message)
    }
}

pub(crate) async fn redrive(common: &Common, choice: &Choice) -> Result<Report, Failure> {
    let documents = common.documents().await?;
    let ledger = common.ledger(&documents).await?;
    let outbox = Outbox::new(&common.settings)?;
    let kafka = &common.settings.config.source.kafka;
    // A message of the topic of page ranges may have been rejected, too.
    let own_topics = [kafka.topic.clone(), kafka.ranges_topic()];

    let mut report = Report::default();
    let mut candidates = Candidates::default();
    let mut letters = Letters::read(&common.settings);
    while let Some(message) = letters.next().await {
        let letter = describe(&message, &own_topics);
        if !letter.is_own {
            report.foreign += 1;
        } else if is_wanted(&letter, choice) {
            report.skipped += candidates.add(&letter, &message);
        } else {
            report.skipped += 1;
        }
    }
    report.unread = letters.ended().await?;
    let entries = common.retry();
    let mut chosen: HashMap<Position, Option<Entry>> = HashMap::new();
    for (file_id, (_, position)) in candidates.files {
        let find = |_| ledger.find(&file_id);
        let entry = entries.run(Stage::Mongodb, &common.stop, find).await?;
        if may_be_redriven(entry.as_ref(), choice) {
            chosen.insert(position, entry);
        } else {
            report.skipped += 1;
        }
    }
    chosen.extend(candidates.without_file.into_iter().map(|at| (at, None)));
    if chosen.is_empty() {
        return Ok(report);
    }

    let mut letters = Letters::read(&common.settings);
    while let Some(message) = letters.next().await {
        let Some(entry) = chosen.remove(&(message.partition(), message.offset())) else {
            continue;
        };
        let letter = describe(&message, &own_topics);
        if !letter.is_complete {
            report.incomplete.push(letter);
            continue;
        }
        if !choice.dry_run {
            send(common, &outbox, &ledger, &message, entry.as_ref()).await?;
        }
        report.letters.push(letter);
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

async fn send(
    common: &Common,
    outbox: &Outbox,
    ledger: &Ledger,
    message: &OwnedMessage,
    entry: Option<&Entry>,
) -> Result<(), Failure> {
    let (retry, stop) = (common.retry(), &common.stop);
    let redrive = |_| outbox.send_again(message);
    retry.run(Stage::DeadLetter, stop, redrive).await?;
    if let Some(entry) = entry {
        let record = |_| ledger.record_redrive(entry);
        retry.run(Stage::Mongodb, stop, record).await?;
    }
    Ok(())
}

/// Dead letters that are wanted, before the ledger is asked.
#[derive(Debug, Default)]
struct Candidates {
    /// Of several dead letters of a file, the last one. With its time.
    files: BTreeMap<String, (i64, Position)>,
    without_file: BTreeSet<Position>,
}

impl Candidates {
    /// Adds a dead letter. Returns the number of those that it replaces, or that replace it.
    fn add(&mut self, letter: &Letter, message: &OwnedMessage) -> usize {
        let position = (message.partition(), message.offset());
        let Some(file_id) = letter.file_id.clone() else {
            self.without_file.insert(position);
            return 0;
        };
        let time = message.timestamp().to_millis().unwrap_or_default();
        match self.files.get_mut(&file_id) {
            None => {
                self.files.insert(file_id, (time, position));
                0
            }
            Some(earlier) => {
                *earlier = (*earlier).max((time, position));
                1
            }
        }
    }
}

/// Whether a dead letter of this pipeline is chosen, as far as it shows itself.
fn is_wanted(letter: &Letter, choice: &Choice) -> bool {
    let reason = choice.reason.as_ref();
    let file = choice.file_id.as_ref();
    reason.is_none_or(|reason| *reason == letter.reason)
        && file.is_none_or(|file| Some(file) == letter.file_id.as_ref())
        // It may have been redriven before: nothing records that.
        && (letter.file_id.is_some() || reason.is_some())
}

/// Whether the dead letter of a file may be redriven: the document failed, its dead letter is
/// complete, and it was not redriven since. A document that failed before it had an entry is
/// redriven only if it is chosen, because nothing records that.
fn may_be_redriven(entry: Option<&Entry>, choice: &Choice) -> bool {
    match entry {
        Some(entry) => {
            let failure = entry.failure.as_ref();
            let is_pending = failure.is_some_and(|why| why.letter && !why.redriven);
            entry.state == State::Failed && is_pending
        }
        None => choice.reason.is_some() || choice.file_id.is_some(),
    }
}

fn describe(message: &OwnedMessage, own_topics: &[String; 2]) -> Letter {
    let header = |name| failure_header(message, name);
    let text = |name| header(name).unwrap_or_default().to_owned();
    let payload = message.payload();
    let parsed = match task::parse(payload.unwrap_or_default()) {
        Ok(Message::Task(task)) => Some(task),
        _ => None,
    };
    Letter {
        file_id: parsed.as_ref().map(|task| task.file.file_id.clone()),
        name: parsed.map(|task| task.file.name),
        reason: text("reason"),
        message: text("message"),
        is_own: header("origin-topic")
            .is_some_and(|origin| own_topics.iter().any(|topic| topic == origin)),
        is_complete: header("payload").is_none() && payload.is_some(),
    }
}

/// The messages that the dead-letter topic holds now, read on a thread of their own.
struct Letters {
    messages: mpsc::Receiver<OwnedMessage>,
    reading: tokio::task::JoinHandle<Result<BTreeMap<i32, String>, Failure>>,
}

impl Letters {
    fn read(settings: &Settings) -> Self {
        let (sender, messages) = mpsc::channel(READ_AHEAD);
        let settings = settings.clone();
        let reading = tokio::task::spawn_blocking(move || read_letters(&settings, &sender));
        Self { messages, reading }
    }

    async fn next(&mut self) -> Option<OwnedMessage> {
        self.messages.recv().await
    }

    /// The partitions that were not read to their ends, and why.
    async fn ended(self) -> Result<BTreeMap<i32, String>, Failure> {
        let ended = self.reading.await;
        ended.map_err(|error| Failure::fatal(Stage::DeadLetter, Reason::KafkaUnavailable, error))?
    }
}

/// Reads every message that the dead-letter topic holds now. Returns the partitions that were not
/// read to their ends, and why.
fn read_letters(
    settings: &Settings,
    letters: &mpsc::Sender<OwnedMessage>,
) -> Result<BTreeMap<i32, String>, Failure> {
    let kafka = &settings.config.source.kafka;
    let topic = kafka.dead_letter_topic();
    let unavailable = |error: KafkaError| {
        let message = format!("topic {topic}: {}", describe_error(&error));
        Failure::fatal(Stage::DeadLetter, Reason::KafkaUnavailable, message)
    };
    let consumer: BaseConsumer = client_config(settings)
        // The library needs a group. Nothing is committed.
        .set("group.id", format!("{}.redrive", kafka.consumer_group))
        .set("enable.auto.commit", "false")
        // The end of a partition may hold transaction markers, which are no messages.
        .set("enable.partition.eof", "true")
        .create()
        .map_err(unavailable)?;
    let metadata = consumer
        .fetch_metadata(Some(&topic), REQUEST_TIMEOUT)
        .map_err(unavailable)?;
    let mut unread = BTreeMap::new();
    let mut assignment = TopicPartitionList::new();
    let mut ends = HashMap::new();
    let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
    for partition in partitions.map(rdkafka::metadata::MetadataPartition::id) {
        match consumer.fetch_watermarks(&topic, partition, REQUEST_TIMEOUT) {
            Ok((start, end)) if start < end => {
                ends.insert(partition, end);
                assignment
                    .add_partition_offset(&topic, partition, Offset::Offset(start))
                    .map_err(unavailable)?;
            }
            Ok(_) => {}
            Err(error) => {
                unread.insert(partition, describe_error(&error));
            }
        }
    }
    consumer.assign(&assignment).map_err(unavailable)?;
    let mut last_message = Instant::now();
    let mut problem = None;
    while !ends.is_empty() && last_message.elapsed() < IDLE_TIMEOUT {
        match consumer.poll(Duration::from_millis(200)) {
            None => {}
            Some(Ok(message)) => {
                // Without a receiver nobody needs the rest.
                if was_there(&message, &mut ends)
                    && letters.blocking_send(message.detach()).is_err()
                {
                    return Ok(unread);
                }
                last_message = Instant::now();
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                ends.remove(&partition);
            }
            // The library recovers from some, and otherwise sends nothing more.
            Some(Err(error)) => problem = Some(describe_error(&error)),
        }
    }
    let idle = format!("no message for {} s", IDLE_TIMEOUT.as_secs());
    let why = problem.map_or(idle.clone(), |problem| format!("{idle}: {problem}"));
    unread.extend(ends.into_keys().map(|partition| (partition, why.clone())));
    Ok(unread)
}

/// Whether a message was there when the command began. Notes a partition's last one.
fn was_there(message: &BorrowedMessage<'_>, ends: &mut HashMap<i32, i64>) -> bool {
    let (partition, offset) = (message.partition(), message.offset());
    let Some(end) = ends.get(&partition).copied() else {
        return false;
    };
    if offset + 1 >= end {
        ends.remove(&partition);
    }
    offset < end
}

#[cfg(test)]
mod tests {
    use rdkafka::Timestamp;
    use rdkafka::message::{Header, OwnedHeaders};

    use super::*;
    use crate::stores::ledger::{Rejection, an_entry};

    const TASK: &str = r#"{"task_id": "t", "username": "u", "knowledge_db_id": "u_kb",
        "file_meta": {"file_id": "f", "minio_filename": "k", "original_filename": "a.pdf"}}"#;

    fn message(payload: Option<&str>, offset: i64, headers: &[(&str, &str)]) -> OwnedMessage {
        let headers = headers
            .iter()
            .fold(OwnedHeaders::new(), |all, (key, value)| {
                all.insert(Header {
                    key,
                    value: Some(*value),
                })
            });
        let payload = payload.map(|text| text.as_bytes().to_vec());
        let time = Timestamp::CreateTime(offset);
        OwnedMessage::new(payload, None, "dead".into(), time, 0, offset, Some(headers))
    }

    fn letter(file_id: Option<&str>, reason: &str) -> Letter {
        Letter {
            file_id: file_id.map(str::to_owned),
            name: None,
            reason: reason.to_owned(),
            message: String::new(),
            is_own: true,
            is_complete: true,
        }
    }

    fn by(reason: Option<&str>, file: Option<&str>) -> Choice {
        Choice {
            reason: reason.map(str::to_owned),
            file_id: file.map(str::to_owned),
            dry_run: false,
        }
    }

    #[test]
    fn dead_letters_are_selected_by_reason_and_file() {
        let encrypted = letter(Some("f"), "Encrypted");
        assert!(is_wanted(&encrypted, &by(None, None)));
        assert!(is_wanted(&encrypted, &by(Some("Encrypted"), Some("f"))));
        assert!(!is_wanted(&encrypted, &by(Some("Damaged"), None)));
        assert!(!is_wanted(&encrypted, &by(None, Some("g"))));
    }

    #[test]
    fn an_invalid_task_is_redriven_only_by_its_reason() {
        let garbage = letter(None, "NotJson");
        assert!(!is_wanted(&garbage, &Choice::default()));
        assert!(is_wanted(&garbage, &by(Some("NotJson"), None)));
    }

    #[test]
    fn a_document_is_redriven_once_and_after_its_dead_letter_was_sent() {
        let failure = Failure::permanent(Stage::Render, Reason::Encrypted, "x");
        let failed = |letter, redriven| {
            let mut entry = an_entry(State::Failed);
            entry.failure = Some(Rejection {
                letter,
                redriven,
                ..Rejection::from(&failure)
            });
            entry
        };
        let any = Choice::default();
        assert!(may_be_redriven(Some(&failed(true, false)), &any));
        assert!(!may_be_redriven(Some(&failed(true, true)), &any), "again");
        assert!(!may_be_redriven(Some(&failed(false, false)), &any), "early");
        for state in [State::Working, State::Done, State::Deleted] {
            assert!(!may_be_redriven(Some(&an_entry(state)), &any));
        }
        // It was rejected before it was entered.
        assert!(!may_be_redriven(None, &any));
        assert!(may_be_redriven(None, &by(Some("MongodbRefused"), None)));
        assert!(may_be_redriven(None, &by(None, Some("f"))));
    }

    #[test]
    fn dead_letters_of_other_pipelines_and_without_their_task_are_recognised() {
        let topics = ["tasks".to_owned(), "own.ranges".to_owned()];
        let own = ("layra-error-origin-topic", "tasks");
        let letter = describe(&message(Some(TASK), 1, &[own]), &topics);
        assert!(letter.is_own && letter.is_complete);
        assert_eq!(letter.file_id.as_deref(), Some("f"));
        let other = ("layra-error-origin-topic", "tasks-2");
        let of_range = ("layra-error-origin-topic", "own.ranges");
        assert!(describe(&message(Some(TASK), 1, &[of_range]), &topics).is_own);
        let others_range = ("layra-error-origin-topic", "tasks.ranges");
        assert!(!describe(&message(Some(TASK), 1, &[others_range]), &topics).is_own);
        assert!(!describe(&message(Some(TASK), 1, &[other]), &topics).is_own);
        assert!(!describe(&message(Some(TASK), 1, &[]), &topics).is_own);
        let left_out = ("layra-error-payload", "left out");
        assert!(!describe(&message(None, 1, &[own, left_out]), &topics).is_complete);
        assert!(!describe(&message(None, 1, &[own]), &topics).is_complete);
    }

    #[test]
    fn of_several_dead_letters_of_a_file_the_last_one_counts() {
        let mut candidates = Candidates::default();
        let replaced: Vec<usize> = [4, 9, 7]
            .into_iter()
            .map(|offset| {
                let message = message(Some(TASK), offset, &[]);
                candidates.add(&letter(Some("f"), "x"), &message)
            })
            .collect();
        assert_eq!(replaced, [0, 1, 1]);
        assert_eq!(candidates.files["f"], (9, (0, 9)));
    }

    #[test]
    fn a_report_names_what_was_not_read_and_is_not_a_success() {
        let mut report = Report {
            letters: vec![letter(Some("f"), "Encrypted")],
            skipped: 2,
            ..Report::default()
        };
        let text = |report: &Report| {
            let mut text = Vec::new();
            report.write(&mut text, false).unwrap();
            String::from_utf8(text).unwrap()
        };
        assert!(report.is_complete());
        assert!(text(&report).ends_with("1 dead letter redriven, 2 skipped\n"));
        report.foreign = 3;
        report.unread.insert(7, "no leader".into());
        assert!(!report.is_complete());
        let text = text(&report);
        assert!(text.contains("2 skipped, 3 of other pipelines\n"), "{text}");
        assert!(
            text.contains("partition 7 was not read to its end: no leader"),
            "{text}"
        );
    }
}
