//! all-MiniLM-L6-v2: the text of a page, cut into overlapping passages, one vector a passage.
//! It never looks at pixels.

use std::fs;
use std::path::Path;

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use rayon::prelude::*;
use tokenizers::Tokenizer;

use super::bert::{Bert, BertConfig, mean_of_length_one};
use super::kernels;
use super::passages::PassageCutter;
use super::{
    Batch, BatchContent, EmbedError, Embedder, MultiVector, PageInput, Prepared, PreparedContent,
};

/// Tokens of a passage without the two that enclose it: the model was trained for 256 in all.
const WINDOW: usize = 254;
/// Tokens that neighbouring passages share, so that a sentence at the cut is whole in one of them.
const OVERLAP: usize = 32;
/// Vectors of one page: LAYRA reads no more than this many rows of a page. What follows in a page
/// with more text is not embedded.
const MAX_PASSAGES: usize = 1000;
/// Tokens that go through the layers together, on one core: enough to spread the cost of reading
/// the weights, few enough that their queries, keys and values (4.5 KiB a token) stay in the shared
/// cache.
const BATCH_TOKENS: usize = 1536;
/// Tokens for each core of what is computed before anything is handed on.
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
    /// `[CLS]` and `[SEP]`.
    enclosing: [u32; 2],
}

impl MiniLm {
    /// Loads `config.json`, `tokenizer.json` and `model.safetensors` from a directory.
    pub fn load(directory: &Path) -> Result<Self, EmbedError> {
        kernels::check_path().map_err(EmbedError::Kernels)?;
        let config = read_config(&directory.join("config.json"))?;
        let (tokenizer, enclosing) = read_tokenizer(&directory.join("tokenizer.json"))?;
        let bert = read_weights(&directory.join("model.safetensors"), &config)?;
        Ok(Self {
            bert,
            tokenizer,
            dimensions: config.hidden_size,
            enclosing,
        })
    }

    /// The passages of a text as token ids, enclosed by `[CLS]` and `[SEP]`.
    fn passages(&self, text: &str) -> Result<Vec<Vec<u32>>, EmbedError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|error| EmbedError::Tokenize(error.to_string()))?;
        let ids = encoding.get_ids();
        let [start, end] = self.enclosing;
        let cutter = const { PassageCutter::new(WINDOW, OVERLAP) };
        let passages = cutter.cut(ids.len()).take(MAX_PASSAGES);
        Ok(passages
            .map(|range| [&[start][..], &ids[range], &[end]].concat())
            .collect())
    }

    /// One vector for each passage, in the same order.
    fn embed(&self, passages: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let batches = batches(passages, rayon::current_num_threads());
        // One by one: whoever is done takes the next.
        let vectors = batches.into_par_iter().with_max_len(1).map(|batch| {
            let sequences: Vec<&[u32]> = batch.iter().map(Vec::as_slice).collect();
            let states = self.bert.forward(&sequences)?;
            let vectors = states.iter().map(mean_of_length_one);
            Ok(vectors.collect::<candle_core::Result<Vec<_>>>()?)
        });
        Ok(vectors.collect::<Result<Vec<_>, EmbedError>>()?.concat())
    }
}

/// What benchmarks ask.
impl MiniLm {
    /// Operations of the matrix products for a page.
    #[must_use]
    pub fn operations(&self, page: &Prepared) -> f64 {
        let passages = page.passages().unwrap_or_default().iter();
        passages
            .map(|passage| self.bert.operations(passage.len()))
            .sum()
    }

    /// A product of the model alone, its largest where the kernels here compute it, for as many
    /// tokens as a core takes at a time. Returns its operations.
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
            PreparedContent::Picture(_) => Err(EmbedError::ForeignPage),
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
}

/// Neighbouring passages together: as many batches for each core, of nearly the same size and of
/// about [`BATCH_TOKENS`] tokens at most.
fn batches(passages: &[Vec<u32>], cores: usize) -> Vec<&[Vec<u32>]> {
    let total: usize = passages.iter().map(Vec::len).sum();
    let count = cores * total.div_ceil(cores * BATCH_TOKENS);
    let mut batches = Vec::with_capacity(count);
    let (mut rest, mut tokens) = (passages, 0);
    for batch in 1..=count {
        let end = total * batch / count;
        let size = rest.iter().take_while(|passage| {
            // To this batch if more than half of it is before the batch's end.
            let more = tokens + passage.len() / 2 < end;
            tokens += if more { passage.len() } else { 0 };
            more
        });
        let (this, following) = rest.split_at(size.count());
        batches.push(this);
        rest = following;
    }
    batches.retain(|batch| !batch.is_empty());
    batches
}

fn read_config(file: &Path) -> Result<BertConfig, EmbedError> {
    let wrong = |detail| EmbedError::Config {
        file: file.to_owned(),
        detail,
    };
    let config: BertConfig =
        serde_json::from_slice(&read(file)?).map_err(|error| wrong(error.to_string()))?;
    match config.objection() {
        Some(objection) => Err(wrong(objection)),
        None if config.max_position_embeddings < WINDOW + 2 => Err(wrong(format!(
            "{} positions are too few",
            config.max_position_embeddings
        ))),
        None => Ok(config),
    }
}

fn read_tokenizer(file: &Path) -> Result<(Tokenizer, [u32; 2]), EmbedError> {
    let wrong = |detail| EmbedError::Tokenizer {
        file: file.to_owned(),
        detail,
    };
    let mut tokenizer =
        Tokenizer::from_bytes(read(file)?).map_err(|error| wrong(error.to_string()))?;
    // The published file cuts and pads at 128 tokens; passages are cut here, and not padded.
    tokenizer.with_padding(None);
    tokenizer
        .with_truncation(None)
        .map_err(|error| wrong(error.to_string()))?;
    let id = |token: &str| {
        tokenizer
            .token_to_id(token)
            .ok_or_else(|| wrong(format!("it has no token {token}")))
    };
    let enclosing = [id("[CLS]")?, id("[SEP]")?];
    Ok((tokenizer, enclosing))
}

fn read_weights(file: &Path, config: &BertConfig) -> Result<Bert, EmbedError> {
    // Opened here first for an error that names the file.
    fs::File::open(file).map_err(|source| EmbedError::Read {
        file: file.to_owned(),
        source,
    })?;
    let wrong = |error: &candle_core::Error| {
        let (tensor, detail) = culprit(error);
        EmbedError::Tensor {
            file: file.to_owned(),
            tensor,
            detail,
        }
    };
    #[allow(unsafe_code, reason = "candle maps weights into memory only so")]
    // SAFETY: the model's directory belongs to this worker; nobody changes the file in place.
    let weights = unsafe { VarBuilder::from_mmaped_safetensors(&[file], DType::F32, &Device::Cpu) }
        .map_err(|error| wrong(&error))?;
    Bert::load(config, &weights).map_err(|error| wrong(&error))
}

/// The tensor that an error of candle is about, and the rest of its message.
fn culprit(error: &candle_core::Error) -> (String, String) {
    match error {
        candle_core::Error::CannotFindTensor { path } => (path.clone(), "is missing".to_owned()),
        candle_core::Error::WithBacktrace { inner, .. } => culprit(inner),
        candle_core::Error::UnexpectedShape { msg, expected, got } => (
            msg.trim_start_matches("shape mismatch for ").to_owned(),
            format!("has the shape {got:?}, config.json says {expected:?}"),
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
        fn batches_keep_every_passage_in_order_and_are_of_one_size(
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
