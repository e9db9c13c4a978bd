//! A BERT encoder in candle: token ids in, hidden states out. It knows no text.
//!
//! Sequences are packed, not padded: the rows of all of them lie one after the other, linear
//! layers see one matrix, and only attention looks at each sequence by itself. So a sequence's
//! result does not depend on its neighbours, and nothing is computed in vain.

use candle_core::{D, DType, Device, IndexOp, Result, Tensor};
use candle_nn::{Embedding, Module, VarBuilder};
use serde::Deserialize;

use super::kernels::{self, Activation, FeedForward, Gelu, Product};

/// The keys of `config.json` that the computation depends on.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct BertConfig {
    pub(super) model_type: String,
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    pub(super) intermediate_size: usize,
    pub(super) hidden_act: String,
    pub(super) max_position_embeddings: usize,
    pub(super) type_vocab_size: usize,
    pub(super) layer_norm_eps: f64,
}

impl BertConfig {
    /// What makes this configuration one that [`Bert`] cannot compute.
    pub(super) fn objection(&self) -> Option<String> {
        if self.model_type != "bert" {
            return Some(format!("model_type is {:?}, not \"bert\"", self.model_type));
        }
        if self.hidden_act != "gelu" {
            return Some(format!("hidden_act is {:?}, not \"gelu\"", self.hidden_act));
        }
        if self.num_hidden_layers == 0 {
            return Some("num_hidden_layers is 0".to_owned());
        }
        let (width, heads) = (self.hidden_size, self.num_attention_heads);
        if width == 0 || heads == 0 || !width.is_multiple_of(heads) {
            return Some(format!(
                "hidden_size {width} cannot be shared by {heads} heads"
            ));
        }
        None
    }
}

/// The encoder with its weights.
pub(super) struct Bert {
    words: Embedding,
    /// Of each position, and of the first kind of text, which every text is of.
    positions: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
    /// Inputs and outputs of the largest product with weights.
    largest: (usize, usize),
}

struct Layer {
    heads: usize,
    query_key_value: Product,
    attended: Product,
    attention_norm: Norm,
    feed_forward: FeedForward,
    output_norm: Norm,
}

impl Bert {
    /// Takes the weights by the names that checkpoints of the family have.
    pub(super) fn load(config: &BertConfig, weights: &VarBuilder<'_>) -> Result<Self> {
        let width = config.hidden_size;
        let embeddings = weights.pp("embeddings");
        let table = |name: &str, rows: usize| embeddings.get((rows, width), name);
        let words = Embedding::new(table("word_embeddings.weight", config.vocab_size)?, width);
        let positions = table("position_embeddings.weight", config.max_position_embeddings)?;
        let kinds = table("token_type_embeddings.weight", config.type_vocab_size)?;
        let norm = Norm::load(&embeddings.pp("LayerNorm"), config)?;
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::load(config, &weights.pp("encoder.layer").pp(index)))
            .collect::<Result<_>>()?;
        Ok(Self {
            words,
            positions: positions.broadcast_add(&kinds.i(0..1)?)?,
            norm,
            layers,
            largest: (width, config.intermediate_size),
        })
    }

    /// Hidden states of each sequence after the last layer, `[tokens, width]` each.
    ///
    /// No sequence may be empty or longer than the model has positions.
    pub(super) fn forward(&self, sequences: &[&[u32]]) -> Result<Vec<Tensor>> {
        let device = self.positions.device();
        let lengths: Vec<usize> = sequences.iter().map(|ids| ids.len()).collect();
        let ids = Tensor::new(sequences.concat(), device)?;
        let positions: Vec<Tensor> = lengths
            .iter()
            .map(|length| self.positions.i(0..*length))
            .collect::<Result<_>>()?;
        let embedded = (self.words.forward(&ids)? + Tensor::cat(&positions, 0)?)?;
        let mut states = self.norm.forward(embedded)?;
        let places = Places::new(&lengths, self.layers[0].head_width()?, device)?;
        for layer in &self.layers {
            states = layer.forward(states, &places)?;
        }
        split(&states, &lengths).collect()
    }
}

/// What benchmarks ask.
impl Bert {
    /// Operations of the matrix products for a sequence of `tokens`.
    pub(super) fn operations(&self, tokens: usize) -> f64 {
        let (width, inner) = self.largest;
        let with_weights = 2 * tokens * width * (4 * width + 2 * inner);
        let attention = 4 * tokens * tokens * width;
        (self.layers.len() * (with_weights + attention)) as f64
    }

    /// Inputs and outputs of the largest product with weights.
    pub(super) fn largest_product(&self) -> (usize, usize) {
        self.largest
    }
}

impl Layer {
    fn load(config: &BertConfig, weights: &VarBuilder<'_>) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let attention = weights.pp("attention");
        let this = attention.pp("self");
        let parts = ["query", "key", "value"]
            .map(|name| linear(&this.pp(name), width, width))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            heads: config.num_attention_heads,
            query_key_value: stacked(&parts)?,
            attended: product(linear(&attention.pp("output.dense"), width, width)?)?,
            attention_norm: Norm::load(&attention.pp("output.LayerNorm"), config)?,
            feed_forward: FeedForward::new(
                linear(&weights.pp("intermediate.dense"), width, inner)?,
                Activation::Gelu(Gelu::Exact),
                linear(&weights.pp("output.dense"), inner, width)?,
            )?,
            output_norm: Norm::load(&weights.pp("output.LayerNorm"), config)?,
        })
    }

    fn head_width(&self) -> Result<usize> {
        Ok(self.attention_norm.weight.dims1()? / self.heads)
    }

    fn forward(&self, states: Tensor, places: &Places<'_>) -> Result<Tensor> {
        let attended = self.attend(&self.query_key_value.forward(&states)?, places)?;
        let sums = self.attended.add_to(states, &attended)?;
        let states = self.attention_norm.forward(sums)?;
        let sums = self.feed_forward.residual(states)?;
        self.output_norm.forward(sums)
    }

    /// Attention within each sequence: `[tokens, 3 * width]` to `[tokens, width]`.
    fn attend(&self, query_key_value: &Tensor, places: &Places<'_>) -> Result<Tensor> {
        let fused = kernels::SelfAttention {
            heads: self.heads,
            groups: self.heads,
            head: self.head_width()?,
            norms: None,
            segments: &places.segments,
            causal: false,
        };
        let (cosine, sine) = &places.unturned;
        if let Some(attended) = kernels::attention(query_key_value, cosine, sine, fused)? {
            return Ok(attended);
        }
        let attended: Vec<Tensor> = split(query_key_value, places.lengths)
            .map(|sequence| self.attend_one(&sequence?))
            .collect::<Result<_>>()?;
        Tensor::cat(&attended, 0)
    }

    /// Attention within one sequence, with the tensor library's products.
    fn attend_one(&self, query_key_value: &Tensor) -> Result<Tensor> {
        let (tokens, columns) = query_key_value.dims2()?;
        let head_width = columns / 3 / self.heads;
        let parts = query_key_value.reshape((tokens, 3, self.heads, head_width))?;
        let part = |index: usize| parts.i((.., index))?.transpose(0, 1)?.contiguous();
        let scale = 1.0 / (head_width as f64).sqrt();
        let query = (part(0)? * scale)?;
        let scores = query.matmul(&part(1)?.transpose(1, 2)?)?;
        let mixed = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&part(2)?)?;
        mixed.transpose(0, 1)?.flatten_from(1)
    }
}

/// Where the sequences of a batch are.
struct Places<'a> {
    lengths: &'a [usize],
    /// First row and number of rows of each.
    segments: Vec<(usize, usize)>,
    /// Cosines and sines of the angles by which the kernel turns queries and keys: none, since the
    /// positions of this family are in its embeddings.
    unturned: (Tensor, Tensor),
}

impl<'a> Places<'a> {
    fn new(lengths: &'a [usize], head_width: usize, device: &Device) -> Result<Self> {
        let mut rows = 0;
        let segments = lengths
            .iter()
            .map(|&length| {
                let start = rows;
                rows += length;
                (start, length)
            })
            .collect();
        let angles = (rows, head_width / 2);
        Ok(Self {
            lengths,
            segments,
            unturned: (
                Tensor::ones(angles, DType::F32, device)?,
                Tensor::zeros(angles, DType::F32, device)?,
            ),
        })
    }
}

/// The mean of the rows, scaled to length 1.
pub(super) fn mean_of_length_one(states: &Tensor) -> Result<Vec<f32>> {
    let mean = states.mean(0)?.to_dtype(DType::F32)?;
    let norm = mean.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    mean.broadcast_div(&norm)?.to_vec1()
}

/// The rows of each sequence.
fn split<'a>(
    packed: &'a Tensor,
    lengths: &'a [usize],
) -> impl Iterator<Item = Result<Tensor>> + 'a {
    let mut start = 0;
    lengths.iter().map(move |length| {
        let rows = packed.narrow(0, start, *length);
        start += length;
        rows
    })
}

/// The weight and the bias of a layer.
fn linear(
    weights: &VarBuilder<'_>,
    columns: usize,
    rows: usize,
) -> Result<(Tensor, Option<Tensor>)> {
    let weight = weights.get((rows, columns), "weight")?;
    Ok((weight, Some(weights.get(rows, "bias")?)))
}

fn product((weight, bias): (Tensor, Option<Tensor>)) -> Result<Product> {
    Product::new(weight, bias)
}

/// Layers on the same input as one.
fn stacked(parts: &[(Tensor, Option<Tensor>)]) -> Result<Product> {
    let weights: Vec<&Tensor> = parts.iter().map(|(weight, _)| weight).collect();
    let biases: Vec<&Tensor> = parts.iter().filter_map(|(_, bias)| bias.as_ref()).collect();
    Product::new(Tensor::cat(&weights, 0)?, Some(Tensor::cat(&biases, 0)?))
}

struct Norm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
}

impl Norm {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the reference's epsilon is an f32"
    )]
    fn load(weights: &VarBuilder<'_>, config: &BertConfig) -> Result<Self> {
        Ok(Self {
            weight: weights.get(config.hidden_size, "weight")?,
            bias: weights.get(config.hidden_size, "bias")?,
            epsilon: config.layer_norm_eps as f32,
        })
    }

    /// Normalises every row, in its place.
    fn forward(&self, rows: Tensor) -> Result<Tensor> {
        kernels::layer_norm(rows, &self.weight, &self.bias, self.epsilon)
    }
}
