//! `kubectl layra weekly NAME`: the guide's weekly and monthly checks, as far as reading suffices.

mod answers;
mod judge;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::LogParams;
use serde_json::Value;

use crate::checks::{Check, Report, Reporting};
use crate::cluster::{Access, Cluster};
use crate::doctor;
use crate::run::{self, RunArgs};
use crate::validate;
use crate::validate::workers::{self, Seen};
use answers::json_in;

/// For each Job.
const TIMEOUT: Duration = Duration::from_mins(30);
/// Of each worker's log.
const LINES: i64 = 20_000;
/// Failed documents that are looked at.
const FAILED: &str = "1000";

/// Go through the weekly and monthly checks of a pipeline.
///
/// Looks at what `doctor` finds, at what the stores hold without a document (`audit`, which reads every
/// document of the pipeline), at the settings of the servers (`advise`), the documents that failed in
/// the last seven days, the errors in the workers' logs, their memory, and at what limits the number of
/// workers. Runs three Jobs, one after the other. Changes nothing.
#[derive(Args)]
#[command(after_help = "\
Exit codes: 0 nothing is to do; 1 a check fails; 2 wrong usage; 125 it could not look; 130 Ctrl-C.")]
pub(crate) struct WeeklyArgs {
    /// Name of the pipeline.
    pipeline: String,

    #[command(flatten)]
    reporting: Reporting,
}

pub(crate) async fn run(args: &WeeklyArgs, access: &Access) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect(access).await?;
    let name = &args.pipeline;
    let now = Timestamp::now();
    let pipeline = cluster.pipeline(name).await?;
    let mut checks = vec![judge::doctor(&doctor::concerns(&cluster, name).await?)];
    let jobs: [(&[&str], Judge, &'static str); 3] = [
        (&["audit", "--output", "json"], judge::audit, judge::STORES),
        (
            &["advise", "--output", "json"],
            judge::advice,
            judge::SERVERS,
        ),
        (
            &[
                "documents",
                "--failed",
                "--output",
                "json",
                "--limit",
                FAILED,
            ],
            judge::failed,
            judge::DOCUMENTS,
        ),
    ];
    for (arguments, judge, check) in jobs {
        match ask(args, access, arguments).await? {
            Answer::Json(value) => checks.push(judge(&value, now)),
            Answer::Nothing(why) => checks.push(Check::not_checked(check, why)),
            Answer::Interrupted(code) => return Ok(code),
        }
    }
    let mut seen = Seen::default();
    seen.look_once(&cluster, name, now).await;
    checks.extend(validate::memory_of(&seen));
    checks.push(logs(&cluster, name).await);
    let scaling = pipeline.status.as_ref();
    checks.push(judge::scaling(
        scaling.and_then(|status| status.scaling.as_ref()),
    ));
    let report = Report::new("weekly", &cluster.namespace, name, now, checks);
    args.reporting.finish(&report)
}

/// Judges the answer of a command.
type Judge = fn(&Value, Timestamp) -> Check;

/// What a command of the worker answered.
enum Answer {
    Json(Value),
    Nothing(String),
    Interrupted(ExitCode),
}

async fn ask(args: &WeeklyArgs, access: &Access, arguments: &[&str]) -> anyhow::Result<Answer> {
    let command = RunArgs {
        pipeline: args.pipeline.clone(),
        arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
        image: args.reporting.image().map(str::to_owned),
        gpu: false,
        timeout: Some(TIMEOUT),
        keep: false,
    };
    let mut log = Vec::new();
    let code = run::run_into(&command, access, &mut log).await?;
    if [129, 130, 143].map(ExitCode::from).contains(&code) {
        return Ok(Answer::Interrupted(code));
    }
    let log = String::from_utf8_lossy(&log);
    Ok(match json_in(&log) {
        Some(value) => Answer::Json(value),
        None => Answer::Nothing(format!(
            "`{}` gave no answer: {}",
            arguments[0],
            log.lines().next_back().unwrap_or("its log is empty")
        )),
    })
}

/// The last lines of the workers that exist.
async fn logs(cluster: &Cluster, pipeline: &str) -> Check {
    let pods = match workers::pods(cluster, pipeline).await {
        Ok(pods) => pods,
        Err(error) => return Check::not_checked(judge::LOGS, format!("{error:#}")),
    };
    let params = LogParams {
        container: Some("worker".to_owned()),
        tail_lines: Some(LINES),
        ..LogParams::default()
    };
    let mut text = String::new();
    for pod in pods {
        match cluster.api::<Pod>().logs(&pod.name_any(), &params).await {
            Ok(log) => text.push_str(&log),
            Err(error) => {
                let error = cluster.refused("get", "pods/log", error);
                return Check::not_checked(judge::LOGS, format!("{error:#}"));
            }
        }
    }
    judge::logs(&text)
}
