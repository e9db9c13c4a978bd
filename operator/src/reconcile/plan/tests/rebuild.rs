//! The Job that rebuilds drifted collections, through every transition.

use k8s_openapi::api::batch::v1::Job;
use layra_crds::{
    DriftedCollection, IndexPreset, OnIndexDrift, ReindexEntry, ReindexPhase, ReindexProgress,
    WindowSpec,
};

use super::*;
use crate::{
    reconcile::{
        rebuild_job::{JobPhase, RebuildJob},
        world::{JobFailure, Override},
    },
    resources::{JobKind, differences, hash_of_job, only_finishes},
};

/// A test's pipeline, its world and the time.
struct Case {
    pipeline: IngestionPipeline,
    world: World,
    now: Timestamp,
    /// Jobs that were started.
    jobs: u32,
}

impl Case {
    /// Three collections, all with another index; nothing else is to be done.
    fn new(policy: OnIndexDrift) -> Self {
        let (mut pipeline, mut world) = settled(0, 0);
        pipeline.spec.stores.milvus.on_index_drift = policy;
        world.indexes = Ok(report(3, 0));
        let mut case = Self {
            pipeline,
            world,
            now: now(),
            jobs: 0,
        };
        case.configure();
        case
    }

    /// A window that is open on Saturdays, and a time on a Friday.
    fn with_closed_window(policy: OnIndexDrift) -> Self {
        let mut case = Self::new(OnIndexDrift::RebuildBeside);
        let milvus = &mut case.pipeline.spec.stores.milvus;
        milvus.on_index_drift = policy;
        milvus.rebuild.window = Some(WindowSpec {
            start: "0 0 * * SAT".into(),
            end: "0 0 * * SUN".into(),
            time_zone: "UTC".into(),
        });
        case.now = "2026-11-27T12:00:00Z".parse().unwrap();
        case.configure();
        case
    }

    /// Applies the ConfigMap, which has the settings of the rebuild.
    fn configure(&mut self) {
        let mut manifests = self.plan().manifests.into_iter();
        if let Some(changed) = manifests.find(|it| it.kind == Kind::ConfigMap) {
            self.world.live.config_map = Some(object(changed.body));
        }
    }

    fn plan(&self) -> Plan {
        plan(&self.pipeline, &self.world, None, IMAGE, self.now).unwrap()
    }

    /// Plans, and keeps the status.
    fn step(&mut self) -> Plan {
        let plan = self.plan();
        self.pipeline.status = Some(plan.status.clone());
        plan
    }

    fn later(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    /// Starts the Job that the plan asks for.
    fn started(mut self) -> Self {
        let Some(JobAction::Start(job)) = self.step().job_action else {
            panic!("no Job is started");
        };
        self.world.rebuild_job = Some(self.running(&job));
        self
    }

    fn running(&mut self, job: &Job) -> RebuildJob {
        self.jobs += 1;
        RebuildJob {
            uid: format!("job-{}", self.jobs),
            hash: hash_of_job(job).to_owned(),
            created: self.now,
            only_finishes: only_finishes(job),
            phase: JobPhase::Running,
            waits: None,
            progress: None,
        }
    }

    fn job(&mut self) -> &mut RebuildJob {
        self.world.rebuild_job.as_mut().unwrap()
    }

    fn fails(&mut self, uid: &str) {
        let at = self.now;
        let job = self.job();
        job.uid = uid.into();
        job.phase = JobPhase::Failed {
            at,
            words: "Milvus is out of memory".into(),
        };
    }

    fn drifted(&mut self, drifted: usize) {
        self.world.indexes = Ok(report(drifted, 0));
    }
}

fn report(drifted: usize, urgent: usize) -> IndexReport {
    let examples = (0..drifted).map(|number| DriftedCollection {
        name: format!("colqwen{number}"),
        difference: "M is 16, want 32".into(),
    });
    IndexReport {
        collections: 3,
        checked: 3,
        drifted,
        urgent,
        examples: examples.collect(),
    }
}

fn progress(entries: &[(&str, ReindexPhase)]) -> ReindexProgress {
    let entries = entries.iter().map(|(name, phase)| ReindexEntry {
        name: (*name).to_owned(),
        phase: *phase,
        copied: 10,
        total: 100,
        message: "no memory".into(),
    });
    ReindexProgress {
        collections: 3,
        drifted: 2,
        rebuilding: 1,
        eta_seconds: Some(90),
        entries: entries.collect(),
        ..ReindexProgress::default()
    }
}

fn reason(plan: &Plan) -> &str {
    &condition(plan, VECTOR_STORE_READY).reason
}

fn index(plan: &Plan) -> &layra_crds::IndexStatus {
    plan.status.index.as_ref().unwrap()
}

fn stops(plan: &Plan) -> bool {
    matches!(plan.job_action, Some(JobAction::Stop { .. }))
}

fn starts(plan: &Plan) -> bool {
    matches!(plan.job_action, Some(JobAction::Start(_)))
}

#[test]
fn by_default_drift_is_only_reported_also_of_empty_collections() {
    let mut case = Case::new(OnIndexDrift::Report);
    case.world.indexes = Ok(report(3, 3));
    let plan = case.step();
    assert_eq!(
        (plan.job_action.is_none(), reason(&plan)),
        (true, "IndexDrift")
    );
    assert_eq!((index(&plan).collections, index(&plan).drifted), (3, 3));
}

#[test]
fn drift_starts_a_job_and_the_pipeline_stays_ready() {
    let mut case = Case::new(OnIndexDrift::RebuildBeside).started();
    let plan = case.step();
    assert_eq!(plan.job_action, None);
    assert_eq!(reason(&plan), "Rebuilding");
    assert_eq!(condition(&plan, READY).status, "True");
    assert!(conditions::find(&plan.status.conditions, RECONCILING).is_none());
    assert_eq!(events(&plan), [Reason::RebuildStarted]);
    assert_eq!(case.step().events, [], "it is said once");
}

#[test]
fn nothing_is_written_while_every_index_is_as_it_must_be() {
    let mut case = Case::new(OnIndexDrift::RebuildBeside);
    case.drifted(0);
    case.pipeline.status = None;
    for _ in 0..3 {
        case.step();
    }
    let before = case.pipeline.status.clone();
    let plan = case.step();
    assert_eq!((plan.job_action.is_none(), plan.events.len()), (true, 0));
    assert_eq!(reason(&plan), "IndexesMatch");
    assert_eq!(Some(plan.status), before);
}

#[test]
fn the_job_waits_for_its_configuration_and_its_secrets() {
    let mut case = Case::new(OnIndexDrift::RebuildBeside);
    case.pipeline.spec.stores.milvus.index.preset = Some(IndexPreset::Balanced);
    let plan = case.plan();
    assert!(!starts(&plan), "the ConfigMap has the old index");
    case.configure();
    assert!(starts(&case.plan()));
    case.world.secrets_hash = None;
    assert!(!starts(&case.plan()));
}

/// For example a label that an admission webhook adds to every object.
#[test]
fn a_webhook_that_changes_the_config_map_does_not_keep_the_job_from_starting() {
    let mut case = Case::new(OnIndexDrift::RebuildBeside);
    let live = case.world.live.config_map.as_deref().unwrap();
    let wanted = serde_json::to_value(live).unwrap();
    let mut live = wanted.clone();
    live["metadata"]["labels"]["app.kubernetes.io/managed-by"] = "a-webhook".into();
    case.world.past_writes.overrides.push(Override {
        kind: Kind::ConfigMap,
        differences: differences(&wanted, &live),
    });
    case.world.live.config_map = Some(object(live));
    let plan = case.plan();
    assert!(plan.outdated.contains(&Kind::ConfigMap), "it differs");
    assert!(starts(&plan));
}

#[test]
fn collections_that_another_pipeline_has_are_not_rebuilt_but_what_was_begun_is_finished() {
    let mut case = Case::new(OnIndexDrift::RebuildBeside);
    case.world.rebuild_obstacle = Some("Pipeline a/b has the same.".into());
    let plan = case.step();
    assert_eq!(
        (plan.job_action.is_none(), reason(&plan)),
        (true, "RebuildHeld")
    );
    assert_eq!(events(&plan), [Reason::RebuildHeld]);
    assert_eq!(condition(&plan, READY).status, "True");
    assert_eq!(case.step().events, []);

    case.world.rebuild_obstacle = None;
    let mut case = case.started();
    case.step();
    case.world.rebuild_obstacle = Some("Pipeline a/b has the same.".into());
    assert_eq!(case.step().job_action, None, "it runs on");
    case.fails("job-1");
    case.step();
    case.later(15);
    assert!(stops(&case.step()), "the next one follows");
}

#[test]
fn an_unknown_check_neither_starts_nor_stops_a_job() {
    let away = || Err(Problem::new(Reason::MilvusUnreachable, "no response"));
    let mut case = Case::new(OnIndexDrift::RebuildBeside);
    case.world.indexes = away();
    assert_eq!(case.plan().job_action, None);
    let mut case = Case::new(OnIndexDrift::RebuildBeside).started();
    case.step();
    case.world.indexes = away();
    let plan = case.step();
    assert_eq!(plan.job_action, None);
    assert_eq!(reason(&plan), "MilvusUnreachable");
    assert_eq!(index(&plan).drifted, 3, "what was known stays");
}

#[test]
fn the_progress_is_in_the_status_with_an_event_for_each_beginning_and_end() {
    let mut case = Case::new(OnIndexDrift::RebuildBeside).started();
    case.step();
    case.job().progress = Some(progress(&[("colqwen0", ReindexPhase::Copying)]));
    let plan = case.step();
    assert_eq!(events(&plan), [Reason::CollectionRebuildStarted]);
    let status = index(&plan);
    assert_eq!((status.rebuilding, status.eta_seconds), (1, Some(90)));
    assert_eq!(status.rebuilds[0].phase, "Copying");

    case.job().progress = None;
    let plan = case.step();
    assert_eq!(
        index(&plan).rebuilds.len(),
        1,
        "one lost answer changes nothing"
    );
    assert_eq!(plan.events, []);

    case.job().progress = Some(progress(&[
        ("colqwen1", ReindexPhase::Failed),
        ("colqwen2", ReindexPhase::Done),
        ("colqwen0", ReindexPhase::Done),
    ]));
    case.drifted(1);
    let plan = case.step();
    assert_eq!(
        events(&plan),
        [
            Reason::CollectionRebuildStarted,
            Reason::CollectionRebuildFailed,
            Reason::CollectionRebuildStarted,
            Reason::CollectionRebuilt,
            Reason::CollectionRebuilt,
        ]
    );
    assert_eq!((index(&plan).done, index(&plan).drifted), (2, 1));
    assert_eq!(case.step().events, []);
}

#[test]
fn the_end_is_reported_when_the_check_finds_no_drift() {
    let mut case = Case::new(OnIndexDrift::RebuildBeside).started();
    case.step();
    case.later(40);
    case.drifted(0);
    let plan = case.step();
    assert_eq!(reason(&plan), "Rebuilding", "the Job cleans up");
    let at = case.now;
    case.job().phase = JobPhase::Succeeded { at };
    let plan = case.step();
    assert_eq!(reason(&plan), "IndexesMatch");
    assert_eq!(events(&plan), [Reason::RebuildFinished]);
    assert_eq!(
        plan.events[0].message,
        "Every collection has the index of the spec. In 40 s, 3 collections got it."
    );
    let plan = case.step();
    assert_eq!((plan.job_action.is_none(), plan.events.len()), (true, 0));
    assert_eq!(Some(plan.status), case.pipeline.status);
}

#[test]
fn the_last_collection_of_a_job_is_done_when_the_check_says_so() {
    let mut case = Case::new(OnIndexDrift::RebuildBeside).started();
    case.job().progress = Some(progress(&[("colqwen2", ReindexPhase::Swapping)]));
    case.step();
    let at = case.now;
    case.job().phase = JobPhase::Succeeded { at };
    assert_eq!(case.step().events, [], "the check is older");
    case.drifted(2);
    assert_eq!(events(&case.step()), [Reason::CollectionRebuilt]);
}

#[test]
fn a_failure_is_shown_with_the_jobs_words_and_tried_again_after_growing_pauses() {
    let mut case = Case::new(OnIndexDrift::RebuildBeside).started();
    case.step();
    for (uid, pause) in [("job-1", 15), ("job-2", 30), ("job-3", 60)] {
        case.fails(uid);
        let plan = case.step();
        assert_eq!(
            (plan.job_action.is_none(), reason(&plan)),
            (true, "RebuildFailed")
        );
        let message = &condition(&plan, VECTOR_STORE_READY).message;
        assert!(message.ends_with(": Milvus is out of memory."), "{message}");
        assert_eq!(condition(&plan, READY).status, "True");
        case.later(pause - 1);
        assert_eq!(case.step().job_action, None, "{uid}");
        case.later(1);
        assert!(stops(&case.step()), "{uid}");
        let job = case.world.rebuild_job.take();
        assert!(starts(&case.step()), "{uid}");
        case.world.rebuild_job = job;
    }
    case.pipeline.spec.stores.milvus.rebuild.vectors_per_second = Some(1_000);
    case.configure();
    case.fails("job-4");
    case.step();
    assert!(stops(&case.step()), "an edit is tried at once");
}

#[test]
fn the_job_that_failed_last_is_followed_by_another_even_when_nothing_drifts_any_more() {
    let mut case = Case::new(OnIndexDrift::RebuildBeside).started();
    case.step();
    case.drifted(0);
    case.fails("job-1");
    let plan = case.step();
    assert_eq!(reason(&plan), "RebuildFailed", "it may have left something");
    case.later(20);
    assert!(stops(&case.step()));
}

#[test]
fn a_job_that_cannot_be_created_is_reported_and_tried_again() {
    let mut case = Case::new(OnIndexDrift::RebuildBeside);
    let Some(JobAction::Start(job)) = case.step().job_action else {
        panic!("no Job is started");
    };
    case.world.past_writes.job_failure = Some(JobFailure {
        kind: JobKind::Reindex,
        hash: hash_of_job(&job).to_owned(),
        at: case.now,
        words: "exceeded quota".into(),
    });
    let plan = case.step();
    assert_eq!(
        (plan.job_action.is_none(), reason(&plan)),
        (true, "RebuildFailed")
    );
    assert_eq!(case.step().events, []);
    case.later(15);
    assert!(starts(&case.step()));
}

#[test]
fn a_pod_that_does_not_start_is_named() {
    let mut case = Case::new(OnIndexDrift::RebuildBeside).started();
    case.job().waits = Some("ImagePullBackOff: not found".into());
    let message = condition(&case.step(), VECTOR_STORE_READY).message.clone();
    assert!(
        message.contains("does not run: ImagePullBackOff"),
        "{message}"
    );
}

#[test]
fn the_job_is_replaced_when_what_it_reads_has_changed() {
    let mut case = Case::new(OnIndexDrift::RebuildBeside).started();
    case.step();
    case.world.secrets_hash = Some("rotated".into());
    let plan = case.step();
    assert!(stops(&plan));
    assert!(events(&plan).contains(&Reason::RebuildStopped));
    case.job().phase = JobPhase::Leaving;
    assert_eq!(case.step().job_action, None, "its pod is still there");
    case.world.rebuild_job = None;
    let plan = case.step();
    assert!(starts(&plan), "at once");
    assert!(
        !events(&plan).contains(&Reason::RebuildStarted),
        "it goes on"
    );
}

#[test]
fn the_job_is_stopped_when_drift_is_only_reported_again() {
    let mut case = Case::new(OnIndexDrift::RebuildBeside).started();
    case.step();
    case.pipeline.spec.stores.milvus.on_index_drift = OnIndexDrift::Report;
    let plan = case.step();
    assert!(stops(&plan));
    assert_eq!(reason(&plan), "IndexDrift");
    assert!(events(&plan).contains(&Reason::RebuildStopped));
}

#[test]
fn a_paused_pipeline_neither_starts_nor_stops_a_job() {
    let mut case = Case::new(OnIndexDrift::RebuildBeside);
    case.pipeline.spec.paused = true;
    assert_eq!(case.plan().job_action, None);
    case.pipeline.spec.paused = false;
    let mut case = case.started();
    case.step();
    case.pipeline.spec.paused = true;
    case.world.secrets_hash = Some("rotated".into());
    assert_eq!(case.step().job_action, None);
}

#[test]
fn a_success_that_leaves_drift_is_followed_by_another_job_after_a_minute() {
    let mut case = Case::new(OnIndexDrift::RebuildBeside).started();
    case.step();
    let at = case.now;
    case.job().phase = JobPhase::Succeeded { at };
    case.drifted(1);
    assert_eq!(case.step().job_action, None, "the check may be older");
    case.later(59);
    assert_eq!(case.step().job_action, None);
    case.later(1);
    assert!(stops(&case.step()));
}

#[test]
fn dropped_collections_do_not_count_as_rebuilt() {
    let mut case = Case::new(OnIndexDrift::RebuildBeside).started();
    case.step();
    case.world.indexes = Ok(IndexReport {
        collections: 2,
        checked: 2,
        ..report(2, 0)
    });
    assert_eq!(index(&case.step()).done, 0);
}

#[test]
fn an_unfinished_check_changes_no_count() {
    let mut case = Case::new(OnIndexDrift::RebuildBeside).started();
    case.step();
    case.world.indexes = Ok(IndexReport {
        collections: 3,
        checked: 1,
        ..report(1, 0)
    });
    let plan = case.step();
    assert_eq!((index(&plan).drifted, index(&plan).done), (3, 0));
    assert_eq!(reason(&plan), "Rebuilding");
}

mod finishing;
mod models;
mod window;
