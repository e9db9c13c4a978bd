//! `kubectl layra validate NAME --disruptive`: one fault after the other, in a copy of the pipeline,
//! so that no document of a user meets one:
//! `docs/decisions/0045-validate-uses-the-pipeline-itself.md`.

mod copy;
mod faults;
mod judge;
mod pauses;
mod removal;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use kube::Resource;
use kube::api::PostParams;
use kube::core::NamespaceResourceScope;
use layra_crds::condition_types::{READY, STALLED};
use layra_crds::{IngestionPipeline, IngestionPipelineStatus, LoadProgress, ValidationFault};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::{ValidateArgs, workers};
use crate::checks::Check;
use crate::cluster::{Access, Cluster, resource};
use crate::conditions::{in_words, to_attend};
use crate::load::{Load, Outcome};
use crate::run::deployment_name;
use copy::Names;
pub(super) use copy::refuse;
use pauses::{Interrupted, Pauses};
pub(super) use removal::remove_remainders;

/// The documents of a fault are sent within this time, so that it meets some of them.
const FLOW_SECONDS: f64 = 12.0;
/// Until the proxy runs.
const PROXY: Duration = Duration::from_mins(5);

/// How it ended.
pub(super) enum Ended {
    Checked(Vec<Check>),
    Interrupted(ExitCode),
}

/// The faults of `--faults`, in their order.
pub(super) fn fault(name: &str) -> Result<ValidationFault, String> {
    let found = ValidationFault::ALL
        .into_iter()
        .find(|fault| fault.as_str() == name);
    found.ok_or_else(|| {
        let names = ValidationFault::ALL.map(ValidationFault::as_str);
        format!("expected one of {}", names.join(", "))
    })
}

/// Makes the copy, injects the faults, and removes everything, whatever happens.
pub(super) async fn run(
    args: &ValidateArgs,
    access: &Access,
    cluster: &Cluster,
    original: &IngestionPipeline,
) -> anyhow::Result<Ended> {
    let names = Names::of(&args.pipeline);
    let found = cluster.find::<IngestionPipeline>(&names.pipeline).await?;
    ensure!(
        found.is_none(),
        "there is an IngestionPipeline {} that no validation has made: it is not touched. Its name is \
         needed: rename it, or validate without --disruptive",
        names.pipeline
    );
    let disruption = Disruption {
        args,
        access,
        cluster,
        original,
        names,
    };
    let checks = Box::pin(disruption.carry_out()).await;
    let image = args.reporting.image();
    let removed = Box::pin(removal::remove(cluster, access, original, image)).await;
    match checks {
        Ok(mut checks) => {
            checks.push(judge::removed(&removed));
            Ok(Ended::Checked(checks))
        }
        Err(error) => {
            if let Err(left) = removed {
                eprintln!("error: {left:#}");
            }
            match error.downcast_ref::<Interrupted>() {
                Some(Interrupted(code)) => Ok(Ended::Interrupted(*code)),
                None => Err(error),
            }
        }
    }
}

struct Disruption<'a> {
    args: &'a ValidateArgs,
    access: &'a Access,
    cluster: &'a Cluster,
    original: &'a IngestionPipeline,
    names: Names,
}

impl Disruption<'_> {
    async fn carry_out(&self) -> anyhow::Result<Vec<Check>> {
        let mut pauses = Pauses::listen()?;
        let faults = self.faults();
        let milvus = copy::milvus_address(&self.original.spec.stores.milvus.uri);
        let is_cut_off = faults.contains(&ValidationFault::MilvusCutOff);
        let proxy = match &milvus {
            Some(milvus) if is_cut_off => Some(self.start_proxy(milvus, &mut pauses).await?),
            _ => None,
        };
        let copy = copy::pipeline(self.original, proxy.as_deref())?;
        self.create(&copy).await?;
        eprintln!("made IngestionPipeline {}", self.names.pipeline);
        let began = Instant::now();
        let ready = self.wait_until_ready(&mut pauses).await?;
        let took = ready.map(|()| began.elapsed());
        let mut checks = vec![judge::started(&took, self.args.wait)];
        if took.is_err() {
            return Ok(checks);
        }
        for fault in faults {
            checks.push(match self.not_possible(fault, proxy.is_some()) {
                Some(why) => Check::not_checked(judge::name(fault), why),
                None => Box::pin(self.meet(fault)).await?,
            });
        }
        Ok(checks)
    }

    /// Those that were asked for, each once.
    fn faults(&self) -> Vec<ValidationFault> {
        let asked = &self.args.faults;
        let mut faults = ValidationFault::ALL.to_vec();
        faults.retain(|fault| asked.is_empty() || asked.contains(fault));
        faults
    }

    fn not_possible(&self, fault: ValidationFault, has_proxy: bool) -> Option<&'static str> {
        match fault {
            ValidationFault::MilvusCutOff if !has_proxy => {
                Some("a proxy cannot stand in front of a Milvus with TLS")
            }
            ValidationFault::OutOfMemory if !copy::has_memory_limit(&self.original.spec) => Some(
                "worker.resources.limits.memory is not set: it would hit other pods of the node",
            ),
            _ => None,
        }
    }

    /// Sends documents and makes the fault while they are in progress.
    async fn meet(&self, fault: ValidationFault) -> anyhow::Result<Check> {
        let name = judge::name(fault);
        eprintln!("fault: {name}");
        let documents = self.args.documents;
        let load = Load {
            pipeline: &self.names.pipeline,
            image: self.args.reporting.image(),
            documents,
            pages: self.args.pages,
            rate: Some(f64::from(documents) / FLOW_SECONDS),
            wait: self.args.wait,
            checks: true,
            keep: false,
        };
        let (progress, watched) = watch::channel(LoadProgress::default());
        let mut load = Box::pin(load.run_watched(self.access, progress));
        let injecting = faults::inject(self.cluster, &self.names, fault, documents, watched);
        let mut injecting = Box::pin(injecting);
        let (outcome, injected) = tokio::select! {
            outcome = &mut load => (outcome, None),
            injected = &mut injecting => (load.await, Some(injected)),
        };
        match outcome? {
            Outcome::Measured(result) => {
                let injected = match injected {
                    Some(injected) => injected,
                    None => injecting.await,
                };
                let within = self.args.expect_recovery_within;
                Ok(judge::fault(fault, &injected, &result, within))
            }
            Outcome::Ended(code) if is_of_a_signal(code) => bail!(Interrupted(code)),
            Outcome::Ended(_) => bail!("the Job that sends documents has failed ({name})"),
        }
    }

    /// Returns the address of the proxy.
    async fn start_proxy(&self, milvus: &str, pauses: &mut Pauses) -> anyhow::Result<String> {
        let (cluster, name) = (self.cluster, &self.names.proxy);
        // That of a call that was killed before it had made the copy.
        let is_free = Box::pin(removal::remove_proxy(cluster, name, &self.args.pipeline)).await?;
        ensure!(
            is_free,
            "there is a Job {name} that no validation has made: it is not touched. Its name is needed: \
             delete it, or leave milvus-cut-off out with --faults"
        );
        let workers = deployment_name(&self.args.pipeline);
        let deployment = cluster.find::<Deployment>(&workers).await?;
        let deployment = deployment.with_context(|| format!("there is no Deployment {workers}"))?;
        let image = self.args.reporting.image();
        let job = copy::proxy(self.original, &deployment, image, milvus)?;
        self.create::<Job>(&job).await?;
        let address = async || {
            let pods = faults::proxies(cluster, name).await?;
            let mut running = pods.iter().filter(|pod| workers::is_running(pod));
            Ok(running.find_map(copy::proxy_address))
        };
        let address = pauses.until(PROXY, address).await?;
        address.with_context(|| format!("the pod of Job {name} does not run"))
    }

    /// `Err`: why it is not.
    async fn wait_until_ready(&self, pauses: &mut Pauses) -> anyhow::Result<Result<(), String>> {
        let look = async || {
            let copy = self.cluster.pipeline(&self.names.pipeline).await?;
            let status = copy.status.as_ref();
            let observed = status.and_then(|status| status.observed_generation);
            let status = status.filter(|_| observed == copy.metadata.generation);
            Ok(status.and_then(readiness))
        };
        if let Some(readiness) = pauses.until(self.args.wait, look).await? {
            return Ok(readiness);
        }
        let copy = self.cluster.pipeline(&self.names.pipeline).await?;
        Ok(Err(words(copy.status.as_ref())))
    }

    async fn create<K>(&self, object: &K) -> anyhow::Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope>
            + Clone
            + Serialize
            + DeserializeOwned
            + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let created = self
            .cluster
            .api::<K>()
            .create(&PostParams::default(), object)
            .await;
        created
            .map_err(|error| self.cluster.refused("create", &resource::<K>(), error))
            .context("--disruptive needs the permissions of Kubernetes' role `edit`")
    }
}

/// `None`: it is on its way.
fn readiness(status: &IngestionPipelineStatus) -> Option<Result<(), String>> {
    let is = |kind: &str| {
        let mut conditions = status.conditions.iter();
        conditions.any(|condition| condition.type_ == kind && condition.status == "True")
    };
    if is(READY) {
        return Some(Ok(()));
    }
    is(STALLED).then(|| Err(words(Some(status))))
}

fn words(status: Option<&IngestionPipelineStatus>) -> String {
    let all = in_words(status);
    let wrong: Vec<String> = to_attend(&all)
        .into_iter()
        .map(|one| format!("{}: {}", one.reason, one.message))
        .collect();
    if wrong.is_empty() {
        "the operator has written no status".to_owned()
    } else {
        wrong.join("; ")
    }
}

fn is_of_a_signal(code: ExitCode) -> bool {
    [129, 130, 143].map(ExitCode::from).contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::tests::{condition, status};

    #[test]
    fn faults_have_names() {
        assert_eq!(fault("killed-worker"), Ok(ValidationFault::KilledWorker));
        let refused = fault("earthquake").unwrap_err();
        assert!(
            refused.contains("killed-renderer, killed-worker"),
            "{refused}"
        );
    }

    #[test]
    fn a_copy_that_cannot_become_ready_is_not_waited_for() {
        let of = |kind, state, reason| {
            let status = status(vec![condition(kind, state, reason, "no answer")]);
            readiness(&status)
        };
        assert_eq!(of("Ready", "True", "PipelineReady"), Some(Ok(())));
        assert_eq!(of("Ready", "False", "Reconciling"), None);
        let stalled = of("Stalled", "True", "Conflict");
        assert_eq!(stalled, Some(Err("Conflict: no answer".to_owned())));
    }
}
