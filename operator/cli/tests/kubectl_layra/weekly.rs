//! `kubectl layra weekly`.

use super::*;

/// Each Job prints the next of these.
const ANSWERS: [&str; 3] = [
    "{\n  \"findings\": [],\n  \"counts\": {},\n  \"left\": 0,\n  \"unchecked\": [],\n  \"documents\": 7\n}\n",
    concat!(
        r#"{"findings":[{"server":"Redis","setting":"maxmemory-policy","asked":"noeviction","#,
        r#""found":"allkeys-lru","verdict":"Change","change":"CONFIG SET"}]}"#,
        "\n"
    ),
    "[]\n",
];

#[test]
fn the_weekly_checks_run_three_jobs_and_say_what_is_to_do() {
    let now = jiff::Timestamp::now();
    let lease = json!({"metadata": {}, "spec": {
        "holderIdentity": "operator", "renewTime": format!("{now:.6}")}});
    let server = ApiServer::start(Script {
        pods: vec![ended(0)],
        logs: ANSWERS.to_vec(),
        others: vec![
            ("/leases/layra-operator", lease),
            ("/events", json!({"metadata": {}, "items": []})),
            ("/resourcequotas", json!({"metadata": {}, "items": []})),
            (
                "/apis/apps/v1/deployments",
                json!({"metadata": {}, "items": []}),
            ),
        ],
        ..Script::default()
    });
    let printed = server.run("weekly contracts -o json");
    assert_eq!(printed.code, Some(1), "{printed:?}");
    let report: Value = serde_json::from_str(&printed.output).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let verdict = |name: &str| {
        let check = checks.iter().find(|check| check["name"] == name);
        check.map(|check| check["verdict"].clone())
    };
    assert_eq!(verdict("stores"), Some(json!("pass")), "{report}");
    assert_eq!(verdict("servers"), Some(json!("fail")), "{report}");
    assert_eq!(
        verdict("failed documents"),
        Some(json!("measured")),
        "{report}"
    );
    assert_eq!(verdict("errors in logs"), Some(json!("pass")), "{report}");
    assert_eq!(verdict("memory"), Some(json!("notChecked")), "{report}");
    let created = server.script.lock().unwrap().created.clone();
    let commands: Vec<&Value> = created
        .iter()
        .map(|job| &job["spec"]["template"]["spec"]["containers"][0]["args"][0])
        .collect();
    assert_eq!(commands, ["audit", "advise", "documents"]);
    assert_eq!(server.deleted().len(), 3);
}
