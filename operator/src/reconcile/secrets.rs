//! The Secrets that pipelines name, read once for all of them. They are never listed or watched: the
//! operator may only get those that somebody names.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client, ResourceExt};
use layra_crds::{IngestionPipeline, KafkaSecurity, ReferencedSecret, SecretKind, secret_text};

use super::world::{Problem, SecretSeen};

/// How old a Secret may be; a rotated one is seen after this long at the latest.
const AGE: SignedDuration = SignedDuration::from_secs(60);
/// A Secret that cannot be used is looked at with every reconcile.
const UNUSABLE_AGE: SignedDuration = SignedDuration::from_secs(2);
/// A Secret that nobody asked for this long is forgotten.
const INTEREST: SignedDuration = SignedDuration::from_mins(10);

/// The Secrets of one namespace as they were read last, `None` for one that does not exist.
#[derive(Default)]
pub(super) struct SecretCache(Mutex<HashMap<String, (Timestamp, Option<Secret>)>>);

impl SecretCache {
    /// The Secrets that a pipeline names; those that are old are read again.
    pub(super) async fn read(
        &self,
        client: &Client,
        pipeline: &IngestionPipeline,
        now: Timestamp,
    ) -> Vec<ReadSecret> {
        let namespace = pipeline.namespace().unwrap_or_default();
        let api: Api<Secret> = Api::namespaced(client.clone(), &namespace);
        let mut read = Vec::new();
        for reference in pipeline.spec.secrets() {
            let result = match self.fresh(&reference, now) {
                Ok(secret) => Ok(secret),
                Err(TooOld) => match api.get_opt(reference.name).await {
                    Ok(secret) => {
                        let name = reference.name.to_owned();
                        self.lock().insert(name, (now, secret.clone()));
                        Ok(secret)
                    }
                    Err(error) => Err(error.to_string()),
                },
            };
            read.push(ReadSecret::new(&reference, result));
        }
        self.lock()
            .retain(|_, (at, _)| now.duration_since(*at) < INTEREST);
        read
    }

    fn fresh(
        &self,
        reference: &ReferencedSecret<'_>,
        now: Timestamp,
    ) -> Result<Option<Secret>, TooOld> {
        let known = self.lock();
        let (at, secret) = known.get(reference.name).ok_or(TooOld)?;
        let read = ReadSecret::new(reference, Ok(secret.clone()));
        let usable = read.seen.problem.is_none();
        let allowed = if usable { AGE } else { UNUSABLE_AGE };
        if now.duration_since(*at) < allowed {
            Ok(secret.clone())
        } else {
            Err(TooOld)
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Timestamp, Option<Secret>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A Secret has to be read again.
struct TooOld;

/// A Secret that a pipeline names.
pub(super) struct ReadSecret {
    /// What is said of it.
    pub(super) seen: SecretSeen,
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
            seen: SecretSeen {
                kind,
                name: reference.name.to_owned(),
                problem,
            },
            data,
        };
        if secret.seen.problem.is_none() && kind == SecretKind::Kafka {
            secret.seen.problem = secret.kafka_security().err();
        }
        secret
    }

    /// The text of a worker's file, read as the workers read it.
    pub(super) fn text(&self, file: &str) -> Option<&str> {
        let ByteString(value) = self.data.get(file)?;
        secret_text(value).ok().flatten()
    }

    /// How Kafka is reached with this Secret.
    pub(super) fn kafka_security(&self) -> Result<KafkaSecurity, Problem> {
        let value = |key| self.data.get(key).map(|value: &ByteString| &*value.0);
        let keys = self.data.keys().map(String::as_str);
        KafkaSecurity::from_secret(keys, value).map_err(|error| {
            Problem::new(
                "KafkaSecretInvalid",
                format!("Secret {} cannot be used: {error}.", self.seen.name),
            )
        })
    }
}

/// The referenced values of a Secret, by the name of the worker's file. Only they count: a change
/// of another key restarts no worker.
fn data_of(
    reference: &ReferencedSecret<'_>,
    read: Result<Option<Secret>, String>,
) -> Result<BTreeMap<String, ByteString>, Problem> {
    let problem = |reason, what: String| {
        let name = reference.name;
        let directory = reference.kind.directory();
        Problem::new(
            reason,
            format!("Secret {name}, needed for {directory}, {what}"),
        )
    };
    let secret = read
        .map_err(|error| problem("SecretUnreadable", format!("cannot be read: {error}")))?
        .ok_or_else(|| problem("SecretNotFound", "does not exist.".to_owned()))?;
    let mut data = secret.data.unwrap_or_default();
    let Some(key) = reference.key else {
        return Ok(data);
    };
    let name = key.name;
    let value = data
        .remove(name)
        .ok_or_else(|| problem("SecretKeyMissing", format!("has no key `{name}`.")))?;
    match secret_text(&value.0) {
        Ok(Some(_)) => Ok(BTreeMap::from([(key.file.to_owned(), value)])),
        Ok(None) => {
            let what = format!("has an empty key `{name}`.");
            Err(problem("SecretKeyMissing", what))
        }
        Err(error) => {
            let what = format!("has a key `{name}` that is {error}.");
            Err(problem("SecretUnreadable", what))
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
    fn a_secret_that_no_worker_could_read_is_refused_with_the_keys_name() {
        use SecretKind::{Kafka, Milvus, Mongodb, ObjectStore};
        for (kind, key, entries, reason, word) in [
            (Mongodb, "url", vec![], "SecretKeyMissing", "`url`"),
            (
                Mongodb,
                "uri",
                vec![("uri", &b" \n"[..])],
                "SecretKeyMissing",
                "`uri`",
            ),
            (
                Milvus,
                "token",
                vec![("token", &b"\xff"[..])],
                "SecretUnreadable",
                "`token`",
            ),
            (
                ObjectStore,
                "secretKey",
                vec![("accessKey", &b"me"[..])],
                "SecretKeyMissing",
                "`secretKey`",
            ),
            (
                Kafka,
                "",
                vec![("username", &b"me"[..])],
                "KafkaSecretInvalid",
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
                "KafkaSecretInvalid",
                "`ca.pem`",
            ),
        ] {
            let problem = read(kind, key, &entries).seen.problem.expect(word);
            assert_eq!(problem.reason, reason);
            assert!(problem.message.contains("Secret mine"), "{problem:?}");
            assert!(problem.message.contains(word), "{problem:?}");
        }
    }

    #[test]
    fn a_usable_secret_is_read_without_the_line_break_of_its_file() {
        let secret = read(SecretKind::Milvus, "t", &[("t", b"root:Milvus\n")]);
        assert!(secret.seen.problem.is_none());
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
    fn a_kafka_secret_that_was_mended_is_seen_soon() {
        let cache = SecretCache::default();
        let at = Timestamp::UNIX_EPOCH;
        for (username, usable) in [("me", false), ("", true)] {
            let data = [("username", username), ("security.protocol", "PLAINTEXT")]
                .map(|(key, value)| (key.to_owned(), ByteString(value.as_bytes().to_vec())));
            let secret = Secret {
                data: Some(BTreeMap::from(data)),
                ..Secret::default()
            };
            cache.lock().insert("mine".to_owned(), (at, Some(secret)));
            let later = at + UNUSABLE_AGE;
            let reference = reference(SecretKind::Kafka, "");
            assert_eq!(cache.fresh(&reference, later).is_ok(), usable);
        }
    }
}
