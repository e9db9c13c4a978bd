//! Kernels for f32 on CPUs with AVX-512. Each can be had only where the instructions are.

mod aligned;
mod attention;
mod encoder;
mod feed_forward;
mod matrix;
mod pack;
mod tile;

pub(in crate::embed) use attention::attend;
pub(in crate::embed) use encoder::Encoder;
pub(in crate::embed) use feed_forward::FeedForward;
pub(in crate::embed) use matrix::Matrix;

/// Whether this CPU has the instructions.
pub(in crate::embed) fn available() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
}
