//! Computes the offset that may be committed when the documents of a partition finish in any order.

use std::collections::BTreeSet;

/// The offsets of one partition that were received, and how far all of them are processed.
///
/// Offsets are received in rising order, with gaps where the log has other records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Watermark {
    open: BTreeSet<i64>,
    end: Option<i64>,
}

impl Watermark {
    /// Records that the message at `offset` was received.
    pub(crate) fn take(&mut self, offset: i64) {
        self.open.insert(offset);
        self.end = self.end.max(Some(offset + 1));
    }

    /// Records that the message at `offset` was processed.
    pub(crate) fn done(&mut self, offset: i64) {
        self.open.remove(&offset);
    }

    /// Records that there are no messages below `offset` except those that were received.
    pub(crate) fn reached(&mut self, offset: i64) {
        if self.open.is_empty() {
            self.end = self.end.max(Some(offset));
        }
    }

    /// Number of offsets after the first message in progress that need no work any more.
    pub(crate) fn processed_ahead(&self) -> u64 {
        let (Some(first), Some(end)) = (self.open.first(), self.end) else {
            return 0;
        };
        let after = u64::try_from(end - first).unwrap_or(0);
        let open = u64::try_from(self.open.len()).unwrap_or(u64::MAX);
        after.saturating_sub(open)
    }

    /// The next offset to read after a restart: everything below is processed. `None`: no message
    /// was received yet.
    pub(crate) fn committable(&self) -> Option<i64> {
        self.open.first().copied().or(self.end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_slow_document_holds_back_the_ones_after_it() {
        let mut mark = Watermark::default();
        assert_eq!(mark.committable(), None);
        for offset in [5, 6, 9] {
            mark.take(offset);
        }
        mark.done(6);
        mark.done(9);
        assert_eq!(mark.committable(), Some(5));
        assert_eq!(mark.processed_ahead(), 4);
        mark.done(5);
        assert_eq!(mark.committable(), Some(10));
        assert_eq!(mark.processed_ahead(), 0);
    }

    #[test]
    fn offsets_without_messages_are_passed_once_nothing_is_in_progress() {
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
        /// For all gaps between offsets and all orders of completion: no unfinished message is
        /// below the mark, the mark never falls, and in the end all messages are below it.
        #[test]
        fn exactly_the_processed_messages_are_committed(
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
