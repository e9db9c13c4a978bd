//! `kubectl layra logs NAME`: the logs of all workers of a pipeline, in the order of time.

mod follow;
mod line;

use std::collections::HashMap;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;
use kube::api::{ListParams, LogParams};

use crate::cluster::{Access, Cluster};
use crate::run::duration;
use crate::style::Style;
use line::{Line, is_about, split};

/// Logs that are read at the same time.
const AT_ONCE: usize = 8;
/// The API server rounds the time from which it reads.
const ROUNDING: SignedDuration = SignedDuration::from_secs(1);
/// The containers of a worker that have something to say.
const CONTAINERS: [&str; 2] = ["fetch-model", "worker"];

/// Show the logs of all workers of a pipeline, merged by time.
///
/// Each line has the time (UTC), the end of the pod's name, the level, the message and its fields.
/// What a container wrote before its last restart is included. The logs of workers that do not exist
/// any more are gone: a log collector of the cluster keeps them.
#[derive(Args)]
#[command(after_help = "\
Exit codes: 0 shown, also if there is nothing to show; 1 failure; 2 wrong usage; 130 Ctrl-C.")]
pub(crate) struct LogsArgs {
    /// Name of the pipeline.
    pipeline: String,

    /// Only lines about this document: its file id.
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    document: Option<String>,

    /// Go on with what the workers write, also those that start later, until Ctrl-C.
    #[arg(short, long)]
    follow: bool,

    /// How far to look back, for example 10m or 24h.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    since: Duration,

    /// Format of the output.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Lines for people.
    Text,
    /// The workers' JSON lines, with the pod.
    Json,
}

/// The log of a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Log {
    pod: String,
    container: String,
    /// Of the container before its last restart.
    previous: bool,
}

pub(crate) async fn run(args: &LogsArgs, access: &Access) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect(access).await?;
    let name = &args.pipeline;
    cluster.pipeline(name).await?;
    let now = Timestamp::now();
    let past = SignedDuration::try_from(args.since)?;
    let since = now.checked_sub(past).unwrap_or(Timestamp::UNIX_EPOCH);
    let printer = Printer {
        output: args.output,
        style: Style::of_output(),
    };
    let logs = logs(&workers(&cluster, name).await?);
    if logs.is_empty() {
        let namespace = &cluster.namespace;
        eprintln!(
            "no worker of {name} has started: `kubectl layra status {name} -n {namespace}` shows why"
        );
    }
    let Past {
        lines,
        ends,
        failed,
    } = read(&cluster, args, &logs, since).await?;
    for why in &failed {
        eprintln!("{why}");
    }
    if lines.is_empty() && !logs.is_empty() && !args.follow {
        let about = args.document.as_ref();
        let about = about.map_or_else(String::new, |document| format!(" about {document}"));
        eprintln!(
            "no worker has written a line{about} since {since:.0}; --since looks further back"
        );
    }
    if !printer.print(&lines) {
        return Ok(ExitCode::SUCCESS);
    }
    if args.follow {
        return follow::follow(&cluster, args, ends, since, &printer).await;
    }
    Ok(ExitCode::SUCCESS)
}

/// The pods of the workers.
async fn workers(cluster: &Cluster, pipeline: &str) -> anyhow::Result<Vec<Pod>> {
    let selector =
        format!("app.kubernetes.io/instance={pipeline},app.kubernetes.io/component=worker");
    let params = ListParams::default().labels(&selector);
    let list = cluster.api::<Pod>().list(&params).await;
    Ok(list
        .map_err(|error| cluster.refused("list", "pods", error))?
        .items)
}

/// The logs that exist: of containers that have started.
fn logs(pods: &[Pod]) -> Vec<Log> {
    let mut logs = Vec::new();
    for pod in pods {
        let status = pod.status.clone().unwrap_or_default();
        let init = status.init_container_statuses.unwrap_or_default();
        let containers = status.container_statuses.unwrap_or_default();
        for container in init.iter().chain(&containers) {
            if !CONTAINERS.contains(&container.name.as_str()) {
                continue;
            }
            let (now, before) = has_written(container);
            for previous in [before.then_some(true), now.then_some(false)] {
                logs.extend(previous.map(|previous| Log {
                    pod: pod.name_any(),
                    container: container.name.clone(),
                    previous,
                }));
            }
        }
    }
    logs
}

/// Whether the container has started, and whether it had before its last restart.
fn has_written(container: &ContainerStatus) -> (bool, bool) {
    let state = container.state.clone().unwrap_or_default();
    let last = container.last_state.clone().unwrap_or_default();
    let started = state.running.is_some() || state.terminated.is_some();
    (started, last.terminated.is_some())
}

/// What was written before now.
#[derive(Default)]
struct Past {
    /// Of all logs, by time.
    lines: Vec<Line>,
    /// The time of the last line of each log, also if it is not asked for.
    ends: HashMap<Log, Timestamp>,
    /// Why some logs were not read.
    failed: Vec<String>,
}

async fn read(
    cluster: &Cluster,
    args: &LogsArgs,
    logs: &[Log],
    since: Timestamp,
) -> anyhow::Result<Past> {
    let requests = logs.iter().map(|log| async move {
        let text = cluster
            .api::<Pod>()
            .logs(&log.pod, &log.params(since))
            .await;
        match text {
            Ok(text) => Ok((log, Ok(text))),
            // It was removed meanwhile, or the node does not answer: others may have the answer.
            Err(kube::Error::Api(status)) if status.code != 401 && status.code != 403 => {
                Ok((log, Err(status.message)))
            }
            Err(error) => Err(cluster.refused("get", "pods/log", error)),
        }
    });
    let answers: Vec<(&Log, Result<String, String>)> = stream::iter(requests)
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let mut past = Past::default();
    for (log, answer) in answers {
        match answer {
            Ok(text) => past.add(log, &text, args, since),
            // The log before a restart is often gone already.
            Err(_) if log.previous => {}
            Err(why) => past
                .failed
                .push(format!("pod {}: the log cannot be read: {why}", log.pod)),
        }
    }
    past.lines.sort();
    Ok(past)
}

impl Past {
    fn add(&mut self, log: &Log, text: &str, args: &LogsArgs, since: Timestamp) {
        for (number, line) in (0_u64..).zip(text.lines()) {
            let Some((time, _)) = split(line).filter(|(time, _)| *time >= since) else {
                continue;
            };
            self.ends.insert(log.clone(), time);
            self.lines.extend(log.line(line, number, args));
        }
    }
}

impl Log {
    fn params(&self, since: Timestamp) -> LogParams {
        LogParams {
            container: Some(self.container.clone()),
            previous: self.previous,
            since_time: Some(since.checked_sub(ROUNDING).unwrap_or(since)),
            timestamps: true,
            ..LogParams::default()
        }
    }

    /// A line of this log, if it is asked for.
    fn line(&self, line: &str, number: u64, args: &LogsArgs) -> Option<Line> {
        let (time, text) = split(line)?;
        let document = args.document.as_ref();
        if document.is_some_and(|document| !is_about(text, document)) {
            return None;
        }
        let pod = self.pod.rsplit('-').next().unwrap_or(&self.pod);
        Some(Line {
            time,
            pod: pod.to_owned(),
            number,
            text: text.to_owned(),
        })
    }
}

/// Writes lines to standard output.
struct Printer {
    output: Output,
    style: Style,
}

impl Printer {
    /// False: nobody reads any more.
    fn print(&self, lines: &[Line]) -> bool {
        let mut output = std::io::stdout().lock();
        for line in lines {
            let text = match self.output {
                Output::Text => line.text(self.style),
                Output::Json => line.json(),
            };
            if writeln!(output, "{text}").is_err() {
                return false;
            }
        }
        output.flush().is_ok()
    }
}
