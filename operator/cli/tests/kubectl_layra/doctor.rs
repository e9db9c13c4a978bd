//! `kubectl layra doctor`.

use super::status_command::condition;
use super::*;

fn list(items: &[Value]) -> Value {
    json!({"metadata": {}, "items": items})
}

fn secret(name: &str, keys: &[&str]) -> Value {
    let data: serde_json::Map<String, Value> = keys
        .iter()
        .map(|key| ((*key).to_owned(), json!("dmFsdWU=")))
        .collect();
    json!({"metadata": {"name": name}, "data": data})
}

/// Everything is as it should be.
fn healthy() -> Script {
    let now = jiff::Timestamp::now();
    let lease = json!({"metadata": {}, "spec": {
        "holderIdentity": "operator", "renewTime": format!("{now:.6}")}});
    Script {
        conditions: vec![
            condition("Ready", "True", "PipelineReady", "Workers can run."),
            condition("TopicReady", "True", "TopicsExist", "They exist."),
        ],
        others: vec![
            ("/leases/layra-operator", lease),
            ("/deployments", list(&[])),
            ("/pods", list(&[])),
            ("/events", list(&[])),
            ("/resourcequotas", list(&[])),
            ("/secrets/s3", secret("s3", &["accessKey", "secretKey"])),
            ("/secrets/mongodb", secret("mongodb", &["uri"])),
        ],
        refused: vec![(
            "GET /apis/apiextensions.k8s.io",
            StatusCode::FORBIDDEN,
            "customresourcedefinitions is forbidden: User \"jane\" cannot get resource".to_owned(),
        )],
        ..Script::default()
    }
}

#[test]
fn a_healthy_pipeline_has_no_findings_and_what_was_not_read_is_said() {
    let server = ApiServer::start(healthy());
    let printed = server.run("doctor contracts");
    let expected = "\
installation, namespace rag
  good

pipeline contracts
  good

not looked at, for lack of permission
  get customresourcedefinitions.apiextensions.k8s.io of the cluster

Nothing is wrong.
";
    assert_eq!(printed.output, expected);
    assert_eq!((printed.code, printed.notes.as_str()), (Some(0), ""));
    let script = server.script.lock().unwrap();
    assert!(script.created.is_empty() && script.patched.is_null());
}

#[test]
fn a_secret_without_a_key_is_found() {
    let mut script = healthy();
    script.others[5].1 = secret("s3", &["accessKey"]);
    let server = ApiServer::start(script);
    let printed = server.run("doctor contracts");
    assert_eq!(printed.code, Some(1), "{printed:?}");
    let words = "  PROBLEM  Secret s3: It lacks the key secretKey, or the key is empty (it has \
                 accessKey); documents.objectStore.secretKeySecretRef names it.\n           do: Add \
                 the key: ";
    assert!(printed.output.contains(words), "{}", printed.output);
    assert!(
        printed.output.ends_with("\n1 problem.\n"),
        "{}",
        printed.output
    );
    assert!(
        !printed.output.contains("dmFsdWU"),
        "no value of a Secret is shown"
    );

    let json: Value = serde_json::from_str(&server.run("doctor contracts -o json").output).unwrap();
    assert_eq!(json["pipelines"][0]["findings"][0]["severity"], "problem");
    let yaml = server.run("doctor contracts -o yaml").output;
    assert_eq!(serde_yaml_ng::from_str::<Value>(&yaml).unwrap(), json);
}

#[test]
fn a_person_who_may_read_little_gets_what_can_be_read() {
    let mut script = healthy();
    script.conditions[1] = condition("TopicReady", "False", "KafkaUnreachable", "No broker.");
    for start in [
        "GET /api/v1/namespaces/rag/secrets",
        "GET /api/v1/namespaces/rag/events",
        "GET /apis/coordination.k8s.io",
        "GET /apis/apps/v1/deployments",
    ] {
        let message = "it is forbidden: User \"jane\" cannot get resource".to_owned();
        script.refused.push((start, StatusCode::FORBIDDEN, message));
    }
    let server = ApiServer::start(script);
    let printed = server.run("doctor contracts");
    assert_eq!(printed.code, Some(1), "{printed:?}");
    for words in [
        "PROBLEM  condition TopicReady: KafkaUnreachable: No broker.",
        "do: Check `bootstrapServers`, and that Kafka is up.",
        "  get secrets in namespace rag\n",
        "  list events in namespace rag\n",
        "  get leases.coordination.k8s.io in namespace rag\n",
    ] {
        assert!(
            printed.output.contains(words),
            "{words}: {}",
            printed.output
        );
    }
}

#[test]
fn doctor_says_when_it_cannot_look() {
    let server = ApiServer::start(healthy());
    let printed = server.run("doctor invoices");
    assert!(
        printed.notes.contains("no IngestionPipeline invoices"),
        "{printed:?}"
    );
    assert_eq!(printed.code, Some(2));

    let mut script = healthy();
    script.others.push(("/ingestionpipelines", list(&[])));
    let broken = "GET /api/v1/namespaces/rag/pods";
    script
        .refused
        .push((broken, StatusCode::INTERNAL_SERVER_ERROR, "etcd".to_owned()));
    let server = ApiServer::start(script);
    let printed = server.run("doctor");
    assert!(
        printed.notes.contains("no pipelines in namespace rag"),
        "{printed:?}"
    );
    assert_eq!(printed.code, Some(2));
    let printed = server.run("doctor contracts");
    assert!(
        printed.notes.starts_with("error: cannot list pods"),
        "{printed:?}"
    );
    assert_eq!(printed.code, Some(2));
}
