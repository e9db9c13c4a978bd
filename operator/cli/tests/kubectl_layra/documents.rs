//! `kubectl layra documents`, `document` and `dlq`.

use super::*;

/// The arguments of the worker in the Job that a command starts.
fn arguments_of(arguments: &str) -> Vec<String> {
    let server = ApiServer::start(Script {
        pods: vec![ended(0)],
        logs: vec!["the answer\n"],
        ..Script::default()
    });
    let printed = server.run(arguments);
    assert_eq!(printed.code, Some(0), "{printed:?}");
    assert_eq!(printed.output, "the answer\n");
    assert_eq!(server.deleted(), [format!("jobs/{JOB}")]);
    let created = server.script.lock().unwrap().created.remove(0);
    let worker = &created["spec"]["template"]["spec"]["containers"][0];
    serde_json::from_value(worker["args"].clone()).unwrap()
}

#[test]
fn each_command_runs_its_command_of_the_worker() {
    for (command, expected) in [
        ("documents contracts", "documents --output table --limit 50"),
        (
            "documents contracts --failed --knowledge-base kb --limit 5 -o json",
            "documents --output json --limit 5 --failed --knowledge-base kb",
        ),
        (
            "documents contracts --working",
            "documents --output table --limit 50 --working",
        ),
        (
            "document contracts f-1",
            "documents --output table --file=f-1",
        ),
        ("dlq contracts list", "redrive --dry-run"),
        (
            "dlq contracts list --reason Encrypted",
            "redrive --reason=Encrypted --dry-run",
        ),
        ("dlq contracts show f-1", "redrive --file=f-1 --dry-run"),
        ("dlq contracts redrive --document f-1", "redrive --file=f-1"),
        (
            "dlq contracts redrive --timeout 3m --reason TimedOut",
            "redrive --reason=TimedOut",
        ),
    ] {
        assert_eq!(arguments_of(command).join(" "), expected, "{command}");
    }
}

#[test]
fn an_older_worker_that_lacks_the_command_says_so_and_the_code_is_passed_on() {
    let server = ApiServer::start(Script {
        pods: vec![ended(2)],
        logs: vec!["error: unrecognized subcommand 'documents'\n"],
        ..Script::default()
    });
    let printed = server.run("documents contracts");
    assert_eq!(printed.code, Some(2), "{printed:?}");
    assert!(
        printed.output.contains("unrecognized subcommand"),
        "{printed:?}"
    );
    let wrong = server.run("dlq contracts");
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
}
