//! Prompts as token ids: the prompt around the visual tokens of a page, and queries with their
//! padding tokens. Ids are taken from the checkpoint's vocabulary.

use std::path::Path;

use tokenizers::Tokenizer;

use super::config::{Config, PromptStyle};
use super::error::{ColQwenError, Result};

const IMAGE_TOKEN: &str = "<|image_pad|>";
const PAGE_START: &str = "<|im_start|>user\n<|vision_start|>";
const PAGE_END: &str = "<|vision_end|>Describe the image.<|im_end|><|endoftext|>";
const PAGE_END_ASSISTANT: &str =
    "<|vision_end|>Describe the image.<|im_end|><|im_start|>assistant\n<|endoftext|>";
/// Appended to a query ten times: the model was trained to use these tokens for query expansion.
const QUERY_PADDING: &str = "<|endoftext|>";
const QUERY_PADDINGS: usize = 10;

/// Converts prompts and queries to token ids.
pub(super) struct Prompts {
    tokenizer: Tokenizer,
    style: PromptStyle,
    /// Ids before the visual tokens.
    pub(super) before_image: Vec<u32>,
    /// The id of a visual token.
    pub(super) image_token: u32,
    /// Ids after the visual tokens.
    pub(super) after_image: Vec<u32>,
}

impl Prompts {
    /// Reads `tokenizer.json` of `directory`.
    pub(super) fn read(directory: &Path, config: &Config) -> Result<Self> {
        let path = directory.join("tokenizer.json");
        let text = std::fs::read(&path).map_err(ColQwenError::io(&path))?;
        let invalid = |reason: String| ColQwenError::Tokenizer {
            path: path.clone(),
            reason,
        };
        let mut tokenizer =
            Tokenizer::from_bytes(text).map_err(|error| invalid(error.to_string()))?;
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|error| invalid(error.to_string()))?;
        let Some(image_token) = tokenizer.token_to_id(IMAGE_TOKEN) else {
            return Err(invalid(format!(
                "the vocabulary has no token {IMAGE_TOKEN}"
            )));
        };
        if image_token != config.image_token {
            let expected = config.image_token;
            return Err(invalid(format!(
                "{IMAGE_TOKEN} has id {image_token}, config.json has {expected}"
            )));
        }
        let size = tokenizer.get_vocab_size(true);
        if image_token as usize >= config.text.vocabulary {
            let rows = config.text.vocabulary;
            return Err(invalid(format!(
                "it has {size} tokens, the model has {rows}"
            )));
        }
        let style = config.prompts;
        let end = if style == PromptStyle::Assistant {
            PAGE_END_ASSISTANT
        } else {
            PAGE_END
        };
        let encode = |text: &str| -> Result<Vec<u32>> {
            let encoding = tokenizer
                .encode(text, true)
                .map_err(|error| invalid(error.to_string()))?;
            Ok(encoding.get_ids().to_vec())
        };
        // Special tokens split the text, so the parts around the image token can be encoded
        // separately.
        let (before_image, after_image) = (encode(PAGE_START)?, encode(end)?);
        Ok(Self {
            tokenizer,
            style,
            before_image,
            image_token,
            after_image,
        })
    }

    /// The ids of a query.
    pub(super) fn query(&self, text: &str) -> Result<Vec<u32>> {
        let text = match self.style {
            PromptStyle::Engine => text.to_owned() + &QUERY_PADDING.repeat(QUERY_PADDINGS),
            PromptStyle::Stripped => text.trim().to_owned() + &QUERY_PADDING.repeat(QUERY_PADDINGS),
            PromptStyle::Assistant => text.to_owned(),
        };
        let encoding =
            self.tokenizer
                .encode(text, true)
                .map_err(|error| ColQwenError::Tokenizer {
                    path: "tokenizer.json".into(),
                    reason: error.to_string(),
                })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Number of tokens of a page with `visual` visual tokens.
    pub(super) fn page_tokens(&self, visual: usize) -> usize {
        self.before_image.len() + visual + self.after_image.len()
    }
}
