//! Exact comparison: every question with every page, and what a search has found of it. Pure.

use layra_embedding::MultiVector;
use rayon::prelude::*;

/// The best pages of an answer that are compared.
pub(super) const TOP: usize = 10;
/// Scores that differ by this part of them are equal: they are sums of products in another order.
const TOLERANCE: f32 = 1e-5;

/// `MaxSim` of one question with each page, in the pages' order.
pub(super) type Scores = Vec<f32>;

/// `MaxSim` of each question with each page.
pub(super) fn scores(questions: &[MultiVector], pages: &[MultiVector]) -> Vec<Scores> {
    let of_question = |question: &MultiVector| {
        let pages = pages.par_iter();
        pages.map(|page| question.max_sim(page)).collect()
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
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
}
