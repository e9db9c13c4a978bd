//! The checkpoint that all workers of a pipeline load: the one that its first worker found at the
//! addresses of the spec. The operator keeps it in the status and gives it to later workers in a
//! file next to their configuration.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ConfigError, ModelSpec, ModelStatus};

/// An annotation of a pipeline that asks for the model to be looked up again, once for each new
/// value. `status.modelReference.request` shows the value that the current checkpoint belongs to.
pub const RESOLVE_MODEL_ANNOTATION: &str = "ingest.layra.io/resolve-model";

/// Name of the file with the [`KnownModel`], next to the worker's configuration.
pub const KNOWN_MODEL_FILE: &str = "known-model.yaml";

/// The checkpoint that the first worker found at the addresses of the spec. Later workers load the
/// same one, until an address is edited or the annotation `ingest.layra.io/resolve-model` changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelReference {
    /// `embedding.model.uri`.
    pub uri: String,

    /// `embedding.model.adapterUri`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter_uri: Option<String>,

    /// SHA-256 of the names and SHA-256 sums of all files, including the adapter's.
    pub checksum: String,

    /// The commit that `uri` was resolved to, if it is an `hf://` address. Workers load this
    /// commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,

    /// The commit that `adapterUri` was resolved to, if it is an `hf://` address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter_revision: Option<String>,

    /// The value of the annotation `ingest.layra.io/resolve-model` when the checkpoint was looked
    /// up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

impl ModelReference {
    /// Whether it was found at the addresses of this model, after this request.
    #[must_use]
    pub fn is_of(&self, model: &ModelSpec, request: Option<&str>) -> bool {
        self.uri == model.uri
            && self.adapter_uri == model.adapter_uri
            && self.request.as_deref() == request
    }
}

/// What the operator tells a worker about the model, before the worker fetches it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownModel {
    /// The value of the annotation `ingest.layra.io/resolve-model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,

    /// The checkpoint that the first worker found. Absent: this one may be the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<ModelReference>,
}

impl KnownModel {
    /// Reads a file's text.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        Ok(serde_yaml_ng::from_str(text)?)
    }

    /// The file's text.
    pub fn to_yaml(&self) -> Result<String, ConfigError> {
        Ok(serde_yaml_ng::to_string(self)?)
    }

    /// The checkpoint to load for this model, if it is known.
    #[must_use]
    pub fn reference_for(&self, model: &ModelSpec) -> Option<&ModelReference> {
        let request = self.request.as_deref();
        let reference = self.reference.as_ref();
        reference.filter(|reference| reference.is_of(model, request))
    }
}

/// What a worker reports about the model that it has fetched. Workers of earlier versions report no
/// reference, and operators of earlier versions ignore it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelReport {
    /// The model for the status.
    #[serde(flatten)]
    pub model: ModelStatus,

    /// The same as the reference of later workers, if there is none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<ModelReference>,
}
