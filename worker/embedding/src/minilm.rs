//! all-MiniLM-L6-v2: splits the text of a page into overlapping passages and computes one vector
//! for each. It uses no pixels.

use std::fs;
use std::path::Path;

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use rayon::prelude::*;
use tokenizers::Tokenizer;

use super::bert::{Bert, BertConfig, normalised_mean};
use super::kernels;
use super::passages::PassageCutter;
use super::{
    Batch, BatchContent, EmbedError, Embedder, MultiVector, PageInput, Prepared, PreparedContent,
};

/// Tokens of a passage without `[CLS]` and `[SEP]`: the model was trained with 256 in total.
const WINDOW: usize = 254;
/// Tokens that neighbouring passages share, so that a sentence at the boundary is whole in one of
/// them.
const OVERLAP: usize = 32;
/// Largest number of vectors of a page, because LAYRA reads no more. Any further text of the page
/// is not embedded.
const MAX_PASSAGES: usize = 1000;
/// Tokens of a batch on one core: enough to amortise reading the weights, few enough that their
/// queries, keys and values (4.5 KiB a token) stay in the shared cache.
const BATCH_TOKENS: usize = 1536;
/// Tokens per core that are computed before results are returned.
const CORE_TOKENS: usize = 6 * BATCH_TOKENS;

/// The passages of a page as token ids.
pub(super) type Passages = Vec<Vec<u32>>;

/// Width of the vectors of the model in `directory`.
pub(super) fn dimensions(directory: &Path) -> Result<usize, EmbedError> {
    Ok(read_config(&directory.join("config.json"))?.hidden_size)
}

/// The model with its tokenizer.
pub struct MiniLm {
    bert: Bert,
    tokenizer: Tokenizer,
    dimensions: usize,
    /// Ids of `[CLS]` and `[SEP]`.
    special_tokens: [u32; 2],
}

impl MiniLm {
    /// Loads `config.json`, `tokenizer.json` and `model.safetensors` from a directory.
    pub fn load(directory: &Path) -> Result<Self, EmbedError> {
        kernels::check_path().map_err(EmbedError::Kernels)?;
        let config = read_config(&directory.join("config.json"))?;
        let (tokenizer, special_tokens) = read_tokenizer(&directory.join("tokenizer.json"))?;
        let bert = read_weights(&directory.join("model.safetensors"), &config)?;
        Ok(Self {
            bert,
            tokenizer,
            dimensions: config.hidden_size,
            special_tokens,
        })
    }

    /// The passages of a text as token ids, each with `[CLS]` and `[SEP]`.
    fn passages(&self, text: &str) -> Result<Vec<Vec<u32>>, EmbedError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|error| EmbedError::Tokenize(error.to_string()))?;
        let ids = encoding.get_ids();
        let [start, end] = self.special_tokens;
        let cutter = const { PassageCutter::new(WINDOW, OVERLAP) };
        let passages = cutter.cut(ids.len()).take(MAX_PASSAGES);
        Ok(passages
            .map(|range| [&[start][..], &ids[range], &[end]].concat())
            .collect())
    }

    /// One vector for each passage, in the same order.
    fn embed(&self, passages: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let batches = batches(passages, rayon::current_num_threads());
        // Single batches: an idle core takes the next one.
        let vectors = batches.into_par_iter().with_max_len(1).map(|batch| {
            let sequences: Vec<&[u32]> = batch.iter().map(Vec::as_slice).collect();
            let states = self.bert.forward(&sequences)?;
            let vectors = states.iter().map(normalised_mean);
            Ok(vectors.collect::<candle_core::Result<Vec<_>>>()?)
        });
        Ok(vectors.collect::<Result<Vec<_>, EmbedError>>()?.concat())
    }
}

/// For benchmarks only.
impl MiniLm {
    /// Number of operations of the matrix products for a page.
    #[must_use]
    pub fn operations(&self, page: &Prepared) -> f64 {
        let passages = page.passages().unwrap_or_default().iter();
        passages
            .map(|passage| self.bert.operations(passage.len()))
            .sum()
    }

    /// Computes a large matrix product of the model for one batch, on this core: the largest if
    /// the fused kernels compute it. Returns its number of operations.
    pub fn largest_product(&self) -> Result<f64, EmbedError> {
        Ok(self.bert.largest_product(BATCH_TOKENS)?)
    }
}

impl Embedder for MiniLm {
    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn page_pixels(&self) -> Option<u32> {
        None
    }

    fn batch_tokens(&self) -> usize {
        CORE_TOKENS * rayon::current_num_threads()
    }

    fn prepare(&self, page: &PageInput<'_>) -> Result<Prepared, EmbedError> {
        Ok(Prepared::from_passages(self.passages(page.text)?))
    }

    fn upload(&self, pages: &[&Prepared]) -> Result<Batch, EmbedError> {
        let passages = pages.iter().map(|page| match &page.content {
            PreparedContent::Passages(passages) => Ok(passages.clone()),
            PreparedContent::Image(_) => Err(EmbedError::ForeignPage),
        });
        Ok(Batch {
            pages: pages.len(),
            content: BatchContent::Passages(passages.collect::<Result<_, _>>()?),
        })
    }

    fn forward(&self, batch: Batch) -> Result<Vec<MultiVector>, EmbedError> {
        let BatchContent::Passages(pages) = batch.content else {
            return Err(EmbedError::ForeignPage);
        };
        let passages_of_page: Vec<usize> = pages.iter().map(Vec::len).collect();
        let mut vectors = self.embed(&pages.concat())?.into_iter();
        let page = |count| {
            let rows: Vec<f32> = vectors.by_ref().take(count).flatten().collect();
            MultiVector::new(self.dimensions, rows)
        };
        Ok(passages_of_page.into_iter().map(page).collect())
    }

    fn embed_query(&self, text: &str) -> Result<MultiVector, EmbedError> {
        let vectors = self.embed(&self.passages(text)?)?;
        Ok(MultiVector::new(self.dimensions, vectors.concat()))
    }

    fn embed_queries(&self, texts: &[&str]) -> Result<Vec<MultiVector>, EmbedError> {
        let passages = texts.iter().map(|text| self.passages(text));
        let passages = passages.collect::<Result<Vec<Passages>, _>>()?;
        self.forward(Batch {
            pages: texts.len(),
            content: BatchContent::Passages(passages),
        })
    }
}

/// Divides passages, in order, into batches of about the same size and at most about
/// [`BATCH_TOKENS`] tokens: the same number for each core.
fn batches(passages: &[Vec<u32>], cores: usize) -> Vec<&[Vec<u32>]> {
    let total: usize = passages.iter().map(Vec::len).sum();
    let count = cores * total.div_ceil(cores * BATCH_TOKENS);
    let mut batches = Vec::with_capacity(count);
    let (mut rest, mut tokens) = (passages, 0);
    for batch in 1..=count {
        let end = total * batch / count;
        let size = rest.iter().take_while(|passage| {
            // A passage belongs to the batch that contains its middle.
            let belongs = tokens + passage.len() / 2 < end;
            tokens += if belongs { passage.len() } else { 0 };
            belongs
        });
        let (this, following) = rest.split_at(size.count());
        batches.push(this);
        rest = following;
    }
    batches.retain(|batch| !batch.is_empty());
    batches
}

fn read_config(file: &Path) -> Result<BertConfig, EmbedError> {
    let invalid = |detail| EmbedError::Config {
        file: file.to_owned(),
        detail,
    };
    let config: BertConfig =
        serde_json::from_slice(&read(file)?).map_err(|error| invalid(error.to_string()))?;
    match config.unsupported() {
        Some(reason) => Err(invalid(reason)),
        None if config.max_position_embeddings < WINDOW + 2 => Err(invalid(format!(
            "max_position_embeddings is {}, at least {} are needed",
            config.max_position_embeddings,
            WINDOW + 2
        ))),
        None => Ok(config),
    }
}

fn read_tokenizer(file: &Path) -> Result<(Tokenizer, [u32; 2]), EmbedError> {
    let invalid = |detail| EmbedError::Tokenizer {
        file: file.to_owned(),
        detail,
    };
    let mut tokenizer =
        Tokenizer::from_bytes(read(file)?).map_err(|error| invalid(error.to_string()))?;
    // The published file truncates and pads to 128 tokens; passages are split here, without
    // padding.
    tokenizer.with_padding(None);
    tokenizer
        .with_truncation(None)
        .map_err(|error| invalid(error.to_string()))?;
    let id = |token: &str| {
        tokenizer
            .token_to_id(token)
            .ok_or_else(|| invalid(format!("the vocabulary has no token {token}")))
    };
    let special_tokens = [id("[CLS]")?, id("[SEP]")?];
    Ok((tokenizer, special_tokens))
}

fn read_weights(file: &Path, config: &BertConfig) -> Result<Bert, EmbedError> {
    // Opened first, for an error that names the file.
    fs::File::open(file).map_err(|source| EmbedError::Read {
        file: file.to_owned(),
        source,
    })?;
    let invalid = |error: &candle_core::Error| {
        let (tensor, detail) = tensor_and_detail(error);
        EmbedError::Tensor {
            file: file.to_owned(),
            tensor,
            detail,
        }
    };
    #[allow(unsafe_code, reason = "candle's only way to map weights into memory")]
    // SAFETY: the model's directory belongs to this worker; the file is never changed in place.
    let weights = unsafe { VarBuilder::from_mmaped_safetensors(&[file], DType::F32, &Device::Cpu) }
        .map_err(|error| invalid(&error))?;
    Bert::load(config, &weights).map_err(|error| invalid(&error))
}

/// The tensor that caused an error of candle, and the rest of the message.
fn tensor_and_detail(error: &candle_core::Error) -> (String, String) {
    match error {
        candle_core::Error::CannotFindTensor { path } => (path.clone(), "is missing".to_owned()),
        candle_core::Error::WithBacktrace { inner, .. } => tensor_and_detail(inner),
        candle_core::Error::UnexpectedShape { msg, expected, got } => (
            msg.trim_start_matches("shape mismatch for ").to_owned(),
            format!("has shape {got:?}, config.json requires {expected:?}"),
        ),
        other => ("(any)".to_owned(), other.to_string()),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, EmbedError> {
    fs::read(file).map_err(|source| EmbedError::Read {
        file: file.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn batches_keep_all_passages_in_order_and_have_about_the_same_size(
            lengths in proptest::collection::vec(2..=256_usize, 0..60), cores in 1..20_usize,
        ) {
            let passages: Vec<Vec<u32>> = lengths.iter().map(|length| vec![1; *length]).collect();
            let total: usize = lengths.iter().sum();
            let cut = batches(&passages, cores);
            prop_assert_eq!(&cut.concat(), &passages);
            let count = cores * total.div_ceil(cores * BATCH_TOKENS);
            prop_assert!(cut.len() <= count);
            for batch in cut {
                prop_assert!(!batch.is_empty());
                let tokens: usize = batch.iter().map(Vec::len).sum();
                prop_assert!(tokens <= total.div_ceil(count) + 256, "{tokens} of {total}");
            }
        }
    }
}
