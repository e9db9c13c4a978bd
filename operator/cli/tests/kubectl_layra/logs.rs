//! `kubectl layra logs`.

use super::*;

fn pod(name: &str, restarts: i32) -> Value {
    let last = match restarts {
        0 => json!({}),
        _ => json!({"terminated": {"exitCode": 1}}),
    };
    json!({"metadata": {"name": name}, "status": {"containerStatuses": [{
        "name": "worker", "state": {"running": {}}, "lastState": last, "image": "i", "imageID": "",
        "ready": true, "restartCount": restarts}]}})
}

/// Lines, each with the minutes since it was written.
fn log(lines: &[(i64, &str)]) -> Value {
    let now = jiff::Timestamp::now();
    let lines: Vec<String> = lines
        .iter()
        .map(|(minutes, text)| {
            let time = now - jiff::SignedDuration::from_mins(*minutes);
            format!("{time} {text}\n")
        })
        .collect();
    json!(lines.concat())
}

fn server() -> ApiServer {
    let pods = json!({"metadata": {}, "items": [
        pod("contracts-worker-5d9-aaaaa", 0), pod("contracts-worker-5d9-bbbbb", 1)]});
    let event = r#"{"level":"WARN","message":"page skipped","spans":[{"file":"f-1"}]}"#;
    ApiServer::start(Script {
        others: vec![
            ("/pods", pods),
            (
                "/contracts-worker-5d9-aaaaa/log",
                log(&[(50, "one"), (20, event)]),
            ),
            (
                "/contracts-worker-5d9-bbbbb/log",
                log(&[(40, "two f-1"), (30, "three f-10")]),
            ),
        ],
        ..Script::default()
    })
}

/// Without the time, and of a log that is read twice (before and after a restart) once.
fn texts(printed: &Printed) -> Vec<&str> {
    let lines = printed.output.lines();
    let mut texts: Vec<&str> = lines.map(|line| line.split_once("  ").unwrap().1).collect();
    texts.dedup();
    texts
}

#[test]
fn the_logs_of_all_workers_are_merged_by_time() {
    let printed = server().run("logs contracts");
    assert_eq!(
        (printed.code, printed.notes.as_str()),
        (Some(0), ""),
        "{printed:?}"
    );
    assert_eq!(
        texts(&printed),
        [
            "aaaaa  one",
            "bbbbb  two f-1",
            "bbbbb  three f-10",
            "aaaaa  WARN   page skipped  file=f-1"
        ]
    );
}

#[test]
fn only_the_lines_of_one_document_are_shown() {
    let server = server();
    let printed = server.run("logs contracts --document f-1");
    let expected = ["bbbbb  two f-1", "aaaaa  WARN   page skipped  file=f-1"];
    assert_eq!(texts(&printed), expected);
    let printed = server.run("logs contracts --document f-2");
    assert!(
        printed
            .notes
            .starts_with("no worker has written a line about f-2"),
        "{printed:?}"
    );
    let printed = server.run("logs contracts --since 25m");
    assert_eq!(texts(&printed).len(), 1, "{printed:?}");
}

#[test]
fn programs_get_json_lines_with_the_pod() {
    let printed = server().run("logs contracts -o json");
    for line in printed.output.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(
            line["pod"].is_string() && line["message"].is_string(),
            "{line}"
        );
    }
}

#[test]
fn new_lines_are_followed_and_not_repeated() {
    let server = server();
    let mut child = server.command("logs contracts --follow").spawn().unwrap();
    let lines = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut lines = std::io::BufRead::lines(lines);
    // The log of before the restart is the same here.
    for _ in 0..6 {
        lines.next().unwrap().unwrap();
    }
    {
        let mut script = server.script.lock().unwrap();
        let log_of_a = &mut script.others[1].1;
        let before = log_of_a.as_str().unwrap().to_owned();
        let more = log(&[(10, "new")]);
        *log_of_a = json!(before + more.as_str().unwrap());
    }
    let line = lines.next().unwrap().unwrap();
    assert!(line.ends_with("aaaaa  new"), "{line}");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_pipeline_without_workers_says_where_to_look() {
    let server = ApiServer::start(Script {
        others: vec![("/pods", json!({"metadata": {}, "items": []}))],
        ..Script::default()
    });
    let printed = server.run("logs contracts");
    assert!(
        printed
            .notes
            .starts_with("no worker of contracts has started"),
        "{printed:?}"
    );
    assert_eq!(printed.code, Some(0));
}
