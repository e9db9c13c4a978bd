//! The Secrets that pipelines name, read once for all of them. They are never listed or watched: the
//! operator may only get those that somebody names.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client, ResourceExt};
use layra_crds::{IngestionPipeline, SecretKind};

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
        let usable = secret.as_ref().is_some_and(|secret| has_keys(secret, kind));
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
        let seen = |problem| SecretSeen {
            kind,
            name: name.to_owned(),
            problem,
        };
        let data = match read {
            Ok(Some(secret)) => secret.data.unwrap_or_default(),
            Ok(None) => {
                let problem = Problem::new(
                    "SecretNotFound",
                    format!(
                        "Secret {name}, needed for {}, does not exist.",
                        kind.directory()
                    ),
                );
                return Self {
                    seen: seen(Some(problem)),
                    data: BTreeMap::new(),
                };
            }
            Err(error) => {
                let problem = Problem::new(
                    "SecretUnreadable",
                    format!(
                        "Secret {name}, needed for {}, cannot be read: {error}",
                        kind.directory()
                    ),
                );
                return Self {
                    seen: seen(Some(problem)),
                    data: BTreeMap::new(),
                };
            }
        };
        let missing = kind
            .required_keys()
            .iter()
            .find(|key| !data.contains_key(**key));
        let problem = missing.map(|key| {
            Problem::new(
                "SecretKeyMissing",
                format!(
                    "Secret {name}, needed for {}, has no key `{key}`.",
                    kind.directory()
                ),
            )
        });
        Self {
            seen: seen(problem),
            data,
        }
    }
}

fn has_keys(secret: &Secret, kind: SecretKind) -> bool {
    let data = secret.data.as_ref();
    kind.required_keys()
        .iter()
        .all(|key| data.is_some_and(|data| data.contains_key(*key)))
}
