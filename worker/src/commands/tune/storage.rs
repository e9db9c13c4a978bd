//! What stored vectors would be in other number formats and after pooling: bytes, and the recall of
//! an exact comparison, without any index. Pure.

use layra_crds::VectorType;
use layra_embedding::{MultiVector, colqwen};
use rayon::prelude::*;
use serde::Serialize;

use super::exact::{self, Scores};
use crate::stores::milvus::rounded;

/// Pool factors to compare.
const POOL_FACTORS: [u32; 3] = [1, 2, 3];

/// One way to store the vectors.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stored {
    pub(super) vector_type: VectorType,
    /// By how much the number of vectors is divided, besides the pooling that was done already.
    pub(super) pool_factor: u32,
    pub(super) vectors_per_page: f64,
    /// Of the vectors alone, without an index.
    pub(super) bytes_per_page: f64,
    /// Compared with the vectors as they are.
    pub(super) recall_at_10: f64,
}

/// Compares every format and pool factor. `scores` are those of the pages as they are.
pub(super) fn compare(
    questions: &[MultiVector],
    pages: &[MultiVector],
    scores: &[Scores],
) -> Vec<Stored> {
    let mut all = Vec::new();
    for pool_factor in POOL_FACTORS {
        let pooled: Vec<MultiVector> = pages
            .par_iter()
            .map(|page| pool(page, pool_factor))
            .collect();
        for vector_type in VectorType::ALL {
            let stored: Vec<MultiVector> = pooled
                .par_iter()
                .map(|page| store(page, vector_type))
                .collect();
            let found = exact::scores(questions, &stored);
            let recalls: Vec<f64> = found
                .iter()
                .zip(scores)
                .map(|(found, scores)| exact::recall(&exact::best(found), scores))
                .collect();
            let vectors: usize = pooled.iter().map(MultiVector::len).sum();
            let vectors_per_page = vectors as f64 / pages.len().max(1) as f64;
            let width = pages.first().map_or(0, MultiVector::dimensions);
            all.push(Stored {
                vector_type,
                pool_factor,
                vectors_per_page,
                bytes_per_page: vectors_per_page * (width * vector_type.bytes()) as f64,
                recall_at_10: exact::mean(&recalls),
            });
        }
    }
    all
}

fn pool(page: &MultiVector, factor: u32) -> MultiVector {
    let factor = usize::try_from(factor).unwrap_or(usize::MAX);
    let values = colqwen::pool(page.values(), page.dimensions(), factor);
    MultiVector::new(page.dimensions(), values)
}

fn store(page: &MultiVector, vector_type: VectorType) -> MultiVector {
    let values = page.rows().flat_map(|row| rounded(vector_type, row));
    MultiVector::new(page.dimensions(), values.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages of some unit vectors, each page around a direction of its own.
    fn pages(count: usize, rows: usize) -> Vec<MultiVector> {
        let mut random = fastrand::Rng::with_seed(7);
        let width = 64;
        let mut page = || {
            let centre: Vec<f32> = (0..width).map(|_| random.f32() - 0.5).collect();
            let row = |_| {
                let row: Vec<f32> = centre
                    .iter()
                    .map(|value| value + 0.4 * (random.f32() - 0.5))
                    .collect();
                let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
                row.into_iter()
                    .map(|value| value / length)
                    .collect::<Vec<f32>>()
            };
            let rows: Vec<Vec<f32>> = (0..rows).map(row).collect();
            MultiVector::new(width, rows.concat())
        };
        (0..count).map(|_| page()).collect()
    }

    #[test]
    fn smaller_formats_take_fewer_bytes_and_keep_most_of_the_recall() {
        let mut pages = pages(60, 12);
        let questions = pages.split_off(50);
        let scores = exact::scores(&questions, &pages);
        let compared = compare(&questions, &pages, &scores);
        assert_eq!(compared.len(), 12);
        let of = |vector_type, pool_factor| {
            let mut found = compared.iter().filter(|stored| {
                (stored.vector_type, stored.pool_factor) == (vector_type, pool_factor)
            });
            *found.next().unwrap()
        };
        let whole = of(VectorType::Float32, 1);
        assert!((whole.recall_at_10 - 1.0).abs() < 1e-9);
        assert!((whole.bytes_per_page - 12.0 * 64.0 * 4.0).abs() < 1e-9);
        assert!(of(VectorType::Float16, 1).recall_at_10 > 0.97);
        assert!(of(VectorType::Int8, 1).recall_at_10 > 0.9);
        let third = of(VectorType::Int8, 3);
        assert!((third.vectors_per_page - 4.0).abs() < 1e-9);
        assert!((whole.bytes_per_page / third.bytes_per_page - 12.0).abs() < 1e-9);
    }
}
