use std::{collections::BTreeMap, sync::Arc};

use jiff::SignedDuration;
use layra_autoscaler::{Backlog, Counts, PartitionOffsets};
use layra_crds::{GpuSpec, IngestionPipelineStatus};
use serde_json::json;

use super::*;
use crate::fixtures;

/// A pipeline that is reconciled every three seconds, with one partition and ready workers.
struct Scene {
    pipeline: IngestionPipeline,
    world: World,
    memory: Option<Memory>,
    now: Timestamp,
}

impl Scene {
    fn new(documents: i64, workers: u32) -> Self {
        let mut scene = Self {
            pipeline: fixtures::pipeline(),
            world: World::unobserved(),
            memory: None,
            now: Timestamp::from_second(1_800_000_000).unwrap(),
        };
        scene.pipeline.spec.scaling.max_replicas = 1;
        scene.world.backlog = Ok(Backlog {
            tasks: vec![PartitionOffsets {
                log_start: 0,
                end: documents,
                committed: Some(0),
            }],
            ..Backlog::default()
        });
        let deployment = json!({"metadata": {}, "spec": {
            "replicas": workers, "selector": {}, "template": {},
        }});
        scene.world.live.deployment = Some(Arc::new(serde_json::from_value(deployment).unwrap()));
        let ready = json!([{"type": "Ready", "status": "True"}]);
        for number in 0..workers {
            let name = format!("worker-{number}");
            scene.world.pods.push(fixtures::pod(json!({
                "metadata": {"name": name}, "status": {"conditions": ready},
            })));
            scene.world.counts.insert(name, Counts::default());
        }
        scene
    }

    /// Every worker processes pages for three seconds.
    fn work(&mut self, pages_per_second: f64) {
        for counts in self.world.counts.values_mut() {
            counts.pages += 3.0 * pages_per_second;
            counts.documents += 0.3 * pages_per_second;
            counts.busy_seconds += 3.0;
        }
    }

    fn reconcile(&mut self) -> (ScalingStatus, Verdict) {
        self.now += SignedDuration::from_secs(3);
        let scaling = plan(&self.pipeline, &self.world, self.memory.as_ref(), self.now);
        self.memory = Some(scaling.memory);
        self.pipeline.status = Some(IngestionPipelineStatus {
            scaling: Some(scaling.status.clone()),
            ..IngestionPipelineStatus::default()
        });
        (scaling.status, scaling.verdict)
    }

    fn set_replicas(&mut self, replicas: i32) {
        let deployment = self.world.live.deployment.as_mut().unwrap();
        let spec = &mut Arc::make_mut(deployment).spec;
        spec.as_mut().unwrap().replicas = Some(replicas);
    }

    fn ask_to_forget(&mut self, request: &str) {
        let annotation = (FORGET_ANNOTATION.to_owned(), request.to_owned());
        self.pipeline.metadata.annotations = Some(BTreeMap::from([annotation]));
    }
}

/// The pages per second in the sentence.
fn told_speed(message: &str) -> Option<f64> {
    let (_, rest) = message.split_once(" at ")?;
    rest.split_once(' ')?.0.parse().ok()
}

#[test]
fn the_sentence_and_the_numbers_of_the_status_are_of_the_same_time() {
    let mut scene = Scene::new(1000, 1);
    let mut speeds = Vec::new();
    for step in 0..800 {
        scene.work(if step < 400 { 1.4 } else { 0.7 });
        let (status, _) = scene.reconcile();
        let Some(learned) = status.learned else {
            continue;
        };
        let told = told_speed(&status.message).unwrap();
        assert!(
            (told - learned.pages_per_second).abs() < 0.006,
            "{} / {learned:?}",
            status.message
        );
        speeds.push(told);
    }
    let changes = speeds
        .windows(2)
        .filter(|pair| (pair[0] - pair[1]).abs() > 1e-9)
        .count();
    assert!((1..20).contains(&changes), "{changes} writes");
    assert!(
        speeds.last().is_some_and(|speed| *speed < 0.9),
        "{speeds:?}"
    );
}

#[test]
fn an_outage_of_a_store_is_a_reason_with_the_stores_name() {
    let mut scene = Scene::new(1000, 1);
    scene.pipeline.spec.scaling.max_replicas = 8;
    for counts in scene.world.counts.values_mut() {
        counts.waiting_for = vec!["mongodb".to_owned()];
    }
    let reasons: Vec<Reason> = (0..5).map(|_| scene.reconcile().1.reason).collect();
    assert_eq!(reasons, [Reason::FollowingBacklog; 5], "held, not reported");
    let (status, verdict) = scene.reconcile();
    assert_eq!(
        (status.desired_replicas, verdict.reason),
        (1, Reason::StoresAway)
    );
    assert_eq!(status.limits, ["StoresAway"]);
    assert!(verdict.is_true());
    assert!(
        verdict
            .message
            .starts_with("Every worker waits for mongodb."),
        "{}",
        verdict.message
    );
}

#[test]
fn workers_that_cannot_be_asked_are_reported_after_a_minute() {
    let mut scene = Scene::new(10, 2);
    scene.pipeline.spec.scaling.max_replicas = 8;
    scene.world.counts.remove("worker-1");
    let mut reasons = Vec::new();
    let mut last = String::new();
    for _ in 0..22 {
        let (_, verdict) = scene.reconcile();
        assert!(verdict.is_true());
        reasons.push(verdict.reason);
        last = verdict.message;
    }
    assert_eq!(reasons[19], Reason::FollowingBacklog);
    assert_eq!(reasons[21], Reason::WorkersNotMeasured);
    assert!(
        last.starts_with("1 of 2 ready workers could not be asked"),
        "{last}"
    );
}

#[test]
fn what_was_learned_is_forgotten_once_for_each_request() {
    let mut scene = Scene::new(1000, 1);
    for _ in 0..100 {
        scene.work(1.4);
        scene.reconcile();
    }
    let (status, _) = scene.reconcile();
    assert!(status.learned.is_some() && status.forgotten.is_none());
    scene.ask_to_forget("monday");
    let (status, _) = scene.reconcile();
    assert_eq!(
        (status.learned, status.forgotten.as_deref()),
        (None, Some("monday"))
    );
    assert_eq!(
        told_speed(&status.message),
        Some(4.0),
        "assumed: {}",
        status.message
    );
    for _ in 0..100 {
        scene.work(1.4);
        scene.reconcile();
    }
    let (status, _) = scene.reconcile();
    assert!(status.learned.is_some(), "it learns again");

    // A restart of the operator and another mode change nothing about it.
    scene.memory = None;
    scene.pipeline.spec.scaling.mode = ScalingMode::Manual;
    let (status, _) = scene.reconcile();
    assert!(status.learned.is_some());
    scene.ask_to_forget("tuesday");
    let (status, _) = scene.reconcile();
    assert_eq!(
        (status.learned, status.forgotten.as_deref()),
        (None, Some("tuesday"))
    );
}

#[test]
fn a_forgotten_time_is_not_learned_again_from_the_workers_that_are_there() {
    let mut scene = Scene::new(1000, 1);
    for counts in scene.world.counts.values_mut() {
        counts.longest_seconds = 3000.0;
    }
    for _ in 0..100 {
        scene.work(1.4);
        scene.reconcile();
    }
    let longest = |status: &ScalingStatus| {
        let learned = status.learned.as_ref();
        learned.map(|learned| learned.longest_work_seconds)
    };
    let (status, _) = scene.reconcile();
    assert!(longest(&status).is_some_and(|longest| longest > 2000.0));
    scene.ask_to_forget("monday");
    for _ in 0..100 {
        scene.work(1.4);
        scene.reconcile();
    }
    let (status, _) = scene.reconcile();
    assert!(longest(&status).is_some_and(|longest| longest < 1.0));
}

#[test]
fn a_backlog_that_waits_for_the_activation_is_not_followed_and_the_condition_says_so() {
    let mut scene = Scene::new(1, 0);
    scene.pipeline.spec.scaling = serde_json::from_value(json!({
        "maxReplicas": 1, "activation": {"backlog": 10, "seconds": 60},
    }))
    .unwrap();
    let (status, verdict) = scene.reconcile();
    assert_eq!(status.limits, ["Activation"]);
    assert!(
        verdict.message.contains("scaling.activation"),
        "{}",
        verdict.message
    );
}

/// The number of workers that a plan wants.
fn replicas(scene: &Scene) -> i32 {
    plan(&scene.pipeline, &scene.world, None, scene.now).replicas
}

#[test]
fn recommend_starts_the_workers_again_that_a_conflict_stopped() {
    let mut scene = Scene::new(1000, 0);
    scene.pipeline.spec.scaling.mode = ScalingMode::Recommend;
    assert_eq!(replicas(&scene), 0);
    let mut status = scene.reconcile().0;
    status.reason = "Conflict".to_owned();
    scene.pipeline.status.as_mut().unwrap().scaling = Some(status);
    assert_eq!(replicas(&scene), 1);
    scene.reconcile();
    assert_eq!(replicas(&scene), 0, "once");
}

#[test]
fn the_recorded_number_of_workers_survives_other_modes() {
    let mut scene = Scene::new(1000, 1);
    scene.pipeline.spec.scaling.mode = ScalingMode::Manual;
    scene.pipeline.spec.scaling.max_replicas = 4;
    assert_eq!(scene.reconcile().0.recorded_replicas, Some(1));
    scene.pipeline.spec.scaling.replicas = Some(1);
    scene.pipeline.spec.scaling.mode = ScalingMode::Auto;
    assert_eq!(scene.reconcile().0.recorded_replicas, Some(1));
    scene.pipeline.spec.paused = true;
    assert_eq!(scene.reconcile().0.recorded_replicas, Some(1));
    scene.pipeline.spec.paused = false;
    scene.set_replicas(3);
    scene.pipeline.spec.scaling.mode = ScalingMode::Manual;
    let (status, _) = scene.reconcile();
    assert_eq!(
        (status.desired_replicas, status.recorded_replicas),
        (3, Some(3))
    );
}

#[test]
fn open_rechecks_are_remembered_and_wake_a_worker() {
    let mut scene = Scene::new(0, 1);
    for counts in scene.world.counts.values_mut() {
        counts.open_rechecks = Some(3);
    }
    let (status, verdict) = scene.reconcile();
    assert_eq!(
        (status.reason.as_str(), status.open_rechecks),
        ("Rechecking", Some(3))
    );
    assert_eq!(verdict.reason, Reason::FollowingBacklog);
    assert!(verdict.message.contains("recheck"), "{}", verdict.message);
    // All workers are stopped by hand, and the operator restarts.
    scene.pipeline.spec.scaling.mode = ScalingMode::Manual;
    scene.world.pods.clear();
    scene.world.counts.clear();
    scene.set_replicas(0);
    scene.memory = None;
    let (status, _) = scene.reconcile();
    assert_eq!(
        (status.desired_replicas, status.open_rechecks),
        (0, Some(3))
    );
    scene.pipeline.spec.scaling.mode = ScalingMode::Auto;
    scene.memory = None;
    let (status, _) = scene.reconcile();
    assert_eq!(
        (status.desired_replicas, status.reason.as_str()),
        (1, "Rechecking")
    );
}

#[test]
fn absurd_values_of_an_earlier_version_are_bounded() {
    let mut scene = Scene::new(10, 1);
    scene.pipeline.status = Some(IngestionPipelineStatus {
        scaling: Some(ScalingStatus {
            learned: Some(LearnedStatus {
                pages_per_second: 0.001,
                pages_per_document: 10.0,
                provisioning_seconds: 0.0,
                startup_seconds: 169_200.0,
                longest_work_seconds: 28_800.0,
            }),
            ..ScalingStatus::default()
        }),
        ..IngestionPipelineStatus::default()
    });
    let (status, _) = scene.reconcile();
    let learned = status.learned.clone().unwrap();
    assert!(
        learned.pages_per_second > 0.05 && learned.startup_seconds <= 1800.0,
        "{learned:?}"
    );
    assert_eq!(grace_seconds(&status), LONGEST_GRACE);
}

#[test]
fn workers_that_wait_for_a_job_leave_it_their_gpus() {
    let mut scene = scene_of_a_waiting_worker();
    let mut counts = scene.world.counts.values_mut();
    counts.next().unwrap().waits_for_model = false;
    assert_eq!(scene.reconcile().0.desired_replicas, 1, "it has other work");
    let mut counts = scene.world.counts.values_mut();
    counts.next().unwrap().waits_for_model = true;
    let (status, verdict) = scene.reconcile();
    assert_eq!(status.desired_replicas, 0);
    assert_eq!(verdict.reason, Reason::Reembedding);
    scene.world.pods.clear();
    scene.world.counts.clear();
    assert_eq!(scene.reconcile().0.desired_replicas, 0, "none takes it");
    let earlier = scene.world.clone();
    scene.world.reembed_pods.clear();
    assert_eq!(scene.reconcile().0.desired_replicas, 1, "the pod runs");
    scene.world = earlier;
    assert_eq!(scene.reconcile().0.desired_replicas, 1, "none went for it");
    let mut scene = scene_of_a_waiting_worker();
    assert_eq!(scene.reconcile().0.desired_replicas, 0);
    let long_ago = scene.now - SignedDuration::from_hours(1);
    let pending = scene.world.reembed_pods[0].unschedulable.as_mut().unwrap();
    pending.since = Some(long_ago);
    let (status, _) = scene.reconcile();
    assert_eq!(status.desired_replicas, 1, "something else keeps it");
}

/// A worker has the only GPU, and waits for a Job whose pod has no node.
fn scene_of_a_waiting_worker() -> Scene {
    let mut scene = Scene::new(10, 1);
    scene.pipeline.spec.worker.gpu = Some(GpuSpec {
        resource: "nvidia.com/gpu".into(),
        count: 1,
    });
    let pending = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "Insufficient nvidia.com/gpu"}]);
    let pod = json!({"metadata": {"name": "job"}, "status": {"conditions": pending}});
    scene.world.reembed_pods = vec![fixtures::pod(pod)];
    let counts = scene.world.counts.values_mut().next().unwrap();
    counts.waiting_for = vec!["milvus".into()];
    counts.waits_for_model = true;
    scene
}
