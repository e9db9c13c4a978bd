//! The `CronJob` of retention and what its runs report, through every transition.

use k8s_openapi::api::batch::v1::CronJob;
use layra_crds::{
    ConfirmedStatus, IngestionPipelineStatus, RetentionAction, RetentionSpec, RetentionStatus,
};

use super::*;
use crate::reconcile::{
    retention_runs::{Item, ItemState, Outcome, Report, RetentionRun},
    rivals::Rival,
    world::{PastWrites, Refusal, RefusalCause},
};

fn spec() -> RetentionSpec {
    RetentionSpec {
        unused_for_days: 90,
        notice_days: 7,
        action: RetentionAction::Archive,
        dry_run: false,
    }
}

fn set(pipeline: &mut IngestionPipeline, spec: Option<RetentionSpec>) {
    pipeline.spec.stores.milvus.retention = spec;
}

/// A settled pipeline with retention.
fn retained() -> (IngestionPipeline, World) {
    let (mut pipeline, mut world) = settled(0, 0);
    set(&mut pipeline, Some(spec()));
    settle(&mut pipeline, &mut world);
    (pipeline, world)
}

fn settle(pipeline: &mut IngestionPipeline, world: &mut World) {
    for _ in 0..3 {
        let plan = step(pipeline, world);
        after(pipeline, world, plan, 0);
    }
}

/// As the API server would show it.
fn live(world: &World) -> &CronJob {
    world.live.retention.as_deref().unwrap()
}

fn is_suspended(world: &World) -> bool {
    live(world).spec.suspend == Some(true)
}

fn kinds(plan: &Plan) -> Vec<Kind> {
    plan.manifests.iter().map(|it| it.kind).collect()
}

#[test]
fn there_is_a_cron_job_while_retention_is_set_and_a_steady_state_writes_nothing() {
    let (mut pipeline, mut world) = settled(0, 0);
    set(&mut pipeline, Some(spec()));
    let plan = step(&pipeline, &world);
    assert!(kinds(&plan).contains(&Kind::CronJob));
    settle(&mut pipeline, &mut world);
    assert!(!is_suspended(&world));
    let steady = step(&pipeline, &world);
    assert_eq!(steady.manifests, []);
    assert_eq!(steady.unwanted_cron_job, None);
    assert_eq!(Some(steady.status), pipeline.status);
}

#[test]
fn it_is_deleted_when_retention_is_unset_unless_it_belongs_to_something_else() {
    let (mut pipeline, mut world) = retained();
    pipeline.status.as_mut().unwrap().retention = Some(last_run(0, 1));
    set(&mut pipeline, None);
    let mut uid = |change: fn(&mut CronJob)| {
        let mut cron_job = live(&world).clone();
        cron_job.metadata.uid = Some("cron-1".to_owned());
        change(&mut cron_job);
        world.live.retention = Some(Arc::new(cron_job));
        let plan = step(&pipeline, &world);
        assert_eq!(plan.status.retention, None);
        assert!(!kinds(&plan).contains(&Kind::CronJob));
        plan.unwanted_cron_job
    };
    assert_eq!(uid(|_| {}).as_deref(), Some("cron-1"));
    assert_eq!(
        uid(|it| it.metadata.owner_references.as_mut().unwrap()[0].uid = "9".into()).as_deref(),
        Some("cron-1"),
        "a predecessor's"
    );
    let foreign = uid(|it| {
        let owner = &mut it.metadata.owner_references.as_mut().unwrap()[0];
        owner.name = "another".into();
    });
    assert_eq!(foreign, None);
}

#[test]
fn a_paused_pipeline_suspends_it_and_changes_nothing_else_of_it() {
    let (mut pipeline, mut world) = retained();
    let before = live(&world).clone();
    pipeline.spec.paused = true;
    pipeline.spec.worker.image = Some("layra-worker:2.0".into());
    let plan = step(&pipeline, &world);
    assert_eq!(kinds(&plan), [Kind::CronJob]);
    after(&mut pipeline, &mut world, plan, 0);
    assert!(is_suspended(&world));
    let template = |it: &CronJob| it.spec.job_template.clone();
    assert_eq!(template(live(&world)), template(&before));
    assert_eq!(step(&pipeline, &world).manifests, [], "once");

    pipeline.spec.paused = false;
    settle(&mut pipeline, &mut world);
    assert!(!is_suspended(&world));
    assert_ne!(template(live(&world)), template(&before), "the new image");

    pipeline.spec.paused = true;
    world.live.retention = None;
    assert_eq!(kinds(&step(&pipeline, &world)), [], "it is not created");
}

#[test]
fn a_pipeline_that_waits_for_an_edit_suspends_it() {
    let (mut pipeline, mut world) = retained();
    // Workers have run with another group.
    pipeline.status.as_mut().unwrap().confirmed = Some(ConfirmedStatus {
        consumer_group: "another".into(),
        ranges_topic: pipeline.spec.source.kafka.ranges_topic(),
        collection: pipeline.spec.stores.milvus.collection.clone(),
        database: pipeline.spec.stores.mongodb.database.clone(),
        model_family: pipeline.spec.embedding.model.family.to_string(),
    });
    let plan = step(&pipeline, &world);
    assert_eq!(condition(&plan, STALLED).reason, "ChangeNotConfirmed");
    assert_eq!(kinds(&plan), [Kind::CronJob]);
    after(&mut pipeline, &mut world, plan, 0);
    assert!(is_suspended(&world));
    assert_eq!(step(&pipeline, &world).manifests, []);
}

#[test]
fn a_pipeline_that_is_stalled_for_its_topics_suspends_it_until_it_is_not() {
    let (mut pipeline, mut world) = retained();
    let partitions = |world: &mut World, partitions| {
        let topics = world.topics.as_mut().unwrap();
        topics.tasks = TopicState::Present { partitions };
    };
    partitions(&mut world, 99);
    settle(&mut pipeline, &mut world);
    assert!(is_suspended(&world));
    partitions(&mut world, 10);
    settle(&mut pipeline, &mut world);
    assert!(!is_suspended(&world));
}

#[test]
fn a_conflict_suspends_it() {
    let (mut pipeline, mut world) = retained();
    let mut older = pipeline.clone();
    older.metadata.name = Some("older".into());
    world.rivals = vec![Rival {
        pipeline: Arc::new(older),
        same_mongodb: Some(true),
    }];
    let plan = step(&pipeline, &world);
    assert_eq!(condition(&plan, STALLED).reason, "Conflict");
    after(&mut pipeline, &mut world, plan, 0);
    assert!(is_suspended(&world));
}

#[test]
fn a_taken_name_is_named_and_stays_so_after_a_restart() {
    let (mut pipeline, mut world) = settled(0, 0);
    set(&mut pipeline, Some(spec()));
    let first = step(&pipeline, &world);
    let manifest = first.manifests.iter().find(|it| it.kind == Kind::CronJob);
    world.past_writes.refusals = vec![Refusal {
        kind: Kind::CronJob,
        hash: manifest.unwrap().write.hash.clone(),
        generation: Some(1),
        at: now(),
        attempts: 1,
        cause: RefusalCause::NameTaken,
    }];
    // All but the CronJob is applied.
    let mut done = first;
    for _ in 0..3 {
        done.manifests.retain(|it| it.kind != Kind::CronJob);
        after(&mut pipeline, &mut world, done, 0);
        done = step(&pipeline, &world);
        let workers = condition(&done, WORKERS_AVAILABLE);
        assert_eq!(workers.reason, "NameTaken");
        assert!(
            workers.message.starts_with("CronJob contracts-retention "),
            "{}",
            workers.message
        );
    }
    world.past_writes = PastWrites::default();
    let restarted = step(&pipeline, &world);
    assert_eq!(kinds(&restarted), [Kind::CronJob], "it is looked up again");
    assert_eq!(condition(&restarted, WORKERS_AVAILABLE).reason, "NameTaken");
}

fn item(name: &str, state: ItemState, words: Option<&str>) -> Item {
    let is_failure = state == ItemState::Failed;
    Item {
        collection: name.to_owned(),
        state,
        at: words.filter(|_| !is_failure).map(str::to_owned),
        message: words.filter(|_| is_failure).map(str::to_owned),
    }
}

fn run(job: &str, day: i64, outcome: Outcome) -> RetentionRun {
    RetentionRun {
        job: job.to_owned(),
        at: now() + SignedDuration::from_hours(24 * day),
        outcome,
    }
}

fn reported(job: &str, day: i64, items: Vec<Item>) -> RetentionRun {
    let report = Report {
        checked: 7,
        items,
        more: 0,
    };
    run(job, day, Outcome::Reported(report))
}

fn last_run(day: i64, noticed: i64) -> RetentionStatus {
    let at = now() + SignedDuration::from_hours(24 * day);
    RetentionStatus {
        last_run_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at),
        noticed,
        acted: 0,
        failed: 0,
        message: String::new(),
    }
}

/// Reconciles, keeps the status, and returns the events' reasons and messages.
fn said(pipeline: &mut IngestionPipeline, world: &World) -> Vec<(&'static str, String)> {
    let plan = step(pipeline, world);
    pipeline.status = Some(plan.status);
    let events = plan.events.into_iter();
    let texts = events.map(|event| (event.reason.as_str(), event.message));
    texts.collect()
}

fn status(pipeline: &IngestionPipeline) -> RetentionStatus {
    let status: &IngestionPipelineStatus = pipeline.status.as_ref().unwrap();
    status.retention.clone().unwrap()
}

#[test]
fn a_notice_and_what_went_are_events_once_also_after_a_restart() {
    let (mut pipeline, mut world) = retained();
    let day = Some("2027-01-22T08:00:00.123Z");
    let noticed = item("colqwena", ItemState::Noticed, day);
    world.retention_runs = vec![reported("r-1", 0, vec![noticed])];
    let events = said(&mut pipeline, &world);
    let notice = "1 collection will be archived unless used before: \
                  colqwena (at 2027-01-22T08:00:00Z).";
    assert_eq!(events, [("RetentionNoticed", notice.to_owned())]);
    assert_eq!(
        status(&pipeline),
        RetentionStatus {
            message: notice.to_owned(),
            ..last_run(0, 1)
        }
    );
    // A restarted operator has only the status.
    assert_eq!(said(&mut pipeline, &world), []);

    let waiting = item("colqwena", ItemState::Waiting, day);
    world.retention_runs.push(reported("r-2", 1, vec![waiting]));
    assert_eq!(said(&mut pipeline, &world), [], "it was announced");
    assert_eq!(
        status(&pipeline),
        RetentionStatus {
            message: notice.to_owned(),
            ..last_run(1, 1)
        }
    );

    let waiting = item("colqwena", ItemState::Waiting, day);
    let another = item("colqwenb", ItemState::Noticed, None);
    world
        .retention_runs
        .push(reported("r-2b", 2, vec![another, waiting]));
    let events = said(&mut pipeline, &world);
    let only_new = "1 collection will be archived unless used before: colqwenb.";
    assert_eq!(events, [("RetentionNoticed", only_new.to_owned())]);
    assert_eq!(status(&pipeline).noticed, 2);

    let done = item("colqwena", ItemState::Done, None);
    world.retention_runs.push(reported("r-3", 8, vec![done]));
    let events = said(&mut pipeline, &world);
    let archived = "1 collection archived: colqwena.";
    assert_eq!(events, [("CollectionsArchived", archived.to_owned())]);
    assert_eq!(
        status(&pipeline),
        RetentionStatus {
            acted: 1,
            message: archived.to_owned(),
            ..last_run(8, 0)
        }
    );
    world.retention_runs.push(reported("r-4", 9, vec![]));
    assert_eq!(said(&mut pipeline, &world), []);
    assert_eq!(status(&pipeline).message, "No unused collection among 7.");
}

#[test]
fn a_notice_whose_report_was_lost_is_published_with_the_next_one() {
    let (mut pipeline, mut world) = retained();
    world.retention_runs = vec![
        run("r-1", 0, Outcome::Failed("evicted".into())),
        reported("r-2", 1, vec![item("a", ItemState::Waiting, None)]),
        run("r-3", 2, Outcome::Unreported),
        reported("r-4", 3, vec![item("a", ItemState::Waiting, None)]),
    ];
    let events = said(&mut pipeline, &world);
    let reasons: Vec<_> = events.iter().map(|(reason, _)| *reason).collect();
    assert_eq!(
        reasons,
        ["RetentionFailed", "RetentionNoticed", "RetentionNoticed"]
    );
    assert_eq!(events[0].1, "Job r-1 failed: evicted.");
}

#[test]
fn a_failure_has_its_words_and_each_action_its_reason() {
    for (action, reason, text) in [
        (
            RetentionAction::Release,
            "CollectionsReleased",
            "2 collections released: b, c.",
        ),
        (
            RetentionAction::Archive,
            "CollectionsArchived",
            "2 collections archived: b, c.",
        ),
        (
            RetentionAction::Delete,
            "CollectionsDeleted",
            "2 collections deleted: b, c.",
        ),
    ] {
        let (mut pipeline, mut world) = retained();
        set(&mut pipeline, Some(RetentionSpec { action, ..spec() }));
        let items = vec![
            item("a", ItemState::Failed, Some("Milvus is away")),
            item("b", ItemState::Done, None),
            item("c", ItemState::Done, None),
        ];
        world.retention_runs = vec![reported("r-1", 0, items)];
        let plan = step(&pipeline, &world);
        let mine = |it: &&PipelineEvent| it.pod.as_ref().is_some_and(|it| it.starts_with("r-1/"));
        let events: Vec<_> = plan.events.iter().filter(mine).collect();
        assert_eq!(events[0].reason, Reason::RetentionFailed);
        assert!(events[0].warning && !events[1].warning);
        assert!(events[0].message.ends_with(": a (Milvus is away)."));
        assert_eq!(events[1].reason.as_str(), reason);
        assert_eq!(events[1].message, text);
        let status = plan.status.retention.unwrap();
        assert_eq!((status.acted, status.failed), (2, 1));
    }
}

#[test]
fn a_dry_run_names_very_many_collections_in_several_events() {
    let (mut pipeline, mut world) = retained();
    let items = (0..40).map(|n| item(&format!("{n:0>60}"), ItemState::DryRun, None));
    let report = Report {
        checked: 100,
        items: items.collect(),
        more: 50,
    };
    world.retention_runs = vec![run("r-1", 0, Outcome::Reported(report))];
    let events = said(&mut pipeline, &world);
    assert!(
        events
            .iter()
            .all(|(reason, _)| *reason == "RetentionDryRun")
    );
    assert!(events.iter().all(|(_, text)| text.len() < 1000));
    let texts: Vec<_> = events.iter().map(|(_, text)| text.as_str()).collect();
    assert!(texts[0].starts_with("11 collections would be archived without dryRun: 0000"));
    assert!(texts.last().unwrap().ends_with("no room for 50 more."));
    let named = texts.iter().map(|text| text.matches(", ").count() + 1);
    assert_eq!(named.sum::<usize>(), 40, "{texts:?}");
    assert_eq!(status(&pipeline).noticed, 40);
}
