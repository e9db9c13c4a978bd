//! Each fault as the API server shows it, and what the doctor says about it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::finding::{Read, Severity, Source};
use super::*;

#[path = "pods_tests.rs"]
mod of_pods;
#[path = "installation_tests.rs"]
mod of_the_installation;

const MINIMAL: &str = include_str!("../../../../docs/examples/minimal.yaml");
const NOW: &str = "2026-11-28T02:00:00Z";
const RECENTLY: &str = "2026-11-28T01:58:00Z";
const YESTERDAY: &str = "2026-11-27T02:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn condition(kind: &str, status: &str, reason: &str) -> Value {
    json!({
        "type": kind, "status": status, "reason": reason, "message": "The words.",
        "lastTransitionTime": NOW,
    })
}

fn keys(names: &[&str]) -> Read<BTreeSet<String>> {
    Read::Found(names.iter().map(|name| (*name).to_owned()).collect())
}

fn pipeline() -> Value {
    let mut pipeline: Value = serde_yaml_ng::from_str(MINIMAL).unwrap();
    pipeline["metadata"]["namespace"] = json!("rag");
    pipeline["metadata"]["generation"] = json!(2);
    pipeline["status"] = json!({
        "observedGeneration": 2,
        "conditions": [
            condition("Ready", "True", "PipelineReady"),
            condition("WorkersAvailable", "True", "WorkersReady"),
        ],
    });
    pipeline
}

fn deployment() -> Value {
    json!({
        "metadata": {"name": "contracts-worker", "namespace": "rag"},
        "spec": {
            "replicas": 1, "selector": {},
            "template": {"spec": {"containers": [{
                "name": "worker", "image": "registry/layra-worker:0.1.0",
                "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "4Gi"}},
            }]}},
        },
    })
}

fn operator() -> Value {
    json!({
        "metadata": {"name": "layra-operator", "namespace": "ops",
                     "labels": {"app.kubernetes.io/version": env!("CARGO_PKG_VERSION")}},
        "spec": {
            "replicas": 1, "selector": {},
            "template": {"spec": {"containers": [{
                "name": "operator", "image": "registry/layra-operator:0.1.0",
                "env": [{"name": "WATCH_NAMESPACES", "value": "other, rag"},
                        {"name": "WORKER_IMAGE", "value": "registry/layra-worker:0.1.0"}],
            }]}},
        },
        "status": {"availableReplicas": 1},
    })
}

fn pod(status: &Value) -> Value {
    json!({"metadata": {"name": "w-1"}, "spec": {"containers": [], "nodeName": "n-1"},
           "status": status})
}

fn ready_pod() -> Value {
    pod(&json!({
        "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [container(&json!({"running": {}}), &json!({}), 0)],
    }))
}

fn container(state: &Value, last: &Value, restarts: i32) -> Value {
    json!({
        "name": "worker", "image": "registry/layra-worker:0.1.0", "imageID": "", "ready": false,
        "restartCount": restarts, "state": state, "lastState": last,
    })
}

fn with_container(state: &Value, last: &Value, restarts: i32) -> Value {
    pod(&json!({
        "phase": "Running", "containerStatuses": [container(state, last, restarts)],
    }))
}

/// A pipeline of which everything is as it should be.
fn healthy() -> Seen {
    Seen {
        now: now(),
        namespace: "rag".to_owned(),
        name: "contracts".to_owned(),
        pipeline: from(pipeline()),
        deployment: Read::Found(from(deployment())),
        pods: vec![from(ready_pod())],
        events: Vec::new(),
        sources: BTreeMap::from([
            (
                (Source::Secret, "s3".to_owned()),
                keys(&["accessKey", "secretKey"]),
            ),
            ((Source::Secret, "mongodb".to_owned()), keys(&["uri"])),
        ]),
        quotas: Vec::new(),
        operators: vec![from(operator())],
    }
}

/// The only finding, without notes.
fn only(seen: &Seen) -> Finding {
    let mut findings = check(seen);
    findings.retain(|finding| finding.severity != Severity::Note);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    findings.remove(0)
}

fn shown(finding: &Finding) -> String {
    let to_do = finding.to_do.as_deref().unwrap_or_default();
    format!("{}: {} DO {to_do}", finding.about, finding.what)
}

#[track_caller]
fn says(finding: &Finding, severity: Severity, words: &[&str]) {
    let shown = shown(finding);
    assert_eq!(finding.severity, severity, "{shown}");
    for word in words {
        assert!(shown.contains(word), "{word:?} is missing: {shown}");
    }
}

#[test]
fn nothing_is_said_about_a_healthy_pipeline() {
    assert_eq!(check(&healthy()), []);
}

#[test]
fn a_condition_comes_with_the_advice_of_the_guide() {
    let mut seen = healthy();
    let mut object = pipeline();
    object["status"]["conditions"] = json!([
        condition("Ready", "False", "MilvusUnreachable"),
        condition("VectorStoreReady", "False", "MilvusUnreachable"),
    ]);
    seen.pipeline = from(object.clone());
    let words = [
        "condition VectorStoreReady: MilvusUnreachable: The words.",
        "stores.milvus.uri",
    ];
    says(&only(&seen), Severity::Problem, &words);

    for (kind, status, reason, severity) in [
        ("Scaling", "True", "AtMaxReplicas", Severity::Warning),
        (
            "WorkersAvailable",
            "False",
            "WorkersStarting",
            Severity::Note,
        ),
        ("VectorStoreReady", "True", "Rebuilding", Severity::Note),
        ("WorkersAvailable", "True", "UpgradeHeld", Severity::Note),
    ] {
        object["status"]["conditions"] = json!([condition(kind, status, reason)]);
        seen.pipeline = from(object.clone());
        let findings = check(&seen);
        assert_eq!(findings.len(), 1, "{findings:#?}");
        assert_eq!(findings[0].severity, severity, "{reason}");
    }
}

#[test]
fn a_paused_pipeline_says_how_to_go_on() {
    let mut seen = healthy();
    let mut object = pipeline();
    object["spec"]["paused"] = json!(true);
    object["status"]["conditions"] = json!([condition("Ready", "False", "Paused")]);
    seen.pipeline = from(object);
    says(
        &only(&seen),
        Severity::Warning,
        &["kubectl layra resume contracts -n rag"],
    );
}

#[test]
fn an_object_that_no_operator_has_handled_is_a_problem() {
    let mut seen = healthy();
    let mut object = pipeline();
    object.as_object_mut().unwrap().remove("status");
    seen.pipeline = from(object);
    says(
        &only(&seen),
        Severity::Problem,
        &["no operator has handled it", "namespace rag"],
    );

    let mut object = pipeline();
    object["metadata"]["generation"] = json!(3);
    seen.pipeline = from(object);
    let findings = check(&seen);
    says(
        &findings[0],
        Severity::Note,
        &["has not handled its last edit"],
    );

    let mut seen = healthy();
    seen.deployment = Read::Absent;
    says(
        &only(&seen),
        Severity::Problem,
        &["Deployment contracts-worker: It does not exist"],
    );
    // Of what may not be read nothing is said.
    seen.deployment = Read::Unread;
    assert_eq!(check(&seen), []);
}

#[test]
fn a_missing_secret_is_reported_once_with_the_field_that_names_it() {
    let mut seen = healthy();
    let s3 = (Source::Secret, "s3".to_owned());
    let mongodb = (Source::Secret, "mongodb".to_owned());
    seen.sources.insert(mongodb.clone(), Read::Absent);
    let words = [
        "Secret mongodb: It does not exist in namespace rag; stores.mongodb.uriSecretRef names it.",
        "`kubectl -n rag create secret generic mongodb --from-literal=uri=VALUE`",
    ];
    says(&only(&seen), Severity::Problem, &words);

    seen.sources.insert(mongodb, keys(&["uri"]));
    seen.sources
        .insert(s3.clone(), keys(&["accessKey", "password"]));
    let words = [
        "Secret s3: It lacks the key secretKey, or the key is empty (it has accessKey, password)",
        "documents.objectStore.secretKeySecretRef",
        r#"patch secret s3 -p '{"stringData":{"secretKey":"VALUE"}}'"#,
    ];
    says(&only(&seen), Severity::Problem, &words);

    seen.sources.insert(s3, Read::Unread);
    assert_eq!(check(&seen), []);
}

#[test]
fn what_the_pods_name_is_looked_for_unless_it_is_optional() {
    let mut seen = healthy();
    let mut workers = deployment();
    let template = &mut workers["spec"]["template"]["spec"];
    template["containers"][0]["env"] = json!([
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "extra", "key": "a"}}},
        {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "secretKey"}}},
        {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "may", "key": "c", "optional": true}}},
    ]);
    template["volumes"] = json!([
        {"name": "v", "configMap": {"name": "contracts-worker"}},
        {"name": "p", "projected": {"sources": [
            {"configMap": {"name": "bundle", "items": [{"key": "ca.pem", "path": "ca.pem"}]}}]}},
    ]);
    let pod = from::<k8s_openapi::api::apps::v1::Deployment>(workers.clone());
    let pod = pod.spec.unwrap().template.spec.unwrap();
    let all = references::references(&seen.pipeline.spec, Some(&pod));
    let of_pods: Vec<(&str, Option<&str>)> = all
        .iter()
        .filter(|reference| reference.by == "the workers' pod template")
        .map(|reference| (reference.name.as_str(), reference.key.as_deref()))
        .collect();
    let expected = [
        ("extra", Some("a")),
        ("bundle", Some("ca.pem")),
        ("contracts-worker", None),
    ];
    assert_eq!(of_pods, expected);

    seen.deployment = Read::Found(from(workers));
    seen.sources
        .insert((Source::ConfigMap, "bundle".to_owned()), keys(&["other"]));
    let words = [
        "ConfigMap bundle: It lacks the key ca.pem",
        "patch configmap bundle",
    ];
    says(&only(&seen), Severity::Problem, &words);
    seen.sources
        .insert((Source::ConfigMap, "bundle".to_owned()), keys(&["ca.pem"]));
    seen.sources.insert(
        (Source::ConfigMap, "contracts-worker".to_owned()),
        Read::Absent,
    );
    says(
        &only(&seen),
        Severity::Problem,
        &["the operator runs: it creates it again"],
    );
}

#[test]
fn before_there_is_a_deployment_the_objects_own_template_counts() {
    let mut object = pipeline();
    object["spec"]["worker"] = json!({"podTemplate": {"spec": {
        "imagePullSecrets": [{"name": "registry"}]}}});
    let mut seen = healthy();
    seen.pipeline = from(object);
    seen.deployment = Read::Unread;
    seen.sources
        .insert((Source::Secret, "registry".to_owned()), Read::Absent);
    says(
        &only(&seen),
        Severity::Problem,
        &["Secret registry: It does not exist"],
    );
}

fn event(kind: &str, name: &str, reason: &str, time: &str) -> Value {
    json!({
        "metadata": {}, "involvedObject": {"kind": kind, "name": name}, "reason": reason,
        "message": "Its words.", "type": "Warning", "lastTimestamp": time,
    })
}

#[test]
fn events_of_the_last_hour_are_notes_unless_they_keep_workers_from_running() {
    let of = |events: Vec<Value>| {
        let mut seen = healthy();
        seen.events = events.into_iter().map(from).collect();
        check(&seen)
    };
    let findings = of(vec![event(
        "ReplicaSet",
        "contracts-worker-5d9",
        "FailedCreate",
        RECENTLY,
    )]);
    let words = [
        "ReplicaSet contracts-worker-5d9: Event FailedCreate, 2 min ago",
        "a quota",
    ];
    says(&findings[0], Severity::Warning, &words);
    // The pod is ready by now.
    let findings = of(vec![event("Pod", "w-1", "FailedMount", RECENTLY)]);
    says(
        &findings[0],
        Severity::Note,
        &["pod w-1: Event FailedMount"],
    );
    let findings = of(vec![
        event("Pod", "w-1", "Unhealthy", RECENTLY),
        event("Pod", "w-1", "Unhealthy", "2026-11-28T01:30:00Z"),
    ]);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    for (kind, name, reason, time) in [
        ("Pod", "another", "Unhealthy", RECENTLY),
        (
            "ReplicaSet",
            "contracts-worker-two-5d9",
            "FailedCreate",
            RECENTLY,
        ),
        (
            "IngestionPipeline",
            "invoices",
            "KafkaUnreachable",
            RECENTLY,
        ),
        ("Pod", "w-1", "Unhealthy", YESTERDAY),
    ] {
        assert_eq!(
            of(vec![event(kind, name, reason, time)]),
            [],
            "{kind} {name}"
        );
    }
}

#[test]
fn an_event_does_not_repeat_a_condition() {
    let mut seen = healthy();
    let mut object = pipeline();
    object["status"]["conditions"] = json!([condition("TopicReady", "False", "KafkaUnreachable")]);
    seen.pipeline = from(object);
    let event = event(
        "IngestionPipeline",
        "contracts",
        "KafkaUnreachable",
        RECENTLY,
    );
    seen.events = vec![from(event)];
    assert_eq!(check(&seen).len(), 1);
}
