//! References to Secrets, and where a worker finds what they hold.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::IngestionPipelineSpec;

/// A Secret in the pipeline's namespace, with all its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Defines a reference to one key of a Secret. The types differ in the default key alone.
macro_rules! secret_key_ref {
    ($(#[$doc:meta])* $name:ident, $key:literal, $default:ident, $path:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// Name of the Secret, in the pipeline's namespace.
            #[schemars(length(min = 1, max = 253))]
            pub name: String,

            #[doc = concat!("Key in the Secret. Default: `", $key, "`.")]
            #[serde(default = $path)]
            #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
            pub key: String,
        }

        fn $default() -> String {
            $key.to_owned()
        }
    };
}

secret_key_ref!(
    /// The key of a Secret that holds an S3 access key.
    AccessKeySecretRef, "accessKey", default_access_key, "default_access_key"
);
secret_key_ref!(
    /// The key of a Secret that holds an S3 secret key.
    SecretKeySecretRef, "secretKey", default_secret_key, "default_secret_key"
);
secret_key_ref!(
    /// The key of a Secret that holds a connection string.
    UriSecretRef, "uri", default_uri, "default_uri"
);
secret_key_ref!(
    /// The key of a Secret that holds a token.
    TokenSecretRef, "token", default_token, "default_token"
);

secret_key_ref!(
    /// The key of a Secret that holds the certificates of private certificate authorities, in PEM
    /// format.
    CaSecretRef, "ca.crt", default_ca, "default_ca"
);

/// Name of the file with the authorities of a store, in the directory of its [`SecretKind`].
pub const CA_FILE: &str = "ca.crt";

/// What a worker needs a Secret for. Its files are in a directory of this name, and their names do
/// not depend on the keys in the Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecretKind {
    /// `source.kafka.authSecretRef`: a file for each key of the Secret.
    Kafka,
    /// `documents.objectStore`: the files `accessKey`, `secretKey` and [`CA_FILE`].
    ObjectStore,
    /// `stores.milvus`: the files `token` and [`CA_FILE`].
    Milvus,
    /// `stores.mongodb`: the files `uri` and [`CA_FILE`].
    Mongodb,
    /// `stores.redis`: the files `uri` and [`CA_FILE`].
    Redis,
    /// `embedding.model.tokenSecretRef`: the file `token`.
    Model,
}

impl SecretKind {
    /// The directory below `--secrets`.
    #[must_use]
    pub fn directory(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::ObjectStore => "object-store",
            Self::Milvus => "milvus",
            Self::Mongodb => "mongodb",
            Self::Redis => "redis",
            Self::Model => "model",
        }
    }
}

/// A Secret that a pipeline references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReferencedSecret<'a> {
    /// What a worker needs it for.
    pub kind: SecretKind,
    /// Name of the Secret.
    pub name: &'a str,
    /// The referenced key. `None`: the whole Secret.
    pub key: Option<ReferencedKey<'a>>,
}

/// The one key of a Secret that a pipeline references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReferencedKey<'a> {
    /// The key in the Secret.
    pub name: &'a str,
    /// Name of the file in the directory of the [`SecretKind`].
    pub file: &'static str,
}

impl IngestionPipelineSpec {
    /// The Secrets that the pipeline references, in a fixed order. A Secret with two referenced
    /// keys is listed twice.
    #[must_use]
    pub fn secrets(&self) -> Vec<ReferencedSecret<'_>> {
        let store = &self.documents.object_store;
        let mut secrets = Vec::new();
        if let Some(auth) = &self.source.kafka.auth_secret_ref {
            secrets.push(ReferencedSecret {
                kind: SecretKind::Kafka,
                name: &auth.name,
                key: None,
            });
        }
        let access = &store.access_key_secret_ref;
        let secret = &store.secret_key_secret_ref;
        let kind = SecretKind::ObjectStore;
        secrets.push(one_key(kind, &access.name, &access.key, "accessKey"));
        secrets.push(one_key(kind, &secret.name, &secret.key, "secretKey"));
        secrets.extend(authorities(kind, store.ca_secret_ref.as_ref()));
        if let Some(token) = &self.stores.milvus.token_secret_ref {
            secrets.push(one_key(
                SecretKind::Milvus,
                &token.name,
                &token.key,
                "token",
            ));
        }
        let milvus = &self.stores.milvus;
        secrets.extend(authorities(
            SecretKind::Milvus,
            milvus.ca_secret_ref.as_ref(),
        ));
        let mongodb = &self.stores.mongodb;
        let uri = &mongodb.uri_secret_ref;
        secrets.push(one_key(SecretKind::Mongodb, &uri.name, &uri.key, "uri"));
        secrets.extend(authorities(
            SecretKind::Mongodb,
            mongodb.ca_secret_ref.as_ref(),
        ));
        if let Some(redis) = &self.stores.redis {
            let uri = &redis.uri_secret_ref;
            secrets.push(one_key(SecretKind::Redis, &uri.name, &uri.key, "uri"));
            secrets.extend(authorities(SecretKind::Redis, redis.ca_secret_ref.as_ref()));
        }
        if let Some(token) = &self.embedding.model.token_secret_ref {
            secrets.push(one_key(SecretKind::Model, &token.name, &token.key, "token"));
        }
        secrets
    }
}

fn authorities(kind: SecretKind, reference: Option<&CaSecretRef>) -> Option<ReferencedSecret<'_>> {
    reference.map(|ca| one_key(kind, &ca.name, &ca.key, CA_FILE))
}

fn one_key<'a>(
    kind: SecretKind,
    name: &'a str,
    key: &'a str,
    file: &'static str,
) -> ReferencedSecret<'a> {
    ReferencedSecret {
        kind,
        name,
        key: Some(ReferencedKey { name: key, file }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(patch: impl FnOnce(&mut serde_json::Value)) -> IngestionPipelineSpec {
        let mut spec = json!({
            "source": {"kafka": {"bootstrapServers": "kafka:9092"}},
            "documents": {"objectStore": {
                "accessKeySecretRef": {"name": "s3"},
                "secretKeySecretRef": {"name": "s3"}}},
            "embedding": {"model": {"family": "minilm", "uri": "file:///model"}},
            "stores": {
                "milvus": {"uri": "http://milvus:19530"},
                "mongodb": {"uriSecretRef": {"name": "mongo"}}},
        });
        patch(&mut spec);
        serde_json::from_value(spec).unwrap()
    }

    fn keys(spec: &IngestionPipelineSpec) -> Vec<(&'static str, &str, &str, &'static str)> {
        spec.secrets()
            .into_iter()
            .map(|secret| {
                let key = secret.key.unwrap_or(ReferencedKey {
                    name: "*",
                    file: "*",
                });
                (secret.kind.directory(), secret.name, key.name, key.file)
            })
            .collect()
    }

    #[test]
    fn keys_have_defaults() {
        assert_eq!(
            keys(&spec(|_| {})),
            [
                ("object-store", "s3", "accessKey", "accessKey"),
                ("object-store", "s3", "secretKey", "secretKey"),
                ("mongodb", "mongo", "uri", "uri"),
            ]
        );
    }

    #[test]
    fn the_authorities_of_a_store_are_next_to_its_credentials() {
        let spec = spec(|spec| {
            spec["documents"]["objectStore"]["caSecretRef"] = json!({"name": "ca"});
            let stores = &mut spec["stores"];
            stores["milvus"]["caSecretRef"] = json!({"name": "ca", "key": "milvus.pem"});
            stores["mongodb"]["caSecretRef"] = json!({"name": "ca"});
            stores["redis"] = json!({"uriSecretRef": {"name": "r"}, "caSecretRef": {"name": "ca"}});
        });
        let all = keys(&spec);
        let found: Vec<_> = all.iter().filter(|key| key.1 == "ca").collect();
        assert_eq!(
            found,
            [
                &("object-store", "ca", "ca.crt", "ca.crt"),
                &("milvus", "ca", "milvus.pem", "ca.crt"),
                &("mongodb", "ca", "ca.crt", "ca.crt"),
                &("redis", "ca", "ca.crt", "ca.crt"),
            ]
        );
        let mut kinds: Vec<_> = all.iter().map(|key| key.0).collect();
        kinds.dedup();
        assert_eq!(
            kinds,
            ["object-store", "milvus", "mongodb", "redis"],
            "one volume for each store"
        );
    }

    #[test]
    fn the_file_keeps_its_name_whatever_the_key() {
        let spec = spec(|spec| {
            spec["source"]["kafka"]["authSecretRef"] = json!({"name": "user"});
            let store = &mut spec["documents"]["objectStore"];
            store["secretKeySecretRef"] = json!({"name": "minio", "key": "root-password"});
            spec["stores"]["redis"] = json!({"uriSecretRef": {"name": "r", "key": "url"}});
            spec["stores"]["milvus"]["tokenSecretRef"] = json!({"name": "m"});
            spec["embedding"]["model"]["tokenSecretRef"] = json!({"name": "hub", "key": "t"});
        });
        assert_eq!(
            keys(&spec),
            [
                ("kafka", "user", "*", "*"),
                ("object-store", "s3", "accessKey", "accessKey"),
                ("object-store", "minio", "root-password", "secretKey"),
                ("milvus", "m", "token", "token"),
                ("mongodb", "mongo", "uri", "uri"),
                ("redis", "r", "url", "uri"),
                ("model", "hub", "t", "token"),
            ]
        );
    }
}
