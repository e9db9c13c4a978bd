//! Which part of an answer each request asks for, so that none exceeds gRPC's limit of 4 MiB, which
//! the client keeps to. Pure.

use std::ops::Range;

/// Bytes of an answer. The fourth MiB is for what surrounds the rows.
const ANSWER_BYTES: usize = 3 << 20;
/// The last row of an answer that Milvus counts to: its largest sum of offset and limit.
const LAST_ROW: usize = 16_384;
/// Bytes of a hit: two ids of up to 230 bytes (LAYRA's have some 60) and three numbers.
const HIT_BYTES: usize = 512;
/// Bytes of a row besides its vector: its key and the frame of the vector.
const KEY_BYTES: usize = 32;

/// A part of the hits of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HitPage {
    /// Some of the question's vectors.
    pub(super) questions: Range<usize>,
    /// Nearest vectors of each that come before this part.
    pub(super) offset: usize,
    /// Nearest vectors of each in this part.
    pub(super) limit: usize,
}

/// The requests for `candidates` hits of each of `questions` vectors.
pub(super) fn hit_pages(questions: usize, candidates: usize) -> impl Iterator<Item = HitPage> {
    let most = ANSWER_BYTES / HIT_BYTES;
    let at_once = most.checked_div(candidates).unwrap_or(most).max(1);
    ranges(questions, at_once).flat_map(move |questions| {
        ranges(candidates, most).map(move |hits| HitPage {
            questions: questions.clone(),
            offset: hits.start,
            limit: hits.len(),
        })
    })
}

/// The number of rows to ask for after the first `read`, for vectors of this size. 0: Milvus counts
/// no further. No page has that many vectors.
pub(super) fn next_rows(read: usize, vector_bytes: usize) -> usize {
    let at_once = (ANSWER_BYTES / vector_bytes.saturating_add(KEY_BYTES)).max(1);
    at_once.min(LAST_ROW.saturating_sub(read))
}

/// The number of rows with an id and a vector of this size that an answer has room for.
pub(super) fn rows_at_once(vector_bytes: usize) -> usize {
    (ANSWER_BYTES / vector_bytes.saturating_add(HIT_BYTES)).clamp(1, LAST_ROW)
}

fn ranges(count: usize, at_once: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count)
        .step_by(at_once)
        .map(move |start| start..count.min(start + at_once))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 4 << 20;

    proptest! {
        #[test]
        fn each_hit_is_asked_for_once_in_answers_below_the_limit(
            questions in 0..200_usize, candidates in 0..=LAST_ROW,
        ) {
            let mut next = vec![0; questions];
            for HitPage { questions, offset, limit } in hit_pages(questions, candidates) {
                prop_assert!(limit > 0 && !questions.is_empty());
                prop_assert!(questions.len() * limit * HIT_BYTES < LIMIT);
                for question in questions {
                    prop_assert_eq!(next[question], offset, "in order, without a gap");
                    next[question] += limit;
                }
            }
            prop_assert!(next.iter().all(|hits| *hits == candidates));
        }

        #[test]
        fn the_rows_of_a_page_are_read_once_in_answers_below_the_limit(
            rows in 0..LAST_ROW, width in 1..=4_096_usize,
        ) {
            let bytes = width * size_of::<f32>();
            let (mut read, mut requests) = (0, 0);
            loop {
                let limit = next_rows(read, bytes);
                prop_assert!(limit > 0 && read + limit <= LAST_ROW);
                prop_assert!(limit * (bytes + KEY_BYTES) < LIMIT);
                let answer = limit.min(rows - read);
                (read, requests) = (read + answer, requests + 1);
                if answer < limit {
                    break;
                }
            }
            prop_assert_eq!(read, rows);
            prop_assert!(requests <= 1 + rows * (bytes + KEY_BYTES) / (ANSWER_BYTES / 2));
        }
    }

    #[test]
    fn a_usual_question_and_a_usual_page_are_one_request_each() {
        let page = HitPage {
            questions: 0..40,
            offset: 0,
            limit: 50,
        };
        assert_eq!(hit_pages(40, 50).collect::<Vec<_>>(), [page]);
        assert!(next_rows(0, 128 * size_of::<f32>()) > 1_000);
        assert_eq!(next_rows(LAST_ROW, 512), 0);
    }

    #[test]
    fn rows_of_several_pages_fit_into_an_answer() {
        for width in [1, 128, 384, 4_096, 1 << 20] {
            let bytes = width * size_of::<f32>();
            let rows = rows_at_once(bytes);
            assert!(rows > 0 && (rows == 1 || rows * (bytes + HIT_BYTES) < LIMIT));
        }
    }
}
