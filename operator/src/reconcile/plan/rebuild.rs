//! The Jobs that replace collections with another index or of another model: whether each runs, and the
//! reason of `VectorStoreReady` meanwhile. One runs at a time. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use layra_autoscaler::{Window, window};
use layra_crds::{
    DriftedCollection, EndedJob, IndexStatus, IngestionPipeline, IngestionPipelineStatus,
    MilvusSpec, ModelReference, OnIndexDrift,
};

use super::{conditions::Verdict, events::PipelineEvent, models, rebuild_progress as progress};
use crate::{
    milvus::IndexReport,
    reconcile::{
        reason::Reason,
        rebuild_job::{JobPhase, RebuildJob},
        world::World,
    },
    resources::{JobKind, hash_of_job, rebuild_job},
};

/// The pause after a Job that has failed or left collections. It doubles with each that has rebuilt
/// nothing.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(15);
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_mins(30);
/// The shortest pause after a success: until then every collection has been checked again.
const PAUSE_AFTER_SUCCESS: SignedDuration = SignedDuration::from_mins(1);

/// For this long a Job may run after its window has closed.
const TIME_TO_END: SignedDuration = SignedDuration::from_mins(30);

/// What becomes of the Job.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum JobAction {
    /// It is created.
    Start(Box<Job>),
    /// It is deleted, with its pod first. Also one that has ended, before the next one.
    Stop { uid: String },
}

/// What both plans depend on.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) pipeline: &'a IngestionPipeline,
    pub(super) world: &'a World,
    /// The pipeline waits for an edit.
    pub(super) is_stalled: bool,
    /// The live `ConfigMap` has the wanted configuration.
    pub(super) config_current: bool,
    pub(super) default_image: &'a str,
}

/// What the plan for the Job of one kind depends on.
pub(super) struct Situation<'a> {
    pub(super) kind: JobKind,
    pub(super) inputs: Inputs<'a>,
    pub(super) pipeline: &'a IngestionPipeline,
    pub(super) world: &'a World,
    /// The status before.
    pub(super) before: Option<&'a IndexStatus>,
    /// The collections that differ, if every one was looked at.
    report: Option<IndexReport>,
    /// The model that they were compared with, for [`JobKind::Reembed`].
    pub(super) model: Option<String>,
    /// The other Job, while it runs or is about to.
    pub(super) blocked_by: Option<String>,
}

/// What follows.
pub(super) struct Rebuild {
    pub(super) action: Option<JobAction>,
    /// In place of the verdict on the indexes alone.
    pub(super) verdict: Option<Verdict>,
    pub(super) status: Option<IndexStatus>,
    pub(super) events: Vec<PipelineEvent>,
}

/// What becomes of collections with another index, and of those of another model.
pub(super) struct Rebuilds {
    pub(super) index: Rebuild,
    pub(super) models: Rebuild,
    /// The first of those of another model, as far as it is known.
    pub(super) other_model_collections: Vec<DriftedCollection>,
    pub(super) events: Vec<PipelineEvent>,
}

/// A collection is worked on by one of the two Jobs at a time, so they take turns. Collections of another
/// model come first: their documents wait, and they get the index of the spec, too.
pub(super) fn plans(
    inputs: Inputs<'_>,
    before: &IngestionPipelineStatus,
    reference: Option<&ModelReference>,
    now: Timestamp,
) -> Rebuilds {
    let (pipeline, world) = (inputs.pipeline, inputs.world);
    let name = |kind: JobKind| kind.job_name(&pipeline.name_any());
    let situation = |kind, before, report, blocked_by: Option<JobKind>| Situation {
        kind,
        inputs,
        pipeline,
        world,
        before,
        report,
        model: None,
        blocked_by: blocked_by.map(name),
    };
    let is_live = |kind: JobKind| {
        let job = world.job(kind);
        job.is_some_and(|job| matches!(job.phase, JobPhase::Running | JobPhase::Leaving))
    };
    let by_index = is_live(JobKind::Reindex).then_some(JobKind::Reindex);
    let known = models::known(inputs, before, reference);
    let of_models = Situation {
        model: models::key(pipeline, reference),
        ..situation(JobKind::Reembed, before.models.as_ref(), known, by_index)
    };
    let mut models = plan(&of_models, now);
    let others = of_models.report.map(|report| report.examples);
    let begins = matches!(models.action, Some(JobAction::Start(_)));
    let by_models = (begins || is_live(JobKind::Reembed)).then_some(JobKind::Reembed);
    let checked = world.indexes.as_ref().ok();
    let checked = checked.filter(|report| report.checked >= report.collections);
    let index = before.index.as_ref();
    let of_index = situation(JobKind::Reindex, index, checked.cloned(), by_models);
    let mut index = plan(&of_index, now);
    let mut events = std::mem::take(&mut index.events);
    events.append(&mut models.events);
    Rebuilds {
        index,
        models,
        other_model_collections: others.unwrap_or_else(|| before.other_model_collections.clone()),
        events,
    }
}

fn plan(situation: &Situation<'_>, now: Timestamp) -> Rebuild {
    let last = progress::last_job(situation);
    let need = Need::judge(situation, last.as_ref(), now);
    // To build it costs as much as the rest of a plan, for every pipeline, all the time.
    let is_needed = need.has_work || situation.job().is_some() || last.is_some();
    let wanted = is_needed.then(|| situation.wanted_job()).flatten();
    let next_start = next_start(last.as_ref(), wanted.as_ref());
    let (action, stopped) = situation.action(&need, wanted, next_start, now);
    let last = match situation.job() {
        Some(job) if stopped.is_some() => Some(stopped_job(job, last, now)),
        _ => last,
    };
    let rests = situation.rests(&need).filter(|_| stopped.is_none());
    let is_stopped = rests.is_some() || stopped.as_ref().is_some_and(|stopped| !stopped.goes_on);
    let status = progress::status(situation, last, is_stopped);
    let mut events = progress::events(situation, status.as_ref(), now);
    events.extend(
        stopped
            .filter(|_| !situation.is_known_to_have_ended())
            .or(rests)
            .map(|stopped| PipelineEvent::normal(Reason::RebuildStopped, stopped.why)),
    );
    Rebuild {
        action,
        verdict: situation
            .verdict(&need, status.as_ref(), next_start.filter(|at| *at > now))
            .or_else(|| situation.mismatch()),
        status,
        events,
    }
}

/// A running Job that is deleted. Its deletion may take several plans.
fn stopped_job(job: &RebuildJob, last: Option<EndedJob>, now: Timestamp) -> EndedJob {
    let fruitless = last.as_ref().map_or(0, |last| last.fruitless);
    last.filter(|last| last.uid == job.uid)
        .unwrap_or_else(|| EndedJob {
            uid: job.uid.clone(),
            hash: job.hash.clone(),
            time: progress::seconds(now),
            failure: None,
            unfinished: true,
            fruitless,
        })
}

/// Why a running Job is stopped.
struct Stopped {
    why: String,
    /// The next one follows at once.
    goes_on: bool,
}

impl Stopped {
    fn until_later(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            goes_on: false,
        }
    }
}

/// What speaks for a rebuild.
pub(super) struct Need {
    /// Collections are drifted, or may have been left half rebuilt.
    pub(super) has_work: bool,
    /// Some of it does not wait for the window.
    pub(super) is_urgent: bool,
    /// An earlier Job may have left something half done.
    pub(super) is_unfinished: bool,
    /// `None` without a window.
    window: Option<Result<Window, String>>,
}

impl Need {
    fn judge(situation: &Situation<'_>, last: Option<&EndedJob>, now: Timestamp) -> Self {
        let milvus = &situation.pipeline.spec.stores.milvus;
        let is_unfinished = last.is_some_and(|last| last.unfinished);
        let report = situation.report();
        // If drift is only reported, what was begun before is finished or undone.
        let report = report.filter(|_| !situation.only_reports());
        let differs = report.is_some_and(|report| report.drifted > 0);
        Self {
            has_work: is_unfinished || differs || situation.must_look(),
            // In a collection that was left half rebuilt in its place nothing is found, and what was
            // written during a swap may be missing. The Job does no more than that outside the window.
            is_urgent: is_unfinished || report.is_some_and(|report| report.urgent > 0),
            is_unfinished,
            // Documents wait for what is embedded again, so it waits for no window.
            window: match situation.kind {
                JobKind::Reindex => window_of(milvus, now),
                JobKind::Reembed => None,
            },
        }
    }

    pub(super) fn is_open(&self) -> bool {
        match &self.window {
            None => true,
            Some(window) => window.as_ref().is_ok_and(|window| window.is_open),
        }
    }

    pub(super) fn invalid_window(&self) -> Option<&str> {
        self.window.as_ref()?.as_ref().err().map(String::as_str)
    }

    fn until_the_window_opens(&self) -> Stopped {
        Stopped::until_later(format!(
            "The window for rebuilds has closed. The rebuild continues when it opens{}.",
            self.opening()
        ))
    }

    fn closed_at(&self) -> Option<Timestamp> {
        self.window.as_ref()?.as_ref().ok()?.last_end
    }

    /// When the window opens, for people.
    pub(super) fn opening(&self) -> String {
        let window = self.window.as_ref().and_then(|window| window.as_ref().ok());
        window
            .and_then(|window| window.next_start)
            .map_or_else(String::new, |at| format!(" at {at}"))
    }
}

fn window_of(milvus: &MilvusSpec, now: Timestamp) -> Option<Result<Window, String>> {
    let Some(spec) = &milvus.rebuild.window else {
        // The definition refuses this, but not an explicit null.
        let is_missing = milvus.on_index_drift == OnIndexDrift::RebuildInPlace;
        return is_missing.then(|| Err("RebuildInPlace needs one".to_owned()));
    };
    if spec.start == spec.end {
        let why = "start and end are the same, so that it never opens";
        return Some(Err(why.to_owned()));
    }
    let found = window(&spec.start, &spec.end, &spec.time_zone, now);
    Some(found.map_err(|error| error.to_string()))
}

impl Situation<'_> {
    /// The collections that differ, if every one was looked at.
    pub(super) fn report(&self) -> Option<&IndexReport> {
        self.report.as_ref()
    }

    /// Nobody knows of which model the collections are, and no worker will say: the Job looks.
    pub(super) fn must_look(&self) -> bool {
        let indexes = self.world.indexes.as_ref();
        self.kind == JobKind::Reembed
            && !self.only_reports()
            && self.report.is_none()
            && self.world.pods.is_empty()
            && indexes.is_ok_and(|report| report.collections > 0)
    }

    pub(super) fn job(&self) -> Option<&RebuildJob> {
        self.world.job(self.kind)
    }

    fn is_known_to_have_ended(&self) -> bool {
        let last = self.before.and_then(|before| before.last_job.as_ref());
        last.zip(self.job())
            .is_some_and(|(last, job)| last.uid == job.uid)
    }

    pub(super) fn policy(&self) -> OnIndexDrift {
        self.pipeline.spec.stores.milvus.on_index_drift
    }

    pub(super) fn only_reports(&self) -> bool {
        self.kind.is_only_reported(self.pipeline)
    }

    /// The Job that would be started. `None` while a Secret, the pod template or the configuration is
    /// not as it must be.
    fn wanted_job(&self) -> Option<Job> {
        let job = self.inputs.job(self.kind);
        job.filter(|_| self.inputs.config_current)
    }

    /// The next step, and why a running Job is stopped.
    fn action(
        &self,
        need: &Need,
        wanted: Option<Job>,
        next_start: Option<Timestamp>,
        now: Timestamp,
    ) -> (Option<JobAction>, Option<Stopped>) {
        if self.pipeline.spec.paused {
            return (None, None);
        }
        let forbidden = self.forbidden(need);
        let is_due = forbidden.is_none()
            && self.obstacle(need).is_none()
            && self.blocked_by.is_none()
            && (self.report().is_some() || self.must_look())
            && need.has_work
            && (need.is_open() || need.is_urgent)
            && next_start.is_none_or(|at| now >= at);
        let Some(job) = self.job() else {
            let start = wanted.filter(|_| is_due);
            return (start.map(|job| JobAction::Start(Box::new(job))), None);
        };
        let stop = || {
            Some(JobAction::Stop {
                uid: job.uid.clone(),
            })
        };
        match &job.phase {
            JobPhase::Leaving => (None, None),
            JobPhase::Succeeded { .. } | JobPhase::Failed { .. } => {
                let is_due = is_due && wanted.is_some();
                (stop().filter(|_| is_due), None)
            }
            JobPhase::Running => {
                let why = self
                    .stopped_before()
                    .or_else(|| self.unwanted(job))
                    .or_else(|| forbidden.map(Stopped::until_later))
                    .or_else(|| self.closed(need, job, now))
                    .or_else(|| replaced(job, wanted.as_ref()));
                (stop().filter(|_| why.is_some()), why)
            }
        }
    }

    /// The running Job was stopped by an earlier plan, and its deletion is not seen yet.
    fn stopped_before(&self) -> Option<Stopped> {
        self.is_known_to_have_ended().then(|| Stopped {
            why: String::new(),
            goes_on: self
                .before
                .is_some_and(|before| before.start_time.is_some()),
        })
    }

    fn reported(&self) -> Stopped {
        let policy = match self.kind {
            JobKind::Reindex => "onIndexDrift is Report",
            JobKind::Reembed => "onModelChange is Refuse",
        };
        Stopped::until_later(format!(
            "The rebuild was stopped, because stores.milvus.{policy}. What it has begun is finished or undone."
        ))
    }

    /// Drift is only reported, and the running Job rebuilds.
    fn unwanted(&self, job: &RebuildJob) -> Option<Stopped> {
        (self.only_reports() && !job.only_finishes).then(|| self.reported())
    }

    /// Why no Job may run.
    fn forbidden(&self, need: &Need) -> Option<String> {
        if self.inputs.is_stalled {
            return Some(
                "The rebuild was stopped, because the pipeline waits for an edit.".to_owned(),
            );
        }
        // What only finishes does not wait for it.
        let error = need.invalid_window().filter(|_| !self.only_reports())?;
        Some(format!(
            "The rebuild was stopped, because stores.milvus.rebuild.window is invalid: {error}."
        ))
    }

    /// Why no rebuild is begun. What an earlier Job left half done is finished all the same.
    pub(super) fn obstacle(&self, need: &Need) -> Option<&str> {
        let obstacle = self.world.obstacle(self.kind);
        obstacle.filter(|_| !need.is_unfinished)
    }

    /// The window has closed some time ago. The Job begins nothing then, and ends when nothing is
    /// half done. A rebuild in place may take long for the collection at hand, in which nothing is
    /// found until then.
    fn closed(&self, need: &Need, job: &RebuildJob, now: Timestamp) -> Option<Stopped> {
        let may_stop = self.policy() == OnIndexDrift::RebuildBeside && !need.is_urgent;
        if !may_stop || need.is_open() {
            return None;
        }
        let closed = need
            .closed_at()
            .map_or(job.created, |at| at.max(job.created));
        let is_over = now.duration_since(closed) >= TIME_TO_END;
        is_over.then(|| need.until_the_window_opens())
    }

    /// Why a rebuild that has begun is not continued for now, when no Job runs.
    fn rests(&self, need: &Need) -> Option<Stopped> {
        self.before?.start_time.as_ref()?;
        let is_running = self.job().is_some_and(RebuildJob::is_running);
        if is_running || self.pipeline.spec.paused {
            return None;
        }
        if self.only_reports() {
            let drifted = self.report().map_or(0, |report| report.drifted);
            return (need.is_unfinished || drifted > 0).then(|| self.reported());
        }
        if !need.has_work {
            return None;
        }
        let obstacle = || self.obstacle(need).map(str::to_owned);
        let forbidden = self.forbidden(need).or_else(obstacle);
        let forbidden = forbidden.map(Stopped::until_later);
        let is_closed = !need.is_open() && !need.is_urgent;
        forbidden.or_else(|| is_closed.then(|| need.until_the_window_opens()))
    }
}

impl Inputs<'_> {
    /// The Job of a kind as it would be started now. `None`: a Secret or the pod template is not as it
    /// must be.
    pub(super) fn job(&self, kind: JobKind) -> Option<Job> {
        let secrets_hash = self.world.secrets_hash.as_deref()?;
        rebuild_job(kind, self.pipeline, self.default_image, secrets_hash).ok()
    }
}

/// The Job reads something else than it would now.
fn replaced(job: &RebuildJob, wanted: Option<&Job>) -> Option<Stopped> {
    let wanted = wanted?;
    (hash_of_job(wanted) != job.hash).then(|| Stopped {
        why:
            "The rebuild starts again, because its settings, its Secrets or its image have changed."
                .to_owned(),
        goes_on: true,
    })
}

/// When the next Job may start. `None`: at once.
fn next_start(last: Option<&EndedJob>, wanted: Option<&Job>) -> Option<Timestamp> {
    let last = last?;
    if wanted.is_some_and(|wanted| hash_of_job(wanted) != last.hash) {
        return None;
    }
    let doublings = u32::try_from((last.fruitless - 1).clamp(0, 7)).unwrap_or(0);
    let pause = (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE);
    let is_success = last.failure.is_none() && !last.unfinished;
    let pause = if is_success {
        pause.max(PAUSE_AFTER_SUCCESS)
    } else {
        pause
    };
    last.time.0.checked_add(pause).ok()
}
