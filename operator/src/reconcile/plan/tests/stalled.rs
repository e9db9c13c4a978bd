//! Pipelines that wait for an edit: in conflict with another one, or changed in a way that has to be
//! confirmed.

use layra_crds::OnUpgrade;

use super::*;
use crate::reconcile::{rivals::Rival, world::Override};

/// The pipeline with an older copy of itself.
fn with_older_copy(world: &mut World) {
    let mut older = fixtures::pipeline();
    older.metadata.name = Some("older".into());
    world.rivals = vec![Rival {
        pipeline: Arc::new(older),
        same_mongodb: Some(true),
    }];
}

fn replicas(plan: &Plan) -> Option<i64> {
    let mut manifests = plan.manifests.iter();
    let deployment = manifests.find(|manifest| manifest.kind == Kind::Deployment)?;
    deployment.body["spec"]["replicas"].as_i64()
}

/// The workers of the pipeline run.
fn working() -> (IngestionPipeline, World) {
    let (mut pipeline, mut world) = settled(500, 3);
    world.pods = vec![fixtures::pod(json!({"metadata": {"name": "a"}}))];
    pipeline.status = Some(step(&pipeline, &world).status);
    (pipeline, world)
}

#[test]
fn a_new_pipeline_in_conflict_is_stalled_and_gets_no_worker_and_no_topic() {
    let mut world = new_world(500);
    world.topics = Ok(Topics {
        brokers: 1,
        tasks: TopicState::Present { partitions: 10 },
        ranges: TopicState::Absent,
        dead_letters: TopicState::Absent,
    });
    with_older_copy(&mut world);
    let pipeline = fixtures::pipeline();
    // Topics are changed before the plan is made.
    assert_eq!(topic_actions(&pipeline, &world, now()), []);
    let plan = step(&pipeline, &world);
    assert_eq!(condition(&plan, STALLED).reason, "Conflict");
    assert_eq!(condition(&plan, READY).reason, "Conflict");
    assert_eq!(condition(&plan, SCALING).reason, "Conflict");
    let message = &condition(&plan, READY).message;
    assert!(message.starts_with("Pipeline rag/older"), "{message}");
    assert_eq!(plan.topic_actions, []);
    assert_eq!(replicas(&plan), Some(0));
    assert!(events(&plan).contains(&Reason::Conflict));
}

#[test]
fn running_workers_of_the_younger_pipeline_stop_whatever_the_mode() {
    for mode in [
        ScalingMode::Auto,
        ScalingMode::Recommend,
        ScalingMode::Manual,
    ] {
        let (mut pipeline, mut world) = settled(500, 3);
        pipeline.spec.scaling.mode = mode;
        with_older_copy(&mut world);
        let plan = step(&pipeline, &world);
        assert_eq!(replicas(&plan), Some(0), "{mode:?}");
    }
}

#[test]
fn a_pipeline_recovers_without_an_edit_when_the_older_one_is_gone() {
    let (mut pipeline, mut world) = settled(500, 3);
    with_older_copy(&mut world);
    let conflict = step(&pipeline, &world);
    after(&mut pipeline, &mut world, conflict, 0);
    let same = step(&pipeline, &world);
    assert_eq!(same.manifests, []);
    assert_eq!(events(&same), [], "it is published once");
    pipeline.status = Some(same.status);
    assert_eq!(Some(step(&pipeline, &world).status), pipeline.status);
    world.rivals.clear();
    let plan = step(&pipeline, &world);
    assert_eq!(replicas(&plan), Some(3));
    assert_ne!(condition(&plan, READY).reason, "Conflict");
}

#[test]
fn a_conflict_stays_while_it_can_neither_be_found_nor_refuted() {
    let (mut pipeline, mut world) = settled(500, 3);
    with_older_copy(&mut world);
    let conflict = step(&pipeline, &world);
    after(&mut pipeline, &mut world, conflict, 0);
    let older = std::mem::take(&mut world.rivals);
    let reason = |pipeline: &_, world: &World| {
        let plan = step(pipeline, world);
        assert_eq!(plan.topic_actions, []);
        condition(&plan, READY).reason.clone()
    };

    world.has_unlisted_rivals = true;
    assert_eq!(reason(&pipeline, &world), "Conflict");
    pipeline.metadata.generation = Some(2);
    assert_ne!(reason(&pipeline, &world), "Conflict", "it was edited");
    pipeline.metadata.generation = Some(1);
    world.has_unlisted_rivals = false;
    assert_ne!(reason(&pipeline, &world), "Conflict");

    // Only the database is the same, and the Secret cannot be read any more.
    let mut older = older[0].clone();
    let mut other = (*older.pipeline).clone();
    other.spec.source.kafka.consumer_group = "other".into();
    other.spec.source.kafka.ranges_topic = Some("other".into());
    other.spec.stores.milvus.collection = "other{knowledge_db_id}".into();
    older.pipeline = Arc::new(other);
    older.same_mongodb = None;
    world.rivals = vec![older.clone()];
    assert_eq!(reason(&pipeline, &world), "Conflict");
    older.same_mongodb = Some(false);
    world.rivals = vec![older];
    assert_ne!(reason(&pipeline, &world), "Conflict");
}

#[test]
fn the_change_that_a_conflict_asks_for_has_to_be_confirmed() {
    let (mut pipeline, mut world) = working();
    with_older_copy(&mut world);
    let kafka = &mut pipeline.spec.source.kafka;
    kafka.consumer_group = "new".into();
    kafka.ranges_topic = Some("new.ranges".into());
    pipeline.spec.stores.mongodb.database = "new".into();
    pipeline.spec.stores.milvus.collection = "new{knowledge_db_id}".into();
    let plan = step(&pipeline, &world);
    let stalled = condition(&plan, STALLED);
    assert_eq!(
        (stalled.reason.as_str(), replicas(&plan)),
        ("Conflict", Some(0))
    );
    assert!(
        stalled
            .message
            .contains("confirm-change=source.kafka.consumerGroup=new,")
    );
    let confirmed = plan.status.confirmed.clone().unwrap();
    assert_eq!(confirmed.consumer_group, "task_consumer_group");
}

#[test]
fn settings_are_confirmed_when_workers_get_them_and_not_in_a_conflict() {
    let (mut pipeline, mut world) = working();
    pipeline.spec.source.kafka.consumer_group = "new".into();
    let annotation = "ingest.layra.io/confirm-change".to_owned();
    let value = "source.kafka.consumerGroup=new".to_owned();
    pipeline.metadata.annotations = Some([(annotation, value)].into());
    with_older_copy(&mut world);
    let confirmed = step(&pipeline, &world).status.confirmed.unwrap();
    assert_eq!(confirmed.consumer_group, "task_consumer_group");
    world.rivals.clear();
    let confirmed = step(&pipeline, &world).status.confirmed.unwrap();
    assert_eq!(confirmed.consumer_group, "new");
}

#[test]
fn a_change_of_the_group_waits_for_the_annotation_that_the_message_names() {
    let (mut pipeline, mut world) = working();
    pipeline.spec.source.kafka.consumer_group = "new".into();
    pipeline.metadata.generation = Some(2);
    world.backlog = Ok(backlog(9000));
    let plan = step(&pipeline, &world);
    assert_eq!(condition(&plan, STALLED).reason, "ChangeNotConfirmed");
    assert_eq!(plan.manifests, []);
    assert_eq!(plan.status.scaling.as_ref().unwrap().desired_replicas, 3);
    let message = &condition(&plan, READY).message;
    let annotation = "ingest.layra.io/confirm-change=source.kafka.consumerGroup=new";
    assert!(message.contains(&format!("'{annotation}'")), "{message}");
    let confirmed = plan.status.confirmed.clone().unwrap();
    assert_eq!(confirmed.consumer_group, "task_consumer_group");

    pipeline.status = Some(plan.status);
    let (key, value) = annotation.split_once('=').unwrap();
    let annotations = [(key.to_owned(), value.to_owned())];
    pipeline.metadata.annotations = Some(annotations.into());
    let plan = step(&pipeline, &world);
    assert!(events(&plan).contains(&Reason::RolloutStarted));
    assert_eq!(plan.status.confirmed.clone().unwrap().consumer_group, "new");

    // The annotation may stay: it confirms no other change.
    pipeline.status = Some(plan.status);
    pipeline.spec.source.kafka.consumer_group = "newer".into();
    let plan = step(&pipeline, &world);
    assert_eq!(condition(&plan, READY).reason, "ChangeNotConfirmed");
}

#[test]
fn an_undone_change_needs_no_confirmation() {
    let (mut pipeline, world) = working();
    pipeline.spec.stores.mongodb.database = "new".into();
    pipeline.status = Some(step(&pipeline, &world).status);
    pipeline.spec.stores.mongodb.database = "mongodb".into();
    let plan = step(&pipeline, &world);
    assert_eq!(condition(&plan, READY).status, "True");
}

#[test]
fn every_setting_that_ties_a_pipeline_to_its_past_is_compared() {
    let (pipeline, world) = working();
    let changes: [fn(&mut IngestionPipeline); 5] = [
        |it| it.spec.source.kafka.consumer_group = "new".into(),
        |it| it.spec.source.kafka.ranges_topic = Some("new".into()),
        |it| it.spec.stores.milvus.collection = "new{knowledge_db_id}".into(),
        |it| it.spec.stores.mongodb.database = "new".into(),
        |it| it.spec.embedding.model.family = layra_crds::ModelFamily::ColQwen2,
    ];
    for change in changes {
        let mut edited = pipeline.clone();
        change(&mut edited);
        let plan = step(&edited, &world);
        assert_eq!(condition(&plan, READY).reason, "ChangeNotConfirmed");
    }
    // The default written out is no change.
    let mut same = pipeline.clone();
    same.spec.source.kafka.ranges_topic = Some("task_generation.ranges".into());
    assert_ne!(
        condition(&step(&same, &world), READY).reason,
        "ChangeNotConfirmed"
    );
}

#[test]
fn a_pipeline_that_never_had_a_worker_has_no_past() {
    let (mut pipeline, world) = settled(0, 0);
    assert_eq!(pipeline.status.as_ref().unwrap().confirmed, None);
    pipeline.spec.source.kafka.consumer_group = "new".into();
    let plan = step(&pipeline, &world);
    assert_ne!(condition(&plan, READY).reason, "ChangeNotConfirmed");
}

/// A worker pod that is ready.
fn ready_pod() -> crate::reconcile::WorkerPod {
    fixtures::pod(json!({"metadata": {"name": "a"}, "status": {"conditions": [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-25T10:00:00Z"},
        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-25T10:01:00Z"}]}}))
}

fn upgraded(pipeline: &IngestionPipeline, world: &World) -> Plan {
    plan(pipeline, world, None, "layra-worker:2.0", now()).unwrap()
}

fn image(plan: &Plan) -> Option<&str> {
    let mut manifests = plan.manifests.iter();
    let deployment = manifests.find(|manifest| manifest.kind == Kind::Deployment)?;
    deployment.body["spec"]["template"]["spec"]["containers"][0]["image"].as_str()
}

#[test]
fn an_upgrade_of_the_operator_replaces_no_ready_worker_until_told_to() {
    let (mut pipeline, mut world) = settled(500, 3);
    world.pods = vec![ready_pod()];
    assert_eq!(upgraded(&pipeline, &world).manifests, []);
    pipeline.spec.worker.rollout.on_upgrade = OnUpgrade::AtOnce;
    let plan = upgraded(&pipeline, &world);
    assert_eq!(image(&plan), Some("layra-worker:2.0"));
    pipeline.spec.worker.rollout.on_upgrade = OnUpgrade::WhenReplaced;
    pipeline.spec.embedding.batch_pages = 4;
    let plan = upgraded(&pipeline, &world);
    assert_eq!(image(&plan), Some("layra-worker:2.0"), "replaced anyway");
}

#[test]
fn a_held_upgrade_is_shown_with_both_images_until_the_workers_have_the_new_one() {
    let (mut pipeline, mut world) = settled(500, 3);
    world.pods = vec![ready_pod()];
    pipeline.status = Some(step(&pipeline, &world).status);
    let plan = upgraded(&pipeline, &world);
    let workers = condition(&plan, WORKERS_AVAILABLE);
    assert_eq!(
        (workers.status.as_str(), workers.reason.as_str()),
        ("True", "UpgradeHeld")
    );
    assert_eq!(
        workers.message,
        "3 of 3 workers are ready. They keep the image layra-worker:1.0 of another version of the operator, whose own is layra-worker:2.0, until none of them is ready or they are replaced for another reason. To replace them now, set worker.rollout.onUpgrade: AtOnce."
    );
    assert_eq!(condition(&plan, READY).status, "True");
    assert_eq!(events(&plan), [], "an upgrade is no problem of a pipeline");

    pipeline.status = Some(plan.status);
    assert_eq!(Some(upgraded(&pipeline, &world).status), pipeline.status);
    pipeline.spec.worker.rollout.on_upgrade = OnUpgrade::AtOnce;
    let plan = upgraded(&pipeline, &world);
    after(&mut pipeline, &mut world, plan, 3);
    let plan = upgraded(&pipeline, &world);
    assert_eq!(condition(&plan, WORKERS_AVAILABLE).reason, "WorkersReady");
}

#[test]
fn a_name_that_is_too_long_for_the_workers_objects_is_stalled_and_nothing_is_made() {
    let mut world = new_world(500);
    world.topics = Ok(Topics {
        brokers: 1,
        tasks: TopicState::Absent,
        ranges: TopicState::Absent,
        dead_letters: TopicState::Absent,
    });
    let mut pipeline = fixtures::pipeline();
    pipeline.metadata.name = Some("x".repeat(53));
    assert_eq!(topic_actions(&pipeline, &world, now()), []);
    let plan = step(&pipeline, &world);
    assert_eq!((plan.manifests.len(), plan.dry_run.is_some()), (0, false));
    let stalled = condition(&plan, STALLED);
    assert_eq!(stalled.reason, "NameTooLong");
    let words = "metadata.name has 53 characters, and at most 52 are possible";
    assert!(stalled.message.starts_with(words), "{}", stalled.message);
    assert_eq!(condition(&plan, READY).status, "False");
    assert!(events(&plan).contains(&Reason::NameTooLong));

    pipeline.status = Some(plan.status);
    let plan = step(&pipeline, &world);
    assert_eq!(
        (events(&plan), Some(&plan.status)),
        (vec![], pipeline.status.as_ref())
    );

    pipeline.metadata.name = Some("x".repeat(52));
    assert_eq!(step(&pipeline, &new_world(500)).manifests.len(), 4);
}

#[test]
fn the_image_that_is_kept_is_the_wanted_one_and_not_what_a_policy_made_of_it() {
    let (pipeline, mut world) = settled(500, 3);
    world.pods = vec![ready_pod()];
    let mut deployment = world.live.deployment.as_deref().unwrap().clone();
    let template = &mut deployment.spec.as_mut().unwrap().template;
    let pod = template.spec.as_mut().unwrap();
    let containers = pod.init_containers.iter_mut().flatten();
    for container in containers.chain(&mut pod.containers) {
        container.image = Some("registry.local/layra-worker:1.0".into());
    }
    world.live.deployment = Some(Arc::new(deployment.clone()));

    let restarted = upgraded(&pipeline, &world);
    assert_eq!(image(&restarted), Some(IMAGE));
    let stored = serde_json::to_value(&deployment).unwrap();
    world.past_writes.overrides = vec![Override {
        kind: Kind::Deployment,
        differences: resources::differences(&restarted.manifests[0].body, &stored),
    }];
    assert_eq!(upgraded(&pipeline, &world).manifests, []);
}

#[test]
fn the_image_that_an_earlier_version_did_not_name_is_the_live_one() {
    let (pipeline, mut world) = settled(500, 3);
    world.pods = vec![ready_pod()];
    let mut deployment = world.live.deployment.as_deref().unwrap().clone();
    let mark = deployment.annotations_mut();
    mark.insert(resources::DEFAULT_IMAGE.to_owned(), "true".to_owned());
    world.live.deployment = Some(Arc::new(deployment));
    let plan = upgraded(&pipeline, &world);
    assert_eq!(image(&plan), Some(IMAGE));
    assert!(!events(&plan).contains(&Reason::RolloutStarted));
}

#[test]
fn without_a_ready_worker_the_new_image_is_used_at_once() {
    let (pipeline, mut world) = settled(500, 3);
    world.pods = vec![fixtures::pod(json!({"metadata": {"name": "crashing"}}))];
    let plan = upgraded(&pipeline, &world);
    assert_eq!(image(&plan), Some("layra-worker:2.0"));
}

#[test]
fn an_image_that_is_removed_from_the_spec_is_not_kept() {
    let (mut pipeline, mut world) = settled(500, 3);
    pipeline.spec.worker.image = Some("own:1".into());
    let plan = step(&pipeline, &world);
    after(&mut pipeline, &mut world, plan, 3);
    world.pods = vec![ready_pod()];
    pipeline.spec.worker.image = None;
    assert_eq!(image(&step(&pipeline, &world)), Some(IMAGE));
}

#[test]
fn a_changed_checkpoint_over_existing_collections_is_an_event() {
    let (mut pipeline, mut world) = settled(500, 3);
    let model = |checksum: &str| json!({"checksum": checksum, "dimensions": 128, "bytes": 1});
    let pod = |checksum: &str| {
        fixtures::pod(
            json!({"metadata": {"name": "a"}, "status": {"initContainerStatuses": [{
            "name": "fetch-model", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "message": model(checksum).to_string()}}}]}}),
        )
    };
    world.pods = vec![pod("sha256:1")];
    pipeline.status = Some(step(&pipeline, &world).status);
    world.pods = vec![pod("sha256:2")];
    assert!(!events(&step(&pipeline, &world)).contains(&Reason::ModelChanged));
    world.indexes = Ok(IndexReport {
        collections: 2,
        ..IndexReport::default()
    });
    let plan = step(&pipeline, &world);
    assert!(events(&plan).contains(&Reason::ModelChanged));
    pipeline.status = Some(plan.status);
    assert_eq!(events(&step(&pipeline, &world)), []);
}
