//! Weighted sums of 8-bit values: the inner loops of resampling. With AVX2 four neighbours are
//! multiplied at once; other processors compute the same numbers one by one. No geometry here.

/// Bytes of a pixel.
pub(super) const CHANNELS: usize = 3;
/// Neighbours that are multiplied at once in a row; weights come in groups of as many.
const GROUP: usize = 4;

/// What an axis of one length becomes in another: for every output position the first input
/// position and the integer weights from there on, with `bits` binary digits of fraction.
pub(super) struct Axis {
    places: Vec<Place>,
    weights: Vec<i16>,
    bits: u32,
}

struct Place {
    first: usize,
    /// Taps.
    count: usize,
    /// Of its weights.
    start: usize,
}

impl Axis {
    /// An axis from its output positions: first input position and weights of each.
    pub(super) fn new(positions: impl Iterator<Item = (usize, Vec<i16>)>, bits: u32) -> Self {
        let mut axis = Self {
            places: Vec::new(),
            weights: Vec::new(),
            bits,
        };
        for (first, weights) in positions {
            axis.places.push(Place {
                first,
                count: weights.len(),
                start: axis.weights.len(),
            });
            axis.weights.extend(weights);
            // Zeros fill the last group.
            let whole = axis.weights.len().next_multiple_of(GROUP);
            axis.weights.resize(whole, 0);
        }
        axis
    }

    /// Output positions.
    fn outputs(&self) -> usize {
        self.places.len()
    }

    /// Weights of a place, with the zeros behind them.
    fn groups(&self, place: &Place) -> &[i16] {
        &self.weights[place.start..place.start + place.count.next_multiple_of(GROUP)]
    }

    fn half(&self) -> i32 {
        (1 << self.bits) >> 1
    }

    fn round(&self, sum: i32) -> u8 {
        u8::try_from((sum >> self.bits).clamp(0, 255)).unwrap_or(u8::MAX)
    }
}

/// Resamples every row of an image: `width` pixels a row become the axis's outputs.
pub(super) fn rows(rgb: &[u8], width: usize, axis: &Axis) -> Vec<u8> {
    let stride = width * CHANNELS;
    let target_stride = axis.outputs() * CHANNELS;
    let mut output = vec![0; rgb.len() / stride * target_stride];
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        avx2::rows(rgb, stride, axis, &mut output);
        return output;
    }
    let targets = output.chunks_exact_mut(target_stride);
    for (row, target) in rgb.chunks_exact(stride).zip(targets) {
        row_of(row, axis, 0, target);
    }
    output
}

/// Resamples every column of an image with `stride` bytes a row.
pub(super) fn columns(rgb: &[u8], stride: usize, axis: &Axis) -> Vec<u8> {
    let mut output = vec![0; stride * axis.outputs()];
    #[cfg(target_arch = "x86_64")]
    if stride >= avx2::BLOCK && std::arch::is_x86_feature_detected!("avx2") {
        avx2::columns(rgb, stride, axis, &mut output);
        return output;
    }
    let mut sums = vec![0_i32; stride];
    for (place, target) in axis.places.iter().zip(output.chunks_exact_mut(stride)) {
        sums.fill(axis.half());
        let rows = rgb[place.first * stride..].chunks_exact(stride);
        for (&weight, row) in axis.groups(place)[..place.count].iter().zip(rows) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(weight) * i32::from(value);
            }
        }
        for (value, &sum) in target.iter_mut().zip(&sums) {
            *value = axis.round(sum);
        }
    }
    output
}

/// The outputs of a row from number `from` on.
fn row_of(row: &[u8], axis: &Axis, from: usize, target: &mut [u8]) {
    let pixels = target.chunks_exact_mut(CHANNELS);
    for (place, pixel) in axis.places[from..].iter().zip(pixels) {
        let mut sums = [axis.half(); CHANNELS];
        let sources = row[place.first * CHANNELS..].chunks_exact(CHANNELS);
        for (&weight, source) in axis.groups(place)[..place.count].iter().zip(sources) {
            for (sum, &value) in sums.iter_mut().zip(source) {
                *sum += i32::from(weight) * i32::from(value);
            }
        }
        for (value, sum) in pixel.iter_mut().zip(sums) {
            *value = axis.round(sum);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    #![expect(
        unsafe_code,
        reason = "vector instructions on raw pointers; every load and store is within a slice \
                  whose length is checked beside it"
    )]
    #![expect(
        clippy::cast_ptr_alignment,
        reason = "these loads and stores take any alignment"
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

    use super::{Axis, CHANNELS, GROUP, Place, row_of};

    /// Bytes of a column step; a load of a row reads as many.
    pub(super) const BLOCK: usize = 16;

    pub(super) fn rows(rgb: &[u8], stride: usize, axis: &Axis, output: &mut [u8]) {
        let target_stride = axis.outputs() * CHANNELS;
        // A load takes whole groups of pixels and four bytes more: it may end behind the row.
        let reach = axis
            .places
            .iter()
            .map(|place| (place.first + place.count.next_multiple_of(GROUP)) * CHANNELS + GROUP)
            .max()
            .unwrap_or(0);
        for (number, target) in output.chunks_exact_mut(target_stride).enumerate() {
            let row = &rgb[number * stride..];
            if row.len() >= reach {
                // SAFETY: the caller found AVX2, and no load goes beyond `reach` bytes.
                unsafe { row_groups(row, axis, target) };
            } else {
                row_of(row, axis, 0, target);
            }
        }
    }

    pub(super) fn columns(rgb: &[u8], stride: usize, axis: &Axis, output: &mut [u8]) {
        for (place, target) in axis.places.iter().zip(output.chunks_exact_mut(stride)) {
            let rows = &rgb[place.first * stride..(place.first + place.count) * stride];
            // SAFETY: the caller found AVX2 and that a row has at least a block.
            unsafe { column_blocks(rows, stride, axis, place, target) };
        }
    }

    /// The outputs of one row, four at a time.
    ///
    /// # Safety
    /// `row` must hold, for each place, its whole groups of pixels and four bytes more.
    #[target_feature(enable = "avx2")]
    unsafe fn row_groups(row: &[u8], axis: &Axis, target: &mut [u8]) {
        // From r0 g0 b0 r1 ...: reds and greens of four pixels, then their blues, 16 bits each.
        let spread = _mm256_setr_epi8(
            0, -1, 3, -1, 6, -1, 9, -1, 1, -1, 4, -1, 7, -1, 10, -1, 2, -1, 5, -1, 8, -1, 11, -1,
            -1, -1, -1, -1, -1, -1, -1, -1,
        );
        let close = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
        let shift = shift_of(axis);
        // Half in one of the two sums that make a value.
        let half = {
            let pair = u64::from(axis.half().cast_unsigned());
            _mm256_broadcastq_epi64(_mm_cvtsi64_si128(pair.cast_signed()))
        };
        // A store writes four pixels and four bytes more.
        let whole = target.len().saturating_sub(BLOCK - 4 * CHANNELS) / (4 * CHANNELS);
        for (four, places) in axis.places.chunks_exact(4).take(whole).enumerate() {
            let sum = |place: &Place| {
                let mut sum = half;
                for (group, weights) in axis.groups(place).chunks_exact(GROUP).enumerate() {
                    let at = (place.first + group * GROUP) * CHANNELS;
                    // SAFETY: 16 bytes from here are within what the caller vouches for; a group
                    // of weights has eight bytes.
                    let (pixels, weights) = unsafe {
                        (
                            _mm_loadu_si128(row.as_ptr().add(at).cast::<__m128i>()),
                            _mm_loadu_si64(weights.as_ptr().cast()),
                        )
                    };
                    let pixels = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(pixels), spread);
                    let products = _mm256_madd_epi16(pixels, _mm256_broadcastq_epi64(weights));
                    sum = _mm256_add_epi32(sum, products);
                }
                sum
            };
            let first = _mm256_hadd_epi32(sum(&places[0]), sum(&places[1]));
            let second = _mm256_hadd_epi32(sum(&places[2]), sum(&places[3]));
            let bytes = to_bytes(first, second, shift);
            let reds_greens = _mm256_castsi256_si128(bytes);
            let blues = _mm256_extracti128_si256::<1>(bytes);
            let pixels = _mm_shuffle_epi8(_mm_unpacklo_epi16(reds_greens, blues), close);
            // SAFETY: `whole` keeps 16 bytes from here within the target.
            unsafe {
                let to = target.as_mut_ptr().add(four * 4 * CHANNELS);
                _mm_storeu_si128(to.cast::<__m128i>(), pixels);
            }
        }
        row_of(row, axis, whole * 4, &mut target[whole * 4 * CHANNELS..]);
    }

    /// One output row as the weighted sum of `rows`.
    ///
    /// # Safety
    /// `rows` must hold the place's number of rows, `target` one; a row has at least a block.
    #[target_feature(enable = "avx2")]
    unsafe fn column_blocks(
        rows: &[u8],
        stride: usize,
        axis: &Axis,
        place: &Place,
        target: &mut [u8],
    ) {
        assert!(rows.len() == place.count * stride && target.len() == stride);
        let shift = shift_of(axis);
        let half = _mm256_set1_epi32(axis.half());
        let weights = axis.groups(place);
        let mut at = 0;
        loop {
            let (mut low, mut high) = (half, half);
            for first in (0..place.count).step_by(2) {
                // Without a second row its weight is zero: any row will do.
                let second = (first + 1).min(place.count - 1);
                // SAFETY: a block from `at` lies in every row.
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
            // SAFETY: a block from `at` lies in the target.
            unsafe { _mm_storeu_si128(target.as_mut_ptr().add(at).cast::<__m128i>(), bytes) };
            if at + BLOCK == stride {
                return;
            }
            // The last block may repeat some bytes.
            at = (at + BLOCK).min(stride - BLOCK);
        }
    }

    #[target_feature(enable = "avx2")]
    fn shift_of(axis: &Axis) -> __m128i {
        _mm_cvtsi32_si128(axis.bits.cast_signed())
    }

    /// The sums without their fraction, cut to 0..=255: in each half eight bytes of `a` and `b`.
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

    /// A weighted sum as it is defined, for one value.
    fn by_definition(values: &[u8], weights: &[i16], bits: u32) -> u8 {
        let products = values.iter().zip(weights);
        let sum: i64 = products.map(|(v, w)| i64::from(*v) * i64::from(*w)).sum();
        let rounded = (sum + (1 << bits) / 2) >> bits;
        u8::try_from(rounded.clamp(0, 255)).unwrap()
    }

    /// An axis over `length` positions: the first position and the weights of each output.
    fn axis(length: usize) -> impl Strategy<Value = Vec<(usize, Vec<i16>)>> {
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
                (Just(image), axis(width), axis(height))
            }),
            bits in 12..15_u32,
        ) {
            let narrow = rows(&rgb, width, &Axis::new(across.clone().into_iter(), bits));
            prop_assert_eq!(narrow.len(), height * across.len() * CHANNELS);
            for (place, &found) in narrow.iter().enumerate() {
                let (pixel, channel) = (place / CHANNELS, place % CHANNELS);
                let (row, column) = (pixel / across.len(), pixel % across.len());
                let (first, weights) = &across[column];
                let values: Vec<u8> = (0..weights.len())
                    .map(|tap| rgb[(row * width + first + tap) * CHANNELS + channel])
                    .collect();
                prop_assert_eq!(found, by_definition(&values, weights, bits));
            }
            let stride = width * CHANNELS;
            let low = columns(&rgb, stride, &Axis::new(down.clone().into_iter(), bits));
            prop_assert_eq!(low.len(), down.len() * stride);
            for (place, &found) in low.iter().enumerate() {
                let (row, byte) = (place / stride, place % stride);
                let (first, weights) = &down[row];
                let values: Vec<u8> = (0..weights.len())
                    .map(|tap| rgb[(first + tap) * stride + byte])
                    .collect();
                prop_assert_eq!(found, by_definition(&values, weights, bits));
            }
        }
    }
}
