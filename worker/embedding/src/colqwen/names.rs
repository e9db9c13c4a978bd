//! Maps the tensor names of all published layouts to one set of bare names (`visual.*`,
//! `language_model.*`, `custom_text_proj.*`).

/// The bare name of a tensor; `None` for a tensor that embedders do not use (`lm_head`).
pub(super) fn bare(name: &str) -> Option<String> {
    let name = name.strip_prefix("vlm.").unwrap_or(name);
    let inner = name.strip_prefix("model.").unwrap_or(name);
    if inner.starts_with("lm_head.") {
        return None;
    }
    if let Some(leaf) = inner.strip_prefix("embedding_proj_layer.") {
        return Some(format!("custom_text_proj.{leaf}"));
    }
    // Checkpoints of 2024-25 have the text tower directly under `model`.
    let old_text_tower = ["layers.", "embed_tokens.", "norm."];
    if old_text_tower.iter().any(|part| inner.starts_with(part)) {
        return Some(format!("language_model.{inner}"));
    }
    if let Some(leaf) = inner.strip_prefix("language_model.model.") {
        return Some(format!("language_model.{leaf}"));
    }
    Some(inner.to_owned())
}

/// Role of an adapter's tensor, with the bare name of the weight that it changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AdapterTensor {
    /// Matrix A, `[r, in]`, which is applied first.
    A(String),
    /// Matrix B, `[out, r]`, which is applied second.
    B(String),
    /// Replaces the weight.
    Whole(String),
}

/// Parses the name of a tensor in the format of `peft`.
pub(super) fn adapter(name: &str) -> Option<AdapterTensor> {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    for (marker, build) in [
        (".lora_A.", AdapterTensor::A as fn(String) -> AdapterTensor),
        (".lora_B.", AdapterTensor::B),
    ] {
        // The rest is "weight", or "default.weight" if the adapter has a name.
        if let Some((module, _)) = name.split_once(marker) {
            return Some(build(bare(&format!("{module}.weight"))?));
        }
    }
    let name = name
        .replace(".modules_to_save.default.", ".")
        .replace(".modules_to_save.", ".");
    bare(&name).map(AdapterTensor::Whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_maps_to_the_bare_name() {
        let cases = [
            (
                "visual.blocks.0.attn.qkv.bias",
                "visual.blocks.0.attn.qkv.bias",
            ),
            (
                "model.visual.blocks.0.norm1.weight",
                "visual.blocks.0.norm1.weight",
            ),
            (
                "vlm.model.visual.merger.norm.bias",
                "visual.merger.norm.bias",
            ),
            ("vlm.visual.merger.ln_q.weight", "visual.merger.ln_q.weight"),
            ("language_model.norm.weight", "language_model.norm.weight"),
            (
                "model.language_model.norm.weight",
                "language_model.norm.weight",
            ),
            (
                "model.layers.3.mlp.up_proj.weight",
                "language_model.layers.3.mlp.up_proj.weight",
            ),
            (
                "model.embed_tokens.weight",
                "language_model.embed_tokens.weight",
            ),
            ("model.norm.weight", "language_model.norm.weight"),
            (
                "vlm.model.language_model.layers.0.input_layernorm.weight",
                "language_model.layers.0.input_layernorm.weight",
            ),
            ("model.custom_text_proj.bias", "custom_text_proj.bias"),
            ("embedding_proj_layer.weight", "custom_text_proj.weight"),
        ];
        for (published, expected) in cases {
            assert_eq!(bare(published).as_deref(), Some(expected), "{published}");
        }
        assert_eq!(bare("lm_head.weight"), None);
        assert_eq!(bare("vlm.lm_head.weight"), None);
    }

    #[test]
    fn adapter_names_determine_the_role() {
        let weight = "language_model.layers.1.self_attn.q_proj.weight".to_owned();
        let a = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight";
        assert_eq!(adapter(a), Some(AdapterTensor::A(weight.clone())));
        let b = "base_model.model.language_model.layers.1.self_attn.q_proj.lora_B.default.weight";
        assert_eq!(adapter(b), Some(AdapterTensor::B(weight)));
        assert_eq!(
            adapter("base_model.model.custom_text_proj.weight"),
            Some(AdapterTensor::Whole("custom_text_proj.weight".to_owned()))
        );
    }
}
