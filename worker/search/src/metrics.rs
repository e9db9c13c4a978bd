//! How good a ranking is, for a question whose relevant pages are known.
//!
//! Pages are named by text, as in the files of BEIR. A grade above 0 means that the page is relevant.

use std::collections::BTreeMap;

/// The relevant pages of a question with their grades.
pub type Relevant = BTreeMap<String, u32>;

/// Discounted gain of the first `k` pages, divided by that of the best possible ranking: 1 is best.
/// The gain of a page is its grade. 0 if nothing is relevant.
#[must_use]
pub fn ndcg(ranking: &[String], relevant: &Relevant, k: usize) -> f64 {
    let mut best: Vec<u32> = relevant.values().copied().collect();
    best.sort_unstable_by(|a, b| b.cmp(a));
    let best = gain(best.into_iter().take(k));
    if best <= 0.0 {
        return 0.0;
    }
    let found = ranking.iter().take(k);
    gain(found.map(|page| grade(page, relevant))) / best
}

/// The discounted gain of pages with these grades, the first one first.
fn gain(grades: impl Iterator<Item = u32>) -> f64 {
    let gains = grades.enumerate();
    gains
        .map(|(place, grade)| f64::from(grade) / (place as f64 + 2.0).log2())
        .sum()
}

/// Share of the relevant pages that are among the first `k`. 0 if nothing is relevant.
#[must_use]
pub fn recall(ranking: &[String], relevant: &Relevant, k: usize) -> f64 {
    let all = relevant.values().filter(|grade| **grade > 0).count();
    if all == 0 {
        return 0.0;
    }
    let first = ranking.iter().take(k);
    let found = first.filter(|page| grade(page, relevant) > 0).count();
    found as f64 / all as f64
}

/// Whether a relevant page is among the first `k`.
#[must_use]
pub fn hit(ranking: &[String], relevant: &Relevant, k: usize) -> bool {
    let mut first = ranking.iter().take(k);
    first.any(|page| grade(page, relevant) > 0)
}

/// The smallest value that at least this share (0 to 1) of the values do not exceed. 0 if there are
/// none.
#[must_use]
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in the list"
    )]
    let place = (share.clamp(0.0, 1.0) * sorted.len() as f64).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or(0.0)
}

fn grade(page: &str, relevant: &Relevant) -> u32 {
    relevant.get(page).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pages(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn relevant(grades: &[(&str, u32)]) -> Relevant {
        grades
            .iter()
            .map(|(page, grade)| ((*page).to_owned(), *grade))
            .collect()
    }

    #[test]
    fn ndcg_of_a_worked_example() {
        let relevant = relevant(&[("a", 1), ("b", 1)]);
        // 1/log2(3) + 1/log2(4), of 1 + 1/log2(3).
        let found = ndcg(&pages(&["x", "a", "b"]), &relevant, 5);
        let expected = (1.0 / 3_f64.log2() + 0.5) / (1.0 + 1.0 / 3_f64.log2());
        assert!((found - expected).abs() < 1e-12, "{found}");
        assert!(ndcg(&pages(&["x", "a", "b"]), &relevant, 1).abs() < 1e-12);
    }

    #[test]
    fn recall_and_hit_count_the_first_pages_only() {
        let relevant = relevant(&[("a", 1), ("b", 2), ("c", 0)]);
        let ranking = pages(&["c", "a", "x", "b"]);
        assert!((recall(&ranking, &relevant, 3) - 0.5).abs() < 1e-12);
        assert!((recall(&ranking, &relevant, 4) - 1.0).abs() < 1e-12);
        assert!(!hit(&ranking, &relevant, 1) && hit(&ranking, &relevant, 2));
    }

    #[test]
    fn percentiles_are_values_of_the_list() {
        let values = [4.0, 1.0, 3.0, 2.0];
        let at = |share| percentile(&values, share);
        assert_eq!(
            vec![at(0.0), at(0.5), at(0.75), at(1.0)],
            [1.0, 2.0, 3.0, 4.0]
        );
        assert!(percentile(&[], 0.5).abs() < f64::EPSILON);
    }

    proptest! {
        #[test]
        fn metrics_are_between_0_and_1_and_best_for_the_best_ranking(
            grades in proptest::collection::vec(0..4_u32, 0..12), k in 1..12_usize,
        ) {
            let named = || grades.iter().enumerate().map(|(page, grade)| (page.to_string(), *grade));
            let relevant: Relevant = named().collect();
            let unsorted: Vec<String> = named().map(|(page, _)| page).collect();
            let mut sorted: Vec<(String, u32)> = named().collect();
            sorted.sort_by_key(|(_, grade)| std::cmp::Reverse(*grade));
            let sorted: Vec<String> = sorted.into_iter().map(|(page, _)| page).collect();
            let (some, best) = (ndcg(&unsorted, &relevant, k), ndcg(&sorted, &relevant, k));
            prop_assert!((0.0..=1.0 + 1e-9).contains(&some) && some <= best + 1e-9);
            prop_assert!(grades.iter().all(|grade| *grade == 0) || (best - 1.0).abs() < 1e-9);
            prop_assert!((0.0..=1.0).contains(&recall(&unsorted, &relevant, k)));
        }
    }
}
