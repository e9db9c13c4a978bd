//! Leader election: of several operators one reconciles, the others stand by.

use std::time::Duration;

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use tokio::{sync::watch, task::JoinHandle};

/// How long a leader that died keeps the others waiting, in seconds.
const LEASE_SECONDS: u64 = 15;
/// How long before its end a lease is renewed, in seconds.
const RENEW_BEFORE_SECONDS: u64 = 10;
/// Between attempts to reach the API server at the start.
const RETRY: Duration = Duration::from_secs(2);

/// The lease of this process. Dropping it without [`Lease::release`] leaves it to expire.
pub(crate) struct Lease {
    leads: watch::Receiver<bool>,
    task: JoinHandle<Result<LeaseManager, kube_lease_manager::LeaseManagerError>>,
}

impl Lease {
    /// Begins to take part in the election, as soon as the API server answers.
    pub(crate) async fn join(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        loop {
            let manager = LeaseManagerBuilder::new(client.clone(), name)
                .with_namespace(namespace)
                .with_identity(identity)
                .with_duration(LEASE_SECONDS)
                .with_grace(RENEW_BEFORE_SECONDS)
                .build()
                .await;
            match manager {
                Ok(manager) => {
                    let (leads, task) = manager.watch().await;
                    return Self { leads, task };
                }
                Err(error) => {
                    tracing::warn!(lease = name, namespace, %error, "no access to the lease yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Waits until this process leads (`true`), or no longer does (`false`).
    pub(crate) async fn until(&mut self, leads: bool) -> Result<(), LeaseLost> {
        self.leads
            .wait_for(|now| *now == leads)
            .await
            .map(|_| ())
            .map_err(|_| LeaseLost)
    }

    /// Gives the lease to whoever waits for it.
    pub(crate) async fn release(self) {
        drop(self.leads);
        match self.task.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "lease not released"),
            Err(error) => tracing::warn!(%error, "lease not released"),
        }
    }
}

/// The election cannot go on in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease was lost")]
pub(crate) struct LeaseLost;
