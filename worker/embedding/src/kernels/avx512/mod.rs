//! Kernels for f32 on CPUs with AVX-512. Each can be had only where the instructions are.

mod aligned;
mod attention;
mod encoder;
mod feed_forward;
mod matrix;
mod pack;
mod tile;

pub(crate) use attention::attend;
pub(crate) use encoder::Encoder;
pub(crate) use feed_forward::FeedForward;
pub(crate) use matrix::Matrix;

/// Whether this CPU has the instructions.
pub(crate) fn available() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
}
