//! Resampling of 8-bit RGB images, bit for bit as the reference processor's: antialiased bicubic
//! (a = -0.5), the width first, 8 bits in between, then the height. It decides no size.

use super::image_size::Size;

const CHANNELS: usize = 3;
/// Most binary digits of a weight's fraction, and of the weight itself.
const MOST_BITS: u32 = 22;
const LARGEST_WEIGHT: f64 = 32_768.0;

/// The taps of one output position: input positions `first..first + weights.len()`.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

struct Kernel {
    taps: Vec<Taps>,
    bits: u32,
}

/// Resizes `rgb` (row-major, 3 bytes a pixel) from `from` to `to` pixels.
pub(super) fn resize(rgb: &[u8], from: Size, to: Size) -> Vec<u8> {
    assert_eq!(rgb.len(), from.pixels() * CHANNELS, "three bytes a pixel");
    let narrow = if from.width == to.width {
        rgb.to_vec()
    } else {
        resize_rows(rgb, from, to.width)
    };
    if from.height == to.height {
        return narrow;
    }
    resize_columns(
        &narrow,
        Size {
            width: to.width,
            height: from.height,
        },
        to.height,
    )
}

fn resize_rows(rgb: &[u8], from: Size, width: usize) -> Vec<u8> {
    let kernel = Kernel::new(from.width, width);
    let mut output = vec![0; width * from.height * CHANNELS];
    let rows = rgb.chunks_exact(from.width * CHANNELS);
    for (row, target) in rows.zip(output.chunks_exact_mut(width * CHANNELS)) {
        for (taps, pixel) in kernel.taps.iter().zip(target.chunks_exact_mut(CHANNELS)) {
            let start = taps.first * CHANNELS;
            let window = &row[start..start + taps.weights.len() * CHANNELS];
            let (mut r, mut g, mut b) = (kernel.half(), kernel.half(), kernel.half());
            for (weight, source) in taps.weights.iter().zip(window.chunks_exact(CHANNELS)) {
                r += weight * i32::from(source[0]);
                g += weight * i32::from(source[1]);
                b += weight * i32::from(source[2]);
            }
            pixel.copy_from_slice(&[kernel.round(r), kernel.round(g), kernel.round(b)]);
        }
    }
    output
}

fn resize_columns(rgb: &[u8], from: Size, height: usize) -> Vec<u8> {
    let kernel = Kernel::new(from.height, height);
    let stride = from.width * CHANNELS;
    let mut output = vec![0; stride * height];
    let mut sums = vec![0_i32; stride];
    for (taps, target) in kernel.taps.iter().zip(output.chunks_exact_mut(stride)) {
        sums.fill(kernel.half());
        let rows = rgb[taps.first * stride..].chunks_exact(stride);
        for (&weight, row) in taps.weights.iter().zip(rows) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += weight * i32::from(value);
            }
        }
        for (value, &sum) in target.iter_mut().zip(&sums) {
            *value = kernel.round(sum);
        }
    }
    output
}

impl Kernel {
    /// Integer weights from `from` positions to `to`, scaled by the largest power of two at which
    /// each fits 16 bits.
    fn new(from: usize, to: usize) -> Self {
        let exact: Vec<(usize, Vec<f64>)> = (0..to)
            .map(|position| weights(position, from, to))
            .collect();
        let largest = exact
            .iter()
            .flat_map(|(_, w)| w)
            .copied()
            .fold(0.0, f64::max);
        let mut bits = 0;
        while bits < MOST_BITS
            && (0.5 + largest * f64::from(1_u32 << (bits + 1))).trunc() < LARGEST_WEIGHT
        {
            bits += 1;
        }
        let scale = f64::from(1_u32 << bits);
        let taps = exact
            .into_iter()
            .map(|(first, weights)| Taps {
                first,
                weights: weights
                    .into_iter()
                    .map(|weight| nearest(weight * scale))
                    .collect(),
            })
            .collect();
        Self { taps, bits }
    }

    fn half(&self) -> i32 {
        (1 << self.bits) >> 1
    }

    fn round(&self, sum: i32) -> u8 {
        u8::try_from((sum >> self.bits).clamp(0, 255)).unwrap_or(u8::MAX)
    }
}

/// The first input position of an output position, and the weights from there; they add up to 1.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positions in an image, cut to it"
)]
fn weights(position: usize, from: usize, to: usize) -> (usize, Vec<f64>) {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let centre = (position as f64 + 0.5) * scale;
    let support = 2.0 * stretch;
    let first = (centre - support + 0.5).max(0.0) as usize;
    let last = ((centre + support + 0.5) as usize).min(from);
    let mut weights: Vec<f64> = (first..last)
        .map(|input| cubic(((input as f64 - centre + 0.5) / stretch).abs()))
        .collect();
    let total: f64 = weights.iter().sum();
    for weight in &mut weights {
        *weight /= total;
    }
    (first, weights)
}

/// Keys' cubic with a = -0.5, at distance `x` >= 0.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a weight fits 16 bits and a sign"
)]
fn nearest(value: f64) -> i32 {
    (value + if value < 0.0 { -0.5 } else { 0.5 }) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_image_stays_uniform_at_any_size() {
        for (from, to) in [
            ((1, 1), (56, 28)),
            ((300, 7), (28, 84)),
            ((56, 56), (56, 28)),
        ] {
            let from = Size {
                width: from.0,
                height: from.1,
            };
            let to = Size {
                width: to.0,
                height: to.1,
            };
            let image = [9_u8, 128, 255].repeat(from.pixels());
            assert_eq!(
                resize(&image, from, to),
                [9_u8, 128, 255].repeat(to.pixels())
            );
        }
    }

    #[test]
    fn the_same_size_is_a_copy() {
        let size = Size {
            width: 5,
            height: 3,
        };
        let image: Vec<u8> = (0..45).map(|value| value * 5).collect();
        assert_eq!(resize(&image, size, size), image);
    }
}
