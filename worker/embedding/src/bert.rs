//! A BERT encoder in candle: token ids in, hidden states out.
//!
//! Sequences are packed, not padded: their rows are concatenated, linear layers multiply one
//! matrix, and only attention is computed for each sequence by itself. So the result of a sequence
//! does not depend on its neighbours, and no padding is computed.

use candle_core::{D, DType, Device, IndexOp, Result, Shape, Tensor, bail};
use candle_nn::VarBuilder;
use serde::Deserialize;

use super::kernels::{
    self, Activation, EncoderLayer, FeedForward, FusedEncoder, Gelu, Parameters, Path, Product,
};

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
    /// Why [`Bert`] does not support this configuration; `None` if it does.
    pub(super) fn unsupported(&self) -> Option<String> {
        if self.model_type != "bert" {
            return Some(format!("model_type is {:?}, not \"bert\"", self.model_type));
        }
        if self.hidden_act != "gelu" {
            return Some(format!("hidden_act is {:?}, not \"gelu\"", self.hidden_act));
        }
        if self.num_hidden_layers == 0 {
            return Some("num_hidden_layers is 0".to_owned());
        }
        if self.intermediate_size == 0 {
            return Some("intermediate_size is 0".to_owned());
        }
        let (width, heads) = (self.hidden_size, self.num_attention_heads);
        if width == 0 || heads == 0 || !width.is_multiple_of(heads) {
            return Some(format!(
                "hidden_size {width} is not divisible by {heads} heads"
            ));
        }
        None
    }
}

/// The encoder with its weights.
pub(super) struct Bert {
    /// Token embeddings: one row for each token of the vocabulary.
    words: Vec<f32>,
    /// Position embeddings plus the embedding of token type 0, which is the only one used.
    positions: Vec<f32>,
    encoder: Encoder,
    hidden_size: usize,
    intermediate_size: usize,
}

enum Encoder {
    /// Fused kernels take a batch through all layers on one core.
    Fused(FusedEncoder),
    /// The tensor library computes layer by layer, if the fused kernels are not supported.
    LayerByLayer { norm: Norm, layers: Vec<BertLayer> },
}

struct BertLayer {
    heads: usize,
    query: Product,
    key: Product,
    value: Product,
    attention_output: Product,
    attention_norm: Norm,
    feed_forward: FeedForward,
    output_norm: Norm,
}

impl Bert {
    /// Loads the weights under their names in checkpoints of the family.
    pub(super) fn load(config: &BertConfig, weights: &VarBuilder<'_>) -> Result<Self> {
        let width = config.hidden_size;
        let embeddings = weights.pp("embeddings");
        let table = |name: &str, rows: usize| embeddings.get((rows, width), name);
        let words = table("word_embeddings.weight", config.vocab_size)?;
        let positions = table("position_embeddings.weight", config.max_position_embeddings)?;
        let token_types = table("token_type_embeddings.weight", config.type_vocab_size)?;
        let positions = positions.broadcast_add(&token_types.i(0..1)?)?;
        let norm = Weights::load(&embeddings.pp("LayerNorm"), width, width)?;
        let layers = (0..config.num_hidden_layers)
            .map(|index| LayerWeights::load(config, &weights.pp("encoder.layer").pp(index)))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            words: words.flatten_all()?.to_vec1()?,
            positions: positions.flatten_all()?.to_vec1()?,
            encoder: Encoder::new(&norm, &layers, config)?,
            hidden_size: width,
            intermediate_size: config.intermediate_size,
        })
    }

    /// Hidden states of each sequence after the last layer, `[tokens, width]` each.
    ///
    /// No sequence may be empty or longer than the model has positions.
    pub(super) fn forward(&self, sequences: &[&[u32]]) -> Result<Vec<Tensor>> {
        let lengths: Vec<usize> = sequences.iter().map(|ids| ids.len()).collect();
        let width = self.hidden_size;
        let mut rows = Vec::with_capacity(lengths.iter().sum::<usize>() * width);
        for ids in sequences {
            let positions = self.positions.len() / width;
            if ids.is_empty() || ids.len() > positions {
                bail!(
                    "a sequence of {} tokens, expected 1 to {positions}",
                    ids.len()
                );
            }
            for (&id, position) in ids.iter().zip(self.positions.chunks_exact(width)) {
                let Some(word) = self.words.chunks_exact(width).nth(id as usize) else {
                    bail!(
                        "token {id} is outside the vocabulary of {}",
                        self.words.len() / width
                    );
                };
                rows.extend(
                    word.iter()
                        .zip(position)
                        .map(|(word, position)| word + position),
                );
            }
        }
        let states = self.encoder.forward(rows, &lengths)?;
        split(&states, &lengths).collect()
    }
}

/// For benchmarks only.
impl Bert {
    /// Number of operations of the matrix products for a sequence of `tokens`.
    pub(super) fn operations(&self, tokens: usize) -> f64 {
        let (width, intermediate) = (self.hidden_size, self.intermediate_size);
        let with_weights = 2 * tokens * width * (4 * width + 2 * intermediate);
        let attention = 4 * tokens * tokens * width;
        (self.encoder.layers() * (with_weights + attention)) as f64
    }

    /// Computes a large matrix product of the first layer for `tokens` rows. Returns its number of
    /// operations.
    pub(super) fn largest_product(&self, tokens: usize) -> Result<f64> {
        let width = self.hidden_size;
        let outputs = match &self.encoder {
            Encoder::Fused(encoder) => {
                encoder.largest_product(tokens);
                self.intermediate_size
            }
            Encoder::LayerByLayer { layers, .. } => {
                let states = Tensor::ones((tokens, width), DType::F32, &Device::Cpu)?;
                layers[0].query.forward(&states)?;
                width
            }
        };
        Ok((2 * tokens * width * outputs) as f64)
    }
}

impl Encoder {
    fn new(norm: &Weights, layers: &[LayerWeights], config: &BertConfig) -> Result<Self> {
        match Self::fused(Path::chosen(), norm, layers, config)? {
            Some(fused) => Ok(Self::Fused(fused)),
            None => Self::layer_by_layer(norm, layers, config),
        }
    }

    fn fused(
        path: Path,
        norm: &Weights,
        layers: &[LayerWeights],
        config: &BertConfig,
    ) -> Result<Option<FusedEncoder>> {
        if !path.is_native() {
            return Ok(None);
        }
        let layers = layers.iter().map(LayerWeights::to_host);
        let layers = layers.collect::<Result<_>>()?;
        let heads = config.num_attention_heads;
        let (norm, epsilon) = (norm.to_host()?, epsilon(config));
        Ok(FusedEncoder::new(path, norm, layers, heads, epsilon))
    }

    fn layer_by_layer(
        norm: &Weights,
        layers: &[LayerWeights],
        config: &BertConfig,
    ) -> Result<Self> {
        let layers = layers.iter().map(|layer| layer.to_layer(config));
        Ok(Self::LayerByLayer {
            norm: norm.norm(config),
            layers: layers.collect::<Result<_>>()?,
        })
    }

    fn layers(&self) -> usize {
        match self {
            Self::Fused(encoder) => encoder.layers(),
            Self::LayerByLayer { layers, .. } => layers.len(),
        }
    }

    /// Hidden states after the last layer, from embeddings before the first norm.
    fn forward(&self, rows: Vec<f32>, lengths: &[usize]) -> Result<Tensor> {
        let count = lengths.iter().sum::<usize>();
        let shape = (count, rows.len() / count.max(1));
        match self {
            Self::Fused(encoder) => {
                Tensor::from_vec(encoder.forward(rows, lengths), shape, &Device::Cpu)
            }
            Self::LayerByLayer { norm, layers } => {
                let states = norm.forward(Tensor::from_vec(rows, shape, &Device::Cpu)?)?;
                let mut layers = layers.iter();
                layers.try_fold(states, |states, layer| layer.forward(&states, lengths))
            }
        }
    }
}

/// Weights of a layer as in the checkpoint.
struct LayerWeights {
    query: Weights,
    key: Weights,
    value: Weights,
    attention_output: Weights,
    attention_norm: Weights,
    intermediate: Weights,
    output: Weights,
    output_norm: Weights,
}

/// Weights (one row for each output) and bias of a linear layer, or scale and bias of a norm.
struct Weights {
    weight: Tensor,
    bias: Tensor,
}

impl LayerWeights {
    fn load(config: &BertConfig, weights: &VarBuilder<'_>) -> Result<Self> {
        let (width, intermediate) = (config.hidden_size, config.intermediate_size);
        let attention = weights.pp("attention");
        let self_attention = attention.pp("self");
        let load = |name: &str| Weights::load(&self_attention.pp(name), (width, width), width);
        Ok(Self {
            query: load("query")?,
            key: load("key")?,
            value: load("value")?,
            attention_output: Weights::load(&attention.pp("output.dense"), (width, width), width)?,
            attention_norm: Weights::load(&attention.pp("output.LayerNorm"), width, width)?,
            intermediate: Weights::load(
                &weights.pp("intermediate.dense"),
                (intermediate, width),
                intermediate,
            )?,
            output: Weights::load(&weights.pp("output.dense"), (width, intermediate), width)?,
            output_norm: Weights::load(&weights.pp("output.LayerNorm"), width, width)?,
        })
    }

    fn to_host(&self) -> Result<EncoderLayer> {
        Ok(EncoderLayer {
            query: self.query.to_host()?,
            key: self.key.to_host()?,
            value: self.value.to_host()?,
            attention_output: self.attention_output.to_host()?,
            attention_norm: self.attention_norm.to_host()?,
            intermediate: self.intermediate.to_host()?,
            output: self.output.to_host()?,
            output_norm: self.output_norm.to_host()?,
        })
    }

    fn to_layer(&self, config: &BertConfig) -> Result<BertLayer> {
        Ok(BertLayer {
            heads: config.num_attention_heads,
            query: self.query.product()?,
            key: self.key.product()?,
            value: self.value.product()?,
            attention_output: self.attention_output.product()?,
            attention_norm: self.attention_norm.norm(config),
            feed_forward: FeedForward::new(
                self.intermediate.linear(),
                Activation::Gelu(Gelu::Exact),
                self.output.linear(),
            )?,
            output_norm: self.output_norm.norm(config),
        })
    }
}

impl Weights {
    fn load(weights: &VarBuilder<'_>, shape: impl Into<Shape>, outputs: usize) -> Result<Self> {
        Ok(Self {
            weight: weights.get(shape.into(), "weight")?,
            bias: weights.get(outputs, "bias")?,
        })
    }

    fn to_host(&self) -> Result<Parameters> {
        Ok(Parameters {
            weight: self.weight.flatten_all()?.to_vec1()?,
            bias: self.bias.to_vec1()?,
        })
    }

    fn linear(&self) -> (Tensor, Option<Tensor>) {
        (self.weight.clone(), Some(self.bias.clone()))
    }

    fn product(&self) -> Result<Product> {
        let (weight, bias) = self.linear();
        Product::new(weight, bias)
    }

    fn norm(&self, config: &BertConfig) -> Norm {
        Norm {
            weight: self.weight.clone(),
            bias: self.bias.clone(),
            epsilon: epsilon(config),
        }
    }
}

impl BertLayer {
    fn forward(&self, states: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let sums = self
            .attention_output
            .add_to(states.copy()?, &self.attention(states, lengths)?)?;
        let states = self.attention_norm.forward(sums)?;
        let sums = self.feed_forward.add_to(states.copy()?, &states)?;
        self.output_norm.forward(sums)
    }

    /// Attention within each sequence: `[tokens, width]`.
    fn attention(&self, states: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let [query, key, value] =
            [&self.query, &self.key, &self.value].map(|product| product.forward(states));
        let (query, key, value) = (query?, key?, value?);
        let parts = split(&query, lengths).zip(split(&key, lengths));
        let results: Vec<Tensor> = parts
            .zip(split(&value, lengths))
            .map(|((query, key), value)| self.sequence_attention(&query?, &key?, &value?))
            .collect::<Result<_>>()?;
        Tensor::cat(&results, 0)
    }

    /// Attention within one sequence.
    fn sequence_attention(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        let (tokens, width) = query.dims2()?;
        let head_width = width / self.heads;
        let heads = |rows: &Tensor| {
            let rows = rows.reshape((tokens, self.heads, head_width))?;
            rows.transpose(0, 1)?.contiguous()
        };
        let scale = 1.0 / (head_width as f64).sqrt();
        let query = (heads(query)? * scale)?;
        let scores = query.matmul(&heads(key)?.transpose(1, 2)?)?;
        let results = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&heads(value)?)?;
        results.transpose(0, 1)?.flatten_from(1)
    }
}

/// The mean of the rows, normalised to unit length.
pub(super) fn normalised_mean(states: &Tensor) -> Result<Vec<f32>> {
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

struct Norm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
}

impl Norm {
    /// Normalises every row, in place.
    fn forward(&self, rows: Tensor) -> Result<Tensor> {
        kernels::layer_norm(rows, &self.weight, &self.bias, self.epsilon)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the reference's epsilon is an f32"
)]
fn epsilon(config: &BertConfig) -> f32 {
    config.layer_norm_eps as f32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn random(shape: impl Into<Shape>, size: f32) -> Tensor {
        Tensor::randn(0_f32, size, shape.into(), &Device::Cpu).unwrap()
    }

    /// Weights that preserve the scale of activations.
    fn weights(inputs: usize, outputs: usize) -> Weights {
        Weights {
            weight: random((outputs, inputs), (inputs as f32).powf(-0.5)),
            bias: random(outputs, 0.3),
        }
    }

    fn norm(width: usize) -> Weights {
        Weights {
            weight: random(width, 1.0),
            bias: random(width, 0.3),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn the_fused_encoder_equals_the_layers_one_by_one(
            lengths in prop::collection::vec(1..130_usize, 1..5),
            (heads, size) in (1..5_usize, 1..40_usize),
            (intermediate, count) in (1..300_usize, 1..4_usize),
        ) {
            let width = heads * size;
            let config = BertConfig {
                model_type: "bert".to_owned(),
                vocab_size: 1,
                hidden_size: width,
                num_hidden_layers: count,
                num_attention_heads: heads,
                intermediate_size: intermediate,
                hidden_act: "gelu".to_owned(),
                max_position_embeddings: 1,
                type_vocab_size: 1,
                layer_norm_eps: 1e-3,
            };
            let layers = (0..count).map(|_| LayerWeights {
                query: weights(width, width),
                key: weights(width, width),
                value: weights(width, width),
                attention_output: weights(width, width),
                attention_norm: norm(width),
                intermediate: weights(width, intermediate),
                output: weights(intermediate, width),
                output_norm: norm(width),
            });
            let layers: Vec<LayerWeights> = layers.collect();
            let first = norm(width);
            let plain = Encoder::layer_by_layer(&first, &layers, &config).unwrap();
            let rows = random(lengths.iter().sum::<usize>() * width, 1.0);
            let rows: Vec<f32> = rows.to_vec1().unwrap();
            let expected = plain.forward(rows.clone(), &lengths).unwrap();
            for path in Path::all() {
                let Some(fused) = Encoder::fused(path, &first, &layers, &config).unwrap() else {
                    continue;
                };
                let fused = Encoder::Fused(fused);
                let found = fused.forward(rows.clone(), &lengths).unwrap();
                let worst = (found - &expected).unwrap().abs().unwrap().max_all().unwrap();
                let worst = worst.to_scalar::<f32>().unwrap();
                prop_assert!(worst < 1e-4, "{path:?}: off by {worst}");
            }
        }
    }
}
