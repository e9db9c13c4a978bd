//! `kubectl layra pause` and `resume`.

use super::status_command::condition;
use super::*;

#[test]
fn pause_sets_the_field_and_says_what_happens_to_messages() {
    let server = ApiServer::start(Script::default());
    let printed = server.run("pause contracts");
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let words = "contracts is paused: the operator changes nothing of it. It has no workers: \
                 messages wait in Kafka, as long as the topic keeps them, until `kubectl layra \
                 resume contracts -n rag`.\n";
    assert_eq!(printed.output, words);
    let patched = server.script.lock().unwrap().patched.clone();
    assert_eq!(patched["spec"], json!({"paused": true}));
    assert_eq!(patched["metadata"]["uid"], "1");

    let printed = server.run("resume contracts");
    assert_eq!(printed.output, "contracts is not paused.\n");
}

#[test]
fn stopped_workers_come_back_in_the_mode_of_before() {
    let server = ApiServer::start(Script {
        conditions: vec![condition("Ready", "True", "PipelineReady", "All is well.")],
        ..Script::default()
    });
    let printed = server.run("pause contracts --stop-workers");
    assert_eq!(printed.code, Some(0), "{printed:?}");
    assert!(
        printed.output.contains("Messages wait in Kafka"),
        "{printed:?}"
    );
    let patched = server.script.lock().unwrap().patched.clone();
    let stopped = json!({"mode": "Manual", "replicas": 0});
    assert_eq!(patched["spec"], json!({"scaling": stopped}));

    let mut pipeline = server.script.lock().unwrap().pipeline();
    pipeline["metadata"]["annotations"] = patched["metadata"]["annotations"].clone();
    pipeline["spec"]["scaling"] = stopped;
    let others = vec![(
        "/ingestionpipelines",
        json!({"metadata": {}, "items": [pipeline]}),
    )];
    let server = ApiServer::start(Script {
        object: Some(pipeline),
        others,
        ..Script::default()
    });
    let status = server.run("status");
    assert!(status.output.contains("contracts  stopped"), "{status:?}");
    let printed = server.run("pause contracts --stop-workers");
    assert_eq!(
        printed.output,
        "The workers of contracts are stopped already.\n"
    );
    let printed = server.run("resume contracts");
    let words = "contracts goes on: messages that wait are processed. The mode is Auto again.\n";
    assert_eq!(printed.output, words);
    let patched = server.script.lock().unwrap().patched.clone();
    let expected = json!({"scaling": {"mode": "Auto", "replicas": null}});
    assert_eq!(patched["spec"], expected);
}

#[test]
fn a_paused_pipeline_is_resumed_and_its_workers_cannot_be_stopped() {
    let mut pipeline = Script::default().pipeline();
    pipeline["spec"]["paused"] = json!(true);
    let server = ApiServer::start(Script {
        object: Some(pipeline),
        ..Script::default()
    });
    assert_eq!(
        server.run("pause contracts").output,
        "contracts is paused already.\n"
    );
    let printed = server.run("pause contracts --stop-workers");
    assert_eq!(printed.code, Some(1), "{printed:?}");
    assert!(
        printed.notes.contains("first `kubectl layra resume"),
        "{printed:?}"
    );
    assert_eq!(server.run("resume contracts").code, Some(0));
    let patched = server.script.lock().unwrap().patched.clone();
    assert_eq!(patched["spec"], json!({"paused": false}));
}
