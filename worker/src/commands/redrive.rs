//! The `redrive` command: dead letters back into the topic of tasks.
//!
//! A letter goes back once: the ledger knows which documents have failed and were not put back
//! since. Letters without a document, because they could not be read, are put back only when
//! their reason is asked for.

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
use crate::kafka::client::{client_config, in_words};
use crate::kafka::outbox::{Outbox, explanation};
use crate::runtime::failure::{Failure, Stage};
use crate::runtime::settings::Settings;
use crate::stores::ledger::{Entry, Ledger, State};

/// A topic that is silent for longer is taken to be at its end.
const SILENCE: Duration = Duration::from_secs(10);
/// Longest wait for an answer about a topic.
const REQUEST: Duration = Duration::from_secs(10);

/// Which letters.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Those with this reason.
    pub reason: Option<String>,
    /// Those of this file.
    pub file_id: Option<String>,
    /// Only say which.
    pub dry_run: bool,
}

/// What was put back.
#[derive(Clone, Debug, Default)]
pub struct Report {
    letters: Vec<Letter>,
    left: usize,
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
    pub fn write(&self, out: &mut impl Write, dry_run: bool) -> std::io::Result<()> {
        for letter in &self.letters {
            let file = letter.file_id.as_deref().unwrap_or("(no file)");
            let name = letter.name.as_deref().unwrap_or_default();
            let Letter {
                reason, message, ..
            } = letter;
            writeln!(out, "{file}  {name}  {reason}: {message}")?;
        }
        let verb = if dry_run {
            "would be put back"
        } else {
            "put back"
        };
        let (count, left) = (self.letters.len(), self.left);
        writeln!(out, "{count} letters {verb}, {left} left where they are")
    }
}

/// Puts letters back.
pub async fn redrive(common: &Common, choice: &Choice) -> Result<Report, Failure> {
    let settings = common.settings.clone();
    let reading = tokio::task::spawn_blocking(move || read_letters(&settings));
    let letters = reading
        .await
        .map_err(|error| Failure::fatal(Stage::DeadLetter, "KafkaUnavailable", error))??;
    let documents = common.documents().await?;
    let ledger = common.ledger(&documents).await?;
    let outbox = Outbox::new(&common.settings)?;

    let mut report = Report::default();
    // Of several letters of a file the last one counts.
    let mut chosen: HashMap<String, usize> = HashMap::new();
    let mut work: Vec<(OwnedMessage, Letter, Option<Entry>)> = Vec::new();
    for message in letters {
        let letter = describe(&message);
        let entry = match &letter.file_id {
            Some(file_id) => failed(&ledger, file_id).await?,
            None => None,
        };
        if !is_chosen(&letter, entry.is_some(), choice) {
            report.left += 1;
            continue;
        }
        match letter.file_id.clone() {
            Some(file_id) => {
                if let Some(earlier) = chosen.get(&file_id) {
                    work[*earlier] = (message, letter, entry);
                    report.left += 1;
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
            outbox.put_back(&message).await?;
            if let Some(entry) = &entry {
                ledger.redriven(entry).await?;
            }
        }
        report.letters.push(letter);
    }
    Ok(report)
}

/// A document that has failed and was not put back since.
async fn failed(ledger: &Ledger, file_id: &str) -> Result<Option<Entry>, Failure> {
    let entry = ledger.find(file_id).await?;
    Ok(entry.filter(|entry| {
        let waiting = entry.failure.as_ref().is_some_and(|why| !why.redriven);
        entry.state == State::Failed && waiting
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
    let text = |name| explanation(message, name).unwrap_or_default().to_owned();
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

/// Every letter that the topic holds now.
fn read_letters(settings: &Settings) -> Result<Vec<OwnedMessage>, Failure> {
    let kafka = &settings.config.source.kafka;
    let topic = kafka.dead_letter_topic();
    let away = |error: KafkaError| {
        let message = format!("topic {topic}: {}", in_words(&error));
        Failure::fatal(Stage::DeadLetter, "KafkaUnavailable", message)
    };
    let consumer: BaseConsumer = client_config(settings)
        // Needed by the library; nothing is ever committed.
        .set("group.id", format!("{}.redrive", kafka.consumer_group))
        .set("enable.auto.commit", "false")
        .create()
        .map_err(away)?;
    let metadata = consumer
        .fetch_metadata(Some(&topic), REQUEST)
        .map_err(away)?;
    let mut assignment = TopicPartitionList::new();
    let mut ends = HashMap::new();
    for partition in metadata
        .topics()
        .iter()
        .flat_map(rdkafka::metadata::MetadataTopic::partitions)
    {
        let (start, end) = consumer
            .fetch_watermarks(&topic, partition.id(), REQUEST)
            .map_err(away)?;
        if start < end {
            ends.insert(partition.id(), end);
            assignment
                .add_partition_offset(&topic, partition.id(), Offset::Offset(start))
                .map_err(away)?;
        }
    }
    consumer.assign(&assignment).map_err(away)?;
    let mut letters = Vec::new();
    let mut heard = Instant::now();
    while !ends.is_empty() && heard.elapsed() < SILENCE {
        let Some(message) = consumer.poll(Duration::from_millis(200)) else {
            continue;
        };
        let message = message.map_err(away)?;
        heard = Instant::now();
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
    fn letters_are_chosen_by_reason_and_file() {
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
            "it was put back before, or is done"
        );
    }

    #[test]
    fn what_is_no_task_goes_back_only_on_request() {
        let garbage = letter(None, "NotJson");
        assert!(!is_chosen(&garbage, false, &Choice::default()));
        let choice = Choice {
            reason: Some("NotJson".to_owned()),
            ..Choice::default()
        };
        assert!(is_chosen(&garbage, false, &choice));
    }
}
