//! The pods that answer questions, through every transition.

use layra_autoscaler::requests::Reading;
use layra_crds::condition_types::QUERY_READY;

use super::*;
use crate::reconcile::{
    WorkerPod,
    world::{PastWrites, Refusal, RefusalCause},
};

fn set(pipeline: &mut IngestionPipeline, query: serde_json::Value) {
    pipeline.spec.query = serde_json::from_value(query).unwrap();
}

/// Carries plans out until nothing changes, with `ready` ready replicas.
fn settle(pipeline: &mut IngestionPipeline, world: &mut World, ready: i32) {
    for _ in 0..3 {
        let plan = step(pipeline, world);
        after(pipeline, world, plan, 0);
        with_ready(world, ready);
    }
}

fn with_ready(world: &mut World, ready: i32) {
    let Some(live) = world.live.query.deployment.as_deref() else {
        return;
    };
    let mut deployment = live.clone();
    deployment.metadata.uid = Some("deployment-1".to_owned());
    deployment.status = serde_json::from_value(json!({"readyReplicas": ready})).ok();
    world.live.query.deployment = Some(Arc::new(deployment));
}

/// A settled pipeline with `query`.
fn answering(query: serde_json::Value) -> (IngestionPipeline, World) {
    let (mut pipeline, mut world) = settled(0, 0);
    set(&mut pipeline, query);
    settle(&mut pipeline, &mut world, 1);
    (pipeline, world)
}

fn kinds(plan: &Plan) -> Vec<Kind> {
    plan.manifests.iter().map(|it| it.kind).collect()
}

fn replicas(plan: &Plan) -> i32 {
    plan.status.query.as_ref().unwrap().desired_replicas
}

/// A pod that has loaded this checkpoint.
fn pod(checksum: &str) -> WorkerPod {
    let report = json!({"checksum": checksum, "dimensions": 384, "bytes": 1,
        "reference": {"uri": "s3://models/minilm", "checksum": checksum}});
    fixtures::pod(json!({
        "metadata": {"name": checksum, "creationTimestamp": "2026-11-25T10:00:00Z"},
        "status": {"initContainerStatuses": [{
            "name": "fetch-model", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "message": report.to_string()}}}]}}))
}

#[test]
fn the_objects_exist_while_query_is_set_and_a_steady_state_writes_nothing() {
    let (mut pipeline, mut world) = settled(0, 0);
    set(&mut pipeline, json!({}));
    let plan = step(&pipeline, &world);
    assert_eq!(
        kinds(&plan),
        [
            Kind::QueryService,
            Kind::QueryDisruptionBudget,
            Kind::QueryDeployment
        ]
    );
    assert_eq!(condition(&plan, QUERY_READY).reason, "QueryStarting");
    assert_eq!(
        condition(&plan, READY).status,
        "True",
        "a starting replica is no matter of ingestion"
    );
    settle(&mut pipeline, &mut world, 1);
    let steady = step(&pipeline, &world);
    assert_eq!(steady.manifests, []);
    assert_eq!(steady.unwanted_query, []);
    assert_eq!(steady.events, []);
    assert_eq!(condition(&steady, QUERY_READY).status, "True");
    let status = steady.status.query.clone().unwrap();
    assert_eq!((status.desired_replicas, status.ready_replicas), (1, 1));
    assert_eq!(status.address, "contracts-query.rag.svc:8005");
    assert_eq!(Some(steady.status), pipeline.status);
}

#[test]
fn the_objects_are_removed_with_query() {
    let (mut pipeline, mut world) = answering(json!({}));
    set(&mut pipeline, json!(null));
    let mut service = (*world.live.query.services[0]).clone();
    service.metadata.uid = Some("service-1".to_owned());
    world.live.query.services = vec![Arc::new(service)];
    pipeline.spec.paused = true;
    assert_eq!(step(&pipeline, &world).unwanted_query, [], "while paused");
    pipeline.spec.paused = false;
    let plan = step(&pipeline, &world);
    let removed = |plan: &Plan| -> Vec<_> {
        let unwanted = plan.unwanted_query.iter();
        unwanted.map(|it| (it.kind, it.name.clone())).collect()
    };
    let name = || "contracts-query".to_owned();
    assert_eq!(
        removed(&plan),
        [
            (Kind::QueryDeployment, name()),
            (Kind::QueryService, name())
        ],
        "the disruption budget has no UID in this test"
    );
    assert_eq!(plan.status.query, None);
    assert!(conditions::find(&plan.status.conditions, QUERY_READY).is_none());
}

#[test]
fn a_service_of_an_earlier_name_is_removed_when_the_new_one_exists() {
    let (mut pipeline, mut world) = answering(json!({}));
    let mut old = (*world.live.query.services[0]).clone();
    old.metadata.uid = Some("service-1".to_owned());
    let old = Arc::new(old);
    world.live.query.services = vec![Arc::clone(&old)];
    set(&mut pipeline, json!({"service": {"name": "model-server"}}));
    let plan = step(&pipeline, &world);
    assert_eq!(kinds(&plan), [Kind::QueryService]);
    assert_eq!(plan.unwanted_query, []);
    assert_eq!(
        condition(&plan, QUERY_READY).status,
        "False",
        "nobody finds it"
    );
    after(&mut pipeline, &mut world, plan, 0);
    world.live.query.services.push(old);
    let plan = step(&pipeline, &world);
    let names: Vec<&str> = plan.unwanted_query.iter().map(|it| &*it.name).collect();
    assert_eq!(names, ["contracts-query"]);
}

#[test]
fn a_foreign_service_of_that_name_stalls_the_object_and_not_the_workers() {
    let (mut pipeline, mut world) = settled(0, 0);
    set(&mut pipeline, json!({"service": {"name": "model-server"}}));
    let first = step(&pipeline, &world);
    let manifest = first
        .manifests
        .iter()
        .find(|it| it.kind == Kind::QueryService);
    world.past_writes.refusals = vec![Refusal {
        kind: Kind::QueryService,
        hash: manifest.unwrap().write.hash.clone(),
        generation: pipeline.metadata.generation,
        at: now(),
        attempts: 1,
        cause: RefusalCause::NameTaken,
    }];
    let plan = step(&pipeline, &world);
    let query = condition(&plan, QUERY_READY);
    assert_eq!((&*query.status, &*query.reason), ("False", "NameTaken"));
    assert!(
        query.message.contains("Service model-server"),
        "{}",
        query.message
    );
    assert_eq!(condition(&plan, WORKERS_AVAILABLE).status, "True");
    assert_eq!(condition(&plan, STALLED).reason, "NameTaken");
    assert!(!kinds(&plan).contains(&Kind::QueryService));
    // A restarted operator has not tried it yet.
    pipeline.status = Some(plan.status);
    world.past_writes = PastWrites::default();
    let restarted = step(&pipeline, &world);
    assert_eq!(condition(&restarted, QUERY_READY).reason, "NameTaken");
    assert!(kinds(&restarted).contains(&Kind::QueryService));
}

#[test]
fn the_service_of_the_workers_is_left_alone() {
    let (mut pipeline, world) = settled(0, 0);
    set(
        &mut pipeline,
        json!({"service": {"name": "contracts-worker"}}),
    );
    let plan = step(&pipeline, &world);
    assert_eq!(plan.manifests, []);
    assert_eq!(condition(&plan, QUERY_READY).reason, "NameTaken");
}

#[test]
fn replicas_follow_the_requests_and_the_status_says_why() {
    let spec = json!({"minReplicas": 1, "maxReplicas": 4, "requestsPerReplica": 10});
    let (mut pipeline, mut world) = answering(spec);
    assert_eq!(replicas(&step(&pipeline, &world)), 1);
    let reading = |ago: i64, in_flight| Reading {
        at: now() - jiff::SignedDuration::from_secs(ago),
        in_flight,
        silent: 0,
    };
    world.requests = vec![reading(5, 25), reading(0, 30)];
    let plan = step(&pipeline, &world);
    assert_eq!(
        (replicas(&plan), kinds(&plan)),
        (3, vec![Kind::QueryDeployment])
    );
    let said = |plan: &Plan| plan.status.query.as_ref().unwrap().message.clone();
    let raised = said(&plan);
    assert!(
        raised.starts_with("Raised from 1 to 3: at least 25 requests"),
        "{raised}"
    );
    after(&mut pipeline, &mut world, plan, 0);
    assert_eq!(said(&step(&pipeline, &world)), raised, "until it changes");
    world.requests = vec![reading(300, 2), reading(0, 1)];
    let plan = step(&pipeline, &world);
    assert_eq!(replicas(&plan), 1);
    let lowered = said(&plan);
    assert!(
        lowered.starts_with("Lowered from 3 to 1: at most 2 requests"),
        "{lowered}"
    );
    set(&mut pipeline, json!({"replicas": 2}));
    assert_eq!(replicas(&step(&pipeline, &world)), 2);
    pipeline.spec.paused = true;
    let paused = step(&pipeline, &world);
    assert_eq!((replicas(&paused), kinds(&paused)), (3, vec![]));
}

#[test]
fn replicas_with_another_checkpoint_than_the_workers_are_replaced_once() {
    let (mut pipeline, mut world) = answering(json!({}));
    world.query_pods = vec![pod("old")];
    let plan = step(&pipeline, &world);
    let model = plan.status.model_reference.clone().unwrap();
    assert_eq!(model.checksum, "old", "there was no worker yet");
    assert_eq!(kinds(&plan), [Kind::ConfigMap]);
    after(&mut pipeline, &mut world, plan, 0);

    world.query_pods = vec![pod("new")];
    let plan = step(&pipeline, &world);
    assert_eq!(condition(&plan, QUERY_READY).reason, "ModelDiffers");
    assert_eq!(kinds(&plan), [Kind::QueryDeployment]);
    after(&mut pipeline, &mut world, plan, 0);
    with_ready(&mut world, 1);
    assert_eq!(step(&pipeline, &world).manifests, [], "once");
    world.query_pods = vec![pod("old")];
    let plan = step(&pipeline, &world);
    assert_eq!(plan.manifests, []);
    assert_eq!(condition(&plan, QUERY_READY).status, "True");
}

#[test]
fn a_replica_that_does_not_start_says_why() {
    let (pipeline, mut world) = answering(json!({}));
    with_ready(&mut world, 0);
    let judged = |world: &World| {
        let plan = step(&pipeline, world);
        let query = condition(&plan, QUERY_READY);
        (query.reason.clone(), query.message.clone())
    };
    assert_eq!(judged(&world).0, "QueryStarting");
    world.query_pods = vec![fixtures::pod(json!({
        "metadata": {"name": "a", "creationTimestamp": "2026-11-25T10:00:00Z"},
        "status": {"containerStatuses": [{
            "name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 1,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1, "message": "no token is valid"}}}]}}))];
    let (reason, message) = judged(&world);
    assert_eq!(reason, "QueryUnavailable");
    assert_eq!(
        message,
        "No replica of 1 is ready: container worker ended: no token is valid"
    );
}

#[test]
fn a_pipeline_that_waits_for_an_edit_keeps_them_as_they_are() {
    let (mut pipeline, world) = answering(json!({}));
    pipeline.metadata.name = Some("a".repeat(60));
    let plan = step(&pipeline, &world);
    assert_eq!(condition(&plan, STALLED).reason, "NameTooLong");
    assert!(!kinds(&plan).iter().any(|kind| kind.is_query()));
    assert_eq!(plan.unwanted_query, []);
}
