//! Worker pods and the room for them.

use super::*;

#[test]
fn a_pod_without_a_node_quotes_the_scheduler_and_says_what_helps() {
    for (message, to_do) in [
        (
            "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
            "free GPU",
        ),
        (
            "0/3 nodes are available: 3 Insufficient memory.",
            "worker.resources",
        ),
        (
            "0/1 nodes are available: 1 node(s) had untolerated taint {a: b}.",
            "tolerations",
        ),
        (
            "0/1 nodes are available: 1 node(s) didn't match node selector.",
            "nodeSelector",
        ),
        ("persistentvolumeclaim \"models\" not found", "cacheClaim"),
        ("0/1 nodes are available: 1 Too many pods.", "Make room"),
    ] {
        let status = json!({"phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": message}]});
        let mut seen = healthy();
        seen.pods = vec![from(pod(&status))];
        says(
            &only(&seen),
            Severity::Problem,
            &["pod w-1: It has no node", message, to_do],
        );
    }
    let gated = json!({"phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]});
    let mut seen = healthy();
    seen.pods = vec![from(pod(&gated))];
    says(
        &only(&seen),
        Severity::Problem,
        &["SchedulingGated", "quota system"],
    );
}

#[test]
fn pods_with_the_same_problem_are_one_finding() {
    let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}});
    let mut pods = Vec::new();
    for name in ["w-1", "w-2", "w-3"] {
        let mut pod = with_container(&waiting, &json!({}), 0);
        pod["metadata"]["name"] = json!(name);
        pods.push(from(pod));
    }
    let mut seen = healthy();
    seen.pods = pods;
    let words = [
        "pod w-1 and 2 more: Image registry/layra-worker:0.1.0 cannot be pulled \
         (ImagePullBackOff): not found",
        "imagePullSecrets",
    ];
    says(&only(&seen), Severity::Problem, &words);
}

#[test]
fn containers_that_do_not_start_are_explained() {
    let crash = json!({"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": RECENTLY,
                                      "message": "MongodbUnreachable: no answer\n"}});
    let killed = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled",
                                       "finishedAt": RECENTLY}});
    let back_off = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}});
    let config = json!({"waiting": {"reason": "CreateContainerConfigError",
                                    "message": "secret \"s3\" not found"}});
    for (state, last, restarts, severity, words) in [
        (
            &back_off,
            &crash,
            5,
            Severity::Problem,
            [
                "restarted 5 times, last 2 min ago",
                "exit code 1: MongodbUnreachable",
                "kubectl layra logs contracts -n rag",
            ],
        ),
        (
            &back_off,
            &killed,
            1,
            Severity::Problem,
            [
                "was OOMKilled",
                "memory limit of 4Gi, and was restarted once",
                "limits.memory",
            ],
        ),
        (
            &json!({"running": {}}),
            &killed,
            1,
            Severity::Warning,
            ["was OOMKilled", "no document is lost", "restarted once"],
        ),
        (
            &json!({"running": {}}),
            &crash,
            3,
            Severity::Warning,
            ["restarted 3 times", "2 min ago", "--since 1h"],
        ),
        (
            &config,
            &json!({}),
            0,
            Severity::Problem,
            [
                "Container worker cannot be created",
                "secret \"s3\" not found",
                "Create what",
            ],
        ),
    ] {
        let mut seen = healthy();
        seen.pods = vec![from(with_container(state, last, restarts))];
        says(&only(&seen), severity, &words);
    }
}

#[test]
fn what_happened_yesterday_or_once_is_no_finding() {
    for (code, reason, end, restarts) in [
        (137, "OOMKilled", YESTERDAY, 1),
        (1, "Error", YESTERDAY, 7),
        (1, "Error", RECENTLY, 1),
        (0, "Completed", RECENTLY, 5),
    ] {
        let last = json!({"terminated": {"exitCode": code, "reason": reason, "finishedAt": end}});
        let mut seen = healthy();
        seen.pods = vec![from(with_container(
            &json!({"running": {}}),
            &last,
            restarts,
        ))];
        assert_eq!(check(&seen), [], "{reason} {end}");
    }
}

#[test]
fn a_pod_that_does_not_end_and_one_that_was_evicted_are_noticed() {
    let mut stuck = ready_pod();
    stuck["metadata"]["deletionTimestamp"] = json!(RECENTLY);
    let mut seen = healthy();
    seen.pods = vec![from(stuck.clone())];
    says(
        &only(&seen),
        Severity::Warning,
        &["node n-1 does not end it", "describe node n-1"],
    );
    stuck["metadata"]["deletionTimestamp"] = json!("2026-11-28T02:01:00Z");
    seen.pods = vec![from(stuck)];
    assert_eq!(check(&seen), []);

    let evicted = json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low."});
    seen.pods = vec![from(pod(&evicted)), from(ready_pod())];
    let findings = check(&seen);
    says(
        &findings[0],
        Severity::Note,
        &["(Evicted): The node was low."],
    );
}

#[test]
fn a_quota_without_room_is_a_problem_while_workers_are_missing() {
    let quota = |used: &str| {
        from(json!({"metadata": {"name": "team"}, "status": {
            "hard": {"requests.cpu": "8", "pods": "10", "count/secrets": "3"},
            "used": {"requests.cpu": used, "pods": "4", "count/secrets": "3"}}}))
    };
    let mut seen = healthy();
    seen.quotas = vec![quota("7500m")];
    let findings = check(&seen);
    says(
        &findings[0],
        Severity::Note,
        &["7500m of 8 requests.cpu are used"],
    );
    seen.pods.clear();
    let words = [
        "ResourceQuota team",
        "no room for one more worker",
        "Raise the quota",
    ];
    says(&only(&seen), Severity::Problem, &words);
    seen.quotas = vec![quota("7")];
    assert_eq!(check(&seen), []);
}
