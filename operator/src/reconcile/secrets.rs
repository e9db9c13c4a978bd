//! The Secrets that pipelines name, read once for all of them. They are never listed or watched: the
//! operator may only get those that somebody names.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client, ResourceExt};
use layra_crds::{IngestionPipeline, KafkaSecurity, SecretKind, secret_text};

use super::world::{Problem, SecretSeen};
use crate::resources;

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
        for (kind, name) in resources::secrets(&pipeline.spec) {
            let result = match self.fresh(kind, name, now) {
                Ok(secret) => Ok(secret),
                Err(TooOld) => match api.get_opt(name).await {
                    Ok(secret) => {
                        self.lock().insert(name.to_owned(), (now, secret.clone()));
                        Ok(secret)
                    }
                    Err(error) => Err(error.to_string()),
                },
            };
            read.push(ReadSecret::new(kind, name, result));
        }
        self.lock()
            .retain(|_, (at, _)| now.duration_since(*at) < INTEREST);
        read
    }

    fn fresh(
        &self,
        kind: SecretKind,
        name: &str,
        now: Timestamp,
    ) -> Result<Option<Secret>, TooOld> {
        let known = self.lock();
        let (at, secret) = known.get(name).ok_or(TooOld)?;
        let read = ReadSecret::new(kind, name, Ok(secret.clone()));
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
    /// What it holds; empty if it cannot be used.
    pub(super) data: BTreeMap<String, ByteString>,
}

impl ReadSecret {
    fn new(kind: SecretKind, name: &str, read: Result<Option<Secret>, String>) -> Self {
        let (data, problem) = match data_of(kind, name, read) {
            Ok(data) => (data, None),
            Err(problem) => (BTreeMap::new(), Some(problem)),
        };
        let mut secret = Self {
            seen: SecretSeen {
                kind,
                name: name.to_owned(),
                problem,
            },
            data,
        };
        if secret.seen.problem.is_none() && kind == SecretKind::Kafka {
            secret.seen.problem = secret.kafka_security().err();
        }
        secret
    }

    /// What a key holds, read as the workers read it.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        let ByteString(value) = self.data.get(key)?;
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

/// The data of a Secret that has all the keys its kind needs.
fn data_of(
    kind: SecretKind,
    name: &str,
    read: Result<Option<Secret>, String>,
) -> Result<BTreeMap<String, ByteString>, Problem> {
    let problem = |reason, what: String| {
        let directory = kind.directory();
        Problem::new(
            reason,
            format!("Secret {name}, needed for {directory}, {what}"),
        )
    };
    let secret = read
        .map_err(|error| problem("SecretUnreadable", format!("cannot be read: {error}")))?
        .ok_or_else(|| problem("SecretNotFound", "does not exist.".to_owned()))?;
    let data = secret.data.unwrap_or_default();
    for key in kind.required_keys() {
        let value = data.get(*key).map(|ByteString(value)| secret_text(value));
        match value {
            Some(Ok(Some(_))) => {}
            None => return Err(problem("SecretKeyMissing", format!("has no key `{key}`."))),
            Some(Ok(None)) => {
                let what = format!("has nothing in its key `{key}`.");
                return Err(problem("SecretKeyMissing", what));
            }
            Some(Err(error)) => {
                let what = format!("holds in its key `{key}` what is {error}.");
                return Err(problem("SecretUnreadable", what));
            }
        }
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: SecretKind, entries: &[(&str, &[u8])]) -> ReadSecret {
        let data = entries
            .iter()
            .map(|(key, value)| ((*key).to_owned(), ByteString(value.to_vec())))
            .collect();
        let secret = Secret {
            data: Some(data),
            ..Secret::default()
        };
        ReadSecret::new(kind, "mine", Ok(Some(secret)))
    }

    #[test]
    fn a_secret_that_no_worker_could_read_is_refused_with_the_keys_name() {
        use SecretKind::{Kafka, Milvus, Mongodb, ObjectStore};
        for (kind, entries, reason, word) in [
            (Mongodb, vec![], "SecretKeyMissing", "`uri`"),
            (
                Mongodb,
                vec![("uri", &b" \n"[..])],
                "SecretKeyMissing",
                "`uri`",
            ),
            (
                Milvus,
                vec![("token", &b"\xff"[..])],
                "SecretUnreadable",
                "`token`",
            ),
            (
                ObjectStore,
                vec![("accessKey", &b"me"[..])],
                "SecretKeyMissing",
                "`secretKey`",
            ),
            (
                Kafka,
                vec![("username", &b"me"[..])],
                "KafkaSecretInvalid",
                "`password`",
            ),
            (
                Kafka,
                vec![
                    ("username", &b"me"[..]),
                    ("password", &b"x"[..]),
                    ("ca.pem", &b"x"[..]),
                ],
                "KafkaSecretInvalid",
                "`ca.pem`",
            ),
        ] {
            let problem = read(kind, &entries).seen.problem.expect(word);
            assert_eq!(problem.reason, reason);
            assert!(problem.message.contains("Secret mine"), "{problem:?}");
            assert!(problem.message.contains(word), "{problem:?}");
        }
    }

    #[test]
    fn a_usable_secret_is_read_without_the_line_break_of_its_file() {
        let secret = read(SecretKind::Milvus, &[("token", b"root:Milvus\n")]);
        assert!(secret.seen.problem.is_none());
        assert_eq!(secret.text("token"), Some("root:Milvus"));
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
            assert_eq!(
                cache.fresh(SecretKind::Kafka, "mine", later).is_ok(),
                usable
            );
        }
    }
}
