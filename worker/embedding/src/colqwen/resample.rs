//! Convolution of 8-bit pixels with 16-bit weights: the inner loops of resizing. AVX2 processes
//! four taps at once; other CPUs compute the same values one by one.

/// Bytes per pixel.
pub(super) const CHANNELS: usize = 3;
/// Taps that are multiplied at once in a row; weights are padded to groups of this size.
const GROUP: usize = 4;

/// Resampling filter of one axis: for every output position the first input position and
/// fixed-point weights with `bits` fractional bits.
pub(super) struct Filter {
    outputs: Vec<Taps>,
    weights: Vec<i16>,
    bits: u32,
}

/// The taps of one output position.
struct Taps {
    /// First input position.
    first: usize,
    count: usize,
    /// Index of the first weight.
    weights_start: usize,
}

impl Filter {
    /// Creates a filter from the first input position and the weights of each output position.
    pub(super) fn new(positions: impl Iterator<Item = (usize, Vec<i16>)>, bits: u32) -> Self {
        let mut filter = Self {
            outputs: Vec::new(),
            weights: Vec::new(),
            bits,
        };
        for (first, weights) in positions {
            filter.outputs.push(Taps {
                first,
                count: weights.len(),
                weights_start: filter.weights.len(),
            });
            filter.weights.extend(weights);
            // Zeros fill the last group.
            let padded = filter.weights.len().next_multiple_of(GROUP);
            filter.weights.resize(padded, 0);
        }
        filter
    }

    /// Weights of an output position, padded with zeros to whole groups.
    fn padded_weights(&self, taps: &Taps) -> &[i16] {
        &self.weights[taps.weights_start..][..taps.count.next_multiple_of(GROUP)]
    }

    fn half(&self) -> i32 {
        (1 << self.bits) >> 1
    }

    fn round(&self, sum: i32) -> u8 {
        u8::try_from((sum >> self.bits).clamp(0, 255)).unwrap_or(u8::MAX)
    }
}

/// Resamples every row of an image from `width` pixels to the filter's outputs.
pub(super) fn rows(rgb: &[u8], width: usize, filter: &Filter) -> Vec<u8> {
    let stride = width * CHANNELS;
    let target_stride = filter.outputs.len() * CHANNELS;
    let mut output = vec![0; rgb.len() / stride * target_stride];
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        avx2::rows(rgb, stride, filter, &mut output);
        return output;
    }
    let targets = output.chunks_exact_mut(target_stride);
    for (row, target) in rgb.chunks_exact(stride).zip(targets) {
        resample_row(row, filter, 0, target);
    }
    output
}

/// Resamples every column of an image with `stride` bytes per row.
pub(super) fn columns(rgb: &[u8], stride: usize, filter: &Filter) -> Vec<u8> {
    let mut output = vec![0; stride * filter.outputs.len()];
    #[cfg(target_arch = "x86_64")]
    if stride >= avx2::BLOCK && std::arch::is_x86_feature_detected!("avx2") {
        avx2::columns(rgb, stride, filter, &mut output);
        return output;
    }
    let mut sums = vec![0_i32; stride];
    for (taps, target) in filter.outputs.iter().zip(output.chunks_exact_mut(stride)) {
        sums.fill(filter.half());
        let rows = rgb[taps.first * stride..].chunks_exact(stride);
        for (&weight, row) in filter.padded_weights(taps)[..taps.count].iter().zip(rows) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(weight) * i32::from(value);
            }
        }
        for (value, &sum) in target.iter_mut().zip(&sums) {
            *value = filter.round(sum);
        }
    }
    output
}

/// Computes the outputs of a row from output `from` on.
fn resample_row(row: &[u8], filter: &Filter, from: usize, target: &mut [u8]) {
    let pixels = target.chunks_exact_mut(CHANNELS);
    for (taps, pixel) in filter.outputs[from..].iter().zip(pixels) {
        let mut sums = [filter.half(); CHANNELS];
        let sources = row[taps.first * CHANNELS..].chunks_exact(CHANNELS);
        for (&weight, source) in filter.padded_weights(taps)[..taps.count]
            .iter()
            .zip(sources)
        {
            for (sum, &value) in sums.iter_mut().zip(source) {
                *sum += i32::from(weight) * i32::from(value);
            }
        }
        for (value, sum) in pixel.iter_mut().zip(sums) {
            *value = filter.round(sum);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    #![expect(
        unsafe_code,
        reason = "vector instructions on raw pointers; every load and store is within a slice \
                  whose length is checked"
    )]
    #![expect(
        clippy::cast_ptr_alignment,
        reason = "these loads and stores need no alignment"
    )]

    use std::arch::x86_64::{
        __m128i, __m256i, _mm_cvtsi32_si128, _mm_cvtsi64_si128, _mm_loadu_si64, _mm_loadu_si128,
        _mm_setr_epi8, _mm_shuffle_epi8, _mm_storeu_si128, _mm_unpacklo_epi16, _mm256_add_epi32,
        _mm256_broadcastq_epi64, _mm256_broadcastsi128_si256, _mm256_castsi256_si128,
        _mm256_cvtepu8_epi16, _mm256_extracti128_si256, _mm256_hadd_epi32, _mm256_madd_epi16,
        _mm256_packs_epi32, _mm256_packus_epi16, _mm256_permute4x64_epi64, _mm256_set1_epi32,
        _mm256_setr_epi8, _mm256_shuffle_epi8, _mm256_sra_epi32, _mm256_unpackhi_epi16,
        _mm256_unpacklo_epi16,
    };

    use super::{CHANNELS, Filter, GROUP, Taps, resample_row};

    /// Bytes of a load or store.
    pub(super) const BLOCK: usize = 16;

    pub(super) fn rows(rgb: &[u8], stride: usize, filter: &Filter, output: &mut [u8]) {
        let target_stride = filter.outputs.len() * CHANNELS;
        // Loads read whole groups of pixels plus four bytes, possibly beyond the end of the row.
        let reach = filter
            .outputs
            .iter()
            .map(|taps| (taps.first + taps.count.next_multiple_of(GROUP)) * CHANNELS + GROUP)
            .max()
            .unwrap_or(0);
        for (number, target) in output.chunks_exact_mut(target_stride).enumerate() {
            let row = &rgb[number * stride..];
            if row.len() >= reach {
                // SAFETY: the caller found AVX2, and no load goes beyond `reach` bytes.
                unsafe { row_groups(row, filter, target) };
            } else {
                resample_row(row, filter, 0, target);
            }
        }
    }

    pub(super) fn columns(rgb: &[u8], stride: usize, filter: &Filter, output: &mut [u8]) {
        for (taps, target) in filter.outputs.iter().zip(output.chunks_exact_mut(stride)) {
            let rows = &rgb[taps.first * stride..(taps.first + taps.count) * stride];
            // SAFETY: the caller found AVX2 and that a row has at least a block.
            unsafe { column_blocks(rows, stride, filter, taps, target) };
        }
    }

    /// Computes the outputs of one row, four at a time.
    ///
    /// # Safety
    /// For each output, `row` must contain its whole groups of pixels plus four bytes.
    #[target_feature(enable = "avx2")]
    unsafe fn row_groups(row: &[u8], filter: &Filter, target: &mut [u8]) {
        // From r0 g0 b0 r1 ... to reds and greens of four pixels, then their blues, 16 bits each.
        let planar = _mm256_setr_epi8(
            0, -1, 3, -1, 6, -1, 9, -1, 1, -1, 4, -1, 7, -1, 10, -1, 2, -1, 5, -1, 8, -1, 11, -1,
            -1, -1, -1, -1, -1, -1, -1, -1,
        );
        let interleaved = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
        let shift = shift_of(filter);
        // Half of the unit in one of the two sums that are added for a value.
        let half = {
            let pair = u64::from(filter.half().cast_unsigned());
            _mm256_broadcastq_epi64(_mm_cvtsi64_si128(pair.cast_signed()))
        };
        // A store writes four pixels plus four bytes.
        let whole = target.len().saturating_sub(BLOCK - 4 * CHANNELS) / (4 * CHANNELS);
        for (four, outputs) in filter.outputs.chunks_exact(4).take(whole).enumerate() {
            let sum = |taps: &Taps| {
                let mut sum = half;
                for (group, weights) in filter.padded_weights(taps).chunks_exact(GROUP).enumerate()
                {
                    let at = (taps.first + group * GROUP) * CHANNELS;
                    // SAFETY: the caller guarantees 16 bytes from here; a group of weights has
                    // eight bytes.
                    let (pixels, weights) = unsafe {
                        (
                            _mm_loadu_si128(row.as_ptr().add(at).cast::<__m128i>()),
                            _mm_loadu_si64(weights.as_ptr().cast()),
                        )
                    };
                    let pixels = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(pixels), planar);
                    let products = _mm256_madd_epi16(pixels, _mm256_broadcastq_epi64(weights));
                    sum = _mm256_add_epi32(sum, products);
                }
                sum
            };
            let first = _mm256_hadd_epi32(sum(&outputs[0]), sum(&outputs[1]));
            let second = _mm256_hadd_epi32(sum(&outputs[2]), sum(&outputs[3]));
            let bytes = to_bytes(first, second, shift);
            let reds_greens = _mm256_castsi256_si128(bytes);
            let blues = _mm256_extracti128_si256::<1>(bytes);
            let pixels = _mm_shuffle_epi8(_mm_unpacklo_epi16(reds_greens, blues), interleaved);
            // SAFETY: `whole` ensures that the target has 16 bytes from here.
            unsafe {
                let to = target.as_mut_ptr().add(four * 4 * CHANNELS);
                _mm_storeu_si128(to.cast::<__m128i>(), pixels);
            }
        }
        resample_row(row, filter, whole * 4, &mut target[whole * 4 * CHANNELS..]);
    }

    /// Computes one output row as the weighted sum of `rows`.
    ///
    /// # Safety
    /// `rows` must contain one row for each tap, `target` one row; a row must have at least a
    /// block.
    #[target_feature(enable = "avx2")]
    unsafe fn column_blocks(
        rows: &[u8],
        stride: usize,
        filter: &Filter,
        taps: &Taps,
        target: &mut [u8],
    ) {
        assert!(rows.len() == taps.count * stride && target.len() == stride);
        let shift = shift_of(filter);
        let half = _mm256_set1_epi32(filter.half());
        let weights = filter.padded_weights(taps);
        let mut at = 0;
        loop {
            let (mut low, mut high) = (half, half);
            for first in (0..taps.count).step_by(2) {
                // If there is no second row, its weight is zero, so any row can be used.
                let second = (first + 1).min(taps.count - 1);
                // SAFETY: every row contains a block from `at`.
                let (a, b) = unsafe {
                    let row = |number: usize| {
                        let from = rows.as_ptr().add(number * stride + at);
                        _mm256_cvtepu8_epi16(_mm_loadu_si128(from.cast::<__m128i>()))
                    };
                    (row(first), row(second))
                };
                let pair = [weights[first], weights[first + 1]].map(i16::cast_unsigned);
                let pair = u32::from(pair[0]) | u32::from(pair[1]) << 16;
                let pair = _mm256_set1_epi32(pair.cast_signed());
                let products = _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), pair);
                low = _mm256_add_epi32(low, products);
                let products = _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), pair);
                high = _mm256_add_epi32(high, products);
            }
            let bytes = to_bytes(low, high, shift);
            let bytes = _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(bytes));
            // SAFETY: the target contains a block from `at`.
            unsafe { _mm_storeu_si128(target.as_mut_ptr().add(at).cast::<__m128i>(), bytes) };
            if at + BLOCK == stride {
                return;
            }
            // The last block may overlap the one before it.
            at = (at + BLOCK).min(stride - BLOCK);
        }
    }

    #[target_feature(enable = "avx2")]
    fn shift_of(filter: &Filter) -> __m128i {
        _mm_cvtsi32_si128(filter.bits.cast_signed())
    }

    /// Shifts out the fractional bits and clamps to 0..=255: each half has eight bytes of `a` and
    /// `b`.
    #[target_feature(enable = "avx2")]
    fn to_bytes(a: __m256i, b: __m256i, shift: __m128i) -> __m256i {
        let words = _mm256_packs_epi32(_mm256_sra_epi32(a, shift), _mm256_sra_epi32(b, shift));
        _mm256_packus_epi16(words, words)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One value by the definition of the weighted sum.
    fn by_definition(values: &[u8], weights: &[i16], bits: u32) -> u8 {
        let products = values.iter().zip(weights);
        let sum: i64 = products.map(|(v, w)| i64::from(*v) * i64::from(*w)).sum();
        let rounded = (sum + (1 << bits) / 2) >> bits;
        u8::try_from(rounded.clamp(0, 255)).unwrap()
    }

    /// A filter over `length` input positions: first position and weights of each output.
    fn filter(length: usize) -> impl Strategy<Value = Vec<(usize, Vec<i16>)>> {
        let output = (0..length).prop_flat_map(move |first| {
            let weights = prop::collection::vec(-4000..9000_i16, 1..=(length - first).min(19));
            (Just(first), weights)
        });
        prop::collection::vec(output, 1..40)
    }

    fn image() -> impl Strategy<Value = (usize, usize, Vec<u8>)> {
        (1..30_usize, 1..30_usize).prop_flat_map(|(width, height)| {
            let rgb = prop::collection::vec(any::<u8>(), width * height * CHANNELS);
            (Just(width), Just(height), rgb)
        })
    }

    proptest! {
        #[test]
        fn every_value_is_the_weighted_sum_of_its_neighbours(
            ((width, height, rgb), across, down) in image().prop_flat_map(|image| {
                let (width, height) = (image.0, image.1);
                (Just(image), filter(width), filter(height))
            }),
            bits in 12..15_u32,
        ) {
            let narrow = rows(&rgb, width, &Filter::new(across.clone().into_iter(), bits));
            prop_assert_eq!(narrow.len(), height * across.len() * CHANNELS);
            for (index, &found) in narrow.iter().enumerate() {
                let (pixel, channel) = (index / CHANNELS, index % CHANNELS);
                let (row, column) = (pixel / across.len(), pixel % across.len());
                let (first, weights) = &across[column];
                let values: Vec<u8> = (0..weights.len())
                    .map(|tap| rgb[(row * width + first + tap) * CHANNELS + channel])
                    .collect();
                prop_assert_eq!(found, by_definition(&values, weights, bits));
            }
            let stride = width * CHANNELS;
            let low = columns(&rgb, stride, &Filter::new(down.clone().into_iter(), bits));
            prop_assert_eq!(low.len(), down.len() * stride);
            for (index, &found) in low.iter().enumerate() {
                let (row, byte) = (index / stride, index % stride);
                let (first, weights) = &down[row];
                let values: Vec<u8> = (0..weights.len())
                    .map(|tap| rgb[(first + tap) * stride + byte])
                    .collect();
                prop_assert_eq!(found, by_definition(&values, weights, bits));
            }
        }
    }
}
