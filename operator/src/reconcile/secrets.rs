//! Reads the Secrets that pipelines name, with a cache that the pipelines of a namespace share. They
//! are never listed or watched: the operator may only get those that a pipeline names.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client};
use layra_crds::{IngestionPipelineSpec, KafkaSecurity, ReferencedSecret, SecretKind, secret_text};

use super::{
    reason::Reason,
    world::{Problem, SecretState},
};

/// A usable Secret is read again after this long: the longest delay until a rotation is noticed.
const TTL: Duration = Duration::from_mins(1);
/// An unusable Secret is read again with almost every reconcile.
const UNUSABLE_TTL: Duration = Duration::from_secs(2);
/// The last copy of a Secret is used for this long while the API server does not return it: one
/// failed request is no problem of the pipeline.
const LAST_COPY_TTL: Duration = Duration::from_mins(5);
/// A Secret that was not read again for this long is dropped from the cache.
const IDLE: Duration = Duration::from_mins(10);

/// Secrets by namespace and name, with the time of the read, `None` for one that does not exist. The
/// times are monotonic: a clock that is set back must not keep an old value.
#[derive(Default)]
pub(super) struct SecretCache(Mutex<HashMap<Key, (Instant, Option<Secret>)>>);

/// Namespace and name.
type Key = (String, String);

impl SecretCache {
    /// The Secrets that a spec names; those whose TTL has passed are read again.
    pub(super) async fn read(
        &self,
        client: &Client,
        namespace: &str,
        spec: &IngestionPipelineSpec,
    ) -> Vec<ReadSecret> {
        let now = Instant::now();
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let mut read = Vec::new();
        for reference in spec.secrets() {
            let key = (namespace.to_owned(), reference.name.to_owned());
            let result = match self.cached(&key, &reference, now) {
                Ok(secret) => Ok(secret),
                Err(Expired) => match api.get_opt(reference.name).await {
                    Ok(secret) => {
                        self.lock().insert(key, (now, secret.clone()));
                        Ok(secret)
                    }
                    Err(error) => self.last_copy(&key, now).map(Some).ok_or_else(|| {
                        tracing::warn!(secret = reference.name, %error, "Secret not read");
                        error.to_string()
                    }),
                },
            };
            read.push(ReadSecret::new(&reference, result));
        }
        self.lock()
            .retain(|_, (at, _)| now.saturating_duration_since(*at) < IDLE);
        read
    }

    fn cached(
        &self,
        key: &Key,
        reference: &ReferencedSecret<'_>,
        now: Instant,
    ) -> Result<Option<Secret>, Expired> {
        let cached = self.lock();
        let (at, secret) = cached.get(key).ok_or(Expired)?;
        let read = ReadSecret::new(reference, Ok(secret.clone()));
        let usable = read.state.problem.is_none();
        let ttl = if usable { TTL } else { UNUSABLE_TTL };
        if now.saturating_duration_since(*at) < ttl {
            Ok(secret.clone())
        } else {
            Err(Expired)
        }
    }

    /// The last copy of a Secret that existed, while it is recent enough.
    fn last_copy(&self, key: &Key, now: Instant) -> Option<Secret> {
        let cached = self.lock();
        let (at, secret) = cached.get(key)?;
        let is_recent = now.saturating_duration_since(*at) < LAST_COPY_TTL;
        secret.clone().filter(|_| is_recent)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, (Instant, Option<Secret>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The Secret must be read from the API server.
struct Expired;

/// A Secret that a pipeline names.
pub(super) struct ReadSecret {
    pub(super) state: SecretState,
    /// The referenced values by the name of the worker's file; empty if the Secret cannot be used.
    pub(super) data: BTreeMap<String, ByteString>,
}

impl ReadSecret {
    fn new(reference: &ReferencedSecret<'_>, read: Result<Option<Secret>, String>) -> Self {
        let kind = reference.kind;
        let (data, problem) = match data_of(reference, read) {
            Ok(data) => (data, None),
            Err(problem) => (BTreeMap::new(), Some(problem)),
        };
        let mut secret = Self {
            state: SecretState {
                kind,
                name: reference.name.to_owned(),
                problem,
            },
            data,
        };
        if secret.state.problem.is_none() && kind == SecretKind::Kafka {
            secret.state.problem = secret.kafka_security().err();
        }
        secret
    }

    /// The value of a worker's file, interpreted as the workers do.
    pub(super) fn text(&self, file: &str) -> Option<&str> {
        let ByteString(value) = self.data.get(file)?;
        secret_text(value).ok().flatten()
    }

    /// What a worker reads of it, by name; nothing for one that only the model's fetcher reads. A
    /// change of anything else restarts no worker.
    pub(super) fn used_by_worker(&self) -> BTreeMap<String, Vec<u8>> {
        let bytes = |text: &str| text.as_bytes().to_vec();
        match self.state.kind {
            SecretKind::Model => BTreeMap::new(),
            SecretKind::Kafka => {
                let security = self.kafka_security();
                let settings = security.as_ref().map(KafkaSecurity::settings);
                let settings = settings.unwrap_or_default().into_iter();
                settings
                    .map(|(name, value)| (name.to_owned(), bytes(value)))
                    .collect()
            }
            _ => {
                let values = self.data.iter();
                values
                    .map(|(file, value)| (file.clone(), value.0.clone()))
                    .collect()
            }
        }
    }

    /// The security settings for Kafka in this Secret.
    pub(super) fn kafka_security(&self) -> Result<KafkaSecurity, Problem> {
        let value = |key| self.data.get(key).map(|value: &ByteString| &*value.0);
        let keys = self.data.keys().map(String::as_str);
        KafkaSecurity::from_secret(keys, value).map_err(|error| {
            Problem::new(
                Reason::KafkaSecretInvalid,
                format!("Secret {} cannot be used: {error}.", self.state.name),
            )
        })
    }
}

/// The referenced values of a Secret, by the name of the worker's file. A change of another key
/// restarts no worker.
fn data_of(
    reference: &ReferencedSecret<'_>,
    read: Result<Option<Secret>, String>,
) -> Result<BTreeMap<String, ByteString>, Problem> {
    let problem = |reason, what: String| {
        let name = reference.name;
        let directory = reference.kind.directory();
        Problem::new(reason, format!("Secret {name} ({directory}) {what}"))
    };
    let secret = read
        .map_err(|error| problem(Reason::SecretUnreadable, format!("cannot be read: {error}")))?
        .ok_or_else(|| problem(Reason::SecretNotFound, "does not exist.".to_owned()))?;
    let mut data = secret.data.unwrap_or_default();
    let Some(key) = reference.key else {
        return Ok(data);
    };
    let name = key.name;
    let value = data
        .remove(name)
        .ok_or_else(|| problem(Reason::SecretKeyMissing, format!("has no key `{name}`.")))?;
    match secret_text(&value.0) {
        Ok(Some(_)) => Ok(BTreeMap::from([(key.file.to_owned(), value)])),
        Ok(None) => {
            let what = format!("has an empty key `{name}`.");
            Err(problem(Reason::SecretKeyMissing, what))
        }
        Err(error) => {
            let what = format!("cannot be used: the value of key `{name}` is {error}.");
            Err(problem(Reason::SecretUnreadable, what))
        }
    }
}

#[cfg(test)]
mod tests {
    use layra_crds::ReferencedKey;

    use super::*;

    fn reference(kind: SecretKind, key: &'static str) -> ReferencedSecret<'static> {
        ReferencedSecret {
            kind,
            name: "mine",
            key: (kind != SecretKind::Kafka).then_some(ReferencedKey {
                name: key,
                file: "file",
            }),
        }
    }

    fn read(kind: SecretKind, key: &'static str, entries: &[(&str, &[u8])]) -> ReadSecret {
        let data = entries
            .iter()
            .map(|(key, value)| ((*key).to_owned(), ByteString(value.to_vec())))
            .collect();
        let secret = Secret {
            data: Some(data),
            ..Secret::default()
        };
        ReadSecret::new(&reference(kind, key), Ok(Some(secret)))
    }

    #[test]
    fn an_unusable_secret_is_reported_with_the_key() {
        use SecretKind::{Kafka, Milvus, Mongodb, ObjectStore};
        for (kind, key, entries, reason, word) in [
            (Mongodb, "url", vec![], Reason::SecretKeyMissing, "`url`"),
            (
                Mongodb,
                "uri",
                vec![("uri", &b" \n"[..])],
                Reason::SecretKeyMissing,
                "`uri`",
            ),
            (
                Milvus,
                "token",
                vec![("token", &b"\xff"[..])],
                Reason::SecretUnreadable,
                "`token`",
            ),
            (
                ObjectStore,
                "secretKey",
                vec![("accessKey", &b"me"[..])],
                Reason::SecretKeyMissing,
                "`secretKey`",
            ),
            (
                Kafka,
                "",
                vec![("username", &b"me"[..])],
                Reason::KafkaSecretInvalid,
                "`password`",
            ),
            (
                Kafka,
                "",
                vec![
                    ("username", &b"me"[..]),
                    ("password", &b"x"[..]),
                    ("ca.pem", &b"x"[..]),
                ],
                Reason::KafkaSecretInvalid,
                "`ca.pem`",
            ),
        ] {
            let problem = read(kind, key, &entries).state.problem.expect(word);
            assert_eq!(problem.reason, reason);
            assert!(problem.message.contains("Secret mine"), "{problem:?}");
            assert!(problem.message.contains(word), "{problem:?}");
        }
    }

    #[test]
    fn a_line_break_at_the_end_of_a_value_is_removed() {
        let secret = read(SecretKind::Milvus, "t", &[("t", b"root:Milvus\n")]);
        assert!(secret.state.problem.is_none());
        assert_eq!(secret.text("file"), Some("root:Milvus"));
    }

    #[test]
    fn only_the_referenced_key_of_a_shared_secret_counts() {
        let before = read(SecretKind::Redis, "uri", &[("uri", b"a"), ("other", b"1")]);
        let after = read(SecretKind::Redis, "uri", &[("uri", b"a"), ("other", b"2")]);
        assert_eq!(before.data, after.data);
        let changed = read(SecretKind::Redis, "uri", &[("uri", b"b"), ("other", b"1")]);
        assert_ne!(before.data, changed.data);
    }

    #[test]
    fn a_fixed_kafka_secret_is_noticed_within_seconds() {
        let cache = SecretCache::default();
        let at = Instant::now();
        let key = ("rag".to_owned(), "mine".to_owned());
        for (username, usable) in [("me", false), ("", true)] {
            let data = [("username", username), ("security.protocol", "PLAINTEXT")]
                .map(|(key, value)| (key.to_owned(), ByteString(value.as_bytes().to_vec())));
            let secret = Secret {
                data: Some(BTreeMap::from(data)),
                ..Secret::default()
            };
            cache.lock().insert(key.clone(), (at, Some(secret)));
            let later = at + UNUSABLE_TTL;
            let reference = reference(SecretKind::Kafka, "");
            assert_eq!(cache.cached(&key, &reference, later).is_ok(), usable);
        }
    }

    #[test]
    fn while_the_api_server_does_not_return_a_secret_its_last_copy_is_used_for_minutes() {
        let cache = SecretCache::default();
        let at = Instant::now();
        let key = |name: &str| ("rag".to_owned(), name.to_owned());
        cache
            .lock()
            .insert(key("mine"), (at, Some(Secret::default())));
        cache.lock().insert(key("absent"), (at, None));
        let later = |seconds| at + Duration::from_secs(seconds);
        assert!(cache.last_copy(&key("mine"), later(299)).is_some());
        assert!(cache.last_copy(&key("mine"), later(300)).is_none());
        assert!(cache.last_copy(&key("absent"), later(1)).is_none());
        assert!(cache.last_copy(&key("other"), later(1)).is_none());
    }

    #[test]
    fn a_worker_does_not_read_the_hubs_token_nor_foreign_keys_of_kafkas_secret() {
        let hub = read(SecretKind::Model, "token", &[("token", b"hf_x")]);
        assert!(hub.state.problem.is_none() && hub.used_by_worker().is_empty());
        let kafka =
            |entries: &[(&str, &[u8])]| read(SecretKind::Kafka, "", entries).used_by_worker();
        let login: [(&str, &[u8]); 2] = [("username", b"me"), ("password", b"x")];
        let shared = [login[0], login[1], ("grafana-password", b"1")];
        assert_eq!(kafka(&login), kafka(&shared));
        assert_ne!(kafka(&login), kafka(&[login[0], ("password", b"y")]));
    }
}
