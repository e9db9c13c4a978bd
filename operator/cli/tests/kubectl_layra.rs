//! The program as a person runs it, against an API server that answers from a script: what is
//! printed where, how it exits, and which objects are left.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

#[path = "kubectl_layra/advise.rs"]
mod advise;
#[path = "kubectl_layra/cost.rs"]
mod cost;
#[path = "kubectl_layra/doctor.rs"]
mod doctor;
#[path = "kubectl_layra/documents.rs"]
mod documents;
#[path = "kubectl_layra/load.rs"]
mod load;
#[path = "kubectl_layra/logs.rs"]
mod logs;
#[path = "kubectl_layra/pause.rs"]
mod pause;
#[path = "kubectl_layra/status.rs"]
mod status_command;
#[path = "kubectl_layra/terminal.rs"]
mod terminal;
#[path = "kubectl_layra/validate.rs"]
mod validate;
#[path = "kubectl_layra/weekly.rs"]
mod weekly;

const PIPELINE: &str = include_str!("../../../docs/examples/minimal.yaml");
const JOB: &str = "contracts-search-abcde";

/// What the API server answers, and what it was asked to change.
#[derive(Default)]
struct Script {
    /// Statuses of the pod, one for each time that pods are listed; the last one stays.
    pods: Vec<Value>,
    /// The pods of the workers.
    workers: Vec<Value>,
    /// What each reading of the log gives; the last one stays.
    logs: Vec<&'static str>,
    /// `VERB PATH` prefixes that are answered with this error.
    refused: Vec<(&'static str, StatusCode, String)>,
    /// The last scaling decision.
    scaling: Value,
    /// Default: that of the pipeline, which is 2.
    observed_generation: Option<i64>,
    has_no_deployment: bool,
    conditions: Vec<Value>,
    /// The pipeline. Default: the minimal one, with the conditions above.
    object: Option<Value>,
    /// More objects and lists, by the end of their path.
    others: Vec<(&'static str, Value)>,
    created: Vec<Value>,
    /// The last patch of the pipeline.
    patched: Value,
    deleted: Vec<String>,
}

struct ApiServer {
    script: Arc<Mutex<Script>>,
    directory: TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl ApiServer {
    fn start(script: Script) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(script));
        let state = Arc::clone(&script);
        let answer = move |method: Method, uri: Uri, body: String| {
            let answer = state.lock().unwrap().answer(&method, &uri, &body);
            std::future::ready(answer)
        };
        let server = axum::serve(listener, Router::new().fallback(answer)).into_future();
        runtime.spawn(server);
        let directory = TempDir::new().unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "a",
            "clusters": [{"name": "a", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "a", "user": {}}],
            "contexts": [
                {"name": "a", "context": {"cluster": "a", "user": "a", "namespace": "rag"}},
                {"name": "b", "context": {"cluster": "a", "user": "a"}},
            ],
        });
        std::fs::write(directory.path().join("config"), kubeconfig.to_string()).unwrap();
        Self {
            script,
            directory,
            _runtime: runtime,
        }
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-layra"));
        command
            .env("KUBECONFIG", self.directory.path().join("config"))
            .args(arguments.split(' '))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &str) -> Printed {
        Printed::from(self.command(arguments).output().unwrap())
    }

    fn deleted(&self) -> Vec<String> {
        self.script.lock().unwrap().deleted.clone()
    }
}

impl Script {
    fn answer(&mut self, method: &Method, uri: &Uri, body: &str) -> Response {
        let path = uri.path();
        let request = format!("{method} {path}");
        let mut refused = self.refused.iter();
        if let Some((_, code, text)) = refused.find(|(start, ..)| request.starts_with(start)) {
            return status(*code, "Forbidden", text);
        }
        let mut others = self.others.iter();
        if let Some(at) = others.position(|(end, _)| path.ends_with(end)) {
            if *method == Method::DELETE {
                let (name, _) = self.others.remove(at);
                self.deleted.push(name.to_owned());
                return object(&json!({"kind": "Status", "status": "Success"}));
            }
            return match &self.others[at].1 {
                // A log.
                Value::String(text) => text.clone().into_response(),
                other => object(other),
            };
        }
        let in_namespace = path.split_once("/namespaces/rag/").map(|(_, rest)| rest);
        match (method.as_str(), in_namespace.unwrap_or_default()) {
            ("GET", "ingestionpipelines/contracts") => object(&self.pipeline()),
            ("PATCH", "ingestionpipelines/contracts") => {
                self.patched = serde_json::from_str(body).unwrap();
                object(&self.pipeline())
            }
            ("GET", "deployments/contracts-worker") if !self.has_no_deployment => {
                object(&deployment())
            }
            ("POST", "jobs") => {
                let mut job: Value = serde_json::from_str(body).unwrap();
                self.created.push(job.clone());
                job["metadata"]["name"] = json!(JOB);
                object(&job)
            }
            ("DELETE", name) if name.starts_with("jobs/") => {
                self.deleted.push(name.to_owned());
                object(&json!({"kind": "Status", "status": "Success"}))
            }
            ("GET", "pods") if is_about_workers(uri) => {
                object(&json!({"metadata": {}, "items": self.workers}))
            }
            ("GET", "pods") => {
                let expected = format!("labelSelector=batch.kubernetes.io%2Fjob-name%3D{JOB}");
                let query = uri.query().unwrap_or_default();
                assert!(query.contains(&expected), "{query}");
                let pods: Vec<Value> = next(&mut self.pods)
                    .into_iter()
                    .map(|status| json!({"metadata": {"name": "pod-1"}, "status": status}))
                    .collect();
                object(&json!({"metadata": {}, "items": pods}))
            }
            ("GET", "pods/pod-1/log") => Body::from(next(&mut self.logs).unwrap()).into_response(),
            _ => {
                let name = path.rsplit('/').next().unwrap_or_default();
                status(
                    StatusCode::NOT_FOUND,
                    "NotFound",
                    &format!("{name} not found"),
                )
            }
        }
    }

    fn pipeline(&self) -> Value {
        if let Some(object) = &self.object {
            return object.clone();
        }
        let mut pipeline: Value = serde_yaml_ng::from_str(PIPELINE).unwrap();
        pipeline["metadata"] = json!({
            "name": "contracts", "namespace": "rag", "uid": "1", "generation": 2,
        });
        pipeline["status"] = json!({"observedGeneration": self.observed_generation.unwrap_or(2)});
        pipeline["status"]["conditions"] = json!(self.conditions);
        if !self.scaling.is_null() {
            pipeline["status"]["scaling"] = self.scaling.clone();
        }
        pipeline
    }
}

fn is_about_workers(uri: &Uri) -> bool {
    let query = uri.query().unwrap_or_default();
    query.contains("component%3Dworker")
}

/// The next value, and the last one again and again.
fn next<T: Clone>(values: &mut Vec<T>) -> Option<T> {
    if values.len() > 1 {
        return Some(values.remove(0));
    }
    values.first().cloned()
}

fn object(value: &Value) -> Response {
    let json = [("content-type", "application/json")];
    (json, value.to_string()).into_response()
}

fn status(code: StatusCode, reason: &str, message: &str) -> Response {
    let body = json!({
        "kind": "Status", "status": "Failure", "code": code.as_u16(), "reason": reason,
        "message": message,
    });
    (code, object(&body)).into_response()
}

fn deployment() -> Value {
    let arguments = ["run", "--config", "/c/worker.yaml", "--secrets", "/s"];
    let container = json!({"name": "worker", "image": "layra-worker:1", "args": arguments});
    json!({
        "metadata": {"name": "contracts-worker", "namespace": "rag"},
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/instance": "contracts"}},
            "template": {"spec": {"containers": [container]}},
        },
    })
}

/// A pod whose worker is in this state.
fn worker(state: &Value) -> Value {
    json!({"containerStatuses": [{
        "name": "worker", "state": state, "image": "layra-worker:1", "imageID": "",
        "ready": false, "restartCount": 0,
    }]})
}

fn running() -> Value {
    worker(&json!({"running": {}}))
}

fn ended(code: i32) -> Value {
    worker(&json!({"terminated": {"exitCode": code, "reason": "Error"}}))
}

#[derive(Debug, PartialEq)]
struct Printed {
    code: Option<i32>,
    output: String,
    notes: String,
}

impl From<Output> for Printed {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            output: String::from_utf8(output.stdout).unwrap(),
            notes: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

const SEARCH: &str = "run contracts -- search --knowledge-base a question";
const STARTED: &str = "started Job rag/contracts-search-abcde\n";

#[test]
fn the_log_goes_to_standard_output_and_the_exit_code_is_that_of_the_command() {
    let server = ApiServer::start(Script {
        pods: vec![json!({}), running(), ended(3)],
        logs: vec!["{\"a\":1}\n{\"b\":2}\n"],
        ..Script::default()
    });
    let expected = Printed {
        code: Some(3),
        output: "{\"a\":1}\n{\"b\":2}\n".to_owned(),
        notes: STARTED.to_owned(),
    };
    assert_eq!(server.run(SEARCH), expected);
    assert_eq!(server.deleted(), [format!("jobs/{JOB}")]);
    let created = server.script.lock().unwrap().created.remove(0);
    let arguments = &created["spec"]["template"]["spec"]["containers"][0]["args"];
    let expected = json!(["search", "--knowledge-base", "a", "question"]);
    assert_eq!(*arguments, expected);
    assert_eq!(created["metadata"]["ownerReferences"][0]["uid"], "1");
}

#[test]
fn an_interrupted_log_is_completed_without_repeated_lines() {
    let server = ApiServer::start(Script {
        pods: vec![running(), running(), ended(0)],
        logs: vec!["one\ntw", "one\ntwo\n", "one\ntwo\nthree\n"],
        ..Script::default()
    });
    let printed = server.run(SEARCH);
    assert_eq!(printed.output, "one\ntwo\nthree\n");
    assert_eq!(printed.code, Some(0));
}

#[test]
fn a_job_is_kept_when_asked_for() {
    let server = ApiServer::start(Script {
        pods: vec![ended(0)],
        logs: vec![""],
        ..Script::default()
    });
    let printed = server.run("run contracts --keep -- search question");
    assert_eq!(printed.code, Some(0));
    let kept = "kept Job rag/contracts-search-abcde\n";
    assert_eq!(printed.notes, format!("{STARTED}{kept}"));
    assert!(server.deleted().is_empty());
}

#[test]
fn a_change_that_the_operator_has_not_applied_is_reported() {
    let server = ApiServer::start(Script {
        pods: vec![ended(0)],
        logs: vec![""],
        observed_generation: Some(1),
        ..Script::default()
    });
    let notes = server.run(SEARCH).notes;
    assert!(
        notes.starts_with("IngestionPipeline contracts was changed"),
        "{notes}"
    );
}

#[test]
fn a_pod_that_waits_for_a_node_is_reported_once() {
    let unschedulable = json!({"conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient cpu.",
    }]});
    let server = ApiServer::start(Script {
        pods: vec![unschedulable.clone(), unschedulable, ended(0)],
        logs: vec![""],
        ..Script::default()
    });
    let note = "pod rag/pod-1 is unschedulable: 0/1 nodes are available: 1 Insufficient cpu.\n";
    assert_eq!(server.run(SEARCH).notes, format!("{STARTED}{note}"));
}

#[test]
fn an_image_that_cannot_be_pulled_ends_the_command() {
    let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}});
    let server = ApiServer::start(Script {
        pods: vec![worker(&waiting)],
        ..Script::default()
    });
    let printed = server.run(SEARCH);
    let error = "error: pod rag/pod-1: image layra-worker:1 cannot be pulled: ImagePullBackOff: \
                 not found\n";
    assert_eq!(printed.notes, format!("{STARTED}{error}"));
    assert_eq!(printed.code, Some(125));
    assert_eq!(server.deleted(), [format!("jobs/{JOB}")]);
}

#[test]
fn a_timeout_ends_the_command() {
    let server = ApiServer::start(Script {
        pods: vec![json!({})],
        ..Script::default()
    });
    let printed = server.run("run contracts --timeout 1s -- search question");
    let note = "the command did not end within 1 s\n";
    assert_eq!(printed.notes, format!("{STARTED}{note}"));
    assert_eq!(printed.code, Some(124));
    assert_eq!(server.deleted(), [format!("jobs/{JOB}")]);
}

#[test]
fn ctrl_c_deletes_the_job() {
    let server = ApiServer::start(Script {
        pods: vec![json!({})],
        ..Script::default()
    });
    let child = server.command(SEARCH).spawn().unwrap();
    let start = Instant::now();
    while server.script.lock().unwrap().created.is_empty() {
        assert!(start.elapsed() < Duration::from_secs(30), "no Job");
        std::thread::sleep(Duration::from_millis(20));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let printed = Printed::from(child.wait_with_output().unwrap());
    assert_eq!(printed.code, Some(130));
    assert_eq!(server.deleted(), [format!("jobs/{JOB}")]);
}

#[test]
fn objects_that_are_missing_are_named_before_anything_is_created() {
    let server = ApiServer::start(Script::default());
    let printed = server.run("run invoices -- search question");
    let error = "error: there is no IngestionPipeline invoices in namespace rag; \
                 `kubectl get ingestionpipelines --all-namespaces` lists them\n";
    assert_eq!((printed.notes.as_str(), printed.code), (error, Some(125)));
    let printed = server.run("run contracts -n other -- search question");
    assert!(
        printed.notes.contains("in namespace other"),
        "{}",
        printed.notes
    );
    let printed = server.run("run contracts --context b -- search question");
    assert!(
        printed.notes.contains("in namespace default"),
        "{}",
        printed.notes
    );

    let server = ApiServer::start(Script {
        has_no_deployment: true,
        ..Script::default()
    });
    let printed = server.run(SEARCH);
    let start = "error: IngestionPipeline contracts in namespace rag has no Deployment \
                 contracts-worker yet";
    assert!(printed.notes.starts_with(start), "{}", printed.notes);
    assert_eq!(printed.code, Some(125));
    assert!(server.script.lock().unwrap().created.is_empty());
}

#[test]
fn a_missing_permission_is_named() {
    let message = "jobs.batch is forbidden: User \"jane\" cannot create resource \"jobs\" in API \
                   group \"batch\" in the namespace \"rag\"";
    let create = "POST /apis/batch/v1/namespaces/rag/jobs";
    let server = ApiServer::start(Script {
        refused: vec![(create, StatusCode::FORBIDDEN, message.to_owned())],
        ..Script::default()
    });
    let printed = server.run(SEARCH);
    let start = "error: no permission to create jobs.batch in namespace rag. ";
    assert!(printed.notes.starts_with(start), "{}", printed.notes);
    assert!(printed.notes.contains("\"jane\""), "{}", printed.notes);
    assert_eq!(printed.code, Some(125));

    // Not every refusal is a matter of roles.
    let quota = "exceeded quota: team-a, requested: count/jobs.batch=1";
    server.script.lock().unwrap().refused[0].2 = quota.to_owned();
    let notes = server.run(SEARCH).notes;
    let error = format!("error: cannot create jobs.batch in namespace rag: {quota}\n");
    assert_eq!(notes, error);
}

#[test]
fn an_unreachable_api_server_is_reported_clearly() {
    let directory = TempDir::new().unwrap();
    let kubeconfig = directory.path().join("config");
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-layra"));
        command.arg("--kubeconfig").arg(&kubeconfig);
        Printed::from(command.args(["explain", "contracts"]).output().unwrap())
    };
    let start = "error: cannot access a Kubernetes cluster: failed to read kubeconfig";
    let notes = run().notes;
    assert!(notes.starts_with(start), "{notes}");
    let config = json!({
        "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": "http://127.0.0.1:1"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "namespace": "rag"}}],
    });
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let start = "error: cannot get ingestionpipelines.ingest.layra.io in namespace rag: ";
    let notes = run().notes;
    assert!(notes.starts_with(start), "{notes}");
    assert_eq!(notes.matches("Connection refused").count(), 1, "{notes}");
}

#[test]
fn explain_prints_the_decision_as_a_table_and_as_json() {
    let scaling = json!({
        "desiredReplicas": 2, "reason": "Draining", "message": "60 documents in the backlog.",
    });
    let server = ApiServer::start(Script {
        scaling: scaling.clone(),
        ..Script::default()
    });
    let table = server.run("explain contracts");
    assert!(
        table
            .output
            .starts_with("60 documents in the backlog.\n\ndecision\n"),
        "{table:?}"
    );
    let printed = server.run("explain contracts -o json");
    let json: Value = serde_json::from_str(&printed.output).unwrap();
    let expected = json!({
        "namespace": "rag", "name": "contracts", "mode": "Auto", "scaling": scaling,
    });
    assert_eq!(json, expected);
    let printed = server.run("explain contracts -o yaml");
    let yaml: Value = serde_yaml_ng::from_str(&printed.output).unwrap();
    assert_eq!(yaml, expected);
}

#[test]
fn explain_fails_before_the_first_decision() {
    let server = ApiServer::start(Script::default());
    let printed = server.run("explain contracts");
    let start = "error: IngestionPipeline contracts in namespace rag has no scaling decision yet";
    assert!(printed.notes.starts_with(start), "{printed:?}");
    assert_eq!(printed.code, Some(1));
}

#[test]
fn forget_asks_the_operator_by_an_annotation_and_changes_nothing_else() {
    let server = ApiServer::start(Script::default());
    let printed = server.run("forget contracts");
    assert_eq!(printed.code, Some(0), "{printed:?}");
    let patched = server.script.lock().unwrap().patched.clone();
    let time = &patched["metadata"]["annotations"]["ingest.layra.io/forget-learned"];
    assert!(
        time.as_str().is_some_and(|time| time.ends_with('Z')),
        "{patched}"
    );
    assert_eq!(patched.as_object().unwrap().len(), 1, "{patched}");

    let refused = "ingestionpipelines is forbidden: User cannot patch resource".to_owned();
    let server = ApiServer::start(Script {
        refused: vec![("PATCH", StatusCode::FORBIDDEN, refused)],
        ..Script::default()
    });
    let printed = server.run("forget contracts");
    let start = "error: no permission to patch ingestionpipelines.ingest.layra.io";
    assert!(printed.notes.starts_with(start), "{printed:?}");
    assert_eq!(printed.code, Some(1));
}

#[test]
fn simulate_and_completion_need_no_cluster() {
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-layra"));
        let output = command
            .env("KUBECONFIG", "/nowhere")
            .args(arguments)
            .output();
        Printed::from(output.unwrap())
    };
    let pipeline = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/scaling/pipeline.yaml");
    let pipeline = pipeline.to_str().unwrap();
    let simulated = run(&["simulate", "--pipeline", pipeline, "--shape", "rare"]);
    assert_eq!((simulated.code, simulated.notes.as_str()), (Some(0), ""));
    assert!(
        simulated.output.contains("gpu_seconds"),
        "{}",
        simulated.output
    );
    let script = run(&["completion", "bash"]);
    assert!(script.output.contains("kubectl-layra"));
    assert_eq!(script.code, Some(0));
}

#[test]
fn help_has_the_exit_codes() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-layra"));
    let help = Printed::from(command.args(["run", "--help"]).output().unwrap());
    for words in [
        "Usage: kubectl layra run",
        "124 --timeout expired",
        "130 Ctrl-C",
    ] {
        assert!(
            help.output.contains(words),
            "{words} is missing: {}",
            help.output
        );
    }
}
