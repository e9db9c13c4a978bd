//! The progress of a rebuild in the status, and the events for it. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use layra_crds::{
    CollectionRebuild, EndedJob, IndexStatus, MOST_REINDEX_ENTRIES, OnIndexDrift, ReindexEntry,
    ReindexPhase,
};

use super::{events::PipelineEvent, rebuild::Situation, workers::last_lines};
use crate::{
    milvus::IndexReport,
    reconcile::{
        reason::Reason,
        rebuild_job::{JobPhase, RebuildJob},
    },
    resources::JobKind,
};

/// The last Job that has ended: the one in the status, or the live one.
pub(super) fn last_job(situation: &Situation<'_>) -> Option<EndedJob> {
    let before = situation.before.and_then(|before| before.last_job.as_ref());
    let ended = match situation.job() {
        Some(job) => ended(job),
        None => not_created(situation),
    };
    let is_known = |ended: &EndedJob| {
        before.is_some_and(|before| {
            before.uid == ended.uid && (!ended.uid.is_empty() || before.time == ended.time)
        })
    };
    let Some(ended) = ended.filter(|ended| !is_known(ended)) else {
        return before.cloned();
    };
    let fruitless = before.map_or(0, |before| before.fruitless);
    let unfinished = before.is_some_and(|before| before.unfinished) && ended.uid.is_empty();
    Some(EndedJob {
        fruitless: fruitless + 1,
        unfinished: ended.unfinished || unfinished,
        ..ended
    })
}

fn ended(job: &RebuildJob) -> Option<EndedJob> {
    let (at, failure) = match &job.phase {
        JobPhase::Succeeded { at } => (*at, None),
        JobPhase::Failed { at, words } => (*at, Some(last_lines(words))),
        JobPhase::Running | JobPhase::Leaving => return None,
    };
    Some(EndedJob {
        uid: job.uid.clone(),
        hash: job.hash.clone(),
        time: seconds(at),
        unfinished: failure.is_some(),
        failure,
        fruitless: 0,
    })
}

fn not_created(situation: &Situation<'_>) -> Option<EndedJob> {
    let failure = situation.world.past_writes.job_failure.as_ref();
    let failure = failure.filter(|failure| failure.kind == situation.kind)?;
    Some(EndedJob {
        uid: String::new(),
        hash: failure.hash.clone(),
        time: seconds(failure.at),
        failure: Some(failure.words.clone()),
        unfinished: false,
        fruitless: 0,
    })
}

/// The status after this plan. While not every collection is checked, the counts stay.
pub(super) fn status(
    situation: &Situation<'_>,
    last: Option<EndedJob>,
    is_stopped: bool,
) -> Option<IndexStatus> {
    let none = IndexStatus::default();
    let before = situation.before.unwrap_or(&none);
    let job = situation.job();
    let running = job.filter(|job| job.is_running() && !is_stopped);
    let report = situation.report();
    let has_collections = report.is_some_and(|report| report.collections > 0);
    if situation.before.is_none() && !has_collections && running.is_none() {
        return None;
    }
    let rebuilt = report.map_or(0, |report| fewer_drifted(before, report));
    let began = running.is_some() && before.start_time.is_none();
    let was_unfinished = before.last_job.as_ref().is_some_and(|last| last.unfinished);
    let mut status = IndexStatus {
        collections: report.map_or(before.collections, |report| whole(report.collections)),
        drifted: report.map_or(before.drifted, |report| whole(report.drifted)),
        done: match (began, before.start_time.is_some()) {
            (true, _) if was_unfinished => before.done,
            (true, _) => 0,
            (false, true) => before.done + rebuilt,
            (false, false) => before.done,
        },
        rebuilds: rebuilds(&before.rebuilds, job.filter(|_| !is_stopped), report),
        start_time: match (running, &before.start_time) {
            _ if is_stopped || situation.only_reports() => None,
            (Some(job), None) => Some(seconds(job.created)),
            (_, began) => began.clone(),
        },
        last_job: last,
        // What the numbers are about.
        model: report.map_or_else(|| before.model.clone(), |_| situation.model.clone()),
        ..IndexStatus::default()
    };
    if rebuilt > 0
        && let Some(last) = &mut status.last_job
    {
        last.fruitless = 0;
    }
    if running.is_some() {
        of_running(&mut status, before, running);
    } else {
        let failed = status.rebuilds.iter().filter(|it| it.phase == "Failed");
        status.failed = whole(failed.count());
    }
    let is_unfinished = status.last_job.as_ref().is_some_and(|last| last.unfinished);
    let is_complete = report.is_some_and(|report| report.drifted == 0 || situation.only_reports());
    if is_complete && running.is_none() && !is_unfinished {
        status.start_time = None;
        status.last_job = None;
        status.rebuilds.retain(|rebuild| rebuild.phase == "Done");
        status.failed = 0;
        if status.collections == 0 {
            return None;
        }
    }
    Some(status)
}

/// What the pod of the running Job says, or has said last.
fn of_running(status: &mut IndexStatus, before: &IndexStatus, job: Option<&RebuildJob>) {
    if let Some(progress) = job.and_then(|job| job.progress.as_ref()) {
        let number = |number| i64::try_from(number).unwrap_or(i64::MAX);
        status.rebuilding = number(progress.rebuilding);
        status.failed = number(progress.failed);
        status.eta_seconds = progress.eta_seconds.map(number);
        status.message.clone_from(&progress.message);
    } else {
        status.rebuilding = before.rebuilding;
        status.failed = before.failed;
        status.eta_seconds = before.eta_seconds;
        status.message.clone_from(&before.message);
    }
}

/// Collections that no longer differ, without those that were dropped.
fn fewer_drifted(before: &IndexStatus, report: &IndexReport) -> i64 {
    let dropped = (before.collections - whole(report.collections)).max(0);
    (before.drifted - whole(report.drifted) - dropped).max(0)
}

fn rebuilds(
    before: &[CollectionRebuild],
    job: Option<&RebuildJob>,
    report: Option<&IndexReport>,
) -> Vec<CollectionRebuild> {
    let before = before.iter().cloned();
    match job.map(|job| (&job.phase, &job.progress)) {
        Some((JobPhase::Running, Some(progress))) => {
            let entries = progress.entries.iter().take(MOST_REINDEX_ENTRIES);
            entries.map(rebuild).collect()
        }
        Some((JobPhase::Running, None)) => before.collect(),
        // Its last words were not heard. What the check does not list is done.
        Some((JobPhase::Succeeded { .. }, _)) => before
            .map(|mut rebuild| {
                if is_going_on(&rebuild) && !may_differ(report, &rebuild.name) {
                    ReindexPhase::Done.as_str().clone_into(&mut rebuild.phase);
                }
                rebuild
            })
            .collect(),
        _ => before.filter(|rebuild| !is_going_on(rebuild)).collect(),
    }
}

/// Whether a collection is among those that differ, as far as the report names them.
fn may_differ(report: Option<&IndexReport>, name: &str) -> bool {
    let Some(report) = report else {
        return true;
    };
    let named = &report.examples;
    let is_named = named.iter().any(|drifted| drifted.name == name);
    let is_past = named.last().is_some_and(|last| last.name.as_str() < name);
    is_named || (is_past && report.drifted > named.len())
}

fn rebuild(entry: &ReindexEntry) -> CollectionRebuild {
    let number = |number| i64::try_from(number).unwrap_or(i64::MAX);
    CollectionRebuild {
        name: entry.name.clone(),
        phase: entry.phase.as_str().to_owned(),
        copied: number(entry.copied),
        total: number(entry.total),
        message: entry.message.clone(),
    }
}

fn is_going_on(rebuild: &CollectionRebuild) -> bool {
    !["Done", "Failed"].contains(&rebuild.phase.as_str())
}

/// The events for the beginning and the end of the whole and of each collection.
pub(super) fn events(
    situation: &Situation<'_>,
    after: Option<&IndexStatus>,
    now: Timestamp,
) -> Vec<PipelineEvent> {
    let none = IndexStatus::default();
    let before = situation.before.unwrap_or(&none);
    let Some(after) = after else {
        return Vec::new();
    };
    let mut events = Vec::new();
    if before.start_time.is_none() && after.start_time.is_some() {
        events.push(began(situation, after));
    }
    for rebuild in &after.rebuilds {
        events.extend(collection_events(situation.kind, &before.rebuilds, rebuild));
    }
    let is_complete = after.start_time.is_none() && after.last_job.is_none();
    let is_complete = is_complete && after.drifted == 0;
    if let Some(began) = before.start_time.as_ref().filter(|_| is_complete) {
        events.push(finished(situation.kind, after, now.duration_since(began.0)));
    }
    events
}

fn began(situation: &Situation<'_>, after: &IndexStatus) -> PipelineEvent {
    let collections = collections(after.drifted);
    let message = match situation.kind {
        JobKind::Reembed if after.drifted == 0 => {
            "Collections of another model are looked for, to embed them again.".to_owned()
        }
        JobKind::Reembed => format!("Embedding {collections} of another model again has begun."),
        JobKind::Reindex => {
            let how = match situation.policy() {
                OnIndexDrift::RebuildInPlace => "in place",
                _ => "beside",
            };
            format!("The rebuild of {collections} has begun, {how}.")
        }
    };
    PipelineEvent::normal(Reason::RebuildStarted, message)
}

fn finished(kind: JobKind, after: &IndexStatus, duration: SignedDuration) -> PipelineEvent {
    let (done, seconds) = (collections(after.done), duration.as_secs());
    let message = match kind {
        JobKind::Reindex => {
            format!("Every collection has the index of the spec. In {seconds} s, {done} got it.")
        }
        JobKind::Reembed => format!(
            "Every collection has vectors of the spec's model. In {seconds} s, {done} got them."
        ),
    };
    PipelineEvent::normal(Reason::RebuildFinished, message)
}

fn collection_events(
    kind: JobKind,
    before: &[CollectionRebuild],
    after: &CollectionRebuild,
) -> Vec<PipelineEvent> {
    let name = &after.name;
    let old = before.iter().find(|rebuild| rebuild.name == *name);
    let was_going_on = old.is_some_and(is_going_on);
    let mut events = Vec::new();
    let is_same_end = old.is_some_and(|old| old.phase == after.phase) && !is_going_on(after);
    if !was_going_on && !is_same_end {
        events.push(PipelineEvent::normal(
            Reason::CollectionRebuildStarted,
            format!("The rebuild of collection {name} has begun."),
        ));
    }
    if is_same_end || is_going_on(after) {
        return events;
    }
    events.push(if after.phase == "Done" {
        PipelineEvent::normal(
            Reason::CollectionRebuilt,
            match kind {
                JobKind::Reindex => {
                    format!("Collection {name} serves with the index of the spec.")
                }
                JobKind::Reembed => {
                    format!("Collection {name} serves with vectors of the spec's model.")
                }
            },
        )
    } else {
        PipelineEvent::warning(
            Reason::CollectionRebuildFailed,
            format!("The rebuild of collection {name} failed: {}", after.message),
        )
    });
    events
}

fn collections(count: i64) -> String {
    match count {
        1 => "one collection".to_owned(),
        count => format!("{count} collections"),
    }
}

/// A number in the status.
pub(super) fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Kubernetes stores whole seconds; a finer time would differ from the one that is read back.
pub(super) fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}
