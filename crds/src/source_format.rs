//! What the messages of a pipeline's topic are.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The folder of a key that names the knowledge base, in [`S3EventSpec::key_template`].
pub const KNOWLEDGE_BASE_FOLDER: &str = "{knowledgeBase}";

/// What the messages of the topic are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SourceFormat {
    /// LAYRA's tasks: one JSON message for each document.
    #[default]
    Layra,
    /// Notifications of a bucket, as MinIO and Amazon S3 send them.
    S3Event,
}

/// How the objects of the bucket become documents, with `format: S3Event`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = Rule::new("has(self.knowledgeBase) ? (!has(self.keyTemplate) || !self.keyTemplate.contains('{knowledgeBase}')) : (!has(self.keyTemplate) || self.keyTemplate.contains('{knowledgeBase}'))")
        .message("source.kafka.s3Event: the knowledge base comes either from the folder {knowledgeBase} of keyTemplate or from knowledgeBase. Set one of the two")
)]
pub struct S3EventSpec {
    /// How the keys of documents begin: folders, each followed by `/`, of which one may be
    /// `{knowledgeBase}`. That folder names the knowledge base, which is created when its first
    /// document is stored. Other objects of the bucket are ignored. For example, with
    /// `uploads/{knowledgeBase}/` the object `uploads/contracts/2026/a.pdf` belongs to the
    /// knowledge base `contracts`. Default: `{knowledgeBase}/`, or every key if `knowledgeBase` is
    /// set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 512),
        regex(pattern = r"^([^/{}]+/)*(\{knowledgeBase\}/)?([^/{}]+/)*$")
    )]
    pub key_template: Option<String>,

    /// The id of the one knowledge base for all documents, if no folder names it. Absent: the
    /// folder `{knowledgeBase}` of `keyTemplate` does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100), regex(pattern = r"^[a-zA-Z0-9_-]+$"))]
    pub knowledge_base: Option<String>,
}
