//! The `redrive` command: sends dead letters to the pipeline's topic again.
//!
//! A dead letter is redriven once: the ledger records it. Dead letters without a document, because
//! they are not valid tasks, are redriven only if their reason is given.

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::OwnedMessage;
use rdkafka::{Offset, TopicPartitionList};

use crate::assembly::Common;
use crate::document::task::{self, Message};
use crate::kafka::client::{client_config, describe_error};
use crate::kafka::outbox::{Outbox, failure_header};
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::settings::Settings;
use crate::stores::ledger::{Entry, Ledger, State};

/// A topic without messages for this long is assumed to be at its end.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the metadata of a topic.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

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

/// The dead letters that were redriven.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    letters: Vec<Letter>,
    skipped: usize,
}

#[derive(Clone, Debug)]
struct Letter {
    file_id: Option<String>,
    name: Option<String>,
    reason: String,
    message: String,
}

impl Report {
    /// Writes the report for people.
    pub(crate) fn write(&self, out: &mut impl Write, dry_run: bool) -> std::io::Result<()> {
        for letter in &self.letters {
            let file = letter.file_id.as_deref().unwrap_or("(no file)");
            let name = letter.name.as_deref().unwrap_or_default();
            let Letter {
                reason, message, ..
            } = letter;
            writeln!(out, "{file}  {name}  {reason}: {message}")?;
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
        writeln!(out, "{count} {noun} {verb}, {skipped} skipped")
    }
}

pub(crate) async fn redrive(common: &Common, choice: &Choice) -> Result<Report, Failure> {
    let settings = common.settings.clone();
    let reading = tokio::task::spawn_blocking(move || read_letters(&settings));
    let letters = reading
        .await
        .map_err(|error| Failure::fatal(Stage::DeadLetter, Reason::KafkaUnavailable, error))??;
    let documents = common.documents().await?;
    let ledger = common.ledger(&documents).await?;
    let outbox = Outbox::new(&common.settings)?;

    let mut report = Report::default();
    // Of several dead letters of a file, the last one is redriven.
    let mut chosen: HashMap<String, usize> = HashMap::new();
    let mut work: Vec<(OwnedMessage, Letter, Option<Entry>)> = Vec::new();
    for message in letters {
        let letter = describe(&message);
        let entry = match &letter.file_id {
            Some(file_id) => failed(&ledger, file_id).await?,
            None => None,
        };
        if !is_chosen(&letter, entry.is_some(), choice) {
            report.skipped += 1;
            continue;
        }
        match letter.file_id.clone() {
            Some(file_id) => {
                if let Some(earlier) = chosen.get(&file_id) {
                    work[*earlier] = (message, letter, entry);
                    report.skipped += 1;
                } else {
                    chosen.insert(file_id, work.len());
                    work.push((message, letter, entry));
                }
            }
            None => work.push((message, letter, entry)),
        }
    }
    for (message, letter, entry) in work {
        if !choice.dry_run {
            outbox.send_again(&message).await?;
            if let Some(entry) = &entry {
                ledger.record_redrive(entry).await?;
            }
        }
        report.letters.push(letter);
    }
    Ok(report)
}

/// The entry of a document that failed and was not redriven since.
async fn failed(ledger: &Ledger, file_id: &str) -> Result<Option<Entry>, Failure> {
    let entry = ledger.find(file_id).await?;
    Ok(entry.filter(|entry| {
        let is_pending = entry.failure.as_ref().is_some_and(|why| !why.redriven);
        entry.state == State::Failed && is_pending
    }))
}

fn is_chosen(letter: &Letter, has_failed: bool, choice: &Choice) -> bool {
    let reason = choice.reason.as_ref();
    let file = choice.file_id.as_ref();
    reason.is_none_or(|reason| *reason == letter.reason)
        && file.is_none_or(|file| Some(file) == letter.file_id.as_ref())
        && (has_failed || (letter.file_id.is_none() && reason.is_some()))
}

fn describe(message: &OwnedMessage) -> Letter {
    let text = |name| failure_header(message, name).unwrap_or_default().to_owned();
    let task = match task::parse(message.payload().unwrap_or_default()) {
        Ok(Message::Task(task)) => Some(task),
        _ => None,
    };
    Letter {
        file_id: task.as_ref().map(|task| task.file.file_id.clone()),
        name: task.map(|task| task.file.name),
        reason: text("reason"),
        message: text("message"),
    }
}

/// Reads every message that the dead-letter topic holds now.
fn read_letters(settings: &Settings) -> Result<Vec<OwnedMessage>, Failure> {
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
        .create()
        .map_err(unavailable)?;
    let metadata = consumer
        .fetch_metadata(Some(&topic), REQUEST_TIMEOUT)
        .map_err(unavailable)?;
    let mut assignment = TopicPartitionList::new();
    let mut ends = HashMap::new();
    for partition in metadata
        .topics()
        .iter()
        .flat_map(rdkafka::metadata::MetadataTopic::partitions)
    {
        let (start, end) = consumer
            .fetch_watermarks(&topic, partition.id(), REQUEST_TIMEOUT)
            .map_err(unavailable)?;
        if start < end {
            ends.insert(partition.id(), end);
            assignment
                .add_partition_offset(&topic, partition.id(), Offset::Offset(start))
                .map_err(unavailable)?;
        }
    }
    consumer.assign(&assignment).map_err(unavailable)?;
    let mut letters = Vec::new();
    let mut last_message = Instant::now();
    while !ends.is_empty() && last_message.elapsed() < IDLE_TIMEOUT {
        let Some(message) = consumer.poll(Duration::from_millis(200)) else {
            continue;
        };
        let message = message.map_err(unavailable)?;
        last_message = Instant::now();
        if let Some(end) = ends.get(&message.partition()) {
            if message.offset() + 1 >= *end {
                ends.remove(&message.partition());
            }
            letters.push(message.detach());
        }
    }
    letters.sort_by_key(|letter| letter.timestamp().to_millis());
    Ok(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(file_id: Option<&str>, reason: &str) -> Letter {
        Letter {
            file_id: file_id.map(str::to_owned),
            name: None,
            reason: reason.to_owned(),
            message: String::new(),
        }
    }

    #[test]
    fn dead_letters_are_selected_by_reason_and_file() {
        let encrypted = letter(Some("f"), "Encrypted");
        let by = |reason: Option<&str>, file: Option<&str>| Choice {
            reason: reason.map(str::to_owned),
            file_id: file.map(str::to_owned),
            dry_run: false,
        };
        assert!(is_chosen(&encrypted, true, &by(None, None)));
        assert!(is_chosen(
            &encrypted,
            true,
            &by(Some("Encrypted"), Some("f"))
        ));
        assert!(!is_chosen(&encrypted, true, &by(Some("Damaged"), None)));
        assert!(!is_chosen(&encrypted, true, &by(None, Some("g"))));
        assert!(
            !is_chosen(&encrypted, false, &by(None, None)),
            "it was redriven before, or is done"
        );
    }

    #[test]
    fn an_invalid_task_is_redriven_only_by_its_reason() {
        let garbage = letter(None, "NotJson");
        assert!(!is_chosen(&garbage, false, &Choice::default()));
        let choice = Choice {
            reason: Some("NotJson".to_owned()),
            ..Choice::default()
        };
        assert!(is_chosen(&garbage, false, &choice));
    }
}
