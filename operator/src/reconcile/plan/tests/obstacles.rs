//! What the API server, a webhook or the kubelet does to the objects of a pipeline.

use super::*;
use crate::reconcile::world::{Applied, Override, PastWrites, Refusal, RefusalCause};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

/// The plan, some time later.
fn step_after(pipeline: &IngestionPipeline, world: &World, time: SignedDuration) -> Plan {
    plan(pipeline, world, None, IMAGE, now() + time).unwrap()
}

fn kinds(plan: &Plan) -> Vec<Kind> {
    plan.manifests
        .iter()
        .map(|manifest| manifest.kind)
        .collect()
}

/// The object of the plan's manifest was not applied, just now.
fn refusal(plan: &Plan, kind: Kind, attempts: u32, cause: RefusalCause) -> Refusal {
    let manifest = plan.manifests.iter().find(|manifest| manifest.kind == kind);
    Refusal {
        kind,
        hash: manifest.unwrap().write.hash.clone(),
        generation: Some(1),
        at: now(),
        attempts,
        cause,
    }
}

/// A pipeline whose Service is absent.
fn without_service() -> (IngestionPipeline, World) {
    let (pipeline, mut world) = settled(0, 0);
    world.live.service = None;
    (pipeline, world)
}

fn refused() -> RefusalCause {
    RefusalCause::Refused("Service \"v1.contracts-worker\" is invalid: metadata.name".into())
}

#[test]
fn a_refused_object_is_stalled_with_the_words_of_the_api_server_and_waits() {
    let (mut pipeline, mut world) = without_service();
    let first = step(&pipeline, &world);
    assert_eq!(kinds(&first), [Kind::Service]);
    world.past_writes.refusals = vec![refusal(&first, Kind::Service, 1, refused())];

    let plan = step(&pipeline, &world);
    assert_eq!(plan.manifests, [], "nothing repeats every second");
    let stalled = condition(&plan, STALLED);
    assert_eq!(stalled.reason, "ApplyRefused");
    assert_eq!(
        stalled.message,
        "The API server refuses Service contracts-worker: Service \"v1.contracts-worker\" is invalid: metadata.name. Correct the field that it names, or the pipeline's name."
    );
    assert_eq!(condition(&plan, READY).status, "False");
    assert_eq!(events(&plan), [Reason::ApplyRefused]);

    pipeline.status = Some(plan.status);
    let later = step_after(&pipeline, &world, MINUTE);
    assert_eq!(
        kinds(&later),
        [Kind::Service],
        "the policy may have changed"
    );
    assert_eq!(
        (events(&later), condition(&later, READY).reason.as_str()),
        (vec![], "ApplyRefused")
    );

    world.past_writes = PastWrites::default();
    let restarted = step(&pipeline, &world);
    assert_eq!(
        (
            events(&restarted),
            condition(&restarted, READY).reason.as_str()
        ),
        (vec![], "ApplyRefused"),
        "a restarted operator does not flip it"
    );
}

#[test]
fn an_edit_is_not_blamed_for_a_refusal_of_before() {
    let (mut pipeline, mut world) = settled(0, 0);
    let mut edited = pipeline.clone();
    edited.spec.embedding.batch_pages = 4;
    let first = step(&edited, &world);
    world.past_writes.refusals = vec![refusal(&first, Kind::ConfigMap, 1, refused())];
    pipeline.metadata.generation = Some(2);
    pipeline.spec.embedding.batch_pages = 5;
    let plan = step(&pipeline, &world);
    assert_eq!(condition(&plan, READY).reason, "RolloutInProgress");
    assert_eq!(kinds(&plan), [Kind::ConfigMap, Kind::Deployment]);
}

#[test]
fn the_deployment_is_not_applied_without_the_config_map_that_its_pods_read() {
    let (pipeline, mut world) = (fixtures::pipeline(), new_world(0));
    let first = step(&pipeline, &world);
    world.past_writes.refusals = vec![refusal(&first, Kind::ConfigMap, 1, refused())];
    assert_eq!(
        kinds(&step(&pipeline, &world)),
        [Kind::Service, Kind::PodDisruptionBudget]
    );
}

/// An edit whose ConfigMap the API server refused, while three workers run.
fn refused_edit() -> (IngestionPipeline, World) {
    let (mut pipeline, mut world) = settled(500, 3);
    pipeline.spec.embedding.batch_pages = 4;
    let first = step(&pipeline, &world);
    assert_eq!(kinds(&first), [Kind::ConfigMap, Kind::Deployment]);
    let manifests = &first.manifests;
    assert!(!manifests[1].keeps_template(), "it waits for the ConfigMap");
    world.past_writes.refusals = vec![refusal(&first, Kind::ConfigMap, 1, refused())];
    pipeline.status = Some(first.status);
    (pipeline, world)
}

#[test]
fn running_workers_are_scaled_while_their_config_map_is_refused() {
    let (mut pipeline, mut world) = refused_edit();
    let replicas = |plan: &Plan| {
        let deployment = plan.manifests.iter().find(|m| m.kind == Kind::Deployment);
        let manifest = deployment.expect("the Deployment is applied");
        assert!(manifest.keeps_template(), "with the template of before");
        manifest.body["spec"]["replicas"].as_i64().unwrap()
    };
    let same = step(&pipeline, &world);
    assert_eq!(same.manifests, [], "the number stays");
    assert_eq!(condition(&same, STALLED).reason, "ApplyRefused");

    world.backlog = Ok(backlog(9000));
    let more = step(&pipeline, &world);
    assert_eq!(kinds(&more), [Kind::Deployment]);
    assert!(replicas(&more) > 3);
    assert!(!events(&more).contains(&Reason::RolloutStarted));
    assert_eq!(condition(&more, STALLED).reason, "ApplyRefused");
    let retried = step_after(&pipeline, &world, MINUTE);
    assert_eq!(kinds(&retried), [Kind::ConfigMap, Kind::Deployment]);
    replicas(&retried);

    // What the API server has after that is not applied again.
    after(&mut pipeline, &mut world, more, 3);
    assert_eq!(step(&pipeline, &world).manifests, []);
    world.past_writes = PastWrites::default();
    let accepted = step(&pipeline, &world);
    assert_eq!(kinds(&accepted), [Kind::ConfigMap, Kind::Deployment]);
    assert!(!accepted.manifests[1].keeps_template());
}

#[test]
fn without_any_config_map_workers_are_removed_and_none_is_added() {
    let (mut pipeline, mut world) = refused_edit();
    world.live.config_map = None;
    world.backlog = Ok(backlog(9000));
    assert_eq!(kinds(&step(&pipeline, &world)), []);
    pipeline.spec.scaling.max_replicas = 2;
    assert_eq!(kinds(&step(&pipeline, &world)), [Kind::Deployment]);
}

#[test]
fn the_object_of_somebody_else_is_named_and_left_alone() {
    let (pipeline, mut world) = (fixtures::pipeline(), new_world(0));
    let first = step(&pipeline, &world);
    let taken = refusal(&first, Kind::Deployment, 1, RefusalCause::NameTaken);
    world.past_writes.refusals = vec![taken];
    let plan = step(&pipeline, &world);
    assert!(!kinds(&plan).contains(&Kind::Deployment));
    assert_eq!(plan.dry_run, None, "it would be one of the foreign object");
    assert_eq!(condition(&plan, STALLED).reason, "NameTaken");
    assert!(
        condition(&plan, READY)
            .message
            .starts_with("Deployment contracts-worker exists and does not belong")
    );
}

#[test]
fn a_request_that_fails_is_repeated_and_reported_when_it_fails_again() {
    let (pipeline, mut world) = without_service();
    let first = step(&pipeline, &world);
    let reason = |world: &mut World, attempts| {
        let cause = RefusalCause::Failed("exceeded quota: count/services".into());
        world.past_writes.refusals = vec![refusal(&first, Kind::Service, attempts, cause)];
        let plan = step(&pipeline, world);
        assert_eq!(
            kinds(&plan),
            [],
            "not at once, whatever triggers a reconcile"
        );
        let later = step_after(&pipeline, world, SignedDuration::from_secs(1 << attempts));
        assert_eq!(kinds(&later), [Kind::Service]);
        condition(&plan, READY).reason.clone()
    };
    assert_eq!(reason(&mut world, 2), "PipelineReady");
    assert_eq!(reason(&mut world, 3), "ApplyFailed");
    let plan = step(&pipeline, &world);
    let types = plan.status.conditions.iter().map(|c| c.type_.as_str());
    assert!(types.filter(|type_| *type_ == STALLED).count() == 0);
}

#[test]
fn a_webhook_that_changes_the_deployment_is_shown_and_not_fought() {
    let (mut pipeline, mut world) = settled(500, 3);
    let mut deployment = world.live.deployment.as_deref().unwrap().clone();
    let template = &mut deployment.spec.as_mut().unwrap().template;
    template.spec.as_mut().unwrap().containers[0].image = Some("registry.local/worker".into());
    world.live.deployment = Some(Arc::new(deployment.clone()));

    let futile = step(&pipeline, &world);
    assert_eq!(kinds(&futile), [Kind::Deployment]);
    let body = &futile.manifests[0].body;
    let stored = serde_json::to_value(&deployment).unwrap();
    assert_eq!(
        futile.manifests[0].template_before,
        Some(template_hash(&deployment)),
        "so that its event is dropped"
    );
    world.past_writes.overrides = vec![Override {
        kind: Kind::Deployment,
        differences: resources::differences(body, &stored),
    }];
    let plan = step(&pipeline, &world);
    assert_eq!((plan.manifests.len(), events(&plan)), (0, vec![]));
    assert_eq!(
        plan.outdated,
        [Kind::Deployment],
        "so that it is remembered"
    );
    let workers = condition(&plan, WORKERS_AVAILABLE);
    assert_eq!(
        (workers.status.as_str(), workers.reason.as_str()),
        ("True", "ChangedByOthers")
    );
    assert!(
        workers
            .message
            .contains(r#"image is "registry.local/worker""#)
    );
    assert_eq!(condition(&plan, READY).status, "True");

    let mut restarted = world.clone();
    restarted.past_writes = PastWrites::default();
    pipeline.status = Some(plan.status);
    let first = step(&pipeline, &restarted);
    assert_eq!(kinds(&first), [Kind::Deployment], "to learn it again");
    assert_eq!(
        Some(first.status),
        pipeline.status,
        "a restarted operator does not flip it"
    );

    pipeline.spec.scaling.max_replicas = 2;
    let scaled = step(&pipeline, &world);
    assert_eq!(kinds(&scaled), [Kind::Deployment]);
    assert_eq!(
        events(&scaled),
        [Reason::ScaledDown],
        "scaling is no rollout"
    );
}

#[test]
fn a_client_that_changes_the_deployment_back_is_reported_without_an_event_a_minute() {
    let (mut pipeline, mut world) = settled(500, 3);
    pipeline.spec.embedding.batch_pages = 4;
    let first = step(&pipeline, &world);
    assert!(events(&first).contains(&Reason::RolloutStarted));
    let deployment = first.manifests.iter().find(|m| m.kind == Kind::Deployment);
    world.past_writes.applied = vec![Applied {
        write: deployment.unwrap().write.clone(),
        at: now(),
    }];
    pipeline.status = Some(first.status);
    let later = step_after(&pipeline, &world, MINUTE);
    assert!(kinds(&later).contains(&Kind::Deployment));
    assert!(!events(&later).contains(&Reason::RolloutStarted));
    let workers = condition(&later, WORKERS_AVAILABLE);
    assert_eq!(
        (workers.status.as_str(), workers.reason.as_str()),
        ("False", "ChangedByOthers")
    );
}

#[test]
fn an_evicted_worker_is_an_event_with_the_words_of_the_kubelet() {
    let (pipeline, mut world) = settled(500, 3);
    let minutes_ago = |minutes| now() - SignedDuration::from_mins(minutes);
    let evicted = |name: &str, since: Timestamp| {
        fixtures::pod(json!({"metadata": {"name": name}, "status": {
            "phase": "Failed", "reason": "Evicted", "message": "low on memory",
            "conditions": [{"type": "Ready", "status": "False",
                "lastTransitionTime": since.to_string()}]}}))
    };
    world.pods = vec![evicted("a", minutes_ago(1)), evicted("b", minutes_ago(60))];
    let plan = step(&pipeline, &world);
    assert_eq!(condition(&plan, READY).status, "True");
    assert_eq!(events(&plan), [Reason::WorkerEvicted]);
    assert_eq!(
        plan.events[0].message,
        "Worker a was ended. Evicted: low on memory"
    );
}

#[test]
fn partitions_without_a_leader_are_named_while_the_others_count() {
    let (pipeline, mut world) = settled(0, 0);
    let mut known = backlog(500);
    let partition = layra_autoscaler::Partition::of(layra_autoscaler::Topic::Tasks, 3);
    known.unread = [(partition, "Broker: Leader not available".to_owned())].into();
    world.backlog = Ok(known);
    let plan = step(&pipeline, &world);
    assert!(plan.status.scaling.as_ref().unwrap().desired_replicas > 0);
    let scaling = condition(&plan, SCALING);
    assert_eq!(scaling.reason, "PartitionsUnread");
    assert!(
        scaling
            .message
            .starts_with("The offsets of tasks/3 cannot be read: Broker: Leader not available."),
        "{}",
        scaling.message
    );
    assert!(events(&plan).contains(&Reason::PartitionsUnread));
}
