//! Originals, and how their pages are rendered.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::SecretRef;

/// Where the originals are, and how their pages are rendered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DocumentsSpec {
    /// The S3-compatible store of originals and page images.
    pub object_store: ObjectStoreSpec,

    /// How pages become images.
    #[serde(default)]
    pub render: RenderSpec,

    /// Pages of one piece of work. A document with more is split over the topic that is called
    /// like the pipeline's own with `.ranges` added, so that all workers share it. Default: 64.
    #[serde(default = "default_range_pages")]
    #[schemars(range(min = 1, max = 10_000))]
    pub range_pages: u32,
}

/// The S3-compatible store of originals and page images. Objects are addressed by bucket and key
/// only; a URL found in a task is never fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStoreSpec {
    /// `http(s)://host:port` of the store, addressed path-style. Absent: AWS S3 of `region`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^https?://[^/]+$"))]
    pub endpoint: Option<String>,

    /// The `http(s)://host:port` that browsers reach the store at; the `minio_url` fields in
    /// MongoDB are signed for it. Default: `endpoint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^https?://[^/]+$"))]
    pub public_endpoint: Option<String>,

    /// The store's region. Default: `us-east-1`.
    #[serde(default = "default_region")]
    #[schemars(length(min = 1))]
    pub region: String,

    /// Bucket of originals and page images. It must exist. Default: `minio-file`, LAYRA's own.
    #[serde(default = "default_bucket")]
    #[schemars(length(min = 3, max = 63))]
    pub bucket: String,

    /// Secret with the keys `accessKey` and `secretKey`.
    pub secret_ref: SecretRef,
}

/// How pages become images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = Rule::new("self.dpi.filter(r, !has(r.below)).size() == 1 && !has(self.dpi[self.dpi.size() - 1].below)")
        .message("render.dpi must end with one rule without `below`, which holds for all longer documents"),
    validation = Rule::new("self.dpi.all(r, !has(r.below) || self.dpi.exists_one(o, has(o.below) && o.below == r.below))")
        .message("render.dpi has two rules with the same `below`")
)]
pub struct RenderSpec {
    /// Who decides on the resolution of a page. Default: `Table`.
    #[serde(default)]
    pub resolution: ResolutionMode,

    /// Resolution by number of pages, for the resolution `Table`; the rule with the smallest
    /// `below` that is above the document's number of pages holds. Default: 300 below 20 pages, 200 below 50, 150 below
    /// 100, else 100.
    #[serde(default = "default_dpi")]
    #[schemars(length(min = 1, max = 16))]
    pub dpi: Vec<DpiRule>,

    /// Format of the stored page images. Default: `Png`, which LAYRA's own readers expect.
    #[serde(default)]
    pub image_format: ImageFormat,

    /// Quality of WebP images, 1 (small) to 100 (good). Without effect for PNG. Default: 85.
    #[serde(default = "default_quality")]
    #[schemars(range(min = 1, max = 100))]
    pub quality: u8,

    /// Seconds after which the rendering of one page is given up and the document fails.
    /// Default: 60.
    #[serde(default = "default_timeout")]
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: u32,

    /// Seconds after which the conversion of an office document is given up and the document
    /// fails. Default: 300.
    #[serde(default = "default_office_timeout")]
    #[schemars(range(min = 5, max = 3600))]
    pub office_timeout_seconds: u32,

    /// Documents with more pages fail. Default: 2000.
    #[serde(default = "default_max_pages")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_pages: u32,
}

impl RenderSpec {
    /// The resolution for a document of `pages` pages, in dots per inch.
    #[must_use]
    pub fn dpi_for(&self, pages: u32) -> u32 {
        self.dpi
            .iter()
            .filter(|rule| rule.below.is_none_or(|below| pages < below))
            .min_by_key(|rule| rule.below.unwrap_or(u32::MAX))
            .map_or(FALLBACK_DPI, |rule| rule.dpi)
    }
}

/// Who decides on the resolution of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ResolutionMode {
    /// The table `dpi`, by the document's number of pages.
    #[default]
    Table,
    /// The page: the least resolution, of 100 to 300 dots per inch, that gives the model as many
    /// pixels as it looks at (`embedding.maxVisualTokens`). Without effect on the vectors of a
    /// model that reads text. The table is not looked at.
    Auto,
}

/// One line of the resolution table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DpiRule {
    /// The rule holds for documents with fewer pages than this. Absent: for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub below: Option<u32>,

    /// Dots per inch.
    #[schemars(range(min = 36, max = 600))]
    pub dpi: u32,
}

/// Format of the stored page images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImageFormat {
    /// Lossless.
    #[default]
    Png,
    /// Lossy, about half the size or less.
    WebP,
}

impl Default for RenderSpec {
    fn default() -> Self {
        Self {
            resolution: ResolutionMode::default(),
            dpi: default_dpi(),
            image_format: ImageFormat::default(),
            quality: default_quality(),
            timeout_seconds: default_timeout(),
            office_timeout_seconds: default_office_timeout(),
            max_pages: default_max_pages(),
        }
    }
}

/// Only reached by a table without a catch-all rule, which the API server refuses.
const FALLBACK_DPI: u32 = 100;

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
            dpi: FALLBACK_DPI,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guides_table_is_the_default() {
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
            assert_eq!(render.dpi_for(pages), dpi, "{pages} pages");
        }
    }

    #[test]
    fn the_order_of_rules_does_not_matter() {
        let mut render = RenderSpec::default();
        render.dpi.reverse();
        assert_eq!(render.dpi_for(30), 200);
    }
}
