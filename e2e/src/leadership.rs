//! Whether an operator leads, as the lease object shows it to somebody outside.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use tokio::task::JoinHandle;

use crate::cluster::{Scene, eventually};

/// The lease of the operators, in each namespace that they watch.
const LEASE: &str = "layra-operator";
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(200);
/// A leader that did not renew its lease for so long writes nothing any more (decision 22).
const WRITES_FOR: f64 = 10.0;

/// What a look at the lease has shown.
#[derive(Clone, Debug)]
struct Look {
    second: f64,
    holder: Option<String>,
    /// Changes with each renewal.
    version: Option<String>,
}

/// Looks at the lease several times a second until it is dropped.
pub struct Leadership {
    start: Instant,
    looks: Arc<Mutex<Vec<Look>>>,
    task: JoinHandle<()>,
}

impl Leadership {
    /// Watches the lease of the scene's namespace. Seconds count from now.
    #[must_use]
    pub fn watch(scene: &Scene) -> Self {
        let (start, looks) = (Instant::now(), Arc::<Mutex<Vec<Look>>>::default());
        let (api, into) = (scene.api::<Lease>(), Arc::clone(&looks));
        let task = tokio::spawn(async move {
            loop {
                // Nothing is known while the API server does not answer.
                if let Ok(lease) = api.get_opt(LEASE).await {
                    let look = Look {
                        second: start.elapsed().as_secs_f64(),
                        holder: lease.as_ref().and_then(holder_of),
                        version: lease.and_then(|lease| lease.resource_version()),
                    };
                    into.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(look);
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Self { start, looks, task }
    }

    /// Seconds since the beginning of the watch.
    #[must_use]
    pub fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// How many of the seconds since `from` nobody led: nobody held the lease, or its holder did not
    /// renew it in time.
    #[must_use]
    pub fn seconds_without(&self, from: f64) -> f64 {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        seconds_without(&looks, from, self.now())
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn seconds_without(looks: &[Look], from: f64, until: f64) -> f64 {
    let mut total = 0.0;
    let mut renewed = f64::NEG_INFINITY;
    for (index, look) in looks.iter().enumerate() {
        let before = index.checked_sub(1).map(|index| &looks[index]);
        if before.is_none_or(|before| before.version != look.version) {
            renewed = look.second;
        }
        let ends = looks.get(index + 1).map_or(until, |next| next.second);
        let lost = match look.holder {
            Some(_) => renewed + WRITES_FOR,
            None => look.second,
        };
        let (begin, end) = (lost.max(look.second).max(from), ends.min(until));
        total += (end - begin).max(0.0);
    }
    total
}

fn holder_of(lease: &Lease) -> Option<String> {
    let holder = lease.spec.as_ref()?.holder_identity.clone()?;
    Some(holder).filter(|holder| !holder.is_empty())
}

/// The pod that holds the lease.
pub async fn leader(scene: &Scene) -> Result<String> {
    let lease = scene.api::<Lease>().get(LEASE).await?;
    holder_of(&lease).context("no operator leads")
}

/// The operator's pods.
pub async fn operators(client: &Client, namespace: &str) -> Result<Vec<Pod>> {
    let selector = ListParams::default().labels("app.kubernetes.io/component=operator");
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    Ok(pods.list(&selector).await?.items)
}

/// Restarts of a pod's containers.
#[must_use]
pub fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    let containers = containers.into_iter().flatten();
    containers.map(|container| container.restart_count).sum()
}

/// Whether a pod is ready and not about to go.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|it| it.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    pod.metadata.deletion_timestamp.is_none()
        && conditions.any(|it| it.type_ == "Ready" && it.status == "True")
}

/// Starts `count` new operators in place of those that there are, and waits until one leads. Their
/// containers have no restarts, so the kubelet starts them again at once.
pub async fn renew_operators(scene: &Scene, count: usize) -> Result<()> {
    let replicas = format!("--replicas={count}");
    let deployment = "deployment/layra-operator";
    scene.kubectl(&["scale", deployment, &replicas]).await?;
    scene.kubectl(&["rollout", "restart", deployment]).await?;
    scene
        .kubectl(&["rollout", "status", deployment, "--timeout=180s"])
        .await?;
    eventually("a leader", Duration::from_mins(2), async || {
        let pods = operators(&scene.client, &scene.namespace).await?;
        let leader = leader(scene).await?;
        let leads = pods
            .iter()
            .any(|pod| pod.name_any() == leader && is_ready(pod));
        Ok((pods.len() == count && leads).then_some(()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(second: f64, holder: Option<&str>, version: &str) -> Look {
        Look {
            second,
            holder: holder.map(str::to_owned),
            version: Some(version.to_owned()),
        }
    }

    #[test]
    fn nobody_leads_while_the_lease_is_free_or_was_not_renewed() {
        let close = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-9, "{found}");
        let renewed = [look(0.0, Some("a"), "1"), look(4.0, Some("a"), "2")];
        close(seconds_without(&renewed, 0.0, 14.0), 0.0);
        close(seconds_without(&renewed, 0.0, 16.0), 2.0);
        let released = [
            look(0.0, Some("a"), "1"),
            look(1.0, None, "2"),
            look(3.5, Some("b"), "3"),
        ];
        close(seconds_without(&released, 0.0, 10.0), 2.5);
        close(seconds_without(&released, 3.0, 10.0), 0.5);
        // The same version, looked at again and again: its holder is gone.
        let dead: Vec<Look> = (0..20)
            .map(|second| look(f64::from(second), Some("a"), "1"))
            .collect();
        close(seconds_without(&dead, 0.0, 20.0), 10.0);
        close(seconds_without(&[], 0.0, 20.0), 0.0);
    }
}
