//! What an encoder in one go is made of.

/// The layer of an encoder as its checkpoint has it, in f32: attention, then two layers with the
/// exact GELU between them, each added to what came in and then normalised.
pub(crate) struct EncoderLayer {
    /// Head by head, as keys and values.
    pub(crate) query: Parameters,
    pub(crate) key: Parameters,
    pub(crate) value: Parameters,
    /// What is made of the heads' results.
    pub(crate) attended: Parameters,
    pub(crate) attention_norm: Parameters,
    pub(crate) inner: Parameters,
    pub(crate) outer: Parameters,
    pub(crate) output_norm: Parameters,
}

/// A linear layer's weights, row by row, or a norm's factors; and what is added.
pub(crate) struct Parameters {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}
