//! `kubectl layra advise`.

use super::*;

const FINDINGS: &str = concat!(
    "2026-11-27 WARN a warning of the worker\n",
    r#"{"findings":[{"server":"Redis","setting":"maxmemory-policy","asked":"noeviction","#,
    r#""found":"allkeys-lru","verdict":"Change","change":"CONFIG SET"}]}"#,
    "\n"
);

#[test]
fn advise_runs_a_job_and_prints_what_it_found() {
    let script = || Script {
        pods: vec![running(), ended(0)],
        logs: vec![FINDINGS],
        ..Script::default()
    };
    let server = ApiServer::start(script());
    let printed = server.run("advise contracts --milvus-metrics http://milvus:9091/metrics");
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let warning = "2026-11-27 WARN a warning of the worker\n";
    assert_eq!(printed.notes, format!("{STARTED}{warning}"));
    assert!(printed.output.starts_with("VERDICT"), "{printed:?}");
    assert!(printed.output.contains("CHANGE  Redis"), "{printed:?}");
    let created = server.script.lock().unwrap().created.remove(0);
    let arguments = &created["spec"]["template"]["spec"]["containers"][0]["args"];
    let expected = json!([
        "advise",
        "--output",
        "json",
        "--milvus-metrics",
        "http://milvus:9091/metrics"
    ]);
    assert_eq!(*arguments, expected);
    assert_eq!(server.deleted(), [format!("jobs/{JOB}")]);

    let server = ApiServer::start(script());
    let printed = server.run("advise contracts -o json");
    let json: Value = serde_json::from_str(&printed.output).unwrap();
    assert_eq!(json["findings"][0]["verdict"], "Change");
}

#[test]
fn advise_of_an_image_that_cannot_shows_its_words() {
    let server = ApiServer::start(Script {
        pods: vec![ended(2)],
        logs: vec!["error: unrecognized subcommand 'advise'\n"],
        ..Script::default()
    });
    let printed = server.run("advise contracts");
    assert_eq!(printed.code, Some(2));
    let words = "error: unrecognized subcommand 'advise'\n";
    assert_eq!(printed.notes, format!("{STARTED}{words}"));

    let server = ApiServer::start(Script {
        pods: vec![ended(0)],
        logs: vec![""],
        ..Script::default()
    });
    let printed = server.run("advise contracts");
    assert_eq!(printed.code, Some(125), "{printed:?}");
    assert!(printed.notes.contains("printed no findings"), "{printed:?}");
}
