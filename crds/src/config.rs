//! The configuration that the operator hands to a worker, as a file.

use serde::{Deserialize, Serialize};

use crate::{DocumentsSpec, EmbeddingSpec, SourceSpec, StoresSpec};

/// What a worker needs to know, without any secret. The operator writes it as `worker.yaml` into a
/// ConfigMap; `layra-worker --config` reads it.
///
/// Secrets are files, `DIR/KIND/KEY`, below the directory that `--secrets` names: see
/// [`SecretKind`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerConfig {
    /// `namespace/name` of the pipeline, for logs and metrics.
    pub pipeline: String,

    /// Where the document tasks come from.
    pub source: SourceSpec,

    /// Where the originals are, and how their pages are rendered.
    pub documents: DocumentsSpec,

    /// The model that turns a page into vectors.
    pub embedding: EmbeddingSpec,

    /// Where the results go.
    pub stores: StoresSpec,
}

impl WorkerConfig {
    /// Reads a configuration file's text.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        Ok(serde_yaml_ng::from_str(text)?)
    }

    /// The file's text.
    pub fn to_yaml(&self) -> Result<String, ConfigError> {
        Ok(serde_yaml_ng::to_string(self)?)
    }
}

/// A configuration that cannot be read or written; the message names the field.
#[derive(Debug, thiserror::Error)]
#[error("worker configuration: {0}")]
pub struct ConfigError(#[from] serde_yaml_ng::Error);

/// A Secret that a worker may need. Its keys appear as files in a directory of this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecretKind {
    /// `source.kafka.authSecretRef`
    Kafka,
    /// `documents.objectStore.secretRef`: `accessKey`, `secretKey`
    ObjectStore,
    /// `stores.milvus.secretRef`: `token`
    Milvus,
    /// `stores.mongodb.secretRef`: `uri`
    Mongodb,
    /// `stores.redis.secretRef`: `uri`
    Redis,
    /// `embedding.model.secretRef`: `token`
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

    /// Keys that the Secret must have.
    #[must_use]
    pub fn required_keys(self) -> &'static [&'static str] {
        match self {
            Self::Kafka => &[],
            Self::ObjectStore => &["accessKey", "secretKey"],
            Self::Milvus | Self::Model => &["token"],
            Self::Mongodb | Self::Redis => &["uri"],
        }
    }
}

/// The text of a Secret's value without the space around it; `None` if nothing is left. Files
/// written by hand end with a line break.
pub fn secret_text(value: &[u8]) -> Result<Option<&str>, NotText> {
    let text = std::str::from_utf8(value).map_err(|_| NotText)?.trim();
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// A Secret's value is not UTF-8 text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not UTF-8 text")]
pub struct NotText;
