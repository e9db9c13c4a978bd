//! Self-attention in one go, for f32 on CPUs that have a kernel for it.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::{avx512, is_fused, values};

/// What attention is, apart from the rows.
#[derive(Clone, Copy)]
pub(crate) struct SelfAttention<'a> {
    /// Heads of the queries.
    pub(crate) heads: usize,
    /// Heads of the keys and of the values; neighbouring heads of queries share one.
    pub(crate) groups: usize,
    /// Values of a head.
    pub(crate) head: usize,
    /// Norms on each head of the queries and of the keys.
    pub(crate) norms: Option<&'a (HeadNorm, HeadNorm)>,
    /// First row and number of rows of what sees itself and nothing else; together all rows.
    pub(crate) segments: &'a [(usize, usize)],
    /// Whether a row sees itself and what is before it, or all of its segment.
    pub(crate) causal: bool,
}

/// A norm by the root mean square.
pub(crate) struct HeadNorm {
    /// A factor for each value.
    pub(crate) weight: Vec<f32>,
    pub(crate) epsilon: f32,
}

/// The rows: the queries' heads, then the keys', then the values'.
pub(super) struct Rows<'a> {
    pub(super) attention: SelfAttention<'a>,
    pub(super) scale: f32,
    /// `head / 2` values a row.
    pub(super) cosine: &'a [f32],
    pub(super) sine: &'a [f32],
    values: &'a [f32],
}

impl Rows<'_> {
    /// Rows.
    pub(super) fn count(&self) -> usize {
        self.values.len() / self.width()
    }

    /// One head of one row.
    pub(super) fn at(&self, row: usize, head: usize) -> &[f32] {
        &self.from(row, head)[..self.attention.head]
    }

    /// All values from a head of a row on.
    pub(super) fn from(&self, row: usize, head: usize) -> &[f32] {
        &self.values[row * self.width() + head * self.attention.head..]
    }

    /// Values of a row.
    pub(super) fn width(&self) -> usize {
        (self.attention.heads + 2 * self.attention.groups) * self.attention.head
    }
}

/// The heads' results side by side, `[rows, heads * head]`, of `rows` that hold queries, keys and
/// values; `cosine` and `sine`, `[rows, head / 2]`, rotate queries and keys. None where there is
/// no kernel.
pub(crate) fn attention(
    rows: &Tensor,
    cosine: &Tensor,
    sine: &Tensor,
    attention: SelfAttention<'_>,
) -> Result<Option<Tensor>> {
    // Values of a head are turned in pairs.
    let paired = attention.head.is_multiple_of(2);
    let fused = is_fused(rows) && avx512::available() && paired;
    fused
        .then(|| rows.apply_op3_no_bwd(cosine, sine, &Attend(attention)))
        .transpose()
}

struct Attend<'a>(SelfAttention<'a>);

impl CustomOp3 for Attend<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        rows: &CpuStorage,
        layout: &Layout,
        cosine: &CpuStorage,
        cosine_layout: &Layout,
        sine: &CpuStorage,
        sine_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let attention = self.0;
        let rows = Rows {
            attention,
            scale: 1.0 / (attention.head as f32).sqrt(),
            cosine: values(cosine, cosine_layout)?,
            sine: values(sine, sine_layout)?,
            values: values(rows, layout)?,
        };
        let (count, width) = layout.shape().dims2()?;
        let angles = count * attention.head / 2;
        let suits = width == rows.width()
            && rows.cosine.len() == angles
            && rows.sine.len() == angles
            && attention.heads.is_multiple_of(attention.groups);
        if !suits {
            candle_core::bail!("rows of {width} values do not suit the heads or the angles");
        }
        let shape = Shape::from((count, attention.heads * attention.head));
        Ok((CpuStorage::F32(avx512::attend(&rows)), shape))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;

    /// The definition, one number after the other, in double precision.
    fn by_definition(rows: &[f32], angles: &[f32], attention: SelfAttention<'_>) -> Vec<f64> {
        let SelfAttention {
            heads,
            groups,
            head: size,
            ..
        } = attention;
        let width = (heads + 2 * groups) * size;
        let count = rows.len() / width;
        let plain = |row: usize, head: usize| -> Vec<f64> {
            let values = &rows[row * width + head * size..][..size];
            values.iter().copied().map(f64::from).collect()
        };
        let rotated = |row: usize, head: usize, norm: Option<&HeadNorm>| {
            let mut values = plain(row, head);
            if let Some(norm) = norm {
                let square = values.iter().map(|x| x * x).sum::<f64>() / size as f64;
                let root = (square + f64::from(norm.epsilon)).sqrt();
                for (value, weight) in values.iter_mut().zip(&norm.weight) {
                    *value *= f64::from(*weight) / root;
                }
            }
            let half = size / 2;
            let turn = |place: usize| {
                let (sin, cos) = f64::from(angles[row * half + place % half]).sin_cos();
                let other = values[(place + half) % size];
                let direction = if place < half { -1.0 } else { 1.0 };
                values[place] * cos + direction * other * sin
            };
            (0..size).map(turn).collect::<Vec<_>>()
        };
        let mut output = Vec::with_capacity(count * heads * size);
        for &(start, length) in attention.segments {
            for row in start..start + length {
                for head in 0..heads {
                    let group = head / (heads / groups);
                    let query = rotated(row, head, attention.norms.map(|(query, _)| query));
                    let last = if attention.causal {
                        row + 1
                    } else {
                        start + length
                    };
                    let scores: Vec<f64> = (start..last)
                        .map(|key| {
                            let norm = attention.norms.map(|(_, key)| key);
                            let key = rotated(key, heads + group, norm);
                            let product: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                            product / (size as f64).sqrt()
                        })
                        .collect();
                    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights = scores.iter().map(|score| (score - largest).exp());
                    let total: f64 = weights.clone().sum();
                    let mut sums = vec![0.0; size];
                    for (key, weight) in (start..last).zip(weights) {
                        let values = plain(key, heads + groups + group);
                        for (sum, value) in sums.iter_mut().zip(values) {
                            *sum += value * weight / total;
                        }
                    }
                    output.extend(sums);
                }
            }
        }
        output
    }

    fn random(count: usize) -> Vec<f32> {
        let values = Tensor::randn(0_f32, 1.0, count, &Device::Cpu).unwrap();
        values.to_vec1().unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        #[test]
        fn attention_is_what_it_is_defined_to_be(
            lengths in prop::collection::vec(1..90_usize, 1..4),
            (groups, shared, half) in (1..3_usize, 1..3_usize, 1..35_usize),
            (causal, normed) in (any::<bool>(), any::<bool>()),
        ) {
            let (heads, size) = (groups * shared, 2 * half);
            let segments: Vec<_> = lengths
                .iter()
                .scan(0, |next, &length| {
                    let start = *next;
                    *next += length;
                    Some((start, length))
                })
                .collect();
            let count: usize = lengths.iter().sum();
            let norm = || HeadNorm { weight: random(size), epsilon: 1e-6 };
            let norms = (norm(), norm());
            let attention = SelfAttention {
                heads,
                groups,
                head: size,
                norms: normed.then_some(&norms),
                segments: &segments,
                causal,
            };
            let width = (heads + 2 * groups) * size;
            let (rows, angles) = (random(count * width), random(count * half));
            let tensor = |values: Vec<f32>, width: usize| {
                Tensor::from_vec(values, (count, width), &Device::Cpu).unwrap()
            };
            let cosine = tensor(angles.iter().map(|angle| angle.cos()).collect(), half);
            let sine = tensor(angles.iter().map(|angle| angle.sin()).collect(), half);
            let found = super::attention(&tensor(rows.clone(), width), &cosine, &sine, attention);
            let Some(found) = found.unwrap() else {
                // This CPU takes the tensor library's products.
                return Ok(());
            };
            let found: Vec<f32> = found.flatten_all().unwrap().to_vec1().unwrap();
            let expected = by_definition(&rows, &angles, attention);
            prop_assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                prop_assert!((f64::from(*found) - expected).abs() < 2e-5, "{found} {expected}");
            }
        }
    }
}
