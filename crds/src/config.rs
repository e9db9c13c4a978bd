//! The configuration file that the operator writes for its workers.

use serde::{Deserialize, Serialize};

use crate::{DocumentsSpec, EmbeddingSpec, SourceSpec, StoresSpec};

/// The configuration of a worker, without any secret. The operator writes it as `worker.yaml` into
/// a ConfigMap; `layra-worker --config` reads it.
///
/// Secrets are files, `DIR/KIND/FILE`, below the directory that `--secrets` names: see
/// [`SecretKind`](crate::SecretKind).
///
/// Fields that are unknown are ignored: a pod keeps its image when the operator is upgraded, and may
/// start again with what the later operator has written. Fields are only added; another format would
/// have another file name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerConfig {
    /// `namespace/name` of the pipeline, for logs and metrics.
    pub pipeline: String,

    /// Where the document tasks come from.
    pub source: SourceSpec,

    /// Where the original documents are stored, and how their pages are rendered.
    pub documents: DocumentsSpec,

    /// The model that turns a page into vectors.
    pub embedding: EmbeddingSpec,

    /// The databases that receive the results.
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

/// The text of a Secret's value without surrounding white space; `None` if nothing is left. Files
/// written by hand end with a line break.
pub fn secret_text(value: &[u8]) -> Result<Option<&str>, NotText> {
    let text = std::str::from_utf8(value).map_err(|_| NotText)?.trim();
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// A Secret's value is not UTF-8 text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not UTF-8 text")]
pub struct NotText;
