//! Exact comparison: every question with every page, and what a search has found of it. Pure.

use layra_embedding::MultiVector;
use rayon::prelude::*;

/// The best pages of an answer that are compared.
pub(super) const TOP: usize = 10;
/// Scores that differ by this part of them are equal: they are sums of products in another order.
const TOLERANCE: f32 = 1e-5;
/// Products that are summed up side by side.
const LANES: usize = 16;

/// `MaxSim` of one question with each page, in the pages' order.
pub(super) type Scores = Vec<f32>;

/// `MaxSim` of each question with each page.
pub(super) fn scores(questions: &[MultiVector], pages: &[MultiVector]) -> Vec<Scores> {
    let of_question = |question: &MultiVector| {
        let pages = pages.par_iter();
        pages.map(|page| max_sim(question, page)).collect()
    };
    questions.iter().map(of_question).collect()
}

/// The part of the [`TOP`] best pages that `found` has, best first. Pages as good as the last of
/// the best ones count as such.
pub(super) fn recall(found: &[usize], scores: &[f32]) -> f64 {
    let top = TOP.min(scores.len());
    let Some(last) = top.checked_sub(1).map(|last| best(scores)[last]) else {
        return 1.0;
    };
    let enough = scores[last] - TOLERANCE * scores[last].abs();
    let good = |page: &&usize| scores[**page] >= enough;
    found.iter().take(top).filter(good).count() as f64 / top as f64
}

/// The pages, best first.
pub(super) fn best(scores: &[f32]) -> Vec<usize> {
    let mut pages: Vec<usize> = (0..scores.len()).collect();
    pages.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    pages
}

/// The mean of some numbers; 0 of none.
pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The smallest value that at least this part of all values does not exceed; 0 of none.
pub(super) fn percentile(values: &[f64], part: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the number of values"
    )]
    let rank = (part.clamp(0.0, 1.0) * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

/// The same as [`MultiVector::max_sim`], faster and rounded in another way.
fn max_sim(question: &MultiVector, page: &MultiVector) -> f32 {
    let best = |vector| page.rows().map(|row| dot(vector, row)).reduce(f32::max);
    question.rows().filter_map(best).sum()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = products(a.remainder(), b.remainder()).sum();
    let mut sums = [0.0; LANES];
    for (a, b) in a.zip(b) {
        for (sum, product) in sums.iter_mut().zip(products(a, b)) {
            *sum += product;
        }
    }
    sums.iter().sum::<f32>() + rest
}

fn products(a: &[f32], b: &[f32]) -> impl Iterator<Item = f32> {
    a.iter().zip(b).map(|(a, b)| a * b)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn vectors(width: usize, rows: std::ops::Range<usize>) -> impl Strategy<Value = MultiVector> {
        vec(vec(-1.0_f32..1.0, width), rows)
            .prop_map(move |rows| MultiVector::new(width, rows.concat()))
    }

    proptest! {
        #[test]
        fn scores_are_those_of_the_search(
            question in vectors(37, 1..6), pages in vec(vectors(37, 0..9), 0..12),
        ) {
            let scores = scores(std::slice::from_ref(&question), &pages).remove(0);
            prop_assert_eq!(scores.len(), pages.len());
            for (score, page) in scores.iter().zip(&pages) {
                prop_assert!((score - question.max_sim(page)).abs() < 1e-4);
            }
        }

        #[test]
        fn the_best_pages_have_recall_one_and_the_others_none(scores in vec(-9.0_f32..9.0, 0..40)) {
            let mut pages = best(&scores);
            prop_assert!((recall(&pages, &scores) - 1.0).abs() < 1e-9);
            let mut distinct = scores.clone();
            distinct.sort_by(f32::total_cmp);
            let gaps = distinct.windows(2).all(|pair| pair[1] - pair[0] > 1e-3);
            if gaps && scores.len() >= 2 * TOP {
                pages.reverse();
                prop_assert!(recall(&pages, &scores).abs() < 1e-9);
            }
        }

        #[test]
        fn a_percentile_is_a_value_that_enough_values_do_not_exceed(
            values in vec(0.0_f64..100.0, 1..200), part in 0.01_f64..=1.0,
        ) {
            let value = percentile(&values, part);
            prop_assert!(values.contains(&value));
            let below = values.iter().filter(|other| **other <= value).count();
            prop_assert!(below as f64 >= part * values.len() as f64 - 1e-9);
        }
    }

    #[test]
    fn recall_counts_pages_among_the_first_ten() {
        let scores: Vec<f32> = (0..20_u8).map(f32::from).collect();
        let found = [19, 18, 17, 16, 15, 0, 1, 2, 3, 4, 14, 13];
        assert!((recall(&found, &scores) - 0.5).abs() < 1e-9);
        assert!((recall(&[19], &scores) - 0.1).abs() < 1e-9);
        assert!((recall(&[], &[]) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_page_as_good_as_the_tenth_counts() {
        let scores = [1.0; 12];
        let found: Vec<usize> = (2..12).collect();
        assert!((recall(&found, &scores) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn percentiles_are_measured_values() {
        let values: Vec<f64> = (1..=100_u8).map(f64::from).collect();
        assert!((percentile(&values, 0.5) - 50.0).abs() < 1e-9);
        assert!((percentile(&values, 0.99) - 99.0).abs() < 1e-9);
        assert!(percentile(&[], 0.5).abs() < 1e-9);
    }
}
