//! The digest of the settings that decide a page's pixels and vectors. When it changes, documents in
//! progress are ingested again. Settings of speed, limits and access do not belong to it. No I/O.

use std::fmt::Write as _;

use layra_crds::{ImageFormat, WorkerConfig};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Fields that the first version of the digest covered.
const FORMER_EMBEDDING: [&str; 5] = [
    "model",
    "batchPages",
    "precision",
    "maxVisualTokens",
    "poolFactor",
];
const FORMER_RENDER: [&str; 6] = [
    "dpi",
    "imageFormat",
    "quality",
    "timeoutSeconds",
    "officeTimeoutSeconds",
    "maxPages",
];

/// What decides a page's pixels and vectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recipe {
    digest: String,
    /// The digest as earlier workers computed it, so that their documents in progress continue.
    former: Option<String>,
}

impl Recipe {
    pub(crate) fn of(config: &WorkerConfig) -> Self {
        let (embedding, render) = (&config.embedding, &config.documents.render);
        let model = &embedding.model;
        let quality = match render.image_format {
            ImageFormat::Png => None,
            ImageFormat::WebP => Some(render.quality),
        };
        // Every field is named: a new one must be considered here.
        let parts = json!({
            "version": 2,
            "family": model.family, "uri": model.uri, "adapterUri": model.adapter_uri,
            "precision": embedding.precision, "maxVisualTokens": embedding.max_visual_tokens,
            "poolFactor": embedding.pool_factor,
            "dpi": render.dpi, "imageFormat": render.image_format, "quality": quality,
        });
        let former = json!([
            only(json!(embedding), &FORMER_EMBEDDING),
            only(json!(render), &FORMER_RENDER),
        ]);
        Self {
            digest: digest(&parts),
            former: Some(digest(&former)),
        }
    }

    /// The recipe of a document in the ledger.
    pub(crate) fn stored(digest: &str) -> Self {
        Self {
            digest: digest.to_owned(),
            former: None,
        }
    }

    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// Whether pages of a document with this digest are the same as with this recipe.
    pub(crate) fn matches(&self, digest: &str) -> bool {
        self.digest == digest || self.former.as_deref() == Some(digest)
    }
}

/// An object with some of its fields.
fn only(mut object: Value, fields: &[&str]) -> Value {
    if let Value::Object(object) = &mut object {
        object.retain(|field, _| fields.contains(&field.as_str()));
    }
    object
}

fn digest(value: &Value) -> String {
    let digest = Sha256::digest(value.to_string());
    digest[..8].iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_config() -> WorkerConfig {
        WorkerConfig::from_yaml(
            "
pipeline: rag/contracts
source: {kafka: {bootstrapServers: 'kafka:9092'}}
documents:
  objectStore:
    endpoint: 'http://minio:9000'
    accessKeySecretRef: {name: s3}
    secretKeySecretRef: {name: s3}
embedding: {model: {family: minilm, uri: 'file:///models/minilm'}}
stores:
  milvus: {uri: 'http://milvus:19530'}
  mongodb: {uriSecretRef: {name: mongo}}
",
        )
        .unwrap()
    }

    #[test]
    fn only_what_decides_pixels_and_vectors_changes_the_recipe() {
        let config = a_config();
        let recipe = Recipe::of(&config);
        let same = |change: &dyn Fn(&mut WorkerConfig)| {
            let mut changed = config.clone();
            change(&mut changed);
            assert_ne!(changed, config);
            Recipe::of(&changed).digest == recipe.digest
        };
        assert!(same(&|config| config.embedding.batch_pages += 1));
        assert!(same(
            &|config| config.embedding.model.cache_claim = Some("x".into())
        ));
        assert!(same(&|config| config.documents.render.timeout_seconds += 1));
        assert!(same(&|config| config
            .documents
            .render
            .office_timeout_seconds += 1));
        assert!(same(&|config| config.documents.render.max_pages += 1));
        // A document that was stored without its bad pages stays as it is.
        assert!(same(&|config| {
            config.documents.render.on_bad_page = layra_crds::OnBadPage::Fail;
        }));
        assert!(same(&|config| config.documents.limits.max_vectors += 1));
        assert!(
            same(&|config| config.documents.render.quality -= 1),
            "PNG has none"
        );
        assert!(same(&|config| config.documents.range_pages += 1));

        assert!(!same(&|config| config.embedding.model.uri.push('x')));
        assert!(!same(
            &|config| config.embedding.model.adapter_uri = Some("x".into())
        ));
        assert!(!same(&|config| config.embedding.pool_factor += 1));
        assert!(!same(
            &|config| config.embedding.max_visual_tokens = Some(99)
        ));
        assert!(!same(&|config| config.documents.render.dpi[0].dpi += 1));
        assert!(!same(&|config| {
            config.documents.render.image_format = ImageFormat::WebP;
        }));
    }

    #[test]
    fn documents_of_the_earlier_version_continue_with_the_same_settings() {
        let config = a_config();
        // As the earlier version computed it: the whole text of both.
        let render = only(json!(config.documents.render), &FORMER_RENDER);
        let earlier = digest(&json!([config.embedding, render]));
        assert!(Recipe::of(&config).matches(&earlier));
        let mut changed = config.clone();
        changed.documents.render.dpi[0].dpi += 1;
        assert!(!Recipe::of(&changed).matches(&earlier));
        assert!(!Recipe::stored("other").matches(&earlier));
    }
}
