use std::sync::Arc;

use layra_crds::{
    IngestionPipeline, ScalingMode,
    condition_types::{READY, STALLED},
};
use serde_json::json;

use super::*;
use crate::{
    fixtures,
    kafka::TopicState,
    reconcile::{
        plan::{Plan, plan},
        world::{DryRunResult, Topics},
    },
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn step(pipeline: &IngestionPipeline, world: &World, now: Timestamp) -> Plan {
    plan(pipeline, world, None, "layra-worker:1.0", now).unwrap()
}

/// A pipeline with two workers whose objects have been applied.
fn running() -> (IngestionPipeline, World) {
    let mut pipeline = fixtures::pipeline();
    pipeline.spec.scaling.mode = ScalingMode::Manual;
    pipeline.spec.scaling.replicas = Some(2);
    let present = TopicState::Present { partitions: 10 };
    let mut world = World {
        secrets_hash: Some("5ec7e7".into()),
        topics: Ok(Topics {
            brokers: 1,
            tasks: present,
            ranges: present,
            dead_letters: present,
        }),
        ..World::unobserved()
    };
    let plan = step(&pipeline, &world, at(0));
    apply(&mut world, &plan);
    pipeline.status = Some(plan.status);
    (pipeline, world)
}

fn apply(world: &mut World, plan: &Plan) {
    for manifest in &plan.manifests {
        let body = manifest.body.clone();
        let live = &mut world.live;
        match manifest.kind {
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
}

fn object<K: serde::de::DeserializeOwned>(body: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(body).unwrap())
}

fn edit(pipeline: &mut IngestionPipeline, pod_spec: &Value) {
    let template = json!({ "spec": pod_spec });
    pipeline.spec.worker.pod_template = Some(serde_json::from_value(template).unwrap());
    pipeline.metadata.generation = Some(2);
}

fn answer(world: &mut World, plan: &Plan, refusal: Option<&str>, now: Timestamp) {
    world.past_writes.dry_run = Some(DryRunResult {
        template: plan.dry_run.as_ref().unwrap().template.clone(),
        at: now,
        refusal: refusal.map(ToOwned::to_owned),
    });
}

fn kinds(plan: &Plan) -> Vec<Kind> {
    plan.manifests
        .iter()
        .map(|manifest| manifest.kind)
        .collect()
}

fn condition<'a>(plan: &'a Plan, type_: &str) -> &'a Condition {
    conditions::find(&plan.status.conditions, type_).unwrap()
}

#[test]
fn a_steady_state_needs_no_dry_run() {
    let (pipeline, world) = running();
    let plan = step(&pipeline, &world, at(1));
    assert_eq!(plan.dry_run, None);
    assert_eq!(plan.manifests, []);
}

#[test]
fn another_number_of_workers_needs_no_dry_run() {
    let (mut pipeline, world) = running();
    pipeline.spec.scaling.replicas = Some(3);
    let plan = step(&pipeline, &world, at(1));
    assert_eq!(plan.dry_run, None);
    assert_eq!(kinds(&plan), [Kind::Deployment]);
}

#[test]
fn a_changed_template_is_checked_once_and_then_applied() {
    let (mut pipeline, mut world) = running();
    edit(&mut pipeline, &json!({"hostUsers": false}));
    let first = step(&pipeline, &world, at(1));
    assert_eq!(kinds(&first), [Kind::Deployment]);
    let dry_run = first.dry_run.clone().unwrap();
    assert_eq!(
        dry_run.body["spec"]["template"]["spec"]["hostUsers"],
        json!(false)
    );
    answer(&mut world, &first, None, at(1));
    let again = step(&pipeline, &world, at(2));
    assert_eq!(again.dry_run, None, "the answer is known");
    assert_eq!(kinds(&again), [Kind::Deployment]);
    apply(&mut world, &first);
    assert_eq!(step(&pipeline, &world, at(3)).manifests, []);
}

#[test]
fn a_removed_field_is_checked_too() {
    let (mut pipeline, mut world) = running();
    edit(&mut pipeline, &json!({"priorityClassName": "batch"}));
    let plan = step(&pipeline, &world, at(1));
    apply(&mut world, &plan);
    pipeline.spec.worker.pod_template = None;
    assert!(step(&pipeline, &world, at(2)).dry_run.is_some());
}

#[test]
fn a_refusal_of_the_api_server_is_a_stalled_condition_with_its_words() {
    let (mut pipeline, mut world) = running();
    edit(&mut pipeline, &json!({"priorityClassName": "No Such"}));
    pipeline.spec.embedding.batch_pages = 4;
    let first = step(&pipeline, &world, at(1));
    assert_eq!(kinds(&first), [Kind::ConfigMap, Kind::Deployment]);
    answer(
        &mut world,
        &first,
        Some("priorityClassName: Invalid"),
        at(1),
    );

    let refused = step(&pipeline, &world, at(2));
    assert_eq!(refused.manifests, [], "neither object is changed");
    assert_eq!(refused.dry_run, None, "the answer is known");
    for type_ in [WORKERS_AVAILABLE, READY, STALLED] {
        let condition = condition(&refused, type_);
        assert_eq!(
            condition.reason,
            Reason::TemplateRefused.as_str(),
            "{type_}"
        );
        assert!(
            condition.message.contains("priorityClassName: Invalid."),
            "{}",
            condition.message
        );
    }
    let later = step(&pipeline, &world, at(61));
    assert!(later.dry_run.is_some(), "a policy may have changed");
    assert_eq!(
        condition(&later, STALLED).reason,
        Reason::TemplateRefused.as_str(),
        "it stays"
    );
}

#[test]
fn workers_are_scaled_while_the_template_is_refused() {
    let (mut pipeline, world) = running();
    edit(&mut pipeline, &json!({"nodeSelectors": {}}));
    assert_eq!(kinds(&step(&pipeline, &world, at(1))), []);
    pipeline.spec.scaling.replicas = Some(3);
    let plan = step(&pipeline, &world, at(1));
    assert_eq!(kinds(&plan), [Kind::Deployment]);
    let body = &plan.manifests[0].body;
    assert_eq!(body["spec"]["replicas"], json!(3));
    let live = world.live.deployment.as_deref().unwrap().spec.as_ref();
    let template = serde_json::to_value(&live.unwrap().template).unwrap();
    assert_eq!(body["spec"]["template"], template);
}

#[test]
fn a_misspelt_field_is_refused_without_a_dry_run() {
    let (mut pipeline, world) = running();
    edit(&mut pipeline, &json!({"nodeSelectors": {}}));
    let plan = step(&pipeline, &world, at(1));
    assert_eq!(plan.dry_run, None);
    let message = &condition(&plan, STALLED).message;
    assert!(
        message.contains("worker.podTemplate.spec.nodeSelectors")
            && message.contains("keep their previous pod template"),
        "{message}"
    );
}

#[test]
fn without_workers_a_refused_template_creates_no_deployment() {
    let mut pipeline = fixtures::pipeline();
    edit(&mut pipeline, &json!({"nodeSelectors": {}}));
    let plan = step(&pipeline, &World::unobserved(), at(1));
    assert!(!kinds(&plan).contains(&Kind::Deployment));
    let message = &condition(&plan, WORKERS_AVAILABLE).message;
    assert!(message.contains("No workers can start."), "{message}");
}

#[test]
fn a_corrected_template_is_not_stalled() {
    let (mut pipeline, world) = running();
    edit(&mut pipeline, &json!({"nodeSelectors": {}}));
    pipeline.status = Some(step(&pipeline, &world, at(1)).status);
    pipeline.spec.worker.pod_template = None;
    pipeline.metadata.generation = Some(3);
    let plan = step(&pipeline, &world, at(2));
    assert_eq!(kinds(&plan), []);
    assert!(conditions::find(&plan.status.conditions, STALLED).is_none());
}

#[test]
fn a_restarted_operator_keeps_the_condition_until_the_api_server_answers() {
    let (mut pipeline, mut world) = running();
    edit(&mut pipeline, &json!({"priorityClassName": "No Such"}));
    let first = step(&pipeline, &world, at(1));
    answer(&mut world, &first, Some("Invalid"), at(1));
    pipeline.status = Some(step(&pipeline, &world, at(2)).status);

    world.past_writes.dry_run = None;
    let restarted = step(&pipeline, &world, at(3));
    assert_eq!(
        condition(&restarted, STALLED).reason,
        Reason::TemplateRefused.as_str()
    );
    assert!(restarted.dry_run.is_some());
    answer(&mut world, &restarted, None, at(3));
    let accepted = step(&pipeline, &world, at(4));
    assert_eq!(kinds(&accepted), [Kind::Deployment]);
    assert!(conditions::find(&accepted.status.conditions, STALLED).is_none());
}

#[test]
fn a_paused_pipeline_makes_no_dry_run() {
    let (mut pipeline, world) = running();
    edit(&mut pipeline, &json!({"hostUsers": false}));
    pipeline.spec.paused = true;
    assert_eq!(step(&pipeline, &world, at(1)).dry_run, None);
}
