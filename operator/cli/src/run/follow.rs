//! Follows a Job: waits for its pod, copies the log, finds the result.

use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use futures::AsyncBufReadExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, LogParams};
use kube::{Api, ResourceExt};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::job::WORKER;
use super::notes::Notes;
use super::pod::{Ended, State, state};
use crate::cluster::Cluster;

/// Kubernetes' own label on the pods of a Job.
const JOB_LABEL: &str = "batch.kubernetes.io/job-name";
const INTERVAL: Duration = Duration::from_millis(500);
/// A pod that takes longer than this to start is worth a note.
const LONG_START: Duration = Duration::from_secs(15);
/// Failures in a row after which the result counts as unknown: a minute's worth.
const MAX_FAILURES: u32 = 120;

/// Waits until the command has ended, and copies its log to `output`.
pub(super) async fn follow(
    cluster: &Cluster,
    job: &str,
    notes: &mut Notes,
    output: &mut (dyn AsyncWrite + Unpin),
) -> anyhow::Result<Ended> {
    let mut follower = Follower {
        cluster,
        job,
        pods: cluster.api(),
        start: Instant::now(),
        pod: None,
        copied: 0,
        output,
    };
    let mut failures = 0;
    loop {
        match follower.step(notes).await {
            Ok(Some(ended)) => return Ok(ended),
            Ok(None) => failures = 0,
            Err(Failure::Transient(error)) if failures < MAX_FAILURES => {
                failures += 1;
                notes.add(format!("{error:#}; trying again"));
            }
            Err(Failure::Transient(error) | Failure::Final(error)) => return Err(error),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

enum Failure {
    /// The same request may succeed later.
    Transient(anyhow::Error),
    Final(anyhow::Error),
}

struct Follower<'a> {
    cluster: &'a Cluster,
    job: &'a str,
    pods: Api<Pod>,
    start: Instant,
    /// The pod's name, once there is one.
    pod: Option<String>,
    /// Bytes of the log that are in the output.
    copied: usize,
    output: &'a mut (dyn AsyncWrite + Unpin),
}

impl Follower<'_> {
    /// Checks the pod once and copies the available log. Returns the result after the command has
    /// ended.
    async fn step(&mut self, notes: &mut Notes) -> Result<Option<Ended>, Failure> {
        let namespace = &self.cluster.namespace;
        let of_the_job = ListParams::default().labels(&format!("{JOB_LABEL}={}", self.job));
        let list = self.pods.list(&of_the_job).await;
        let list = list.map_err(|error| self.failure("list", "pods", error))?;
        let Some(pod) = list.items.first() else {
            return self.no_pod(notes);
        };
        let name = pod.name_any();
        self.pod = Some(name.clone());
        let is_late = self.start.elapsed() > LONG_START;
        match state(pod) {
            State::Unschedulable(why) => {
                notes.add(format!("pod {namespace}/{name} is unschedulable: {why}"));
            }
            State::Starting(what) if is_late => notes.add(format!(
                "pod {namespace}/{name} is still starting ({what}); \
                 `kubectl -n {namespace} describe pod {name}` shows its events"
            )),
            State::Starting(_) => {}
            State::Failed(why) => {
                return Err(Failure::Final(anyhow!("pod {namespace}/{name}: {why}")));
            }
            State::Running => self.copy_log(&name, true).await?,
            State::Ended(ended) => {
                // What a broken connection has left out.
                self.copy_log(&name, false).await?;
                return Ok(Some(ended));
            }
        }
        Ok(None)
    }

    fn no_pod(&self, notes: &mut Notes) -> Result<Option<Ended>, Failure> {
        let (namespace, job) = (&self.cluster.namespace, self.job);
        if let Some(pod) = &self.pod {
            return Err(Failure::Final(anyhow!(
                "pod {namespace}/{pod} was deleted before the command ended"
            )));
        }
        if self.start.elapsed() > LONG_START {
            notes.add(format!(
                "Job {namespace}/{job} has no pod yet; \
                 `kubectl -n {namespace} describe job {job}` shows its events"
            ));
        }
        Ok(None)
    }

    /// Copies the log, with `follow` until the container has ended. It is read from its beginning,
    /// and each byte is written once.
    async fn copy_log(&mut self, pod: &str, follow: bool) -> Result<(), Failure> {
        let what = LogParams {
            container: Some(WORKER.to_owned()),
            follow,
            ..LogParams::default()
        };
        let stream = self.pods.log_stream(pod, &what).await;
        let stream = stream.map_err(|error| self.failure("get", "pods/log", error))?;
        let mut stream = pin!(stream);
        let mut position = 0;
        loop {
            let chunk = stream.fill_buf().await;
            let chunk = chunk
                .context("the pod's log stream was interrupted")
                .map_err(Failure::Transient)?;
            if chunk.is_empty() {
                return Ok(());
            }
            let length = chunk.len();
            let known = self.copied.saturating_sub(position).min(length);
            let written = async {
                self.output.write_all(&chunk[known..]).await?;
                self.output.flush().await
            };
            written
                .await
                .context("cannot write to standard output")
                .map_err(Failure::Final)?;
            position += length;
            self.copied = self.copied.max(position);
            stream.consume_unpin(length);
        }
    }

    fn failure(&self, verb: &str, resource: &str, error: kube::Error) -> Failure {
        let is_final = match &error {
            kube::Error::Api(status) => status.code != 429 && status.code < 500,
            _ => false,
        };
        let error = self.cluster.refused(verb, resource, error);
        if is_final {
            Failure::Final(error)
        } else {
            Failure::Transient(error)
        }
    }
}
