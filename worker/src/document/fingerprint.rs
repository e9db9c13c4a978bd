//! The fingerprint of a model: vectors can be compared with each other if they have the same one.
//! Settings of speed, number formats and resolution do not belong to it. No I/O.

use std::fmt::{self, Write as _};

use layra_crds::EmbeddingSpec;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Changes when the same files give other vectors than before.
const VERSION: u32 = 1;
/// Digits of a checksum that are shown.
const SHOWN: usize = 12;

/// What makes the vectors of a model comparable with each other, and with no other model's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Fingerprint {
    /// Equal for vectors that can be compared. The other fields are for people.
    pub(crate) digest: String,
    pub(crate) family: String,
    /// Where the checkpoint came from. The same files elsewhere are the same model.
    pub(crate) uri: String,
    /// The checksum over all files, with those of the adapter, as in `status.model`.
    pub(crate) checksum: String,
    pub(crate) pool_factor: u32,
    /// Width of the vectors.
    pub(crate) dimensions: u32,
}

impl Fingerprint {
    /// Of a model whose files have this checksum.
    pub(crate) fn new(spec: &EmbeddingSpec, checksum: &str, dimensions: usize) -> Self {
        let (family, pool_factor) = (spec.model.family.to_string(), spec.pool_factor);
        let parts = format!("{VERSION}\n{family}\n{checksum}\n{pool_factor}");
        let digest = Sha256::digest(parts);
        let digest = digest[..16].iter().fold(String::new(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        });
        Self {
            digest,
            family,
            uri: spec.model.uri.clone(),
            checksum: checksum.to_owned(),
            pool_factor,
            dimensions: u32::try_from(dimensions).unwrap_or(u32::MAX),
        }
    }

    /// Whether vectors of the two can be compared.
    pub(crate) fn is_comparable(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = self.checksum.trim_start_matches("sha256:");
        let sum = sum.get(..SHOWN).unwrap_or(sum);
        write!(f, "{} {} (checksum {sum}", self.family, self.uri)?;
        if self.pool_factor != 1 {
            write!(f, ", poolFactor {}", self.pool_factor)?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
pub(crate) fn a_fingerprint(family: &str, checksum: &str) -> Fingerprint {
    use serde_json::json;
    let model = json!({"family": family, "uri": "s3://models/one"});
    let spec = serde_json::from_value(json!({ "model": model })).unwrap();
    Fingerprint::new(&spec, checksum, 128)
}

#[cfg(test)]
mod tests {
    use layra_crds::{ModelFamily, Precision};
    use serde_json::json;

    use super::*;

    fn spec() -> EmbeddingSpec {
        let model = json!({"family": "colqwen2_5", "uri": "s3://models/one"});
        serde_json::from_value(json!({ "model": model })).unwrap()
    }

    #[test]
    fn only_what_makes_vectors_incomparable_changes_the_fingerprint() {
        let first = Fingerprint::new(&spec(), "sha256:1", 128);
        let is_same = |change: &dyn Fn(&mut EmbeddingSpec)| {
            let mut changed = spec();
            change(&mut changed);
            assert_ne!(changed, spec());
            Fingerprint::new(&changed, "sha256:1", 128).is_comparable(&first)
        };
        assert!(is_same(&|spec| spec.batch_pages = 1));
        assert!(is_same(&|spec| spec.precision = Some(Precision::F16)));
        assert!(is_same(&|spec| spec.max_visual_tokens = Some(64)));
        assert!(is_same(&|spec| spec.model.cache_claim = Some("c".into())));
        // The same files at another address.
        assert!(is_same(&|spec| spec.model.uri = "hf://a/b@c".into()));
        assert!(!is_same(&|spec| spec.model.family = ModelFamily::ColQwen2));
        assert!(!is_same(&|spec| spec.pool_factor = 3));
        // Of the checkpoint, or of its adapter.
        let other = Fingerprint::new(&spec(), "sha256:2", 128);
        assert!(!other.is_comparable(&first));
    }

    #[test]
    fn the_digest_stays_the_same_in_later_versions() {
        let first = Fingerprint::new(&spec(), "sha256:1", 128);
        assert_eq!(first.digest, "40bf62a68377711839d8597fd87dcc2f");
    }

    #[test]
    fn people_see_which_model_it_is() {
        let mut spec = spec();
        let shown = |spec: &EmbeddingSpec| {
            Fingerprint::new(spec, "sha256:0123456789abcdef", 128).to_string()
        };
        assert_eq!(
            shown(&spec),
            "colqwen2_5 s3://models/one (checksum 0123456789ab)"
        );
        spec.pool_factor = 3;
        assert!(shown(&spec).ends_with("(checksum 0123456789ab, poolFactor 3)"));
    }
}
