//! `kubectl layra load`.

use super::*;

fn log(result: &Value) -> &'static str {
    let progress = json!({"progress": {"seconds": 1.5, "sent": 2, "searchable": 1, "failed": 0}});
    let result = json!({"result": result});
    Box::leak(format!("{progress}\n{result}\n").into_boxed_str())
}

pub(super) fn result() -> Value {
    json!({
        "knowledgeBase": "layraload_1", "documents": 2, "pages": 3, "sent": 2, "searchable": 2,
        "failed": 0, "skippedPages": 0, "sendingSeconds": 0.1, "remainders": 0,
        "begunAfterSeconds": 0.5, "pagesPerSecond": 3.0,
        "toSearchable": {"median": 1.0, "p95": 2.0, "longest": 2.0}, "highestLag": 2,
        "committed": true, "incomplete": [], "recall": {"pages": 6, "found": 6}, "left": [],
        "example": "layraload_f-1", "stopped": false,
    })
}

pub(super) fn script(result: &Value) -> Script {
    Script {
        pods: vec![running(), ended(0)],
        logs: vec![log(result)],
        ..Script::default()
    }
}

#[test]
fn a_load_test_runs_a_job_and_reports_what_it_measured() {
    let server = ApiServer::start(script(&result()));
    let printed =
        server.run("load contracts --documents 2 --pages 3 --rate 0.5 --wait 90s -o json");
    assert_eq!(printed.code, Some(0), "{printed:?}");
    assert!(
        printed
            .notes
            .contains("0:01  sent 2/2  searchable 1 (3 pages)"),
        "{printed:?}"
    );
    let report: Value = serde_json::from_str(&printed.output).unwrap();
    assert_eq!(report["passed"], true);
    assert_eq!(report["checks"][0]["name"], "documents");
    let created = server.script.lock().unwrap().created.remove(0);
    let arguments = &created["spec"]["template"]["spec"]["containers"][0]["args"];
    let expected = json!([
        "load",
        "--documents=2",
        "--pages=3",
        "--wait-minutes=2",
        "--rate=0.5",
        "--no-checks"
    ]);
    assert_eq!(*arguments, expected);
    assert_eq!(server.deleted(), [format!("jobs/{JOB}")]);
}

#[test]
fn documents_that_are_not_searchable_in_time_fail_the_load_test() {
    let mut late = result();
    late["searchable"] = json!(1);
    let server = ApiServer::start(script(&late));
    let printed = server.run("load contracts --documents 2 --pages 3");
    assert_eq!(printed.code, Some(1), "{printed:?}");
    let words =
        "FAIL         documents: 1 of 2 searchable, of 3 pages each, 1 not finished in time";
    assert!(printed.output.starts_with(words), "{printed:?}");
    let printed = server.run("load contracts --rate 0");
    assert_eq!(printed.code, Some(2), "{printed:?}");
}

#[test]
fn an_image_without_the_command_shows_its_words() {
    let server = ApiServer::start(Script {
        pods: vec![ended(2)],
        logs: vec!["error: unrecognized subcommand 'load'\n"],
        ..Script::default()
    });
    let printed = server.run("load contracts");
    assert_eq!(printed.code, Some(2), "{printed:?}");
    assert!(
        printed.notes.contains("unrecognized subcommand"),
        "{printed:?}"
    );
}
