use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use layra_autoscaler::{Backlog, Counts, PartitionOffsets};
use layra_crds::{FloorSpec, LearnedStatus, ScalingMode};
use serde_json::json;

use super::*;
use crate::{
    fixtures,
    kafka::TopicState,
    milvus::IndexReport,
    reconcile::world::{Problem, Topics},
};

const IMAGE: &str = "layra-worker:1.0";

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

/// Topics and Milvus are ready; no object of the pipeline exists yet.
fn new_world(lag: i64) -> World {
    let present = TopicState::Present { partitions: 10 };
    World {
        secrets_hash: Some("5ec7e7".into()),
        topics: Ok(Topics {
            brokers: 1,
            tasks: present,
            ranges: present,
            dead_letters: present,
        }),
        backlog: Ok(backlog(lag)),
        ..World::unobserved()
    }
}

/// `lag` documents, spread over ten partitions.
fn backlog(lag: i64) -> Backlog {
    let partition = |number| PartitionOffsets {
        log_start: 0,
        end: (lag + 9 - number) / 10,
        committed: None,
    };
    Backlog {
        tasks: (0..10).map(partition).collect(),
        ..Backlog::default()
    }
}

fn step(pipeline: &IngestionPipeline, world: &World) -> Plan {
    plan(pipeline, world, None, IMAGE, now()).unwrap()
}

fn object<K: serde::de::DeserializeOwned>(body: serde_json::Value) -> Arc<K> {
    Arc::new(serde_json::from_value(body).unwrap())
}

/// Carries the plan out and makes `ready` workers ready.
fn after(pipeline: &mut IngestionPipeline, world: &mut World, plan: Plan, ready: i32) {
    pipeline.status = Some(plan.status);
    for Manifest { kind, body, .. } in plan.manifests {
        let live = &mut world.live;
        match kind {
            Kind::ConfigMap => live.config_map = Some(object(body)),
            Kind::Deployment => live.deployment = Some(object(body)),
            Kind::Service => live.service = Some(object(body)),
            Kind::PodDisruptionBudget => live.disruption_budget = Some(object(body)),
            Kind::CronJob => live.retention = Some(object(body)),
            Kind::QueryDeployment => live.query.deployment = Some(object(body)),
            Kind::QueryService => live.query.services = vec![object(body)],
            Kind::QueryDisruptionBudget => {
                live.query.disruption_budget = Some(object(body));
            }
        }
    }
    let mut deployment = world.live.deployment.as_deref().unwrap().clone();
    let replicas = deployment.spec.as_ref().unwrap().replicas.unwrap();
    deployment.status = serde_json::from_value(json!({
        "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": ready}))
    .ok();
    world.live.deployment = Some(Arc::new(deployment));
}

/// Reconciles until nothing changes any more.
fn settled(lag: i64, ready: i32) -> (IngestionPipeline, World) {
    let (mut pipeline, mut world) = (fixtures::pipeline(), new_world(lag));
    for _ in 0..3 {
        let plan = step(&pipeline, &world);
        after(&mut pipeline, &mut world, plan, ready);
    }
    (pipeline, world)
}

fn condition<'a>(plan: &'a Plan, type_: &str) -> &'a Condition {
    conditions::find(&plan.status.conditions, type_).unwrap()
}

fn events(plan: &Plan) -> Vec<Reason> {
    plan.events.iter().map(|event| event.reason).collect()
}

#[test]
fn a_new_pipeline_gets_all_objects_and_is_in_progress() {
    let plan = step(&fixtures::pipeline(), &new_world(0));
    assert_eq!(plan.manifests.len(), 4);
    assert_eq!(condition(&plan, READY).status, "False");
    assert_eq!(condition(&plan, RECONCILING).reason, "RolloutInProgress");
}

#[test]
fn pain_12_a_steady_state_plans_no_write_at_all() {
    let (pipeline, world) = settled(0, 0);
    let plan = step(&pipeline, &world);
    assert_eq!(plan.manifests, []);
    assert_eq!(plan.topic_actions, []);
    assert_eq!(plan.events, []);
    assert_eq!(
        Some(plan.status),
        pipeline.status,
        "so the status is not written either"
    );
}

#[test]
fn scaled_to_zero_is_ready_and_every_condition_names_the_generation() {
    let (pipeline, world) = settled(0, 0);
    let plan = step(&pipeline, &world);
    assert_eq!(condition(&plan, READY).status, "True");
    assert_eq!(condition(&plan, WORKERS_AVAILABLE).reason, "ScaledToZero");
    assert_eq!(plan.status.observed_generation, Some(1));
    for condition in &plan.status.conditions {
        assert_eq!(
            condition.observed_generation,
            Some(1),
            "{}",
            condition.type_
        );
        assert!(!["Reconciling", "Stalled"].contains(&condition.type_.as_str()));
    }
}

#[test]
fn a_backlog_starts_workers_and_the_event_explains_why() {
    let (pipeline, mut world) = settled(0, 0);
    world.backlog = Ok(backlog(500));
    let plan = step(&pipeline, &world);
    assert_eq!(plan.status.scaling.as_ref().unwrap().desired_replicas, 3);
    assert_eq!(events(&plan), [Reason::ScaledUp]);
    assert_eq!(
        plan.events[0].message,
        "Scaled up the workers from 0 to 3. Backlog: 500 documents, about 5000 pages, the oldest waiting for 0 s. Draining the backlog within 600 s requires 3 workers at 4 pages/s each. Desired: 3 workers."
    );
}

#[test]
fn a_ready_pipeline_stays_ready_while_workers_start() {
    let (mut pipeline, mut world) = settled(0, 0);
    world.backlog = Ok(backlog(500));
    let scaled_up = step(&pipeline, &world);
    after(&mut pipeline, &mut world, scaled_up, 0);
    let plan = step(&pipeline, &world);
    assert_eq!(
        condition(&plan, WORKERS_AVAILABLE).reason,
        "WorkersStarting"
    );
    assert_eq!(condition(&plan, READY).status, "True");
}

#[test]
fn a_new_pipeline_is_not_ready_before_its_first_workers_are() {
    let (pipeline, world) = settled(500, 0);
    let plan = step(&pipeline, &world);
    assert_eq!(condition(&plan, READY).reason, "WorkersStarting");
    assert_eq!(condition(&plan, RECONCILING).status, "True");
}

#[test]
fn an_edit_rolls_the_workers_and_is_in_progress_until_they_are_replaced() {
    let (mut pipeline, mut world) = settled(500, 3);
    pipeline.spec.embedding.batch_pages = 4;
    pipeline.metadata.generation = Some(2);
    let plan = step(&pipeline, &world);
    assert!(
        events(&plan).contains(&Reason::RolloutStarted),
        "{:?}",
        plan.events
    );
    assert_eq!(condition(&plan, READY).status, "False");
    assert_eq!(condition(&plan, READY).observed_generation, Some(2));

    after(&mut pipeline, &mut world, plan, 3);
    let plan = step(&pipeline, &world);
    assert_eq!(
        (condition(&plan, READY).status.as_str(), events(&plan)),
        ("True", vec![Reason::PipelineReady])
    );
}

#[test]
fn unknown_offsets_hold_the_workers_and_leave_ready_alone() {
    let (pipeline, mut world) = settled(500, 3);
    world.backlog = Err(Problem::new(Reason::KafkaUnreachable, "no response"));
    let plan = step(&pipeline, &world);
    assert_eq!(plan.manifests, []);
    assert_eq!(plan.status.lag, None);
    assert_eq!(condition(&plan, SCALING).status, "Unknown");
    assert_eq!(condition(&plan, READY).status, "True");
}

#[test]
fn an_unreachable_milvus_is_reported_and_workers_keep_working() {
    let (pipeline, mut world) = settled(500, 3);
    world.indexes = Err(Problem::new(Reason::MilvusUnreachable, "no response"));
    let plan = step(&pipeline, &world);
    assert_eq!(plan.manifests, []);
    assert_eq!(condition(&plan, VECTOR_STORE_READY).status, "False");
    assert_eq!(condition(&plan, READY).reason, "MilvusUnreachable");
    assert_eq!(events(&plan), [Reason::MilvusUnreachable]);
}

#[test]
fn index_drift_is_listed_and_published_once() {
    let (mut pipeline, mut world) = settled(0, 0);
    let drifted = layra_crds::DriftedCollection {
        name: "colqwenold".into(),
        difference: "M is 16, want 32".into(),
    };
    world.indexes = Ok(IndexReport {
        collections: 2,
        checked: 2,
        drifted: 1,
        urgent: 0,
        examples: vec![drifted.clone()],
    });
    let plan = step(&pipeline, &world);
    assert_eq!(condition(&plan, VECTOR_STORE_READY).reason, "IndexDrift");
    assert_eq!(
        condition(&plan, READY).status,
        "True",
        "searches work with the old index"
    );
    assert_eq!(plan.status.drifted_collections, [drifted]);
    assert_eq!(events(&plan), [Reason::IndexDrift]);

    pipeline.status = Some(plan.status);
    assert_eq!(step(&pipeline, &world).events, []);
}

#[test]
fn a_refused_decrease_is_stalled_and_workers_keep_working() {
    let (mut pipeline, mut world) = settled(500, 3);
    world.topics = Ok(Topics {
        brokers: 1,
        tasks: TopicState::Present { partitions: 12 },
        ranges: TopicState::Present { partitions: 12 },
        dead_letters: TopicState::Present { partitions: 1 },
    });
    let plan = step(&pipeline, &world);
    assert_eq!(
        condition(&plan, STALLED).reason,
        "PartitionsDecreaseRefused"
    );
    assert_eq!(condition(&plan, READY).status, "False");
    assert_eq!(plan.manifests, []);
    pipeline.status = Some(plan.status);
    assert_eq!(step(&pipeline, &world).events, [], "it is published once");
}

#[test]
fn a_paused_pipeline_is_only_observed() {
    let (mut pipeline, mut world) = settled(500, 3);
    pipeline.spec.paused = true;
    pipeline.spec.embedding.batch_pages = 4;
    world.backlog = Ok(backlog(9000));
    world.topics = Ok(Topics {
        brokers: 1,
        tasks: TopicState::Absent,
        ranges: TopicState::Absent,
        dead_letters: TopicState::Absent,
    });
    let plan = step(&pipeline, &world);
    assert_eq!((plan.manifests.len(), plan.topic_actions.len()), (0, 0));
    assert_eq!(condition(&plan, READY).reason, "Paused");
    assert_eq!(plan.status.scaling.unwrap().desired_replicas, 3);
}

#[test]
fn the_autoscalers_state_is_returned_and_survives_a_pause() {
    let (mut pipeline, world) = settled(500, 3);
    let memory = step(&pipeline, &world).autoscaler;
    pipeline.spec.paused = true;
    let paused = plan(&pipeline, &world, memory.as_ref(), IMAGE, now()).unwrap();
    assert!(memory.is_some() && paused.autoscaler.is_some());
}

#[test]
fn in_mode_manual_the_backlog_does_not_matter() {
    let (mut pipeline, world) = settled(500, 3);
    pipeline.spec.scaling.mode = ScalingMode::Manual;
    pipeline.spec.scaling.replicas = Some(1);
    let plan = step(&pipeline, &world);
    assert_eq!(plan.status.scaling.as_ref().unwrap().desired_replicas, 1);
    assert_eq!(condition(&plan, SCALING).reason, "Manual");
}

#[test]
fn a_recommendation_is_shown_and_published_and_not_carried_out() {
    let (mut pipeline, mut world) = settled(0, 0);
    pipeline.spec.scaling.mode = ScalingMode::Recommend;
    world.backlog = Ok(backlog(500));
    let plan = step(&pipeline, &world);
    assert_eq!(plan.manifests, []);
    assert_eq!(plan.status.scaling.as_ref().unwrap().desired_replicas, 3);
    assert_eq!(events(&plan), [Reason::ScalingRecommended]);
    assert_eq!(condition(&plan, SCALING).reason, "RecommendOnly");
}

#[test]
fn the_explanation_stays_until_the_decision_or_its_reason_changes() {
    let (mut pipeline, mut world) = settled(500, 3);
    world.backlog = Ok(backlog(505));
    let plan = step(&pipeline, &world);
    assert_eq!(
        plan.status.scaling,
        pipeline.status.as_ref().unwrap().scaling
    );
    assert_eq!(plan.status.lag, Some(505));
    pipeline.spec.scaling.max_replicas = 2;
    let plan = step(&pipeline, &world);
    let scaling = plan.status.scaling.unwrap();
    assert_eq!(
        (scaling.desired_replicas, scaling.limits),
        (2, vec!["MaxReplicas".to_owned()])
    );
    assert_eq!(scaling.inputs.unwrap().documents, Some(505));
}

#[test]
fn learned_values_survive_a_restart_through_the_status() {
    let (mut pipeline, world) = settled(500, 3);
    let scaling = pipeline.status.as_mut().unwrap().scaling.as_mut().unwrap();
    assert_eq!(scaling.learned, None, "nothing was measured yet");
    let learned = LearnedStatus {
        pages_per_second: 55.0,
        pages_per_document: 4.0,
        provisioning_seconds: 240.0,
        startup_seconds: 200.0,
        longest_work_seconds: 400.0,
    };
    scaling.learned = Some(learned.clone());
    let plan = step(&pipeline, &world);
    let decision = plan.decision.unwrap();
    assert!((decision.learned.pages_per_second - 55.0).abs() < 1e-9);
    assert_eq!(plan.status.scaling.unwrap().learned, Some(learned));
}

#[test]
fn the_termination_grace_period_follows_the_longest_work_when_that_restarts_no_pod() {
    let grace = |plan: &Plan| {
        let deployment = plan
            .manifests
            .iter()
            .find(|manifest| manifest.kind == Kind::Deployment);
        deployment.map(|manifest| {
            manifest.body["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].clone()
        })
    };
    let (mut pipeline, mut world) = settled(500, 3);
    let scaling = pipeline.status.as_mut().unwrap().scaling.as_mut().unwrap();
    scaling.learned = Some(LearnedStatus {
        pages_per_second: 4.0,
        pages_per_document: 10.0,
        provisioning_seconds: 0.0,
        startup_seconds: 30.0,
        longest_work_seconds: 400.0,
    });
    // Ready: one that does not become ready would be replaced, which writes the Deployment.
    world.pods = vec![fixtures::pod(json!({
        "metadata": {"name": "a"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }))];
    assert_eq!(grace(&step(&pipeline, &world)), None, "a worker is running");
    let mut edited = pipeline.clone();
    edited.spec.embedding.batch_pages = 4;
    assert_eq!(
        grace(&step(&edited, &world)),
        Some(json!(960)),
        "it is replaced anyway"
    );
    world.pods.clear();
    assert_eq!(grace(&step(&pipeline, &world)), Some(json!(960)));
}

#[test]
fn the_pods_to_delete_are_chosen_before_the_deployment_is_scaled_down() {
    let (mut pipeline, mut world) = settled(500, 3);
    world.pods = ["a", "b", "c"]
        .map(|name| fixtures::pod(json!({"metadata": {"name": name}})))
        .to_vec();
    world.counts = ["a", "c"]
        .map(|name| {
            let counts = Counts {
                in_flight: 1,
                ..Counts::default()
            };
            (name.to_owned(), counts)
        })
        .into();
    assert_eq!(step(&pipeline, &world).deletion_costs, []);
    pipeline.spec.scaling.max_replicas = 2;
    let plan = step(&pipeline, &world);
    assert_eq!(plan.deletion_costs, [("b".to_owned(), "-1")]);
}

#[test]
fn an_invalid_schedule_is_reported_and_scaling_continues() {
    let (mut pipeline, world) = settled(500, 3);
    pipeline.spec.scaling.floors = vec![FloorSpec {
        start: "0 8 * * *".into(),
        end: "0 18 * * *".into(),
        time_zone: "Mars/Base".into(),
        min_replicas: 1,
    }];
    let plan = step(&pipeline, &world);
    assert_eq!(condition(&plan, SCALING).reason, "InvalidSchedule");
    assert_eq!(events(&plan), [Reason::InvalidSchedule]);
    assert_eq!(plan.status.scaling.unwrap().desired_replicas, 3);
}

#[test]
fn a_deleted_secret_does_not_restart_the_workers() {
    let (pipeline, mut world) = settled(500, 3);
    world.secrets_hash = None;
    assert_eq!(step(&pipeline, &world).manifests, []);
}

#[test]
fn a_rotated_secret_rolls_the_workers() {
    let (pipeline, mut world) = settled(500, 3);
    world.secrets_hash = Some("another".into());
    assert!(events(&step(&pipeline, &world)).contains(&Reason::RolloutStarted));
}

#[test]
fn the_time_of_the_last_scaling_is_kept() {
    let (pipeline, world) = settled(500, 3);
    let later = now() + SignedDuration::from_secs(100);
    let plan = plan(&pipeline, &world, None, IMAGE, later).unwrap();
    let changed = plan.status.scaling.unwrap().last_scale_time.unwrap();
    assert_eq!(changed.0, now());
}

mod history;
mod obstacles;
mod query;
mod rebuild;
mod retention;
mod stalled;
