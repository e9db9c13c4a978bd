//! What an encoder in one go is made of.

/// The layer of an encoder as its checkpoint has it, in f32: attention, then two layers with the
/// exact GELU between them, each added to what came in and then normalised.
pub(in crate::embed) struct EncoderLayer {
    /// Head by head, as keys and values.
    pub(in crate::embed) query: Parameters,
    pub(in crate::embed) key: Parameters,
    pub(in crate::embed) value: Parameters,
    /// What is made of the heads' results.
    pub(in crate::embed) attended: Parameters,
    pub(in crate::embed) attention_norm: Parameters,
    pub(in crate::embed) inner: Parameters,
    pub(in crate::embed) outer: Parameters,
    pub(in crate::embed) output_norm: Parameters,
}

/// A linear layer's weights, row by row, or a norm's factors; and what is added.
pub(in crate::embed) struct Parameters {
    pub(in crate::embed) weight: Vec<f32>,
    pub(in crate::embed) bias: Vec<f32>,
}
