//! `kubectl layra advise NAME`: what the worker's command `advise` finds on the servers of a
//! pipeline. They are often reachable only in the cluster, so a Job asks them.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum};
use layra_crds::Advice;

use crate::cluster::Access;
use crate::run::{self, RunArgs};

/// Longer than the worker waits for a server, with time to start the pod.
const TIMEOUT: Duration = Duration::from_mins(10);
/// The beginning of the line that has the answer; the log has others, too.
const ANSWER: &str = "{\"findings\":";

/// Compare the settings of Kafka, MongoDB, Milvus and Redis with what the tuning guide asks.
///
/// Runs `layra-worker advise` as a Job, with the configuration and Secrets of the pipeline, and
/// prints what is asked, what was found and what to change. Nothing is changed. A server, command
/// or permission that is missing is a line of the table.
#[derive(Args)]
pub(crate) struct AdviseArgs {
    /// Name of the pipeline.
    pipeline: String,

    /// Address of Milvus' metrics. Default: port 9091 of the host in stores.milvus.uri.
    #[arg(long, value_name = "URL")]
    milvus_metrics: Option<String>,

    /// Image of the command. Default: spec.worker.image, else that of the worker Deployment.
    #[arg(long)]
    image: Option<String>,

    /// Request the GPUs of a worker, for an image that does not start without one.
    #[arg(long)]
    gpu: bool,

    /// Format of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// A table.
    Table,
    Json,
}

pub(crate) async fn run(args: &AdviseArgs, access: &Access) -> anyhow::Result<ExitCode> {
    let mut arguments = ["advise", "--output", "json"].map(str::to_owned).to_vec();
    if let Some(url) = &args.milvus_metrics {
        arguments.extend(["--milvus-metrics".to_owned(), url.clone()]);
    }
    let command = RunArgs {
        pipeline: args.pipeline.clone(),
        arguments,
        image: args.image.clone(),
        gpu: args.gpu,
        timeout: Some(TIMEOUT),
        keep: false,
    };
    let mut log = Vec::new();
    let code = run::run_into(&command, access, &mut log).await?;
    let log = String::from_utf8_lossy(&log);
    let (advice, others) = read(&log);
    for line in others {
        eprintln!("{line}");
    }
    let Some(advice) = advice else {
        if code == ExitCode::SUCCESS {
            bail!("the command printed no findings: is the image of this version?");
        }
        return Ok(code);
    };
    crate::print(&match args.output {
        Output::Table => advice.to_string(),
        Output::Json => serde_json::to_string_pretty(&advice)? + "\n",
    })
}

/// The answer in a log, and the lines around it.
fn read(log: &str) -> (Option<Advice>, Vec<&str>) {
    let mut advice = None;
    let mut others = Vec::new();
    for line in log.lines() {
        let answer = line.starts_with(ANSWER).then(|| serde_json::from_str(line));
        match answer {
            Some(Ok(answer)) => advice = Some(answer),
            _ => others.push(line),
        }
    }
    (advice, others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_found_among_other_lines() {
        let log = "a warning\n{\"findings\":[]}\n{\"findings\": of another kind}\n";
        let (advice, others) = read(log);
        assert_eq!(advice, Some(Advice::default()));
        assert_eq!(others, ["a warning", "{\"findings\": of another kind}"]);
        assert_eq!(read("error: no such command\n").0, None);
    }
}
