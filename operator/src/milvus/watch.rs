//! Checks the indexes of one pipeline's collections in the background, so that a slow or absent
//! Milvus delays no reconcile.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use layra_crds::MilvusSpec;
use tokio::task::JoinHandle;

use super::{
    Described, IndexReport, MilvusClients, MilvusError,
    check::Check,
    clients::{CONCURRENCY, Listing, Server},
    describe_index,
    drift::difference,
};

/// Between two rounds, after a success and after a failure.
const INTERVAL: Duration = Duration::from_mins(2);
const FAILED_INTERVAL: Duration = Duration::from_secs(10);

type CheckResult = Result<IndexReport, MilvusError>;

/// The check of one pipeline. It ends when this is dropped.
pub(crate) struct IndexWatch {
    spec: MilvusSpec,
    token: Option<String>,
    /// Private certificate authorities.
    authorities: Option<String>,
    latest: Arc<Mutex<Option<CheckResult>>>,
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
        let rounds = Rounds {
            clients: clients.clone(),
            spec: spec.clone(),
            token: token.map(str::to_owned),
            authorities: authorities.map(str::to_owned),
            latest: Arc::clone(&latest),
        };
        Self {
            spec: spec.clone(),
            token: token.map(str::to_owned),
            authorities: authorities.map(str::to_owned),
            latest,
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
        self.spec == *spec
            && self.token.as_deref() == token
            && self.authorities.as_deref() == authorities
    }

    /// The latest result, `None` before the first.
    pub(crate) fn latest(&self) -> Option<CheckResult> {
        lock(&self.latest).clone()
    }
}

impl Drop for IndexWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Rounds {
    clients: MilvusClients,
    spec: MilvusSpec,
    token: Option<String>,
    /// Private certificate authorities.
    authorities: Option<String>,
    latest: Arc<Mutex<Option<CheckResult>>>,
}

impl Rounds {
    async fn run(self, on_change: impl Fn()) {
        let mut check = Check::default();
        let mut failed = false;
        loop {
            // Boxed: the task is small while it sleeps, which is most of the time.
            let result = Box::pin(self.round(&mut check)).await;
            let pause = match &result {
                Ok(_) if !check.is_complete() => Duration::ZERO,
                Ok(_) => INTERVAL,
                Err(_) => FAILED_INTERVAL,
            };
            let is_first_failure = result.is_err() && !failed;
            failed = result.is_err();
            if self.publish(result, is_first_failure) {
                on_change();
            }
            // Spread, so that the checks of many pipelines do not meet.
            tokio::time::sleep(pause.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
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

    async fn round(&self, check: &mut Check) -> CheckResult {
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
        let mut answers = stream::iter(check.due(&names))
            .map(|name| describe(&server, &listing, name))
            .buffer_unordered(CONCURRENCY);
        let mut failure = None;
        while let Some((name, answer)) = answers.next().await {
            let found = match answer {
                Ok(Described::Index(found)) => difference(Some(&found), &self.spec.index),
                Ok(Described::NoIndex) => difference(None, &self.spec.index),
                Ok(Described::Dropped) => None,
                Err(error) => {
                    failure.get_or_insert(error);
                    // An absent server is not asked hundreds of times.
                    break;
                }
            };
            check.record(name, found, Instant::now());
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(check.report()),
        }
    }
}

async fn describe(
    server: &Server,
    listing: &Listing,
    name: String,
) -> (String, Result<Described, MilvusError>) {
    let _permit = server.permit().await;
    let answer = describe_index(&listing.client, &name).await;
    (name, answer)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use layra_crds::IndexSpec;
    use tokio::sync::Notify;

    use super::*;

    fn spec() -> MilvusSpec {
        MilvusSpec {
            // Nothing listens on port 1.
            uri: "http://127.0.0.1:1".into(),
            token_secret_ref: None,
            ca_secret_ref: None,
            readers: layra_crds::Readers::default(),
            archive: None,
            retention: None,
            collection: "colqwen{knowledge_db_id}".into(),
            index: IndexSpec::default(),
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
    }

    #[test]
    fn one_failure_after_a_success_is_not_published() {
        let rounds = Rounds {
            clients: MilvusClients::default(),
            spec: spec(),
            token: None,
            authorities: None,
            latest: Arc::default(),
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
