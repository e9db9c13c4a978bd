//! Splits a sequence of tokens into overlapping passages that fit the model's window.

use std::ops::Range;

/// Splits sequences; lengths are in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PassageCutter {
    window: usize,
    overlap: usize,
}

impl PassageCutter {
    /// Passages of at most `window` tokens; neighbours share `overlap` tokens.
    ///
    /// # Panics
    /// If the overlap is not shorter than the window.
    pub(super) const fn new(window: usize, overlap: usize) -> Self {
        assert!(overlap < window, "passages would not advance");
        Self { window, overlap }
    }

    /// The passages of a sequence of `tokens` tokens, in order. All but the last have the window's
    /// length. An empty sequence is one empty passage.
    pub(super) fn cut(self, tokens: usize) -> impl Iterator<Item = Range<usize>> {
        let step = self.window - self.overlap;
        let following = tokens.saturating_sub(self.window).div_ceil(step);
        (0..=following).map(move |index| {
            let start = index * step;
            start..tokens.min(start + self.window)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_short_text_is_one_passage() {
        let cutter = PassageCutter::new(254, 32);
        for tokens in [0, 1, 254] {
            assert!(cutter.cut(tokens).eq(std::iter::once(0..tokens)));
        }
    }

    #[test]
    fn one_token_more_than_the_window_starts_a_second_passage() {
        let passages: Vec<_> = PassageCutter::new(254, 32).cut(255).collect();
        assert_eq!(passages, [0..254, 222..255]);
    }

    proptest! {
        #[test]
        fn passages_cover_all_tokens_with_the_exact_overlap(
            (window, overlap) in (1..300_usize).prop_flat_map(|window| (Just(window), 0..window)),
            tokens in 0..5_000_usize,
        ) {
            let passages: Vec<_> = PassageCutter::new(window, overlap).cut(tokens).collect();
            prop_assert_eq!(passages[0].start, 0);
            prop_assert_eq!(passages[passages.len() - 1].end, tokens);
            for passage in &passages {
                prop_assert!(passage.len() <= window);
            }
            for pair in passages.windows(2) {
                prop_assert_eq!(pair[0].len(), window);
                prop_assert_eq!(pair[0].end - pair[1].start, overlap);
                prop_assert!(pair[1].end > pair[0].end, "the second passage adds tokens");
            }
        }
    }
}
