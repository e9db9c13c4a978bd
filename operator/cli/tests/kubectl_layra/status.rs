//! `kubectl layra status`.

use std::io::{BufRead as _, BufReader};

use super::*;

pub(super) fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": "2026-11-28T02:00:00Z",
    })
}

/// Two pipelines, one of which is not ready.
pub(super) fn two() -> Script {
    let script = Script {
        conditions: vec![condition("Ready", "True", "PipelineReady", "All is well.")],
        ..Script::default()
    };
    let ready = script.pipeline();
    let mut broken = Script {
        conditions: vec![
            condition("Ready", "False", "KafkaUnreachable", "No broker answers."),
            condition(
                "TopicReady",
                "False",
                "KafkaUnreachable",
                "No broker answers.",
            ),
        ],
        ..Script::default()
    }
    .pipeline();
    broken["metadata"]["name"] = json!("invoices");
    Script {
        others: vec![(
            "/ingestionpipelines",
            json!({"metadata": {}, "items": [broken, ready]}),
        )],
        ..Script::default()
    }
}

#[test]
fn status_shows_the_pipelines_of_the_namespace_and_what_is_wrong() {
    let server = ApiServer::start(two());
    let printed = server.run("status");
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let expected = "\
NAME       STATE          LAG  PAGES/S  REPLICAS      ETA
contracts  ready      unknown        -       0/?  unknown
invoices   not ready  unknown        -       0/?  unknown

invoices
  topics not ready  KafkaUnreachable: No broker answers.
";
    assert_eq!(printed.output, expected);

    let one = server.run("status contracts");
    assert!(
        one.output.contains("  ready  PipelineReady: All is well."),
        "{one:?}"
    );
    assert!(!one.output.contains("invoices"), "{one:?}");
    let everywhere = server.run("status -A -o wide");
    assert!(
        everywhere.output.starts_with("NAMESPACE  NAME"),
        "{everywhere:?}"
    );
    assert!(everywhere.output.contains("minilm"), "{everywhere:?}");
}

#[test]
fn status_for_programs_is_a_list() {
    let server = ApiServer::start(two());
    let json: Value = serde_json::from_str(&server.run("status -o json").output).unwrap();
    assert_eq!(json[1]["name"], "invoices");
    assert_eq!(json[1]["state"], "notReady");
    let yaml = server.run("status -o yaml").output;
    assert_eq!(serde_yaml_ng::from_str::<Value>(&yaml).unwrap(), json);
}

#[test]
fn status_names_what_is_missing() {
    let server = ApiServer::start(two());
    let printed = server.run("status contracts letters");
    let error = "error: there is no IngestionPipeline letters in namespace rag";
    assert!(printed.notes.starts_with(error), "{printed:?}");
    assert_eq!(printed.code, Some(1));
    let printed = server.run("status -w -o json");
    assert_eq!(printed.code, Some(2), "{printed:?}");

    let empty = json!({"metadata": {}, "items": []});
    let server = ApiServer::start(Script {
        others: vec![("/ingestionpipelines", empty)],
        ..Script::default()
    });
    let printed = server.run("status");
    assert!(
        printed
            .output
            .starts_with("There are no pipelines in namespace rag.")
    );
    assert_eq!(printed.code, Some(0));

    let message = "ingestionpipelines is forbidden: User \"jane\" cannot list resource".to_owned();
    server.script.lock().unwrap().refused = vec![("GET", StatusCode::FORBIDDEN, message)];
    let printed = server.run("status -A");
    let error = "error: no permission to list ingestionpipelines.ingest.layra.io in all namespaces";
    assert!(printed.notes.starts_with(error), "{printed:?}");
}

#[test]
fn without_a_terminal_a_watch_writes_plain_lines_and_only_changes() {
    let server = ApiServer::start(two());
    let mut child = server.command("status --watch").spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    let (first, second) = (next(), next());
    assert!(
        first.contains(" rag/contracts: ready, lag unknown"),
        "{first}"
    );
    assert!(
        second.contains("topics not ready (KafkaUnreachable)"),
        "{second}"
    );
    server.script.lock().unwrap().others[0].1["items"][1]["status"]["lag"] = json!(7);
    let third = next();
    assert!(third.contains(" rag/contracts: ready, lag 7,"), "{third}");
    assert!(!third.contains('\x1b'), "{third}");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
