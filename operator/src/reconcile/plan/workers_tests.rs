use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::{
    fixtures,
    reconcile::{
        plan::conditions::Holds,
        world::{Live, SecretSeen},
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
        ..World::unseen()
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
fn no_workers_are_fine_when_none_are_needed() {
    let verdict = judge_world(&world(counts(0, 0, 0), vec![]), 0);
    assert_eq!(
        (verdict.holds, verdict.reason.as_str()),
        (Holds::True, "ScaledToZero")
    );
}

#[test]
fn some_ready_workers_are_available_workers() {
    let verdict = judge_world(&world(counts(3, 3, 1), vec![]), 3);
    assert_eq!(
        verdict,
        Verdict::yes("WorkersReady", "1 of 3 workers are ready.")
    );
}

#[test]
fn workers_that_start_are_not_yet_available() {
    let verdict = judge_world(&world(counts(1, 1, 0), vec![]), 1);
    assert_eq!(
        (verdict.holds, verdict.reason.as_str()),
        (Holds::False, STARTING)
    );
}

#[test]
fn old_pods_are_a_rollout() {
    let verdict = judge_world(&world(counts(2, 1, 2), vec![]), 2);
    assert_eq!(verdict.reason, ROLLOUT);
    assert_eq!(
        verdict.message,
        "1 of 2 workers have the current configuration."
    );
}

#[test]
fn numbers_from_before_the_last_change_are_not_believed() {
    let mut stale = counts(2, 2, 2);
    stale["observedGeneration"] = json!(0);
    let before = Verdict::no(ROLLOUT, "as before");
    let spec = fixtures::pipeline().spec;
    let verdict = judge(&spec, &world(stale, vec![]), 2, true, Some(&before));
    assert_eq!(verdict, before);
}

#[test]
fn a_wrong_template_is_a_rollout_whatever_the_numbers_say() {
    let spec = fixtures::pipeline().spec;
    let verdict = judge(&spec, &world(counts(2, 2, 2), vec![]), 2, false, None);
    assert_eq!(verdict.reason, ROLLOUT);
}

#[test]
fn a_missing_secret_is_named() {
    let mut world = world(counts(1, 1, 0), vec![]);
    world.secrets.push(SecretSeen {
        kind: layra_crds::SecretKind::Mongodb,
        name: "mongo".into(),
        problem: Some(Problem::new("SecretNotFound", "Secret mongo ...")),
    });
    assert_eq!(judge_world(&world, 1).reason, "SecretNotFound");
}

#[test]
fn an_image_that_cannot_be_pulled_is_named() {
    for reason in ["ErrImagePull", "ImagePullBackOff", "InvalidImageName"] {
        let pod = pod(&json!({"state": {"waiting": {"reason": reason}}}));
        let verdict = judge_world(&world(counts(2, 1, 1), vec![pod]), 2);
        assert_eq!(
            (verdict.holds, verdict.reason.as_str()),
            (Holds::False, IMAGE_PULL_FAILED)
        );
        assert!(verdict.message.contains("worker:9"), "{}", verdict.message);
    }
}

#[test]
fn a_crash_is_seen_before_the_kubelet_calls_it_a_loop() {
    let end = json!({"terminated": {"exitCode": 1, "reason": "Error",
        "message": "the bucket minio-file does not exist"}});
    for state in [
        json!({"lastState": end, "state": {"running": {}}, "restartCount": 1}),
        json!({"state": end}),
        json!({"lastState": end, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}),
    ] {
        let verdict = judge_world(&world(counts(1, 1, 0), vec![pod(&state)]), 1);
        assert_eq!(verdict.reason, CRASHING);
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
fn workers_without_a_gpu_say_how_many_and_since_when() {
    let waits = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.";
    let none = judge_world(
        &world(counts(2, 2, 0), vec![pending(waits), pending(waits)]),
        2,
    );
    assert_eq!(
        (none.holds, none.reason.as_str()),
        (Holds::False, WAITING_FOR_GPU)
    );
    assert!(
        none.message.starts_with(
            "2 workers wait for a node with free nvidia.com/gpu since 2026-11-23T10:00:00Z."
        ),
        "{}",
        none.message
    );

    let some = judge_world(&world(counts(2, 2, 1), vec![pending(waits)]), 2);
    assert_eq!(
        (some.holds, some.reason.as_str()),
        (Holds::True, WAITING_FOR_GPU)
    );
}

#[test]
fn any_other_lack_is_quoted() {
    let waits = "0/2 nodes are available: 2 Insufficient memory.";
    let verdict = judge_world(&world(counts(1, 1, 0), vec![pending(waits)]), 1);
    assert_eq!(verdict.reason, UNSCHEDULABLE);
    assert!(verdict.message.ends_with(waits));
}

#[test]
fn a_model_that_cannot_be_fetched_is_said_with_its_reason() {
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
            CRASHING,
            "The model cannot be fetched: s3://models/x has no file config.json"
        )
    );
}
