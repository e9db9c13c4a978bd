//! Exact MaxSim: for each vector of the question the largest inner product with a vector of the
//! page, summed over the question's vectors.
//!
//! Vectors of pages are f32 or f16, inner products are summed in f32. Pages are compared in
//! parallel, each with all of its vectors.

use half::f16;
use half::slice::HalfFloatSliceExt as _;
use pulp::Arch;
use rayon::prelude::*;

/// Vectors that are converted from f16 at a time, so that they stay in the first cache.
const BLOCK: usize = 16;
/// Partial sums of an inner product: a multiple of the lanes of every vector unit.
const LANES: usize = 16;

/// The vectors of a page, one after the other.
#[derive(Clone, Copy, Debug)]
pub enum Vectors<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// 16-bit floats.
    F16(&'a [f16]),
}

impl Vectors<'_> {
    /// Number of values.
    fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
        }
    }
}

/// The vectors of a question.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    dimensions: usize,
    values: &'a [f32],
}

/// A page of a ranking.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// The page's place in the list that was ranked.
    pub index: usize,
    /// `MaxSim` of question and page.
    pub score: f32,
}

impl<'a> Question<'a> {
    /// Creates a question from `values`, its vectors of `dimensions` values each, one after the
    /// other.
    ///
    /// # Panics
    /// If `dimensions` is 0, or the last vector is incomplete.
    #[must_use]
    pub fn new(dimensions: usize, values: &'a [f32]) -> Self {
        assert!(dimensions > 0, "vectors need at least one dimension");
        assert_eq!(values.len() % dimensions, 0, "an incomplete vector");
        Self { dimensions, values }
    }

    /// Number of vectors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len() / self.dimensions
    }

    /// Whether there are no vectors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// `MaxSim` with a page; 0 for a page without vectors.
    ///
    /// # Panics
    /// If the page's vectors do not have the question's width.
    #[must_use]
    pub fn max_sim(&self, page: Vectors<'_>) -> f32 {
        let mut best = vec![f32::NEG_INFINITY; self.len()];
        self.each_product(page, |_, question, product| {
            best[question] = best[question].max(product);
        });
        if page.len() == 0 {
            return 0.0;
        }
        best.iter().sum()
    }

    /// For each vector of the page, in order, the mean of its inner products with the question's
    /// vectors: how much the question concerns that part of the page.
    ///
    /// # Panics
    /// If the page's vectors do not have the question's width.
    #[must_use]
    pub fn heat(&self, page: Vectors<'_>) -> Vec<f32> {
        let mut sums = vec![0.0; page.len() / self.dimensions];
        self.each_product(page, |row, _, product| sums[row] += product);
        let count = self.len().max(1) as f32;
        sums.iter().map(|sum| sum / count).collect()
    }

    /// Calls `use_product` with the number of a page's vector, that of a question's vector, and
    /// their inner product, for all pairs.
    fn each_product(&self, page: Vectors<'_>, mut use_product: impl FnMut(usize, usize, f32)) {
        let width = self.dimensions;
        assert_eq!(page.len() % width, 0, "vectors of another width");
        let mut products = Vec::new();
        let mut compare = |first: usize, block: &[f32]| {
            products.clear();
            products.resize(block.len() / width * self.len(), 0.0);
            Arch::new().dispatch(|| all_products(self.values, block, width, &mut products));
            for (place, product) in products.iter().enumerate() {
                let (row, number) = (place / self.len(), place % self.len());
                use_product(first + row, number, *product);
            }
        };
        if self.is_empty() {
            return;
        }
        match page {
            Vectors::F32(values) => {
                for (number, block) in values.chunks(BLOCK * width).enumerate() {
                    compare(number * BLOCK, block);
                }
            }
            Vectors::F16(values) => {
                let mut block = vec![0.0; BLOCK * width];
                for (number, halves) in values.chunks(BLOCK * width).enumerate() {
                    let block = &mut block[..halves.len()];
                    halves.convert_to_f32_slice(block);
                    compare(number * BLOCK, block);
                }
            }
        }
    }
}

/// The `top` pages for a question, best first; of equal ones, the earlier first.
#[must_use]
pub fn rank<'a>(
    question: &Question<'_>,
    pages: &(impl Fn(usize) -> Vectors<'a> + Sync),
    count: usize,
    top: usize,
) -> Vec<Scored> {
    let mut scored: Vec<Scored> = (0..count)
        .into_par_iter()
        .map(|index| Scored {
            index,
            score: question.max_sim(pages(index)),
        })
        .collect();
    scored.sort_by(|a, b| {
        b.score
            .total_cmp(&a.score)
            .then_with(|| a.index.cmp(&b.index))
    });
    scored.truncate(top);
    scored
}

/// The inner products of each vector of a block with each vector of a question, in this order.
/// Inlined into the function that `pulp` compiles for each vector unit.
#[allow(
    clippy::inline_always,
    reason = "else it is compiled for no vector unit"
)]
#[inline(always)]
fn all_products(question: &[f32], block: &[f32], width: usize, products: &mut [f32]) {
    let rows = block.chunks_exact(width);
    let pairs = rows.flat_map(|row| question.chunks_exact(width).map(move |asked| (asked, row)));
    for (product, (asked, row)) in products.iter_mut().zip(pairs) {
        *product = dot(asked, row);
    }
}

#[allow(
    clippy::inline_always,
    reason = "else it is compiled for no vector unit"
)]
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// MaxSim as it is defined, in f64.
    fn naive(question: &[f32], page: &[f32], width: usize) -> f64 {
        let product = |a: &[f32], b: &[f32]| -> f64 {
            a.iter()
                .zip(b)
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum()
        };
        question
            .chunks(width)
            .filter_map(|vector| {
                let products = page.chunks(width).map(|row| product(vector, row));
                products.reduce(f64::max)
            })
            .sum()
    }

    /// Width, question and page.
    fn vectors() -> impl Strategy<Value = (usize, Vec<f32>, Vec<f32>)> {
        (1..70_usize, 0..6_usize, 0..40_usize).prop_flat_map(|(width, rows, page_rows)| {
            let values = |rows| proptest::collection::vec(-1.0_f32..1.0, rows * width);
            (Just(width), values(rows), values(page_rows))
        })
    }

    proptest! {
        #[test]
        fn max_sim_is_that_of_the_definition((width, question, page) in vectors()) {
            let score = Question::new(width, &question).max_sim(Vectors::F32(&page));
            prop_assert!((f64::from(score) - naive(&question, &page, width)).abs() < 1e-3);
        }

        #[test]
        fn halves_are_compared_as_the_floats_that_they_are((width, question, page) in vectors()) {
            let halves: Vec<f16> = page.iter().map(|value| f16::from_f32(*value)).collect();
            let floats: Vec<f32> = halves.iter().map(|half| half.to_f32()).collect();
            let question = Question::new(width, &question);
            let score = question.max_sim(Vectors::F16(&halves));
            prop_assert!((score - question.max_sim(Vectors::F32(&floats))).abs() < 1e-4);
        }

        #[test]
        fn a_ranking_is_in_order_and_has_every_page_once(
            pages in proptest::collection::vec(proptest::collection::vec(-1.0_f32..1.0, 6), 0..30),
            top in 0..40_usize,
        ) {
            let question = [0.5, -0.5, 1.0];
            let question = Question::new(3, &question);
            let found = rank(&question, &|index| Vectors::F32(&pages[index]), pages.len(), top);
            prop_assert_eq!(found.len(), pages.len().min(top));
            for pair in found.windows(2) {
                prop_assert!(pair[0].score >= pair[1].score && pair[0].index != pair[1].index);
            }
            let all = rank(&question, &|index| Vectors::F32(&pages[index]), pages.len(), usize::MAX);
            prop_assert_eq!(&all[..found.len()], &found[..]);
        }
    }

    #[test]
    fn heat_is_the_mean_over_the_question() {
        let question = [1.0, 0.0, 0.0, 1.0];
        let page = [0.5, 0.5, -1.0, 0.0];
        let heat = Question::new(2, &question).heat(Vectors::F32(&page));
        assert_eq!(heat, [0.5, -0.5]);
    }

    #[test]
    fn a_page_without_vectors_has_no_score() {
        assert!(
            Question::new(2, &[1.0, 0.0])
                .max_sim(Vectors::F16(&[]))
                .abs()
                < f32::EPSILON
        );
    }
}
