//! Decides when a document is given up because of its bad pages, or of what it costs. No I/O.

use std::fmt::Write as _;
use std::time::Duration;

use layra_crds::DocumentLimits;

use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::ledger::{Entry, SkippedPage};

/// Parts of a list of pages that a message shows.
const SHOWN: usize = 20;

/// Fails if a document has too many bad pages or exceeds its limits, all its page ranges and
/// attempts of this round together.
pub(super) fn check_limits(entry: &Entry, limits: &DocumentLimits) -> Result<(), Failure> {
    check_bad_pages(entry)?;
    let most = Duration::from_secs(limits.max_cpu_seconds.into());
    let used = entry.cpu_time();
    if used > most {
        let message = format!(
            "reading and rendering the document took {} s of CPU time, and \
             documents.limits.maxCpuSeconds is {}: raise it, or split the document",
            used.as_secs(),
            most.as_secs()
        );
        return Err(Failure::permanent(
            Stage::Render,
            Reason::TooMuchCpuTime,
            message,
        ));
    }
    let (rows, most) = (entry.rows(), limits.max_vectors);
    if rows > most.into() {
        let message = format!(
            "the document has {rows} vectors or more, and documents.limits.maxVectors is {most}: \
             raise it, or split the document"
        );
        return Err(Failure::permanent(
            Stage::Embed,
            Reason::TooManyVectors,
            message,
        ));
    }
    Ok(())
}

/// Fails if more than half of the pages were skipped.
fn check_bad_pages(entry: &Entry) -> Result<(), Failure> {
    let (Some(pages), skipped) = (entry.pages, entry.skipped()) else {
        return Ok(());
    };
    let Some(first) = skipped
        .first()
        .filter(|_| 2 * skipped.len() > pages as usize)
    else {
        return Ok(());
    };
    let message = format!(
        "{} of {pages} pages cannot be stored ({}); the first: {}: {}",
        skipped.len(),
        listed(&skipped),
        first.reason,
        first.message
    );
    Err(Failure::permanent(
        Stage::Render,
        Reason::TooManyBadPages,
        message,
    ))
}

/// Page numbers from 1, neighbours together: `1-3, 7`.
fn listed(skipped: &[&SkippedPage]) -> String {
    let neighbours = skipped.chunk_by(|one, next| one.page + 1 == next.page);
    let mut text = String::new();
    for (index, part) in neighbours.enumerate() {
        if index == SHOWN {
            text.push_str(", ...");
            break;
        }
        let separator = if index == 0 { "" } else { ", " };
        let (first, last) = (part[0].page + 1, part[part.len() - 1].page + 1);
        // Writing to a string cannot fail.
        let _ = match part.len() {
            1 => write!(text, "{separator}{first}"),
            _ => write!(text, "{separator}{first}-{last}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stores::ledger::{RangeEntry, State, an_entry};

    fn entry(pages: u32, bad: &[u32]) -> Entry {
        let mut entry = an_entry(State::Working);
        entry.pages = Some(pages);
        let why = Failure::permanent(Stage::Render, Reason::TimedOut, "page 1: too slow");
        let range = RangeEntry {
            skipped: bad
                .iter()
                .map(|page| SkippedPage::new(*page, &why))
                .collect(),
            ..RangeEntry::default()
        };
        entry.units.insert("0".into(), range);
        entry
    }

    fn check(entry: &Entry) -> Result<(), Failure> {
        check_limits(entry, &DocumentLimits::default())
    }

    #[test]
    fn a_document_fails_if_more_than_half_of_its_pages_are_bad() {
        assert_eq!(check(&entry(8, &[])), Ok(()));
        assert_eq!(check(&entry(8, &[0, 1, 2, 6])), Ok(()));
        assert_eq!(check(&entry(2, &[1])), Ok(()));
        let failure = check(&entry(8, &[0, 1, 2, 4, 6])).unwrap_err();
        assert!(failure.rejects_document());
        assert_eq!(failure.reason, Reason::TooManyBadPages);
        assert_eq!(
            failure.message,
            "5 of 8 pages cannot be stored (1-3, 5, 7); the first: TimedOut: page 1: too slow"
        );
    }

    #[test]
    fn a_long_list_of_pages_is_cut_off() {
        let every_second: Vec<u32> = (0..100).step_by(2).collect();
        let entry = entry(60, &every_second);
        let failure = check(&entry).unwrap_err();
        assert!(failure.message.contains("37, 39, ...)"), "{failure}");
    }

    #[test]
    fn a_document_that_costs_too_much_fails_with_the_field_to_change() {
        let with = |cpu_ms, rows| {
            let mut entry = entry(500, &[]);
            for first in ["0", "64"] {
                let range = RangeEntry {
                    rows,
                    cpu_ms,
                    ..RangeEntry::default()
                };
                entry.units.insert(first.into(), range);
            }
            check(&entry)
        };
        assert_eq!(with(7_200_000, 2_000_000), Ok(()));
        let failure = with(7_201_000, 0).unwrap_err();
        assert_eq!(failure.reason, Reason::TooMuchCpuTime);
        assert!(failure.rejects_document());
        for part in ["14402 s", "documents.limits.maxCpuSeconds is 14400"] {
            assert!(failure.message.contains(part), "{failure}");
        }
        let failure = with(0, 2_000_001).unwrap_err();
        assert_eq!(failure.reason, Reason::TooManyVectors);
        for part in ["4000002 vectors", "documents.limits.maxVectors is 4000000"] {
            assert!(failure.message.contains(part), "{failure}");
        }
    }

    proptest! {
        /// A document that is not given up has at least one good page, and at least half of them.
        #[test]
        fn what_is_stored_has_a_good_page(pages in 1_u32..40, bad in 0_u32..40) {
            let bad = bad.min(pages);
            let entry = entry(pages, &(0..bad).collect::<Vec<_>>());
            let good = entry.good_pages().unwrap();
            prop_assert_eq!(check(&entry).is_ok(), good >= 1 && 2 * good >= pages);
        }
    }
}
