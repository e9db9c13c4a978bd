//! Leader election: one operator reconciles, the others are standbys.

use std::time::Duration;

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use tokio::{sync::watch, task::JoinHandle};

/// Seconds after which a standby takes over from a leader that died.
const LEASE_SECONDS: u64 = 15;
/// Seconds before the end of a lease at which it is renewed.
const RENEW_BEFORE_SECONDS: u64 = 10;
/// Between attempts to reach the API server at startup.
const RETRY: Duration = Duration::from_secs(2);

/// The lease of this process. If it is dropped without [`Lease::release`], it expires.
pub(crate) struct Lease {
    is_leader: watch::Receiver<bool>,
    task: JoinHandle<Result<LeaseManager, kube_lease_manager::LeaseManagerError>>,
}

impl Lease {
    /// Joins the election as soon as the API server answers.
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
                    let (is_leader, task) = manager.watch().await;
                    return Self { is_leader, task };
                }
                Err(error) => {
                    tracing::warn!(lease = name, namespace, %error, "lease not accessible yet, retrying");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Waits until this process is the leader (`true`) or is not (`false`).
    pub(crate) async fn wait_for_leadership(&mut self, leader: bool) -> Result<(), LeaseLost> {
        self.is_leader
            .wait_for(|is_leader| *is_leader == leader)
            .await
            .map(|_| ())
            .map_err(|_| LeaseLost)
    }

    /// Releases the lease, so that a standby can take over at once.
    pub(crate) async fn release(self) {
        drop(self.is_leader);
        match self.task.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "lease not released"),
            Err(error) => tracing::warn!(%error, "lease not released"),
        }
    }
}

/// This process no longer takes part in the election.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease was lost")]
pub(crate) struct LeaseLost;
