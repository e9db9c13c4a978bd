//! Translates a pipeline's `embedding` section into the embedder's settings. A value that this
//! worker does not know is an error.

use layra_crds::{EmbeddingSpec, ModelFamily, Precision};
use layra_embedding::{DeviceChoice, Settings};

use crate::runtime::failure::{Failure, Reason, Stage};

/// The embedder's settings for a pipeline, on `device`.
pub(crate) fn settings(spec: &EmbeddingSpec, device: DeviceChoice) -> Result<Settings, Failure> {
    Ok(Settings {
        family: family(spec.model.family)?,
        device,
        precision: spec.precision.map(precision),
        max_visual_tokens: spec.max_visual_tokens,
        batch_pages: spec.batch_pages,
        pool_factor: spec.pool_factor,
    })
}

pub(super) fn family(family: ModelFamily) -> Result<layra_embedding::ModelFamily, Failure> {
    use layra_embedding::ModelFamily as Known;
    match family {
        ModelFamily::Minilm => Ok(Known::Minilm),
        ModelFamily::ColQwen2 => Ok(Known::ColQwen2),
        ModelFamily::ColQwen2_5 => Ok(Known::ColQwen2_5),
        ModelFamily::ColQwen3 => Ok(Known::ColQwen3),
        other => {
            let message =
                format!("this version of the worker does not support the model family {other}");
            Err(Failure::fatal(Stage::Model, Reason::ModelUnusable, message))
        }
    }
}

fn precision(precision: Precision) -> layra_embedding::Precision {
    use layra_embedding::Precision as Known;
    match precision {
        Precision::F32 => Known::F32,
        Precision::Tf32 => Known::Tf32,
        Precision::Bf16 => Known::Bf16,
        Precision::F16 => Known::F16,
        Precision::Q8 => Known::Q8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The object and the command line use the same names.
    #[test]
    fn families_and_precisions_keep_their_names() {
        for word in ["minilm", "colqwen2", "colqwen2_5", "colqwen3"] {
            let stated: ModelFamily = serde_json::from_value(word.into()).unwrap();
            assert_eq!(word.parse(), Ok(family(stated).unwrap()));
        }
        for word in ["f32", "tf32", "bf16", "f16", "q8"] {
            let stated: Precision = serde_json::from_value(word.into()).unwrap();
            assert_eq!(word.parse(), Ok(precision(stated)));
        }
    }
}
