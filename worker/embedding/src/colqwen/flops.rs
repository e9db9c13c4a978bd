//! Number of operations for a page: multiplications and additions of its matrix products. Norms,
//! activations and softmax are not counted; they are less than two per cent.

use super::config::{Config, VisionAttention, VisionMlp};
use super::grid::{Grid, UNIT};

/// Number of operations for one page, by part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Flops {
    /// Vision tower without attention: patch embedding, blocks, mergers.
    pub(super) vision: f64,
    /// Scores and weighted sums of the vision tower.
    pub(super) vision_attention: f64,
    /// Text tower without attention, and the projection.
    pub(super) text: f64,
    /// Scores and weighted sums of the text tower, of which half are needed because it is causal.
    pub(super) text_attention: f64,
}

impl Flops {
    /// Operations for a page with this grid and `tokens`, including the prompt.
    pub(super) fn of_page(config: &Config, width: usize, grid: &Grid, tokens: usize) -> Self {
        let vision = &config.vision;
        let (w, inner) = (vision.width as f64, vision.intermediate as f64);
        let (patches, units) = (grid.patches() as f64, grid.units() as f64);
        let mlp = match vision.mlp {
            VisionMlp::SwiGlu => 3.0 * w * inner,
            VisionMlp::QuickGelu | VisionMlp::TanhGelu => 2.0 * w * inner,
        };
        let joined = w * UNIT as f64;
        let merger = joined * joined + joined * vision.output as f64;
        let mergers = 1.0 + vision.deepstack.len() as f64;
        let patch = (3 * vision.patch * vision.patch) as f64;
        let blocks = vision.depth as f64 * (4.0 * w * w + mlp);
        let full = 4.0 * patches * patches * w;
        let attention = match &vision.attention {
            VisionAttention::Full => vision.depth as f64 * full,
            VisionAttention::Windowed { full_blocks, .. } => {
                let squares = grid.windows.iter().map(|units| {
                    let rows = (units * UNIT) as f64;
                    rows * rows
                });
                let windowed = 4.0 * w * squares.sum::<f64>();
                let full_blocks = full_blocks.len() as f64;
                full_blocks * full + (vision.depth as f64 - full_blocks) * windowed
            }
        };
        let text = &config.text;
        let (hidden, tokens) = (text.hidden as f64, tokens as f64);
        let queries = (text.heads * text.head) as f64;
        let keys = (text.kv_heads * text.head) as f64;
        let layer = hidden * (2.0 * queries + 2.0 * keys) + 3.0 * hidden * text.intermediate as f64;
        let layers = text.layers as f64;
        Self {
            vision: 2.0 * (patches * (patch * w + blocks) + units * mergers * merger),
            vision_attention: attention,
            text: 2.0 * tokens * (layers * layer + hidden * width as f64),
            text_attention: layers * 2.0 * tokens * tokens * queries,
        }
    }

    /// Sum of all parts.
    pub(super) fn total(&self) -> f64 {
        self.vision + self.vision_attention + self.text + self.text_attention
    }
}

#[cfg(test)]
mod tests {
    use super::super::image_size::Size;
    use super::*;

    /// ColQwen2.5-3B, whose vision tower is 32 x 1280 and text tower 36 x 2048.
    const CONFIG: &str = r#"{
        "model_type": "qwen2_5_vl", "image_token_id": 1,
        "text_config": {"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008,
            "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2,
            "rope_scaling": {"mrope_section": [16, 24, 24]}},
        "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420,
            "num_heads": 16, "patch_size": 14, "window_size": 112, "out_hidden_size": 2048,
            "fullatt_block_indexes": [7, 15, 23, 31]}}"#;

    #[test]
    fn a_page_of_768_visual_tokens_costs_8_57_teraflop() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), CONFIG).unwrap();
        let config = Config::read(directory.path()).unwrap();
        let size = Size {
            width: 24 * 28,
            height: 32 * 28,
        };
        let grid = Grid::new(size, 28, &config.vision.attention);
        let flops = Flops::of_page(&config, 128, &grid, 779);
        let tera = |value: f64| (value / 1e9).round() / 1e3;
        assert!(
            (tera(flops.vision) - (3.871 + 0.066)).abs() < 0.01,
            "{flops:?}"
        );
        assert!(
            (tera(flops.vision_attention) - 0.221).abs() < 0.01,
            "{flops:?}"
        );
        assert!((tera(flops.text) - 4.323).abs() < 0.01, "{flops:?}");
        assert!(
            (tera(flops.text_attention) - 0.089).abs() < 0.01,
            "{flops:?}"
        );
        assert!((tera(flops.total()) - 8.57).abs() < 0.02, "{flops:?}");
    }
}
