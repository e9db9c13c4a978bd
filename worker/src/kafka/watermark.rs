//! How far a partition may be committed when its documents finish in any order.

use std::collections::BTreeSet;

/// The offsets of one partition that were taken, and how far all of them are done.
///
/// Offsets are taken in rising order, with gaps where the log has none of our records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watermark {
    open: BTreeSet<i64>,
    end: Option<i64>,
}

impl Watermark {
    /// Work on `offset` has begun.
    pub fn take(&mut self, offset: i64) {
        self.open.insert(offset);
        self.end = self.end.max(Some(offset + 1));
    }

    /// Work on `offset` has ended for good.
    pub fn done(&mut self, offset: i64) {
        self.open.remove(&offset);
    }

    /// There is nothing to do below `offset` but what was taken.
    pub fn reached(&mut self, offset: i64) {
        if self.open.is_empty() {
            self.end = self.end.max(Some(offset));
        }
    }

    /// The next offset to read after a restart: everything below is done. `None` before anything
    /// was taken.
    #[must_use]
    pub fn committable(&self) -> Option<i64> {
        self.open.first().copied().or(self.end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_slow_document_holds_back_those_behind_it() {
        let mut mark = Watermark::default();
        assert_eq!(mark.committable(), None);
        for offset in [5, 6, 9] {
            mark.take(offset);
        }
        mark.done(6);
        mark.done(9);
        assert_eq!(mark.committable(), Some(5));
        mark.done(5);
        assert_eq!(mark.committable(), Some(10));
    }

    #[test]
    fn what_holds_no_task_is_passed_once_nothing_is_in_flight() {
        let mut mark = Watermark::default();
        mark.take(5);
        mark.reached(7);
        assert_eq!(mark.committable(), Some(5));
        mark.done(5);
        assert_eq!(mark.committable(), Some(6));
        mark.reached(7);
        assert_eq!(mark.committable(), Some(7));
        mark.reached(3);
        assert_eq!(mark.committable(), Some(7), "the mark never falls");
    }

    proptest! {
        /// Whatever the gaps between offsets and the order of completion: nothing unfinished lies
        /// below the mark, the mark never falls, and in the end everything lies below it.
        #[test]
        fn commits_exactly_what_is_done(
            gaps in proptest::collection::vec(1_i64..4, 1..40),
            order in any::<proptest::sample::Selector>(),
            window in 1_usize..8,
        ) {
            let offsets: Vec<i64> =
                gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            let mut mark = Watermark::default();
            let mut unfinished = BTreeSet::new();
            let mut last = None;
            let mut waiting = offsets.iter().copied().peekable();
            while waiting.peek().is_some() || !unfinished.is_empty() {
                while unfinished.len() < window {
                    let Some(offset) = waiting.next() else { break };
                    mark.take(offset);
                    unfinished.insert(offset);
                }
                let finished = *order.select(&unfinished);
                mark.done(finished);
                unfinished.remove(&finished);

                let committable = mark.committable();
                prop_assert!(committable >= last, "the mark fell");
                last = committable;
                prop_assert!(unfinished.iter().all(|offset| Some(*offset) >= committable));
            }
            prop_assert_eq!(last, offsets.last().map(|offset| offset + 1));
        }
    }
}
