//! Concludes where a document is from what the ledger and Kafka know of it. No I/O, no clock.

use std::time::Duration;

use mongodb::bson::DateTime;
use serde::Serialize;

use super::advice::what_to_do;
use crate::document::Origin;
use crate::runtime::stage_times::StageTimes;
use crate::stores::ledger::{Entry, RangeEntry, Rejection, State};

/// Documents that finished this recently show how fast their partition is.
const RECENTLY: Duration = Duration::from_mins(15);
/// Fewer show nothing.
const ENOUGH: usize = 3;

/// A message that the group has not committed.
#[derive(Clone, Debug)]
pub(super) struct Queued {
    pub(super) position: Origin,
    /// Messages of its partition before it that are not committed either.
    pub(super) before: u64,
    pub(super) is_range: bool,
    pub(super) sent_at: Option<DateTime>,
    /// The message or command of the request that it is or repeats.
    pub(super) request: String,
}

/// The dead letter of a message that the ledger does not know.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) reason: String,
    pub(super) message: String,
}

/// What could not be read, and why.
#[derive(Clone, Debug)]
pub(super) enum NotRead {
    Queue(String),
    DeadLetters(String),
}

/// What is known of a document.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) entry: Option<Entry>,
    pub(super) queued: Option<Queued>,
    /// When documents of the same partition finished.
    pub(super) recently_finished: Vec<DateTime>,
    pub(super) letter: Option<Letter>,
    pub(super) not_read: Vec<NotRead>,
}

/// Where a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Place {
    /// Its message waits in Kafka.
    Queued,
    /// It waits until its knowledge base has room.
    WaitingForRoom,
    /// Workers have begun it.
    InWork,
    /// Every page is searchable, or skipped.
    Done,
    /// It failed.
    DeadLettered,
    /// It was deleted.
    Deleted,
    /// Nothing is known of it.
    Unknown,
}

/// Where a document is, and what is known of its way there.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Trace {
    pub(super) file_id: String,
    pub(super) state: Place,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) document: Option<Document>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) queue: Option<Queue>,
    /// The page ranges that workers have claimed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) work: Vec<Work>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pages: Option<Pages>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) times: Option<Times>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) failure: Option<Failed>,
    /// Full sentences for people.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) notes: Vec<String>,
}

/// What a document is called.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    pub(super) name: String,
    pub(super) knowledge_base: String,
    pub(super) task_id: String,
}

/// A message about the document that no worker has settled.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Queue {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// Messages of its partition that are processed before it.
    pub(super) messages_before: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sent_at: Option<String>,
    /// Seconds until it is processed, at the speed of the last documents of its partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expected_seconds: Option<u64>,
}

/// A page range that a worker has claimed.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Work {
    /// Its first page, from 1.
    pub(super) first_page: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pages: Option<u32>,
    pub(super) pages_done: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) worker: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<String>,
    /// Workers that have begun the next pages, this one included.
    pub(super) attempts: u32,
}

/// How many pages a document has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Pages {
    /// Known once the document was opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) total: Option<u32>,
    pub(super) stored: u32,
    pub(super) skipped: u32,
    pub(super) vectors: u64,
}

/// When a document reached the steps of its way, and how long they took.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Times {
    /// When its latest task was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) requested_at: Option<String>,
    /// When a worker began it.
    pub(super) began_at: String,
    /// When it changed last.
    pub(super) updated_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) finished_at: Option<String>,
    /// From the task to the begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) waited_seconds: Option<f64>,
    /// From the begin to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) took_seconds: Option<f64>,
    /// Empty if workers of an earlier version processed it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) stages: Vec<StageTime>,
}

/// How long a stage has worked on the document, its waits included. Stages run at the same time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct StageTime {
    pub(super) stage: &'static str,
    pub(super) seconds: f64,
}

/// Why a document failed.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Failed {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stage: Option<String>,
    pub(super) reason: String,
    pub(super) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) what_to_do: Option<&'static str>,
    /// The command that sends the dead letter again, once its cause is fixed.
    pub(super) redrive: String,
    pub(super) redriven: bool,
}

impl Trace {
    /// `pipeline` is its `namespace/name`.
    pub(super) fn of(pipeline: &str, file_id: &str, known: Known, now: DateTime) -> Self {
        let Known {
            entry,
            queued,
            recently_finished,
            letter,
            not_read,
        } = known;
        let entry = entry.as_ref();
        let queued = queued.filter(|queued| entry.is_none_or(|entry| waits(entry, queued)));
        let state = place(entry, queued.is_some(), letter.is_some());
        let mut notes: Vec<String> = not_read.iter().map(NotRead::sentence).collect();
        notes.extend(entry.and_then(|entry| note(entry, state, queued.is_some(), &not_read)));
        let rejection = entry.and_then(|entry| entry.failure.as_ref());
        let failed = rejection.map(Failed::of);
        let failed = failed.or_else(|| letter.map(Failed::of_letter));
        Self {
            file_id: file_id.to_owned(),
            state,
            document: entry.map(Document::of),
            queue: queued.map(|queued| {
                let speed = speed(&recently_finished, now).filter(|_| !queued.is_range);
                Queue::of(queued, speed)
            }),
            work: entry.map(Work::all).unwrap_or_default(),
            pages: entry.and_then(Pages::of),
            times: entry.map(Times::of),
            failure: failed.map(|failed| Failed {
                redrive: redrive(pipeline, file_id),
                ..failed
            }),
            notes,
        }
    }

    /// Whether anything is known of the document.
    pub(crate) fn is_known(&self) -> bool {
        self.state != Place::Unknown
    }
}

/// Whether a message asks for something that the entry has not seen. A message that was just
/// processed is committed a moment later.
fn waits(entry: &Entry, queued: &Queued) -> bool {
    let is_known =
        entry.origin == queued.request || entry.requested_origin.as_ref() == Some(&queued.request);
    entry.state == State::Working || !is_known
}

fn place(entry: Option<&Entry>, is_queued: bool, has_letter: bool) -> Place {
    let Some(entry) = entry else {
        return match (is_queued, has_letter) {
            (true, _) => Place::Queued,
            (_, true) => Place::DeadLettered,
            _ => Place::Unknown,
        };
    };
    match entry.state {
        State::Done => Place::Done,
        State::Working if entry.waits_for_room() => Place::WaitingForRoom,
        _ if is_queued => Place::Queued,
        State::Working => Place::InWork,
        State::Failed => Place::DeadLettered,
        State::Deleted => Place::Deleted,
    }
}

/// What the fields do not say.
fn note(entry: &Entry, state: Place, is_queued: bool, not_read: &[NotRead]) -> Option<String> {
    let in_work = entry.units.values().any(RangeEntry::is_claimed);
    let note = match state {
        Place::Done if is_queued => {
            "It is searchable. A later task for it waits in the queue.".to_owned()
        }
        Place::Queued if entry.state == State::Failed => {
            "An earlier attempt failed, and its task waits in the queue again.".to_owned()
        }
        Place::WaitingForRoom => {
            "It waits until its knowledge base has room: delete documents or raise the quota."
                .to_owned()
        }
        Place::DeadLettered if entry.failure.as_ref().is_some_and(|it| !it.letter) => {
            "Its dead letter is not sent yet.".to_owned()
        }
        Place::InWork if !in_work && not_read.is_empty() => {
            if entry.stored_rows().is_some() {
                "Every page is stored. A worker verifies that Milvus holds each exactly once."
                    .to_owned()
            } else {
                "No worker holds it now, and Kafka has no message of it that is not committed. Its \
                 task is sent again once it has not changed for ten minutes."
                    .to_owned()
            }
        }
        _ => return None,
    };
    Some(note)
}

/// Documents per second of a partition, while it is busy.
fn speed(finished: &[DateTime], now: DateTime) -> Option<f64> {
    let ages = finished
        .iter()
        .map(|at| now.timestamp_millis() - at.timestamp_millis());
    let window = i64::try_from(RECENTLY.as_millis()).unwrap_or(i64::MAX);
    let recent: Vec<i64> = ages.filter(|age| (0..=window).contains(age)).collect();
    let oldest = recent.iter().max().filter(|_| recent.len() >= ENOUGH)?;
    let count = u32::try_from(recent.len()).unwrap_or(u32::MAX);
    Some(f64::from(count) / seconds_of(*oldest).max(1.0))
}

fn redrive(pipeline: &str, file_id: &str) -> String {
    let (namespace, name) = pipeline.split_once('/').unwrap_or(("default", pipeline));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:@%+=,/".contains(&byte);
    let file_id = if !file_id.is_empty() && file_id.bytes().all(is_plain) {
        file_id.to_owned()
    } else {
        format!("'{}'", file_id.replace('\'', r"'\''"))
    };
    format!("kubectl layra run {name} -n {namespace} -- redrive --file {file_id}")
}

fn seconds_of(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1000.0
}

/// `None`: the later time is before the earlier one, by clocks of several machines.
fn between(earlier: DateTime, later: DateTime) -> Option<f64> {
    let milliseconds = later.timestamp_millis() - earlier.timestamp_millis();
    (milliseconds >= 0).then(|| seconds_of(milliseconds))
}

fn text(time: DateTime) -> String {
    time.try_to_rfc3339_string().unwrap_or_default()
}

impl NotRead {
    fn sentence(&self) -> String {
        match self {
            Self::Queue(why) => format!("The queue could not be read: {why}."),
            Self::DeadLetters(why) => format!("The dead letters could not be read: {why}."),
        }
    }
}

impl Document {
    fn of(entry: &Entry) -> Self {
        Self {
            name: entry.filename.clone(),
            knowledge_base: entry.knowledge_db_id.clone(),
            task_id: entry.task_id.clone(),
        }
    }
}

impl Queue {
    fn of(queued: Queued, speed: Option<f64>) -> Self {
        let Queued {
            position,
            before,
            sent_at,
            ..
        } = queued;
        let messages = f64::from(u32::try_from(before).unwrap_or(u32::MAX)) + 1.0;
        let expected = speed.map(|speed| Duration::from_secs_f64(messages / speed));
        Self {
            topic: position.topic,
            partition: position.partition,
            offset: position.offset,
            messages_before: before,
            sent_at: sent_at.map(text),
            expected_seconds: expected.map(|time| time.as_secs().max(1)),
        }
    }
}

impl Work {
    fn all(entry: &Entry) -> Vec<Self> {
        if entry.state != State::Working {
            return Vec::new();
        }
        let ranges = entry.ranges();
        let claimed = entry.units.iter().filter(|(_, range)| range.is_claimed());
        let claimed = claimed.filter_map(|(first, range)| {
            let first: u32 = first.parse().ok()?;
            let mut known = ranges.iter();
            Some(Self {
                first_page: first + 1,
                pages: known
                    .find(|(other, _)| *other == first)
                    .map(|(_, count)| *count),
                pages_done: range.stored,
                worker: range.worker.clone(),
                since: range.claimed_at.map(text),
                attempts: range.attempts,
            })
        });
        let mut claimed: Vec<Self> = claimed.collect();
        claimed.sort_by_key(|work| work.first_page);
        claimed
    }
}

impl Pages {
    /// `None`: what the stores held of the document was removed, or nothing was stored yet.
    fn of(entry: &Entry) -> Option<Self> {
        let shown = matches!(entry.state, State::Working | State::Done);
        let settled: u32 = entry.units.values().map(|range| range.stored).sum();
        let skipped = u32::try_from(entry.skipped().len()).unwrap_or(u32::MAX);
        (shown && entry.is_begun()).then(|| Self {
            total: entry.pages,
            stored: settled.saturating_sub(skipped),
            skipped,
            vectors: entry.vectors.unwrap_or_else(|| entry.rows()),
        })
    }
}

impl Times {
    fn of(entry: &Entry) -> Self {
        let began = entry.began_at.unwrap_or(entry.created_at);
        let requested = entry.requested_at;
        let finished = entry.finished_at.filter(|_| entry.state != State::Deleted);
        Self {
            requested_at: requested.map(text),
            began_at: text(began),
            updated_at: text(entry.updated_at),
            finished_at: finished.map(text),
            waited_seconds: requested.and_then(|requested| between(requested, began)),
            took_seconds: finished.and_then(|finished| between(began, finished)),
            stages: stages(entry.times()),
        }
    }
}

fn stages(times: StageTimes) -> Vec<StageTime> {
    if times == StageTimes::default() {
        return Vec::new();
    }
    let each = times.each().into_iter();
    each.map(|(stage, time)| StageTime {
        stage: stage.as_str(),
        seconds: time.as_secs_f64(),
    })
    .collect()
}

impl Failed {
    fn of(rejection: &Rejection) -> Self {
        Self {
            stage: Some(rejection.stage.clone()),
            reason: rejection.reason.clone(),
            message: rejection.message.clone(),
            what_to_do: what_to_do(&rejection.reason),
            redrive: String::new(),
            redriven: rejection.redriven,
        }
    }

    fn of_letter(letter: Letter) -> Self {
        Self {
            stage: None,
            what_to_do: what_to_do(&letter.reason),
            reason: letter.reason,
            message: letter.message,
            redrive: String::new(),
            redriven: false,
        }
    }
}

#[cfg(test)]
#[path = "whereabouts_tests.rs"]
mod tests;
