//! Which part of the stored pages cannot be found.

use layra_autoscaler::Counts;
use layra_crds::PagesStatus;

/// The shares of all workers together. The earlier ones stay while no worker has stored a page.
pub(super) fn status<'a>(
    before: Option<PagesStatus>,
    workers: &(impl Iterator<Item = &'a Counts> + Clone),
) -> Option<PagesStatus> {
    let sum = |of: fn(&Counts) -> f64| workers.clone().map(of).sum::<f64>();
    let pages = sum(|counts| counts.pages);
    if pages < 1.0 {
        return before;
    }
    let percent = |part: f64| percent(part / pages);
    Some(PagesStatus {
        without_text_percent: percent(sum(|counts| counts.pages_without_text)),
        blank_percent: percent(sum(|counts| counts.blank_pages)),
        missing_glyphs_percent: percent(sum(|counts| counts.pages_with_missing_glyphs)),
    })
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share is from 0 to 1"
)]
fn percent(share: f64) -> u32 {
    (100.0 * share).ceil().clamp(0.0, 100.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_are_those_of_all_workers_and_stay_without_any() {
        let worker = |pages, pages_without_text, blank_pages| Counts {
            pages,
            pages_without_text,
            blank_pages,
            ..Counts::default()
        };
        let seen = status(
            None,
            &[worker(900.0, 90.0, 0.0), worker(100.0, 35.0, 1.0)].iter(),
        );
        let expected = PagesStatus {
            without_text_percent: 13,
            blank_percent: 1,
            missing_glyphs_percent: 0,
        };
        assert_eq!(seen, Some(expected));
        for workers in [vec![], vec![worker(0.0, 0.0, 0.0)]] {
            assert_eq!(status(seen, &workers.iter()), seen);
            assert_eq!(status(None, &workers.iter()), None);
        }
    }
}
