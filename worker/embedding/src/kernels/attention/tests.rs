use candle_core::Device;
use proptest::prelude::*;

use super::*;

/// Attention by its definition, in double precision.
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
    fn attention_matches_its_definition(
        lengths in prop::collection::vec(prop_oneof![9 => 1..90_usize, 1 => 257..400_usize], 1..4),
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
        let expected = by_definition(&rows, &angles, attention);
        let rows = tensor(rows, width);
        for path in Path::all() {
            let Some(found) = on_path(path, &rows, &cosine, &sine, attention).unwrap() else {
                continue;
            };
            let found: Vec<f32> = found.flatten_all().unwrap().to_vec1().unwrap();
            prop_assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                let error = (f64::from(*found) - expected).abs();
                prop_assert!(error < 2e-5, "{path:?}: {found} {expected}");
            }
        }
    }
}
