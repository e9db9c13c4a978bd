//! `kubectl layra run NAME -- ...`: a command of `layra-worker` as a Job in the cluster, with the
//! configuration and the Secrets of a pipeline. The log goes to standard output, everything else to
//! standard error.

mod follow;
mod job;
mod notes;
mod pod;
pub(crate) mod signals;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::jiff::SignedDuration;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use layra_crds::IngestionPipeline;
use tokio::io::AsyncWrite;

use crate::cluster::{Access, Cluster};
pub(crate) use job::deployment_name;
use notes::Notes;
use signals::Signals;

/// The exit code when the command could not be run, or its result is unknown.
pub(crate) const CANNOT_RUN: u8 = 125;
/// The exit code when `--timeout` has passed.
const TIMED_OUT: u8 = 124;

/// Run a layra-worker command in the cluster with the configuration of a pipeline.
///
/// Starts a Kubernetes Job from the pod template of the pipeline's workers: the same image,
/// ConfigMap, Secrets, service account and node selection. Prints the log of the command to
/// standard output and exits with its exit code. The Job is deleted at the end, and on Ctrl-C.
#[derive(Args)]
#[command(after_help = "\
Exit codes: that of the command; 2 wrong usage; 124 --timeout expired; 125 the command could
not be run, or its result is unknown; 130 Ctrl-C, 143 SIGTERM.

Examples:
  kubectl layra run contracts -- search --knowledge-base alice_manuals \"Who is the sponsor?\"
  kubectl layra run contracts --timeout 10m -- redrive --reason ObjectNotFound --dry-run
  kubectl layra run contracts -- delete --knowledge-base alice_manuals --file FILE_ID

`kubectl layra run contracts -- --help` shows the commands of the pipeline's image.")]
pub(crate) struct RunArgs {
    /// Name of the pipeline.
    pub(crate) pipeline: String,

    /// Arguments of layra-worker. Its configuration and Secrets are added.
    #[arg(last = true, required = true, value_name = "ARGUMENT")]
    pub(crate) arguments: Vec<String>,

    /// Image of the command. Default: spec.worker.image, else that of the worker Deployment.
    #[arg(long)]
    pub(crate) image: Option<String>,

    /// Request the GPUs of a worker. Default: none; the command computes on the CPU.
    #[arg(long)]
    pub(crate) gpu: bool,

    /// Stop the command after this time, for example 90s or 10m. Default: no limit.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,

    /// Do not delete the Job after the command. Kubernetes deletes it an hour later.
    #[arg(long)]
    pub(crate) keep: bool,
}

enum Outcome {
    Ended(anyhow::Result<pod::Ended>),
    TimedOut,
    Interrupted(u8),
}

pub(crate) async fn run(args: &RunArgs, access: &Access) -> anyhow::Result<ExitCode> {
    run_into(args, access, &mut tokio::io::stdout()).await
}

/// Runs the command and copies its log to `output`.
pub(crate) async fn run_into(
    args: &RunArgs,
    access: &Access,
    output: &mut (dyn AsyncWrite + Unpin),
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let mut notes = Notes::new(std::io::stderr());
    let (cluster, job) = tokio::select! {
        prepared = prepare(args, access, &mut notes) => prepared?,
        code = signals.next() => return Ok(ExitCode::from(code)),
    };
    // Not interrupted: a Job whose name is not known could not be deleted.
    let job = cluster
        .api::<Job>()
        .create(&PostParams::default(), &job)
        .await
        .map_err(|error| cluster.refused("create", "jobs.batch", error))?
        .name_any();
    notes.add(format!("started Job {}/{job}", cluster.namespace));

    let outcome = tokio::select! {
        biased;
        code = signals.next() => Outcome::Interrupted(code),
        () = expired(args.timeout) => Outcome::TimedOut,
        ended = follow::follow(&cluster, &job, &mut notes, output) => Outcome::Ended(ended),
    };
    // A Job that still runs is never left behind.
    let has_ended = matches!(outcome, Outcome::Ended(Ok(_)));
    if args.keep && has_ended {
        notes.add(format!("kept Job {}/{job}", cluster.namespace));
    } else {
        tokio::select! {
            () = delete(&cluster, &job, &mut notes) => {}
            code = signals.next() => return Ok(ExitCode::from(code)),
        }
    }
    match outcome {
        Outcome::Ended(ended) => {
            let ended = ended?;
            if let Some(why) = ended.explanation() {
                notes.add(why);
            }
            Ok(ExitCode::from(ended.code))
        }
        Outcome::TimedOut => {
            let limit = args.timeout.unwrap_or_default().as_secs();
            notes.add(format!("the command did not end within {limit} s"));
            Ok(ExitCode::from(TIMED_OUT))
        }
        Outcome::Interrupted(code) => Ok(ExitCode::from(code)),
    }
}

/// Everything that can fail before something is created.
async fn prepare(
    args: &RunArgs,
    access: &Access,
    notes: &mut Notes,
) -> anyhow::Result<(Cluster, Job)> {
    let cluster = Cluster::connect(access).await?;
    let (namespace, name) = (&cluster.namespace, &args.pipeline);
    let pipeline = cluster.pipeline(name).await?;
    let workers = job::deployment_name(name);
    let Some(deployment) = cluster.find::<Deployment>(&workers).await? else {
        bail!(
            "IngestionPipeline {name} in namespace {namespace} has no Deployment {workers} yet; \
             the operator creates it. `kubectl -n {namespace} describe ipl {name}` shows why"
        );
    };
    let status = pipeline.status.as_ref();
    if status.and_then(|status| status.observed_generation) < pipeline.metadata.generation {
        notes.add(format!(
            "IngestionPipeline {name} was changed and the operator has not applied that yet: the \
             command runs with the earlier configuration"
        ));
    }
    let request = job::Request {
        arguments: &args.arguments,
        image: args.image.as_deref(),
        gpu: args.gpu,
        timeout: args.timeout,
    };
    let job = job::build(&pipeline, &deployment, &request)?;
    Ok((cluster, job))
}

/// The Job of a command that goes on until it is deleted, with the configuration of a pipeline.
pub(crate) fn lasting_job(
    pipeline: &IngestionPipeline,
    deployment: &Deployment,
    arguments: &[String],
    image: Option<&str>,
) -> anyhow::Result<Job> {
    let request = job::Request {
        arguments,
        image,
        gpu: false,
        timeout: None,
    };
    job::build(pipeline, deployment, &request)
}

async fn expired(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}

/// Deletes the Job and its pod. A failure does not change the result of the command.
async fn delete(cluster: &Cluster, job: &str, notes: &mut Notes) {
    let deleted = cluster
        .api::<Job>()
        .delete(job, &DeleteParams::background())
        .await;
    match deleted {
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        Err(error) => {
            let error = cluster.refused("delete", "jobs.batch", error);
            let namespace = &cluster.namespace;
            notes.add(format!("Job {namespace}/{job} was not deleted: {error:#}"));
        }
        Ok(_) => {}
    }
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text
        .parse::<SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok());
    parsed
        .filter(|duration| duration.as_secs() > 0)
        .ok_or_else(|| "expected a duration of at least one second, for example 90s or 10m".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_mins(90)));
        for wrong in ["", "90", "-1m", "0s", "soon"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
