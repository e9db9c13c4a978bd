//! The token limit of a batch. It is halved when the device runs out of memory and grows back
//! slowly. No I/O.

/// Batches that must fit before the limit grows.
const BATCHES_PER_STEP: u32 = 16;
/// The limit grows by the full limit divided by this.
const STEP: usize = 16;

/// The token limit of a batch.
#[derive(Clone, Debug)]
pub(super) struct TokenBudget {
    full: usize,
    current: usize,
    fitted: u32,
}

impl TokenBudget {
    /// A limit that starts at its full size.
    pub(super) fn new(full: usize) -> Self {
        let full = full.max(1);
        Self {
            full,
            current: full,
            fitted: 0,
        }
    }

    /// Limit of the next batch.
    pub(super) fn current(&self) -> usize {
        self.current
    }

    /// Records that a batch of `tokens` did not fit.
    pub(super) fn out_of_memory(&mut self, tokens: usize) {
        self.current = self.current.min(tokens / 2).max(1);
        self.fitted = 0;
    }

    /// Records that a batch of `tokens` did fit. A small batch is no evidence for larger ones.
    pub(super) fn fitted(&mut self, tokens: usize) {
        if self.current == self.full || tokens.saturating_mul(2) < self.current {
            return;
        }
        self.fitted += 1;
        if self.fitted >= BATCHES_PER_STEP {
            self.fitted = 0;
            self.current = (self.current + self.full.div_ceil(STEP)).min(self.full);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_limit_halves_at_once_and_grows_back_slowly() {
        let mut budget = TokenBudget::new(6400);
        budget.out_of_memory(6000);
        assert_eq!(budget.current(), 3000);
        for _ in 0..BATCHES_PER_STEP {
            assert_eq!(budget.current(), 3000);
            budget.fitted(2900);
        }
        assert_eq!(budget.current(), 3400);
        for _ in 0..BATCHES_PER_STEP * 20 {
            budget.fitted(3400);
        }
        assert_eq!(budget.current(), 6400, "and no further");
    }

    #[test]
    fn the_limit_does_not_grow_after_small_batches() {
        let mut budget = TokenBudget::new(6400);
        budget.out_of_memory(6400);
        for _ in 0..100 {
            budget.fitted(100);
        }
        assert_eq!(budget.current(), 3200);
    }

    proptest! {
        #[test]
        fn the_limit_stays_between_one_token_and_its_full_size(
            full in 1..10_000_usize,
            steps in prop::collection::vec((any::<bool>(), 0..20_000_usize), 0..100),
        ) {
            let mut budget = TokenBudget::new(full);
            for (fits, tokens) in steps {
                if fits { budget.fitted(tokens) } else { budget.out_of_memory(tokens) }
                prop_assert!((1..=full).contains(&budget.current()));
            }
        }
    }
}
