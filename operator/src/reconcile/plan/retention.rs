//! Retention: whether its `CronJob` exists and runs, and what its runs have said. Pure.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::CronJob;
use kube::ResourceExt;
use layra_crds::{IngestionPipeline, RetentionAction, RetentionStatus};

use super::{
    events::{PipelineEvent, shortened},
    rebuild_progress::{seconds, whole},
    template::sentence,
    workers::last_lines,
};
use crate::{
    reconcile::{
        reason::Reason,
        retention_runs::{Item, ItemState, Outcome, Report, RetentionRun},
        world::World,
    },
    resources::{is_foreign, retention_cron_job, suspended_retention},
};

/// Characters of the names in one event, so that all of it fits.
const LONGEST_LIST: usize = 700;

/// Whether the `CronJob` may start Jobs.
#[derive(Clone, Copy)]
pub(super) struct Rest {
    /// It is suspended as it is: the pipeline is paused, or its spec or pod template waits for an edit.
    pub(super) is_held: bool,
    /// The pipeline was Stalled. What stalled it may be a refusal of the `CronJob` itself, which must be
    /// tried again.
    pub(super) is_stalled: bool,
}

/// The wanted `CronJob`. `None`: there is none, or it is not created now.
pub(super) fn cron_job(
    pipeline: &IngestionPipeline,
    live: Option<&CronJob>,
    rest: Rest,
    default_image: &str,
) -> Option<CronJob> {
    pipeline.spec.stores.milvus.retention.as_ref()?;
    let suspended = || live.map(|live| suspended_retention(pipeline, live));
    if rest.is_held {
        return suspended();
    }
    retention_cron_job(pipeline, default_image, rest.is_stalled)
        .ok()
        .or_else(suspended)
}

/// UID of a `CronJob` that is no longer wanted.
pub(super) fn unwanted(pipeline: &IngestionPipeline, live: Option<&CronJob>) -> Option<String> {
    let live = live.filter(|live| {
        pipeline.spec.stores.milvus.retention.is_none()
            && live.metadata.deletion_timestamp.is_none()
            && !is_foreign(&live.metadata, pipeline)
    })?;
    live.uid()
}

/// The status after the runs that have ended, and the events for those that are new.
pub(super) fn follow(
    pipeline: &IngestionPipeline,
    world: &World,
    before: Option<&RetentionStatus>,
) -> (Option<RetentionStatus>, Vec<PipelineEvent>) {
    let Some(spec) = &pipeline.spec.stores.milvus.retention else {
        return (None, Vec::new());
    };
    let mut status = before.cloned();
    let mut events = Vec::new();
    for run in &world.retention_runs {
        let at = seconds(run.at);
        if status.as_ref().is_some_and(|last| last.last_run_time >= at) {
            continue;
        }
        let said = Said::of(run, spec.action, status.as_ref());
        events.extend(said.events);
        status = Some(RetentionStatus {
            last_run_time: at,
            message: shortened(&said.message),
            ..said.status
        });
    }
    (status, events)
}

/// What a run has said.
struct Said {
    events: Vec<PipelineEvent>,
    message: String,
    status: RetentionStatus,
}

impl Said {
    fn of(run: &RetentionRun, action: RetentionAction, before: Option<&RetentionStatus>) -> Self {
        let none = Report::default();
        let report = match &run.outcome {
            Outcome::Reported(report) => report,
            _ => &none,
        };
        let items = |states: &[ItemState]| -> Vec<&Item> {
            let all = report.items.iter();
            all.filter(|item| states.contains(&item.state)).collect()
        };
        // If the run before has none, the report with their notice may be lost.
        let is_unheard = before.is_none_or(|before| before.noticed == 0);
        let (new, old): (&[ItemState], &[ItemState]) = if is_unheard {
            (&[ItemState::Noticed, ItemState::Waiting], &[])
        } else {
            (&[ItemState::Noticed], &[ItemState::Waiting])
        };
        let (new, old) = (items(new), items(old));
        let (failed, done) = (items(&[ItemState::Failed]), items(&[ItemState::Done]));
        let dry_run = items(&[ItemState::DryRun]);
        let (verb, acted) = words(action);
        let mut sentences = Vec::new();
        if let Outcome::Failed(words) = &run.outcome {
            let words = format!("Job {} failed: {}", run.job, last_lines(words));
            sentences.push((true, Reason::RetentionFailed, sentence(&words)));
        }
        let mut add = |is_new: bool, reason, items: &[&Item], middle: &str| {
            let lists = lists(items).into_iter();
            sentences.extend(lists.map(|names| {
                let text = format!("{} {middle}: {}", counted(names.len()), names.join(", "));
                (is_new, reason, sentence(&text))
            }));
        };
        let could_not = format!("could not be {verb} and will be tried again in the next run");
        add(true, Reason::RetentionFailed, &failed, &could_not);
        add(true, acted, &done, verb);
        let will = format!("will be {verb} unless used before");
        add(true, Reason::RetentionNoticed, &new, &will);
        add(false, Reason::RetentionNoticed, &old, &will);
        let would = format!("would be {verb} without dryRun");
        add(true, Reason::RetentionDryRun, &dry_run, &would);
        if report.more > 0
            && let Some((_, _, last)) = sentences.last_mut()
        {
            let more = report.more;
            *last = format!("{last} The report had no room for {more} more.");
        }
        let mut message: Vec<&str> = sentences.iter().map(|(_, _, text)| text.as_str()).collect();
        let nothing = match &run.outcome {
            Outcome::Unreported => format!("Job {} succeeded; its report is lost.", run.job),
            _ => format!("No unused collection among {}.", report.checked),
        };
        if message.is_empty() {
            message.push(&nothing);
        }
        Self {
            message: message.join(" "),
            status: RetentionStatus {
                last_run_time: seconds(run.at),
                noticed: whole(new.len() + old.len() + dry_run.len()),
                acted: whole(done.len()),
                failed: whole(failed.len()),
                message: String::new(),
            },
            events: sentences
                .into_iter()
                .enumerate()
                .filter(|(_, (is_new, _, _))| *is_new)
                .map(|(index, (_, reason, text))| event(run, index, reason, text))
                .collect(),
        }
    }
}

fn event(run: &RetentionRun, index: usize, reason: Reason, message: String) -> PipelineEvent {
    let event = match reason {
        Reason::RetentionFailed => PipelineEvent::warning(reason, message),
        _ => PipelineEvent::normal(reason, message),
    };
    PipelineEvent {
        // Once for each run, also while the watch does not show the written status yet.
        pod: Some(format!("{}/{index}", run.job)),
        ..event
    }
}

fn words(action: RetentionAction) -> (&'static str, Reason) {
    match action {
        RetentionAction::Release => ("released", Reason::CollectionsReleased),
        RetentionAction::Archive => ("archived", Reason::CollectionsArchived),
        RetentionAction::Delete => ("deleted", Reason::CollectionsDeleted),
    }
}

fn counted(count: usize) -> String {
    match count {
        1 => "1 collection".to_owned(),
        count => format!("{count} collections"),
    }
}

/// The collections in as many lists as there are events for them.
fn lists(items: &[&Item]) -> Vec<Vec<String>> {
    let mut lists: Vec<Vec<String>> = Vec::new();
    let mut length = 0;
    for name in items.iter().map(|item| name(item)) {
        length += name.len();
        if let Some(list) = lists.last_mut().filter(|_| length <= LONGEST_LIST) {
            list.push(name);
        } else {
            length = name.len();
            lists.push(vec![name]);
        }
    }
    lists
}

fn name(item: &Item) -> String {
    let at = item.at.as_ref().and_then(|at| at.parse::<Timestamp>().ok());
    let at = at.map(|at| format!("at {}", seconds(at).0));
    match item.message.clone().or(at) {
        Some(words) => format!("{} ({words})", item.collection),
        None => item.collection.clone(),
    }
}
