//! `kubectl layra validate`.

use super::load::{result, script};
use super::*;

const EVENT: &str = "{\"timestamp\":\"t\",\"level\":\"INFO\",\"message\":\"stored\",\
                     \"spans\":[{\"file\":\"layraload_f-1\"}]}\n";
const METRICS: &str = "ingestion_memory_bytes{process=\"worker\"} 1048576\n";

/// A pipeline that is ready, with one worker.
fn good() -> Script {
    let mut worker_pod = json!({
        "metadata": {"name": "w-1", "creationTimestamp": "2026-11-28T02:00:00Z"},
        "spec": {"containers": [
            {"name": "worker", "resources": {"limits": {"memory": "2Gi"}}},
        ]},
    });
    worker_pod["status"] = running();
    Script {
        conditions: vec![json!({
            "type": "Ready", "status": "True", "reason": "PipelineReady", "message": "",
            "lastTransitionTime": "2026-11-28T02:00:00Z",
        })],
        workers: vec![worker_pod],
        others: vec![
            ("/pods/w-1/log", json!(EVENT)),
            ("/proxy/metrics", json!(METRICS)),
        ],
        ..script(&result())
    }
}

fn verdict(report: &Value, name: &str) -> Value {
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == name);
    check.map_or(Value::Null, |check| check["verdict"].clone())
}

#[test]
fn a_good_pipeline_is_validated_and_a_report_is_written() {
    let server = ApiServer::start(good());
    let file = server.directory.path().join("report.html");
    let arguments = format!(
        "validate contracts --documents 2 --pages 3 -o json --report {}",
        file.display()
    );
    let printed = server.run(&arguments);
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let report: Value = serde_json::from_str(&printed.output).unwrap();
    for name in [
        "pipeline",
        "documents",
        "lag",
        "memory",
        "restarts",
        "stores",
        "recall",
        "deletion",
        "logs",
    ] {
        assert_eq!(verdict(&report, name), "pass", "{name}: {report}");
    }
    for name in ["scraping", "alerts"] {
        assert_eq!(verdict(&report, name), "notChecked", "{name}: {report}");
    }
    let page = std::fs::read_to_string(file).unwrap();
    assert!(page.contains("<h1>validate rag/contracts</h1>"), "{page}");
    let created = server.script.lock().unwrap().created.remove(0);
    let arguments = &created["spec"]["template"]["spec"]["containers"][0]["args"];
    let expected = json!(["load", "--documents=2", "--pages=3", "--wait-minutes=30"]);
    assert_eq!(*arguments, expected);
    assert_eq!(server.deleted(), [format!("jobs/{JOB}")]);
}

#[test]
fn a_low_recall_and_a_page_that_a_deletion_left_fail_with_their_words() {
    let mut bad = result();
    bad["recall"]["found"] = json!(5);
    bad["left"] = json!(["object a.webp"]);
    let server = ApiServer::start(Script {
        logs: script(&bad).logs,
        ..good()
    });
    let printed = server.run("validate contracts --documents 2 --pages 3");
    assert_eq!(printed.code, Some(1), "{printed:?}");
    for words in [
        "FAIL         recall: 83 %: 5 of 6 pages",
        "FAIL         deletion: left: object a.webp",
        "expected: at least 95 %",
        "2 failed",
    ] {
        assert!(printed.output.contains(words), "{words}: {printed:?}");
    }
}

#[test]
fn what_may_not_be_read_is_not_checked() {
    let message = "pods \"w-1:9090\" is forbidden: User \"a\" cannot get resource \"pods/proxy\"";
    let mut script = good();
    script.others.retain(|(path, _)| *path != "/proxy/metrics");
    script.refused = vec![(
        "GET /api/v1/namespaces/rag/pods/w-1:9090",
        StatusCode::FORBIDDEN,
        message.to_owned(),
    )];
    let server = ApiServer::start(script);
    let printed = server.run("validate contracts --documents 2 --pages 3");
    assert_eq!(printed.code, Some(0), "{printed:?}");
    assert!(
        printed
            .output
            .contains("not checked  memory: no permission to get pods/proxy"),
        "{printed:?}"
    );
}

#[test]
fn prometheus_is_asked_through_the_api_server() {
    let mut script = good();
    let data = |data: Value| json!({"status": "success", "data": data});
    let targets = json!({"activeTargets": [{"labels": {"pod": "w-1"}, "health": "up"}]});
    script.others.extend([
        ("prom:9090/proxy/api/v1/targets", data(targets)),
        ("prom:9090/proxy/api/v1/rules", data(json!({"groups": []}))),
    ]);
    let server = ApiServer::start(script);
    let printed =
        server.run("validate contracts --documents 2 --pages 3 -o json --prometheus mon/prom:9090");
    assert_eq!(printed.code, Some(1), "{printed:?}");
    let report: Value = serde_json::from_str(&printed.output).unwrap();
    assert_eq!(verdict(&report, "scraping"), "pass", "{report}");
    assert_eq!(verdict(&report, "alerts"), "fail", "{report}");
}

#[test]
fn what_an_earlier_call_has_left_is_named_if_it_cannot_be_removed() {
    let mut script = good();
    let mut copy = script.pipeline();
    copy["metadata"] = json!({
        "name": "contracts-validate", "namespace": "rag", "uid": "2", "generation": 1,
        "labels": {"ingest.layra.io/validation-of": "contracts"},
    });
    copy["spec"]["source"]["kafka"]["topic"] = json!("tasks-validate-1a2b3c4d");
    script
        .others
        .push(("ingestionpipelines/contracts-validate", copy));
    script.refused = vec![(
        "PATCH /apis/ingest.layra.io/v1alpha1/namespaces/rag/ingestionpipelines/contracts-validate",
        StatusCode::FORBIDDEN,
        "User \"a\" cannot patch resource \"ingestionpipelines\"".to_owned(),
    )];
    let server = ApiServer::start(script);
    let printed = server.run("validate contracts --documents 2 --pages 3");
    assert_eq!(printed.code, Some(125), "{printed:?}");
    for words in [
        "left: IngestionPipeline contracts-validate",
        "tasks-validate-1a2b3c4d.ranges",
        "contracts-validate-milvus",
        "no permission to patch",
    ] {
        assert!(printed.notes.contains(words), "{words}: {printed:?}");
    }
    assert!(server.script.lock().unwrap().created.is_empty());
}

/// A Job with its configuration could delete the topic of another pipeline.
#[test]
fn a_copy_that_never_came_to_be_is_removed_without_a_job_for_its_topics() {
    let mut script = good();
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": "",
            "lastTransitionTime": "2026-11-28T02:00:00Z",
        })
    };
    let mut copy = script.pipeline();
    copy["metadata"] = json!({
        "name": "contracts-validate", "namespace": "rag", "uid": "2", "generation": 1,
        "labels": {"ingest.layra.io/validation-of": "contracts"},
    });
    copy["status"] = json!({"observedGeneration": 1, "conditions": [
        condition("TopicReady", "False", "TopicCreating"),
        condition("Stalled", "True", "Conflict"),
    ]});
    let path = "ingestionpipelines/contracts-validate";
    script.others.push((path, copy));
    let server = ApiServer::start(script);
    let printed = server.run("validate contracts --documents 2 --pages 3");
    assert_eq!(printed.code, Some(0), "{printed:?}");
    assert_eq!(server.deleted(), [path.to_owned(), format!("jobs/{JOB}")]);
    let created = server.script.lock().unwrap().created.clone();
    let commands: Vec<&Value> = created
        .iter()
        .map(|job| &job["spec"]["template"]["spec"]["containers"][0]["args"])
        .collect();
    let sends = json!(["load", "--documents=2", "--pages=3", "--wait-minutes=30"]);
    assert_eq!(commands, [&sends]);
}

#[test]
fn a_job_of_somebody_else_is_not_touched() {
    let mut script = good();
    let job = json!({"metadata": {"name": "contracts-validate-milvus", "uid": "3"}});
    script.others.push(("jobs/contracts-validate-milvus", job));
    let server = ApiServer::start(script);
    let faults = "--disruptive --faults milvus-cut-off";
    let printed = server.run(&format!(
        "validate contracts --documents 2 --pages 3 {faults}"
    ));
    assert_eq!(printed.code, Some(125), "{printed:?}");
    let words = "there is a Job contracts-validate-milvus that no validation has made";
    assert!(printed.notes.contains(words), "{printed:?}");
    assert_eq!(server.deleted(), [format!("jobs/{JOB}")]);
}

#[test]
fn faults_need_a_pipeline_that_can_be_copied() {
    let mut script = good();
    let mut pipeline = script.pipeline();
    pipeline["spec"]["source"]["kafka"]["manageTopics"] = json!(false);
    script.object = Some(pipeline);
    let server = ApiServer::start(script);
    let printed = server.run("validate contracts --disruptive");
    assert_eq!(printed.code, Some(125), "{printed:?}");
    assert!(printed.notes.contains("manageTopics"), "{printed:?}");
    let printed = server.run("validate contracts --faults killed-worker");
    assert_eq!(printed.code, Some(2), "{printed:?}");
    let printed = server.run("validate contracts --disruptive --faults earthquake");
    assert_eq!(printed.code, Some(2), "{printed:?}");
    assert!(printed.notes.contains("killed-renderer"), "{printed:?}");
    assert!(server.script.lock().unwrap().created.is_empty());
}
