//! What a pipeline says of its model, in the words of the embedder. The API's types may grow ahead
//! of this worker: what it does not know is an error, never a guess.

use layra_crds::{EmbeddingSpec, ModelFamily, Precision};
use layra_embedding::{DeviceChoice, Settings};

use crate::runtime::failure::{Failure, Stage};

/// How the model of a pipeline is to run on `device`.
pub fn settings(spec: &EmbeddingSpec, device: DeviceChoice) -> Result<Settings, Failure> {
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
            let message = format!("this worker does not know the family {other}");
            Err(Failure::fatal(Stage::Model, "ModelUnusable", message))
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

    /// Both read the same words: the object's, and the command line's.
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
