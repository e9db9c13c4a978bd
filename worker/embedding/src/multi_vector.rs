//! Multi-vector representation of a page or a query.

use layra_search::{Question, Vectors};

/// The vectors of one page or query, each of unit length.
#[derive(Clone, Debug, PartialEq)]
pub struct MultiVector {
    dimensions: usize,
    data: Vec<f32>,
}

impl MultiVector {
    /// Creates a multi-vector from `data`, the concatenated vectors of `dimensions` values each.
    ///
    /// # Panics
    /// If `dimensions` is 0, or the length of `data` is not a multiple of it.
    #[must_use]
    pub fn new(dimensions: usize, data: Vec<f32>) -> Self {
        assert!(dimensions > 0, "vectors need at least one dimension");
        assert_eq!(data.len() % dimensions, 0, "the last vector is incomplete");
        Self { dimensions, data }
    }

    /// Width of every vector.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Number of vectors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.data.len() / self.dimensions
    }

    /// Whether there are no vectors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The vectors, in order.
    #[must_use]
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.data.chunks_exact(self.dimensions)
    }

    /// The values of all vectors, concatenated.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.data
    }

    /// `MaxSim` of a query (self) with a page: the sum, over the query's vectors, of the largest
    /// inner product with a vector of the page. 0 for a page without vectors.
    ///
    /// # Panics
    /// If the page's vectors have another width.
    #[must_use]
    pub fn max_sim(&self, page: &Self) -> f32 {
        Question::new(self.dimensions, &self.data).max_sim(Vectors::F32(&page.data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_sim_takes_the_best_row_for_each_vector_of_the_query() {
        let query = MultiVector::new(2, vec![1.0, 0.0, 0.0, 1.0]);
        let page = MultiVector::new(2, vec![0.5, 0.5, -1.0, 0.0, 0.25, 0.75]);
        assert!((query.max_sim(&page) - 1.25).abs() < 1e-6);
    }

    #[test]
    fn rows_come_in_order() {
        let vectors = MultiVector::new(2, vec![1.0, 2.0, 3.0, 4.0]);
        assert_eq!(vectors.len(), 2);
        assert_eq!(vectors.rows().collect::<Vec<_>>(), [[1.0, 2.0], [3.0, 4.0]]);
    }
}
