//! Which pages are copied and what is asked. Pure: chance comes in as an argument.

use fastrand::Rng;
use layra_embedding::MultiVector;

/// Questions without a file of questions.
pub(super) const QUESTIONS: usize = 100;
/// Most vectors of a question from a page: the usual number of a written one.
const QUESTION_VECTORS: usize = 16;
/// One of this many pages is held out for questions.
const HELD_OUT: usize = 5;

/// A page of the knowledge base.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Page {
    pub(super) image_id: String,
    pub(super) vectors: MultiVector,
}

/// The number of pages to hold out of a sample for questions.
pub(super) fn held_out(pages: usize) -> usize {
    (pages / HELD_OUT).min(QUESTIONS)
}

/// Questions from held-out pages: each is a few vectors of one page, drawn at random and none twice.
/// The pages take turns.
pub(super) fn questions(pages: &[MultiVector], random: &mut Rng) -> Vec<MultiVector> {
    let mut left: Vec<Vec<MultiVector>> = pages
        .iter()
        .map(|page| {
            let mut rows: Vec<&[f32]> = page.rows().collect();
            random.shuffle(&mut rows);
            let questions = rows.chunks(QUESTION_VECTORS);
            let question = |rows: &[&[f32]]| MultiVector::new(page.dimensions(), rows.concat());
            // A short rest of a long page would be an easier question than the others.
            let whole = |rows: &&[&[f32]]| rows.len() == QUESTION_VECTORS.min(page.len());
            questions.filter(whole).map(question).collect()
        })
        .collect();
    let mut questions = Vec::new();
    while questions.len() < QUESTIONS && left.iter().any(|page| !page.is_empty()) {
        questions.extend(left.iter_mut().filter_map(Vec::pop));
    }
    questions.truncate(QUESTIONS);
    questions
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fifth_of_a_small_sample_is_held_out() {
        assert_eq!(held_out(4), 0);
        assert_eq!(held_out(60), 12);
        assert_eq!(held_out(100_000), QUESTIONS);
    }

    proptest! {
        #[test]
        fn questions_are_vectors_of_their_pages_none_twice(
            lengths in vec(0..100_usize, 0..30), seed in 0..9_u64,
        ) {
            // Each vector is a number of its own.
            let mut next = 0.0;
            let pages: Vec<MultiVector> = lengths.iter().map(|length| {
                let rows = (0..*length).map(|_| { next += 1.0; next }).collect();
                MultiVector::new(1, rows)
            }).collect();
            let questions = questions(&pages, &mut Rng::with_seed(seed));
            prop_assert!(questions.len() <= QUESTIONS);
            let mut used: Vec<f32> = Vec::new();
            for question in &questions {
                let page = pages.iter().find(|page| page.values().contains(&question.values()[0]));
                let page = page.unwrap();
                prop_assert_eq!(question.len(), QUESTION_VECTORS.min(page.len()));
                for value in question.values() {
                    prop_assert!(page.values().contains(value) && !used.contains(value));
                    used.push(*value);
                }
            }
            let asked = lengths.iter().filter(|length| **length > 0).count();
            prop_assert!(questions.len() >= asked.min(QUESTIONS), "every page is asked about");
        }
    }
}
