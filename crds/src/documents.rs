//! Original documents, and how their pages are rendered.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AccessKeySecretRef, CaSecretRef, SecretKeySecretRef};

/// Where the original documents are stored, and how their pages are rendered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DocumentsSpec {
    /// The S3-compatible store of original documents and page images.
    pub object_store: ObjectStoreSpec,

    /// How pages are rendered to images.
    #[serde(default)]
    pub render: RenderSpec,

    /// What one document may cost.
    #[serde(default)]
    pub limits: DocumentLimits,

    /// Largest number of pages that one worker processes as one task. A longer document is split
    /// into page ranges of equal length, which all workers share through a topic of their own,
    /// `source.kafka.rangesTopic`. Default: 64.
    #[serde(default = "default_range_pages")]
    #[schemars(range(min = 1, max = 10_000))]
    pub range_pages: u32,

    /// What happens to the text of a page. Default: `Discard`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_texts: Option<PageTexts>,
}

/// What happens to the text of a page. `Keep`: workers write it into the collection
/// `ingestion_page_texts` in MongoDB, where `layra-worker serve` finds the snippets of a search. It
/// counts for documents that are ingested from then on. LAYRA does not know the texts: what it deletes
/// itself, `layra-worker audit --repair` removes. `Discard` (the default): it is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PageTexts {
    /// It is kept in MongoDB.
    Keep,
    /// It is not kept.
    Discard,
}

/// What one document may cost, in all its page ranges and attempts together. A document that needs
/// more fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DocumentLimits {
    /// CPU time, in seconds, for reading and rendering one document. A page that exceeds
    /// `render.timeoutSeconds` counts with the whole limit. Default: 14400 (4 hours).
    #[serde(default = "default_max_cpu_seconds")]
    #[schemars(range(min = 1))]
    pub max_cpu_seconds: u32,

    /// Vectors of one document. Default: 4000000, twice what the largest model computes for 2000
    /// pages.
    #[serde(default = "default_max_vectors")]
    #[schemars(range(min = 1))]
    pub max_vectors: u32,
}

impl Default for DocumentLimits {
    fn default() -> Self {
        Self {
            max_cpu_seconds: default_max_cpu_seconds(),
            max_vectors: default_max_vectors(),
        }
    }
}

/// The S3-compatible store of original documents and page images. Objects are addressed by bucket
/// and key only; a URL in a task is never fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.caSecretRef) || !has(self.endpoint) || self.endpoint.startsWith('https://')")
        .message("documents.objectStore.caSecretRef is for an https:// endpoint. Remove it, or use https:// in endpoint")
)]
pub struct ObjectStoreSpec {
    /// `http(s)://host:port` of the store, addressed path-style. Absent: AWS S3 in `region`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^https?://[^/]+$"))]
    pub endpoint: Option<String>,

    /// `http(s)://host:port` at which browsers reach the store. The presigned `minio_url` fields in
    /// MongoDB use it. Default: `endpoint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^https?://[^/]+$"))]
    pub public_endpoint: Option<String>,

    /// The store's region. Default: `us-east-1`.
    #[serde(default = "default_region")]
    #[schemars(length(min = 1))]
    pub region: String,

    /// Bucket of original documents and page images. It must exist. Default: `minio-file`, as in
    /// LAYRA.
    #[serde(default = "default_bucket")]
    #[schemars(length(min = 3, max = 63))]
    pub bucket: String,

    /// The Secret and key that hold the S3 access key.
    pub access_key_secret_ref: AccessKeySecretRef,

    /// The Secret and key that hold the S3 secret key. It may be the same Secret.
    pub secret_key_secret_ref: SecretKeySecretRef,

    /// The Secret and key that hold the certificates of a private authority, in PEM format, for an
    /// `https://` endpoint. Absent: only the authorities in the image are trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<CaSecretRef>,
}

/// How pages are rendered to images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = Rule::new("self.dpi.size() == 0 || (self.dpi.filter(r, !has(r.below)).size() == 1 && !has(self.dpi[self.dpi.size() - 1].below))")
        .message("render.dpi must end with one rule without `below`, which applies to all longer documents, or be empty"),
    validation = Rule::new("self.dpi.all(r, !has(r.below) || self.dpi.exists_one(o, has(o.below) && o.below == r.below))")
        .message("render.dpi has two rules with the same `below`")
)]
pub struct RenderSpec {
    /// Resolution of page images, by the document's number of pages. The rule with the smallest
    /// `below` above that number applies. Default, as in LAYRA: 300 below 20 pages, 200 below 50,
    /// 150 below 100, otherwise 100. An empty list (`[]`) chooses each page's resolution
    /// automatically: the lowest, from 100 to 300, that gives a visual model all the pixels that it
    /// uses (`embedding.maxVisualTokens`), and 100 for a model that reads text.
    #[serde(default = "default_dpi")]
    #[schemars(length(max = 16))]
    pub dpi: Vec<DpiRule>,

    /// Format of the stored page images: `Png` or `WebP`. Default: `Png`, which LAYRA itself reads.
    #[serde(default)]
    pub image_format: ImageFormat,

    /// Quality of WebP images, from 1 (smallest) to 100 (best). Ignored for PNG. Default: 85.
    #[serde(default = "default_quality")]
    #[schemars(range(min = 1, max = 100))]
    pub quality: u8,

    /// Time limit, in seconds, for rendering one page. A page that exceeds it is a bad page
    /// (`onBadPage`). Default: 60.
    #[serde(default = "default_timeout")]
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: u32,

    /// Time limit, in seconds, for converting an office document. When it is exceeded, the document
    /// fails. Default: 300.
    #[serde(default = "default_office_timeout")]
    #[schemars(range(min = 5, max = 3600))]
    pub office_timeout_seconds: u32,

    /// Largest number of pages of a document. Longer documents fail. Default: 2000.
    #[serde(default = "default_max_pages")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_pages: u32,

    /// What happens to a document with pages that cannot be rendered or embedded. `Skip`: its other
    /// pages are stored, unless more than half of its pages are bad, and the bad ones are listed in
    /// `pages_failed` of its entry in `files`. `Fail`: the document fails. Default: `Skip`.
    #[serde(default)]
    pub on_bad_page: OnBadPage,

    /// What a worker does on a node that cannot confine the processes that open documents, because
    /// its kernel or container runtime lacks Landlock or seccomp. `Required`: it does not start.
    /// `BestEffort`: it opens documents with what the node has. A hostile document that takes over
    /// its renderer can then read other users' documents and the worker's credentials. Default:
    /// `Required`.
    #[serde(default)]
    pub sandbox: SandboxPolicy,
}

impl RenderSpec {
    /// The resolution of a document of `pages` pages, in dots per inch. `None`: each page's own,
    /// chosen automatically.
    #[must_use]
    pub fn dpi_for(&self, pages: u32) -> Option<u32> {
        let applicable = self
            .dpi
            .iter()
            .filter(|rule| rule.below.is_none_or(|below| pages < below));
        applicable
            .min_by_key(|rule| rule.below.unwrap_or(u32::MAX))
            .map(|rule| rule.dpi)
    }
}

/// A resolution, and the documents it applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DpiRule {
    /// The rule applies to documents with fewer pages than this. Absent: to all documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub below: Option<u32>,

    /// Resolution in dots per inch.
    #[schemars(range(min = 36, max = 600))]
    pub dpi: u32,
}

/// Format of the stored page images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImageFormat {
    /// Lossless.
    #[default]
    Png,
    /// Lossy; about half the size of PNG, or less.
    WebP,
}

/// What happens to a document with a bad page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnBadPage {
    /// Its other pages are stored.
    #[default]
    Skip,
    /// It fails.
    Fail,
}

/// What a worker does on a node that cannot confine the processes that open documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SandboxPolicy {
    /// It does not start.
    #[default]
    Required,
    /// It opens documents with the layers of the sandbox that the node has.
    BestEffort,
}

impl Default for RenderSpec {
    fn default() -> Self {
        Self {
            dpi: default_dpi(),
            image_format: ImageFormat::default(),
            quality: default_quality(),
            timeout_seconds: default_timeout(),
            office_timeout_seconds: default_office_timeout(),
            max_pages: default_max_pages(),
            on_bad_page: OnBadPage::default(),
            sandbox: SandboxPolicy::default(),
        }
    }
}

fn default_range_pages() -> u32 {
    64
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

fn default_bucket() -> String {
    "minio-file".to_owned()
}

fn default_dpi() -> Vec<DpiRule> {
    vec![
        DpiRule {
            below: Some(20),
            dpi: 300,
        },
        DpiRule {
            below: Some(50),
            dpi: 200,
        },
        DpiRule {
            below: Some(100),
            dpi: 150,
        },
        DpiRule {
            below: None,
            dpi: 100,
        },
    ]
}

fn default_quality() -> u8 {
    85
}

fn default_timeout() -> u32 {
    60
}

fn default_office_timeout() -> u32 {
    300
}

fn default_max_pages() -> u32 {
    2000
}

fn default_max_cpu_seconds() -> u32 {
    4 * 60 * 60
}

fn default_max_vectors() -> u32 {
    4_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_layra_is_the_default() {
        let render = RenderSpec::default();
        for (pages, dpi) in [
            (1, 300),
            (19, 300),
            (20, 200),
            (49, 200),
            (50, 150),
            (99, 150),
            (100, 100),
            (5000, 100),
        ] {
            assert_eq!(render.dpi_for(pages), Some(dpi), "{pages} pages");
        }
    }

    #[test]
    fn an_empty_list_leaves_the_resolution_to_each_page() {
        let render: RenderSpec = serde_json::from_str(r#"{"dpi": []}"#).unwrap();
        assert_eq!(render.dpi_for(30), None);
        let written = serde_json::to_value(&render).unwrap();
        assert_eq!(written["dpi"], serde_json::json!([]), "the worker reads it");
    }

    #[test]
    fn what_an_earlier_configuration_lacks_has_its_default() {
        let render: RenderSpec = serde_json::from_str("{}").unwrap();
        assert_eq!(render.on_bad_page, OnBadPage::Skip);
        let limits: DocumentLimits = serde_json::from_str("{}").unwrap();
        assert_eq!(limits, DocumentLimits::default());
        assert_eq!(
            (limits.max_cpu_seconds, limits.max_vectors),
            (14_400, 4_000_000)
        );
    }

    #[test]
    fn the_order_of_rules_does_not_matter() {
        let mut render = RenderSpec::default();
        render.dpi.reverse();
        assert_eq!(render.dpi_for(30), Some(200));
    }
}
