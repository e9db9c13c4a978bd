use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::{
    fixtures,
    reconcile::{
        plan::conditions::Status,
        world::{Live, SecretState},
    },
};

fn world(status: impl Into<Value>, pods: Vec<Value>) -> World {
    let status: Value = status.into();
    let deployment = json!({"metadata": {"generation": 1}, "status": status,
        "spec": {"selector": {}, "template": {}}});
    World {
        live: Live {
            deployment: Some(Arc::new(serde_json::from_value(deployment).unwrap())),
            ..Live::default()
        },
        pods: pods.into_iter().map(fixtures::pod).collect(),
        ..World::unobserved()
    }
}

fn counts(replicas: i32, updated: i32, ready: i32) -> Value {
    json!({"observedGeneration": 1, "replicas": replicas, "updatedReplicas": updated,
        "readyReplicas": ready})
}

fn pod(container: &Value) -> Value {
    let mut status = json!({"name": "worker", "image": "worker:9", "imageID": "", "ready": false,
        "restartCount": 0});
    for (key, value) in container.as_object().unwrap() {
        status[key] = value.clone();
    }
    json!({"status": {"containerStatuses": [status]}})
}

fn pending(message: &str) -> Value {
    json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": message,
        "lastTransitionTime": "2026-11-23T10:00:00Z"}]}})
}

fn judge_world(world: &World, desired: i32) -> Verdict {
    let mut spec = fixtures::pipeline().spec;
    spec.worker.gpu = Some(layra_crds::GpuSpec {
        resource: "nvidia.com/gpu".into(),
        count: 1,
    });
    judge(&spec, world, desired, true, None)
}

#[test]
fn pods_that_kubernetes_refuses_are_reported_with_its_words() {
    let words = "pods \"ingest-worker-1\" is forbidden: exceeded quota: gpus";
    let with = |replicas, updated, ready| {
        let mut status = counts(replicas, updated, ready);
        status["conditions"] = json!([
            {"type": "Available", "status": "False", "message": "no"},
            {"type": "ReplicaFailure", "status": "True", "message": words},
        ]);
        judge_world(&world(status, vec![]), 2)
    };
    for (replicas, updated, ready) in [(0, 0, 0), (2, 1, 2)] {
        let verdict = with(replicas, updated, ready);
        assert_eq!(verdict.reason, Reason::WorkersCannotStart);
        assert!(verdict.message.contains(words), "{}", verdict.message);
    }
    // The workers that exist do the work; the scaling decision shows that there are fewer.
    assert_eq!(with(1, 1, 1).reason, Reason::WorkersReady);
}

#[test]
fn zero_workers_are_available_when_none_are_needed() {
    let verdict = judge_world(&world(counts(0, 0, 0), vec![]), 0);
    assert_eq!(
        (verdict.status, verdict.reason),
        (Status::True, Reason::ScaledToZero)
    );
}

#[test]
fn one_ready_worker_is_enough_to_be_available() {
    let verdict = judge_world(&world(counts(3, 3, 1), vec![]), 3);
    assert_eq!(
        verdict,
        Verdict::yes(Reason::WorkersReady, "1 of 3 workers are ready.")
    );
}

#[test]
fn starting_workers_are_not_yet_available() {
    let verdict = judge_world(&world(counts(1, 1, 0), vec![]), 1);
    assert_eq!(
        (verdict.status, verdict.reason),
        (Status::False, Reason::WorkersStarting)
    );
}

#[test]
fn old_pods_are_a_rollout() {
    let verdict = judge_world(&world(counts(2, 1, 2), vec![]), 2);
    assert_eq!(verdict.reason, Reason::RolloutInProgress);
    assert_eq!(
        verdict.message,
        "1 of 2 workers have the current configuration."
    );
}

#[test]
fn replica_counts_from_before_the_last_change_are_ignored() {
    let mut stale = counts(2, 2, 2);
    stale["observedGeneration"] = json!(0);
    let before = Verdict::no(Reason::RolloutInProgress, "as before");
    let spec = fixtures::pipeline().spec;
    let verdict = judge(&spec, &world(stale, vec![]), 2, true, Some(before.clone()));
    assert_eq!(verdict, before);
}

#[test]
fn an_outdated_template_is_a_rollout_whatever_the_replica_counts() {
    let spec = fixtures::pipeline().spec;
    let verdict = judge(&spec, &world(counts(2, 2, 2), vec![]), 2, false, None);
    assert_eq!(verdict.reason, Reason::RolloutInProgress);
}

#[test]
fn a_missing_secret_is_named() {
    let mut world = world(counts(1, 1, 0), vec![]);
    world.secrets.push(SecretState {
        kind: layra_crds::SecretKind::Mongodb,
        name: "mongo".into(),
        problem: Some(Problem::new(Reason::SecretNotFound, "Secret mongo ...")),
    });
    assert_eq!(judge_world(&world, 1).reason, Reason::SecretNotFound);
}

#[test]
fn an_image_that_cannot_be_pulled_is_named() {
    for reason in ["ErrImagePull", "ImagePullBackOff", "InvalidImageName"] {
        let pod = pod(&json!({"state": {"waiting": {"reason": reason}}}));
        let verdict = judge_world(&world(counts(2, 1, 1), vec![pod]), 2);
        assert_eq!(
            (verdict.status, verdict.reason),
            (Status::False, Reason::ImagePullFailed)
        );
        assert!(verdict.message.contains("worker:9"), "{}", verdict.message);
    }
}

#[test]
fn a_crash_is_reported_before_the_kubelet_calls_it_a_loop() {
    let end = json!({"terminated": {"exitCode": 1, "reason": "Error",
        "message": "the bucket minio-file does not exist"}});
    for state in [
        json!({"lastState": end, "state": {"running": {}}, "restartCount": 1}),
        json!({"state": end}),
        json!({"lastState": end, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}),
    ] {
        let verdict = judge_world(&world(counts(1, 1, 0), vec![pod(&state)]), 1);
        assert_eq!(verdict.reason, Reason::WorkersCrashing);
        assert!(
            verdict
                .message
                .ends_with("the bucket minio-file does not exist")
        );
    }
}

#[test]
fn a_worker_that_recovered_is_not_crashing() {
    let state = json!({"ready": true, "restartCount": 1, "state": {"running": {}},
        "lastState": {"terminated": {"exitCode": 1}}});
    assert!(judge_world(&world(counts(1, 1, 1), vec![pod(&state)]), 1).is_true());
}

#[test]
fn out_of_memory_names_the_setting() {
    let state = json!({"lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}});
    let verdict = judge_world(&world(counts(1, 1, 0), vec![pod(&state)]), 1);
    assert!(
        verdict.message.contains("worker.resources.limits.memory"),
        "{}",
        verdict.message
    );
}

#[test]
fn workers_pending_for_a_gpu_are_counted_with_the_time_of_the_first() {
    let reason = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.";
    let none = judge_world(
        &world(counts(2, 2, 0), vec![pending(reason), pending(reason)]),
        2,
    );
    assert_eq!(
        (none.status, none.reason),
        (Status::False, Reason::WaitingForGPU)
    );
    assert!(
        none.message.starts_with(
            "2 workers have been pending since 2026-11-23T10:00:00Z because no node has a free nvidia.com/gpu."
        ),
        "{}",
        none.message
    );

    let some = judge_world(&world(counts(2, 2, 1), vec![pending(reason)]), 2);
    assert_eq!(
        (some.status, some.reason),
        (Status::True, Reason::WaitingForGPU)
    );
}

#[test]
fn any_other_reason_of_the_scheduler_is_quoted() {
    let reason = "0/2 nodes are available: 2 Insufficient memory.";
    let verdict = judge_world(&world(counts(1, 1, 0), vec![pending(reason)]), 1);
    assert_eq!(verdict.reason, Reason::Unschedulable);
    assert!(verdict.message.ends_with(reason));
}

#[test]
fn a_model_that_cannot_be_fetched_is_reported_with_the_reason() {
    let status = json!({"name": "fetch-model", "image": "worker:9", "imageID": "", "ready": false,
        "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "message": "s3://models/x has no file config.json"}}});
    let waiting = json!({"name": "worker", "image": "worker:9", "imageID": "", "ready": false,
        "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}});
    let pod =
        json!({"status": {"initContainerStatuses": [status], "containerStatuses": [waiting]}});
    let verdict = judge_world(&world(counts(1, 1, 0), vec![pod]), 1);
    assert_eq!(
        verdict,
        Verdict::no(
            Reason::WorkersCrashing,
            "The model cannot be fetched: s3://models/x has no file config.json"
        )
    );
}
