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
    judge(&spec, world, &situation(desired))
}

fn situation(desired: i32) -> Situation {
    Situation {
        desired,
        template_current: true,
        overridden: None,
        reverted: None,
        upgrade_held: None,
        model_reference: None,
        previous: None,
        startup_seconds: 60.0,
        now: "2026-11-25T10:10:00Z".parse().unwrap(),
    }
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
    let situation = Situation {
        previous: Some(before.clone()),
        ..situation(2)
    };
    let verdict = judge(&spec, &world(stale, vec![]), &situation);
    assert_eq!(verdict, before);
}

#[test]
fn an_outdated_template_is_a_rollout_whatever_the_replica_counts() {
    let spec = fixtures::pipeline().spec;
    let situation = Situation {
        template_current: false,
        ..situation(2)
    };
    let verdict = judge(&spec, &world(counts(2, 2, 2), vec![]), &situation);
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

#[test]
fn an_evicted_pod_is_no_problem_of_the_workers() {
    let mut evicted = pod(&json!({"state": {"terminated": {"exitCode": 137}}}));
    evicted["status"]["phase"] = json!("Failed");
    evicted["status"]["reason"] = json!("Evicted");
    let verdict = judge_world(&world(counts(2, 2, 2), vec![evicted]), 2);
    assert_eq!(verdict.reason, Reason::WorkersReady);
}

#[test]
fn one_crash_of_fifty_is_shown_and_the_workers_stay_available() {
    let crash = pod(&json!({"state": {"terminated": {"exitCode": 1, "message": "no such file"}}}));
    let verdict = judge_world(&world(counts(50, 50, 49), vec![crash.clone()]), 50);
    assert_eq!(
        verdict,
        Verdict::yes(
            Reason::WorkersCrashing,
            "49 of 50 workers are ready. A worker crashed: no such file"
        )
    );
    let rollout = judge_world(&world(counts(50, 1, 49), vec![crash.clone()]), 50);
    assert!(
        !rollout.is_true(),
        "the new workers are the ones that crash"
    );
    let all = judge_world(&world(counts(50, 50, 0), vec![crash]), 50);
    assert!(!all.is_true());
}

#[test]
fn while_the_deployment_is_scaled_one_crash_does_not_make_the_workers_unavailable() {
    let crash = pod(&json!({"state": {"terminated": {"exitCode": 1}}}));
    let mut stale = counts(50, 50, 49);
    stale["observedGeneration"] = json!(0);
    let with = |previous| {
        let situation = Situation {
            previous: Some(previous),
            ..situation(60)
        };
        let spec = fixtures::pipeline().spec;
        judge(
            &spec,
            &world(stale.clone(), vec![crash.clone()]),
            &situation,
        )
    };
    assert!(with(Verdict::yes(Reason::WorkersCrashing, "")).is_true());
    assert!(!with(Verdict::no(Reason::RolloutInProgress, "")).is_true());
}

/// A pod `a` that has not been ready since this time.
fn unready(since: &str) -> Value {
    json!({"metadata": {"name": "a"}, "status": {
        "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": since}],
        "containerStatuses": [{"name": "worker", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}]}})
}

#[test]
fn a_worker_may_start_for_as_long_as_the_deployment_allows_or_three_learned_starts() {
    let mut world = world(counts(1, 1, 0), vec![unready("2026-11-25T10:00:00Z")]);
    let deadline = |world: &mut World, seconds| {
        let mut deployment = world.live.deployment.as_deref().unwrap().clone();
        deployment.spec.as_mut().unwrap().progress_deadline_seconds = Some(seconds);
        world.live.deployment = Some(Arc::new(deployment));
    };
    deadline(&mut world, 601);
    assert_eq!(judge_world(&world, 1).reason, Reason::WorkersStarting);
    deadline(&mut world, 599);
    let verdict = judge_world(&world, 1);
    assert_eq!(verdict.reason, Reason::ProgressDeadlineExceeded);
    assert_eq!(
        verdict.message,
        "The worker did not become ready in 599 s. Their containers wait: ContainerCreating. The events and the log of the pods have the cause."
    );
    let slow = Situation {
        startup_seconds: 201.0,
        ..situation(1)
    };
    let spec = fixtures::pipeline().spec;
    assert_eq!(
        judge(&spec, &world, &slow).reason,
        Reason::WorkersStarting,
        "it is known to take long"
    );
}

#[test]
fn a_rollout_that_the_deployment_gave_up_is_no_longer_in_progress() {
    let mut status = counts(2, 1, 1);
    status["conditions"] = json!([{"type": "Progressing", "status": "False",
        "reason": "ProgressDeadlineExceeded", "message": "ReplicaSet \"a\" has timed out."}]);
    let verdict = judge_world(&world(status, vec![]), 2);
    assert_eq!(verdict.reason, Reason::ProgressDeadlineExceeded);
    assert!(verdict.message.ends_with("has timed out."));
}

#[test]
fn workers_that_wait_for_a_store_name_it() {
    let mut waiting = world(counts(1, 1, 0), vec![unready("2026-11-25T10:09:00Z")]);
    let waits = layra_autoscaler::Counts {
        waiting_for: vec!["mongodb".into(), "object-store".into()],
        ..layra_autoscaler::Counts::default()
    };
    waiting.counts.insert("a".into(), waits);
    let verdict = judge_world(&waiting, 1);
    assert_eq!(
        (verdict.status, verdict.reason),
        (Status::False, Reason::WorkersWaiting)
    );
    assert!(
        verdict
            .message
            .contains("they wait for mongodb; object-store."),
        "{}",
        verdict.message
    );

    let moment = Situation {
        now: "2026-11-25T10:09:29Z".parse().unwrap(),
        ..situation(1)
    };
    let spec = fixtures::pipeline().spec;
    assert_eq!(
        judge(&spec, &waiting, &moment).reason,
        Reason::WorkersStarting,
        "one lost answer is not an outage"
    );
    let one_of_two = judge_world(
        &World {
            live: world(counts(2, 2, 1), vec![]).live,
            ..waiting
        },
        2,
    );
    assert_eq!(one_of_two.reason, Reason::WorkersReady);
}

#[test]
fn a_change_by_another_writer_is_shown_beside_the_state_of_the_workers() {
    let spec = fixtures::pipeline().spec;
    let changed = |desired, ready| {
        let situation = Situation {
            overridden: Some("Another writer changes the Deployment.".into()),
            ..situation(desired)
        };
        judge(
            &spec,
            &world(counts(desired, desired, ready), vec![]),
            &situation,
        )
    };
    assert_eq!(
        changed(2, 2),
        Verdict::yes(
            Reason::ChangedByOthers,
            "2 of 2 workers are ready. Another writer changes the Deployment."
        )
    );
    assert_eq!(changed(2, 0).reason, Reason::WorkersStarting);
    let reverted = Situation {
        template_current: false,
        reverted: Some("Another client changes the Deployment back.".into()),
        ..situation(2)
    };
    let verdict = judge(&spec, &world(counts(2, 2, 2), vec![]), &reverted);
    assert_eq!(
        (verdict.status, verdict.reason),
        (Status::False, Reason::ChangedByOthers)
    );
}

#[test]
fn a_new_worker_that_waits_for_a_server_quotes_it_and_the_message_does_not_flip() {
    let mut waiting = world(counts(1, 1, 0), vec![unready("2026-11-25T10:09:00Z")]);
    let mut retrying = |words: &str, waits_for_model: bool| {
        let counts = layra_autoscaler::Counts {
            retrying: vec![format!("stage mongodb is retrying: {words}")],
            waits_for_model,
            ..layra_autoscaler::Counts::default()
        };
        waiting.counts.insert("a".into(), counts);
        waiting.clone()
    };
    let spec = fixtures::pipeline().spec;
    let first = judge(&spec, &retrying("connection refused", false), &situation(1));
    assert_eq!(
        first,
        Verdict::no(
            Reason::WorkersWaiting,
            "No worker is ready, stage mongodb is retrying: connection refused. Check that the server is up, and its address and Secret."
        )
    );
    let other_model = "c was embedded with another model. Run layra-worker reembed";
    for (waits_for_model, ending) in [
        (true, "layra-worker reembed."),
        // A worker of an earlier version gives no reasons.
        (false, "its address and Secret."),
    ] {
        let verdict = judge(
            &spec,
            &retrying(other_model, waits_for_model),
            &situation(1),
        );
        assert!(verdict.message.ends_with(ending), "{}", verdict.message);
    }
    let next = Situation {
        previous: Some(first.clone()),
        ..situation(1)
    };
    assert_eq!(
        judge(&spec, &retrying("timed out in 3.2 s", false), &next),
        first
    );
    let silent = world(counts(1, 1, 0), vec![unready("2026-11-25T10:09:00Z")]);
    assert_eq!(judge(&spec, &silent, &next), first, "its answer was lost");
}
