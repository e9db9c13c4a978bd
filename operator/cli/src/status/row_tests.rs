use serde_json::{Value, json};

use super::*;

const MINIMAL: &str = include_str!("../../../../docs/examples/minimal.yaml");

fn row(spec: &Value, status: &Value) -> Row {
    let mut pipeline: Value = serde_yaml_ng::from_str(MINIMAL).unwrap();
    pipeline["metadata"]["namespace"] = json!("rag");
    pipeline["metadata"]["creationTimestamp"] = json!("2026-11-28T00:00:00Z");
    for (field, value) in spec.as_object().unwrap() {
        pipeline["spec"][field] = value.clone();
    }
    if !status.is_null() {
        pipeline["status"] = status.clone();
    }
    let pipeline: IngestionPipeline = serde_json::from_value(pipeline).unwrap();
    Row::of(&pipeline, "2026-11-28T02:00:00Z".parse().unwrap())
}

fn condition(kind: &str, status: &str, reason: &str) -> Value {
    json!({
        "type": kind, "status": status, "reason": reason, "message": "",
        "lastTransitionTime": "2026-11-28T00:00:00Z",
    })
}

fn busy() -> Value {
    json!({
        "lag": 30, "replicas": 3, "readyReplicas": 2,
        "conditions": [condition("Ready", "True", "PipelineReady")],
        "scaling": {
            "desiredReplicas": 3, "message": "",
            "inputs": {"documents": 50, "ranges": 10, "pages": 1200.0, "readyWorkers": 2,
                       "startingWorkers": 1, "waitingWorkers": 0, "oldestSeconds": 80.0,
                       "arrivingPagesPerSecond": 1.5},
            "learned": {"pagesPerSecond": 2.5, "pagesPerDocument": 8.0, "startupSeconds": 60.0,
                        "longestWorkSeconds": 30.0},
        },
    })
}

#[test]
fn the_eta_is_that_of_the_present_lag_at_the_speed_of_the_ready_workers() {
    // 30 of the 60 messages are left: 600 pages, at 5 pages a second.
    let row = row(&json!({}), &busy());
    assert_eq!(row.eta, Eta::Known { eta_seconds: 120 });
    assert_eq!(row.pages_per_second, Some(5.0));
    assert_eq!((row.ready_replicas, row.wanted_replicas), (2, Some(3)));
    assert_eq!((row.state, row.model.as_str()), (State::Ready, "minilm"));
    assert_eq!(row.age_seconds, Some(7200));
}

#[test]
fn without_the_pages_of_the_backlog_a_message_counts_as_an_average_document() {
    let mut status = busy();
    status["scaling"]["inputs"]["pages"] = Value::Null;
    let row = row(&json!({}), &status);
    assert_eq!(row.eta, Eta::Known { eta_seconds: 48 });
}

#[test]
fn nothing_is_promised_that_is_not_known() {
    let changed = |field: &str, value: Value| {
        let mut status = busy();
        status[field] = value;
        row(&json!({}), &status)
    };
    assert_eq!(changed("lag", json!(0)).eta, Eta::Nothing);
    assert_eq!(changed("lag", Value::Null).eta, Eta::Unknown);
    assert_eq!(changed("readyReplicas", json!(0)).eta, Eta::NoWorker);
    assert_eq!(changed("scaling", Value::Null).eta, Eta::Unknown);
    assert_eq!(changed("scaling", Value::Null).wanted_replicas, Some(3));
}

#[test]
fn the_mode_decides_which_replicas_are_wanted() {
    let wanted = |spec: &Value| row(spec, &busy()).wanted_replicas;
    let mut status = busy();
    status["scaling"]["desiredReplicas"] = json!(4);
    assert_eq!(row(&json!({}), &status).wanted_replicas, Some(4));
    assert_eq!(wanted(&json!({"scaling": {"mode": "Recommend"}})), Some(3));
    let manual = json!({"scaling": {"mode": "Manual", "replicas": 1}});
    assert_eq!(wanted(&manual), Some(1));
    assert_eq!(wanted(&json!({"paused": true})), Some(3));
}

#[test]
fn the_state_is_the_most_important_fact() {
    let of = |conditions: Vec<Value>| {
        let status = json!({"conditions": conditions});
        row(&json!({}), &status).state
    };
    let not_ready = condition("Ready", "False", "WorkersStarting");
    let reconciling = condition("Reconciling", "True", "WorkersStarting");
    let stalled = condition("Stalled", "True", "Conflict");
    assert_eq!(of(vec![not_ready.clone()]), State::NotReady);
    assert_eq!(of(vec![not_ready.clone(), reconciling]), State::InProgress);
    assert_eq!(of(vec![not_ready, stalled]), State::Stalled);
    assert_eq!(row(&json!({}), &Value::Null).state, State::Unseen);
    assert_eq!(row(&json!({"paused": true}), &busy()).state, State::Paused);
}

#[test]
fn a_lag_of_which_partitions_are_missing_is_a_lower_bound() {
    let mut status = busy();
    status["conditions"] = json!([condition("Scaling", "True", "PartitionsUnread")]);
    let row = row(&json!({}), &status);
    assert!(row.lag_is_lower_bound);
    assert_eq!(row.concern(), Concern::Warning);
}

#[test]
fn programs_get_numbers_and_conditions() {
    let value = serde_json::to_value(row(&json!({}), &busy())).unwrap();
    assert_eq!(value["eta"], "known");
    assert_eq!(value["etaSeconds"], 120);
    assert_eq!(value["conditions"][0]["concern"], "fine");
    assert_eq!(value["conditions"][0]["type"], "Ready");
}
