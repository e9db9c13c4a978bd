//! Leader election: one operator reconciles a namespace, others wait. The lease is an object in the
//! watched namespace, so that two releases that watch the same namespace take turns, too.
//!
//! The leader renews its leases every few seconds. When it could not for [`Times::write`], it stops
//! writing ([`Fence`]) and exits, five seconds before anybody else may take over.

mod fence;
mod record;

use std::{
    future::Future,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use fence::Deadline;
pub(crate) use fence::Fence;
use record::{Step, Watched};

/// The times of an election.
#[derive(Clone, Copy, Debug)]
struct Times {
    /// After this long without a renewal another process takes over.
    lease: Duration,
    /// After this long without a renewal the leader stops writing and exits.
    write: Duration,
    /// Between renewals.
    renew: Duration,
    /// Between attempts, and between looks at a lease that another process holds.
    retry: Duration,
    /// Other leases are held for this long, or half as long again, while one is not to be had. Longer
    /// than a lease lasts whose holder is gone.
    patience: Duration,
}

const TIMES: Times = Times {
    lease: Duration::from_secs(15),
    write: Duration::from_secs(10),
    renew: Duration::from_secs(4),
    retry: Duration::from_secs(2),
    patience: Duration::from_secs(20),
};

/// A lease that this process holds. Dropped without [`Leases::release`], it ends by itself.
struct Held {
    deadline: Deadline,
    stop: oneshot::Sender<()>,
    renewals: JoinHandle<()>,
}

/// The leases of all watched namespaces.
pub(crate) struct Leases(Vec<Held>);

impl Leases {
    /// Waits for the leases of all namespaces; `None`: until `stop`. `reached` is called when the API
    /// server has answered.
    pub(crate) async fn acquire(
        client: &Client,
        namespaces: &[String],
        name: &str,
        identity: &str,
        reached: impl Fn(),
        stop: &CancellationToken,
    ) -> Option<Self> {
        let candidates = namespaces.iter().map(|namespace| Candidate {
            api: Api::namespaced(client.clone(), namespace),
            namespace: namespace.clone(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            times: TIMES,
        });
        Self::of(candidates.collect(), reached, stop).await
    }

    /// Takes the leases one after the other. When one of them is not to be had, the others are
    /// released, for operators that need only those, and taken after that one the next time.
    async fn of(
        candidates: Vec<Candidate>,
        reached: impl Fn(),
        stop: &CancellationToken,
    ) -> Option<Self> {
        let watched = |candidate| (candidate, Watched::default());
        let mut wanted: Vec<_> = candidates.into_iter().map(watched).collect();
        loop {
            let mut held = Vec::new();
            let mut missing = None;
            for (index, (candidate, watched)) in wanted.iter_mut().enumerate() {
                let patience = candidate.times.patience;
                let patience = patience.mul_f64(1.0 + fastrand::f64() / 2.0);
                tokio::select! {
                    lease = candidate.acquire(watched, &reached) => held.push(lease),
                    () = tokio::time::sleep(patience), if !held.is_empty() => {
                        missing = Some(index);
                        break;
                    }
                    () = stop.cancelled() => {
                        Self(held).release().await;
                        return None;
                    }
                }
            }
            let Some(missing) = missing else {
                return Some(Self(held));
            };
            Self(held).release().await;
            wanted.rotate_left(missing);
        }
    }

    /// Allows writes while all leases are held.
    pub(crate) fn fence(&self) -> Fence {
        Fence::new(self.0.iter().map(|held| held.deadline.clone()).collect())
    }

    /// Waits until one of the leases is lost.
    pub(crate) async fn lost(&mut self) -> LeaseLost {
        let renewals = self.0.iter_mut().map(|held| &mut held.renewals);
        let _ = futures::future::select_all(renewals).await;
        LeaseLost
    }

    /// Releases the leases, so that others can take over at once.
    pub(crate) async fn release(self) {
        for held in self.0 {
            if held.stop.send(()).is_ok() {
                drop(held.renewals.await);
            }
        }
    }
}

/// A process that wants one lease.
#[derive(Clone)]
struct Candidate {
    api: Api<LeaseObject>,
    namespace: String,
    name: String,
    identity: String,
    times: Times,
}

impl Candidate {
    /// Waits until this process holds the lease, and keeps it from then on.
    async fn acquire(&self, watched: &mut Watched, reached: impl Fn()) -> Held {
        let mut waits_for = None;
        loop {
            let sent = Instant::now();
            match within(self.times.write, self.attempt(watched)).await {
                Some(Ok(Attempt::Taken(lease))) => {
                    reached();
                    tracing::info!(
                        namespace = self.namespace,
                        lease = self.name,
                        "lease acquired"
                    );
                    return self.clone().hold(*lease, sent);
                }
                Some(Ok(Attempt::HeldBy(holder))) => {
                    reached();
                    if waits_for.as_ref() != Some(&holder) {
                        tracing::info!(
                            namespace = self.namespace,
                            lease = self.name,
                            holder,
                            "waiting for the lease"
                        );
                        waits_for = Some(holder);
                    }
                }
                Some(Err(error)) => tracing::warn!(
                    namespace = self.namespace,
                    lease = self.name,
                    %error,
                    "lease not accessible, retrying"
                ),
                None => tracing::warn!(
                    namespace = self.namespace,
                    lease = self.name,
                    "lease not accessible in time, retrying"
                ),
            }
            tokio::time::sleep(self.times.retry).await;
        }
    }

    async fn attempt(&self, watched: &mut Watched) -> Result<Attempt, kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let mut lease = LeaseObject {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: None,
            };
            self.write_into(&mut lease);
            let taken = self.api.create(&PostParams::default(), &lease).await?;
            return Ok(Attempt::Taken(Box::new(taken)));
        };
        match watched.look(&lease, &self.identity, Instant::now()) {
            Step::Wait => {
                let holder = record::holder(&lease).unwrap_or_default();
                Ok(Attempt::HeldBy(holder.to_owned()))
            }
            Step::Take => {
                self.write_into(&mut lease);
                // With the version that was read: of two candidates one gets a conflict.
                Ok(Attempt::Taken(Box::new(self.replace(&lease).await?)))
            }
        }
    }

    fn write_into(&self, lease: &mut LeaseObject) {
        record::take(lease, &self.identity, self.times.lease, Timestamp::now());
    }

    async fn replace(&self, lease: &LeaseObject) -> Result<LeaseObject, kube::Error> {
        let parameters = PostParams::default();
        self.api.replace(&self.name, &parameters, lease).await
    }

    fn hold(self, lease: LeaseObject, sent: Instant) -> Held {
        let deadline = Deadline::new(sent + self.times.write);
        let (stop, stopped) = oneshot::channel();
        let renewals = tokio::spawn(self.keep(lease, deadline.clone(), stopped));
        Held {
            deadline,
            stop,
            renewals,
        }
    }

    /// Renews the lease. Ends when it is lost, or after its release.
    async fn keep(
        self,
        mut lease: LeaseObject,
        deadline: Deadline,
        mut stopped: oneshot::Receiver<()>,
    ) {
        loop {
            let pause = tokio::time::sleep(self.times.renew);
            tokio::select! {
                () = pause => {}
                _ = &mut stopped => return self.release(lease, &deadline).await,
            }
            let renewed = tokio::time::timeout_at(deadline.get().into(), self.renew(&lease));
            match renewed.await {
                Ok(Ok((renewed, sent)))
                    if deadline
                        .extend(sent + self.times.write, Instant::now())
                        .is_ok() =>
                {
                    lease = renewed;
                }
                _ => {
                    deadline.expire();
                    tracing::error!(namespace = self.namespace, lease = self.name, "lease lost");
                    return;
                }
            }
        }
    }

    /// Tries until the lease is renewed or another process holds it. Also returns when the
    /// successful request was sent.
    async fn renew(&self, last: &LeaseObject) -> Result<(LeaseObject, Instant), LeaseLost> {
        let mut lease = last.clone();
        loop {
            let sent = Instant::now();
            self.write_into(&mut lease);
            match within(self.times.retry, self.replace(&lease)).await {
                Some(Ok(renewed)) => return Ok((renewed, sent)),
                Some(Err(kube::Error::Api(status))) if status.code == 409 => {
                    // Somebody else wrote: a new holder, or a person who added a label.
                    if let Some(Ok(now)) = within(self.times.retry, self.api.get(&self.name)).await
                    {
                        if record::holder(&now) != Some(&self.identity) {
                            return Err(LeaseLost);
                        }
                        lease = now;
                        continue;
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(namespace = self.namespace, lease = self.name, %error, "lease not renewed, retrying");
                }
                None => {
                    tracing::warn!(
                        namespace = self.namespace,
                        lease = self.name,
                        "lease not renewed in time, retrying"
                    );
                }
            }
            tokio::time::sleep(self.times.retry / 2).await;
        }
    }

    async fn release(self, mut lease: LeaseObject, deadline: &Deadline) {
        record::release(&mut lease);
        let released = tokio::time::timeout_at(deadline.get().into(), self.replace(&lease));
        match released.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(namespace = self.namespace, %error, "lease not released");
            }
            Err(_) => tracing::warn!(namespace = self.namespace, "lease not released in time"),
        }
    }
}

enum Attempt {
    Taken(Box<LeaseObject>),
    HeldBy(String),
}

async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(time, work).await.ok()
}

/// This process no longer takes part in the election.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease was lost")]
pub(crate) struct LeaseLost;

#[cfg(test)]
mod tests;
