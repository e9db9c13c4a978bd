//! How many tokens a batch may have: as many as configured, fewer after the device's memory was
//! full, and slowly more again. Pure.

/// Batches that must fit before the next, larger one is tried.
const PATIENCE: u32 = 16;
/// The budget grows by this fraction of the full one at a time.
const STEP: usize = 16;

/// The tokens of a batch.
#[derive(Clone, Debug)]
pub(super) struct TokenBudget {
    full: usize,
    current: usize,
    fitted: u32,
}

impl TokenBudget {
    /// A budget that begins at its full size.
    pub(super) fn new(full: usize) -> Self {
        let full = full.max(1);
        Self {
            full,
            current: full,
            fitted: 0,
        }
    }

    /// Most tokens of the next batch.
    pub(super) fn current(&self) -> usize {
        self.current
    }

    /// A batch of `tokens` did not fit: half of it may.
    pub(super) fn out_of_memory(&mut self, tokens: usize) {
        self.current = self.current.min(tokens / 2).max(1);
        self.fitted = 0;
    }

    /// A batch of `tokens` fitted. A small one says nothing of larger ones.
    pub(super) fn fitted(&mut self, tokens: usize) {
        if self.current == self.full || tokens.saturating_mul(2) < self.current {
            return;
        }
        self.fitted += 1;
        if self.fitted >= PATIENCE {
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
    fn it_halves_at_once_and_grows_back_slowly() {
        let mut budget = TokenBudget::new(6400);
        budget.out_of_memory(6000);
        assert_eq!(budget.current(), 3000);
        for _ in 0..PATIENCE {
            assert_eq!(budget.current(), 3000);
            budget.fitted(2900);
        }
        assert_eq!(budget.current(), 3400);
        for _ in 0..PATIENCE * 20 {
            budget.fitted(3400);
        }
        assert_eq!(budget.current(), 6400, "and no further");
    }

    #[test]
    fn a_small_batch_is_no_reason_to_grow() {
        let mut budget = TokenBudget::new(6400);
        budget.out_of_memory(6400);
        for _ in 0..100 {
            budget.fitted(100);
        }
        assert_eq!(budget.current(), 3200);
    }

    proptest! {
        #[test]
        fn it_stays_between_one_token_and_the_full_size(
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
