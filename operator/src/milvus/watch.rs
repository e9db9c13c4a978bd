//! Checks the indexes of one pipeline's collections in the background, so that a slow or absent
//! Milvus delays no reconcile.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use layra_crds::{
    MilvusSpec, OnIndexDrift, OnModelChange, Readers, RebuildSpec, ResolvedIndex, VectorType,
};
use milvus::v2::prelude::ClientV2;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    Described, IndexReport, MilvusClients, MilvusError,
    check::{Check, CollectionSizes, Drift, Found},
    clients::{CONCURRENCY, Listing, Server},
    describe_index, vectors,
};

/// Between two rounds after a failure.
const FAILED_INTERVAL: Duration = Duration::from_secs(10);
/// Between two rounds while collections are rebuilt, at most.
const REBUILD_INTERVAL: Duration = Duration::from_secs(5);

type CheckResult = Result<IndexReport, MilvusError>;

/// What is asked how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Drifted collections are asked for their vectors, too.
    pub(crate) counts_vectors: bool,
    /// Collections are being rebuilt.
    pub(crate) is_rebuilding: bool,
}

/// The check of one pipeline. It ends when this is dropped.
pub(crate) struct IndexWatch {
    spec: MilvusSpec,
    token: Option<String>,
    /// Private certificate authorities.
    authorities: Option<String>,
    latest: Arc<Mutex<Option<CheckResult>>>,
    /// Kept apart from the result: a change of sizes does not trigger a reconcile.
    sizes: Arc<Mutex<Option<CollectionSizes>>>,
    pace: watch::Sender<Pace>,
    task: JoinHandle<()>,
}

impl IndexWatch {
    /// Starts to check. `on_change` is called when the result changes. It must not block.
    pub(crate) fn start(
        clients: &MilvusClients,
        spec: &MilvusSpec,
        token: Option<&str>,
        authorities: Option<&str>,
        on_change: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let latest = Arc::default();
        let sizes = Arc::default();
        let (pace, new_pace) = watch::channel(Pace::default());
        let rounds = Rounds {
            clients: clients.clone(),
            spec: spec.clone(),
            token: token.map(str::to_owned),
            authorities: authorities.map(str::to_owned),
            latest: Arc::clone(&latest),
            sizes: Arc::clone(&sizes),
            pace: new_pace,
        };
        Self {
            spec: checked_part(spec),
            token: token.map(str::to_owned),
            authorities: authorities.map(str::to_owned),
            latest,
            sizes,
            pace,
            task: tokio::spawn(async move { rounds.run(on_change).await }),
        }
    }

    /// Whether it checks for this spec with this token and these authorities.
    pub(crate) fn is_of(
        &self,
        spec: &MilvusSpec,
        token: Option<&str>,
        authorities: Option<&str>,
    ) -> bool {
        self.spec == checked_part(spec)
            && self.token.as_deref() == token
            && self.authorities.as_deref() == authorities
    }

    /// Sets what is asked from now on. A change begins a round.
    pub(crate) fn set_pace(&self, pace: Pace) {
        self.pace.send_if_modified(|old| {
            let is_new = *old != pace;
            *old = pace;
            is_new
        });
    }

    /// The latest result, `None` before the first.
    pub(crate) fn latest(&self) -> Option<CheckResult> {
        lock(&self.latest).clone()
    }

    /// The sizes of the collections, `None` before the first check of all.
    pub(crate) fn sizes(&self) -> Option<CollectionSizes> {
        lock(&self.sizes).clone()
    }
}

impl Drop for IndexWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How collections are rebuilt, how large they may be and how they end is no part of the check: a
/// change does not begin it again.
fn checked_part(spec: &MilvusSpec) -> MilvusSpec {
    MilvusSpec {
        on_index_drift: OnIndexDrift::default(),
        on_model_change: OnModelChange::default(),
        rebuild: RebuildSpec::default(),
        archive: None,
        retention: None,
        readers: Readers::default(),
        vector_type: VectorType::default(),
        quotas: None,
        ..spec.clone()
    }
}

struct Rounds {
    clients: MilvusClients,
    spec: MilvusSpec,
    token: Option<String>,
    /// Private certificate authorities.
    authorities: Option<String>,
    latest: Arc<Mutex<Option<CheckResult>>>,
    sizes: Arc<Mutex<Option<CollectionSizes>>>,
    pace: watch::Receiver<Pace>,
}

impl Rounds {
    async fn run(mut self, on_change: impl Fn()) {
        let mut check = Check::default();
        let mut failed = false;
        loop {
            let pace = *self.pace.borrow_and_update();
            // Boxed: the task is small while it sleeps, which is most of the time.
            let result = Box::pin(self.round(&mut check, pace)).await;
            let pause = match &result {
                Ok(_) if !check.is_complete() => Duration::ZERO,
                Ok(_) if pace.is_rebuilding => check.interval().min(REBUILD_INTERVAL),
                Ok(_) => check.interval(),
                Err(_) => FAILED_INTERVAL,
            };
            if result.is_ok() && check.is_complete() {
                *lock(&self.sizes) = Some(check.sizes());
            }
            let is_first_failure = result.is_err() && !failed;
            failed = result.is_err();
            if self.publish(result, is_first_failure) {
                on_change();
            }
            // Spread, so that the checks of many pipelines do not meet.
            let pause = tokio::time::sleep(pause.mul_f64(0.9 + 0.2 * fastrand::f64()));
            tokio::select! {
                () = pause => {}
                // The sender lives as long as this task.
                _ = self.pace.changed() => {}
            }
        }
    }

    /// Whether the result is another one. One failure after a success is not: one lost answer is no
    /// outage.
    fn publish(&self, result: CheckResult, is_first_failure: bool) -> bool {
        let mut latest = lock(&self.latest);
        if is_first_failure && matches!(*latest, Some(Ok(_))) {
            return false;
        }
        let is_new = latest.as_ref() != Some(&result);
        *latest = Some(result);
        is_new
    }

    async fn round(&self, check: &mut Check, pace: Pace) -> CheckResult {
        let server = self.clients.server(
            &self.spec.uri,
            self.token.as_deref(),
            self.authorities.as_deref(),
        );
        let listing = server.listing().await?;
        let names: BTreeSet<&str> = listing
            .collections
            .iter()
            .map(String::as_str)
            .filter(|name| self.spec.owns_collection(name))
            .collect();
        let want = self.spec.index.resolved();
        let mut answers = stream::iter(check.due(&names))
            .map(|name| inspect(&server, &listing, name, want, pace.counts_vectors))
            .buffer_unordered(CONCURRENCY);
        let mut failure = None;
        while let Some((name, answer)) = answers.next().await {
            match answer {
                Ok(found) => check.record(name, found, Instant::now()),
                Err(error) => {
                    failure.get_or_insert(error);
                    // An absent server is not asked hundreds of times.
                    break;
                }
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(check.report()),
        }
    }
}

async fn inspect(
    server: &Server,
    listing: &Listing,
    name: String,
    want: ResolvedIndex,
    counts_vectors: bool,
) -> (String, Result<Found, MilvusError>) {
    let _permit = server.permit().await;
    let answer = found_in(&listing.client, &name, want, counts_vectors).await;
    (name, answer)
}

async fn found_in(
    client: &ClientV2,
    name: &str,
    want: ResolvedIndex,
    counts_vectors: bool,
) -> Result<Found, MilvusError> {
    let index = match describe_index(client, name).await? {
        Described::Index(index) => Some(index),
        Described::NoIndex => None,
        Described::Dropped => return Ok(Found::default()),
    };
    let counted = vectors(client, name).await;
    let Some(difference) = want.difference(index.as_ref()) else {
        return Ok(Found {
            drift: None,
            // Only a metric needs it here.
            vectors: counted.ok().flatten(),
        });
    };
    let vectors = match counted {
        Err(error) if counts_vectors && index.is_some() => return Err(error),
        counted => counted.ok().flatten(),
    };
    let is_urgent = counts_vectors && (index.is_none() || vectors == Some(0));
    Ok(Found {
        drift: Some(Drift {
            difference,
            is_urgent,
        }),
        vectors,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use layra_crds::{IndexSpec, QuotasSpec};
    use tokio::sync::Notify;

    use super::*;

    fn spec() -> MilvusSpec {
        MilvusSpec {
            // Nothing listens on port 1.
            uri: "http://127.0.0.1:1".into(),
            token_secret_ref: None,
            ca_secret_ref: None,
            archive: None,
            retention: None,
            collection: "colqwen{knowledge_db_id}".into(),
            index: IndexSpec::default(),
            on_index_drift: OnIndexDrift::default(),
            on_model_change: OnModelChange::default(),
            rebuild: RebuildSpec::default(),
            readers: Readers::default(),
            vector_type: VectorType::default(),
            quotas: None,
        }
    }

    #[tokio::test]
    async fn an_absent_milvus_is_reported_within_seconds_and_nobody_waits_for_it() {
        let changed = Arc::new(Notify::new());
        let notify = Arc::clone(&changed);
        let clients = MilvusClients::default();
        let watch = IndexWatch::start(&clients, &spec(), None, None, move || notify.notify_one());
        assert_eq!(
            watch.latest(),
            None,
            "it does not wait for the first result"
        );
        tokio::time::timeout(Duration::from_secs(10), changed.notified())
            .await
            .unwrap();
        let result = watch.latest();
        assert!(
            matches!(result, Some(Err(MilvusError::Unreachable(_)))),
            "{result:?}"
        );
        assert!(watch.is_of(&spec(), None, None) && !watch.is_of(&spec(), Some("token"), None));
        let mut other = spec();
        other.on_index_drift = OnIndexDrift::RebuildBeside;
        other.on_model_change = OnModelChange::ReembedBeside;
        other.quotas = Some(QuotasSpec::default());
        other.readers = Readers::Own;
        assert!(watch.is_of(&other, None, None), "the check goes on");
        other.index.m = Some(16);
        assert!(!watch.is_of(&other, None, None));
    }

    #[test]
    fn one_failure_after_a_success_is_not_published() {
        let rounds = Rounds {
            clients: MilvusClients::default(),
            spec: spec(),
            token: None,
            authorities: None,
            latest: Arc::default(),
            sizes: Arc::default(),
            pace: watch::channel(Pace::default()).1,
        };
        let away = || Err(MilvusError::Unreachable("no response".into()));
        assert!(rounds.publish(away(), true), "nothing is known yet");
        assert!(rounds.publish(Ok(IndexReport::default()), false));
        assert!(!rounds.publish(Ok(IndexReport::default()), false));
        assert!(!rounds.publish(away(), true));
        assert_eq!(*lock(&rounds.latest), Some(Ok(IndexReport::default())));
        assert!(rounds.publish(away(), false));
    }
}
