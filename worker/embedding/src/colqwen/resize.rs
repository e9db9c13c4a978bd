//! Resampling of 8-bit RGB images, bit for bit as the reference processor's: antialiased bicubic
//! (a = -0.5), the width first, 8 bits in between, then the height. It decides no size; the sums themselves are [`resample`]'s.

use std::borrow::Cow;

use super::image_size::Size;
use super::resample::{self, Axis, CHANNELS};

/// Most binary digits of a weight's fraction.
const MOST_BITS: u32 = 22;
/// Weights are below this: they fit 16 bits.
const LARGEST_WEIGHT: f64 = 32_768.0;

/// Resizes `rgb` (row-major, 3 bytes a pixel) from `from` to `to` pixels.
pub(super) fn resize(rgb: &[u8], from: Size, to: Size) -> Vec<u8> {
    assert_eq!(rgb.len(), from.pixels() * CHANNELS, "three bytes a pixel");
    let mut resized = Cow::Borrowed(rgb);
    if from.width != to.width {
        let narrow = resample::rows(&resized, from.width, &axis(from.width, to.width));
        resized = Cow::Owned(narrow);
    }
    if from.height != to.height {
        let stride = to.width * CHANNELS;
        let low = resample::columns(&resized, stride, &axis(from.height, to.height));
        resized = Cow::Owned(low);
    }
    resized.into_owned()
}

/// Integer weights from `from` positions to `to`, scaled by the largest power of two at which
/// each fits 16 bits.
fn axis(from: usize, to: usize) -> Axis {
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
    let positions = exact.into_iter().map(|(first, weights)| {
        let weights = weights.into_iter().map(|weight| nearest(weight * scale));
        (first, weights.collect())
    });
    Axis::new(positions, bits)
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
    reason = "the scale keeps every weight within 16 bits"
)]
fn nearest(value: f64) -> i16 {
    (value + if value < 0.0 { -0.5 } else { 0.5 }) as i16
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
