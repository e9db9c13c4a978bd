//! Decides whether a document, or one of its pages, is poison: workers or renderers die repeatedly
//! on the same pages.
//! No I/O.

use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::ledger::{EndOfWorker, Entry, RangeEntry, SkippedPage};

/// Number of deaths on the same pages that does not yet make a document poison.
const DEATHS_ALLOWED: u32 = 3;
/// How often a document is ingested again because Milvus does not hold it exactly once.
const REPEATS_ALLOWED: u32 = 4;

/// Number of pages of a document that are skipped because workers die on them. Each costs several
/// workers.
const DEADLY_PAGES_ALLOWED: usize = 3;

/// Whether the next page is worked on only once the page before is stored. If the worker dies all
/// the same, the page is known.
pub(super) fn works_page_by_page(range: &RangeEntry) -> bool {
    range.attempts >= DEATHS_ALLOWED
}

/// Fails if too many workers have died on the page range that begins at `first` without storing a
/// page. Where bad pages are skipped and the last of these workers had only one page to work on,
/// returns this page instead, to be skipped; if the next worker dies before it has recorded that,
/// the page was not the cause.
pub(super) fn check_worker_deaths(
    entry: &Entry,
    first: u32,
    skips_bad_pages: bool,
) -> Result<Option<SkippedPage>, Failure> {
    let range = entry.range_entry(first);
    if range.attempts <= DEATHS_ALLOWED {
        return Ok(None);
    }
    let deaths = range.attempts - 1;
    let last = match &range.ended {
        Some(ended) => format!("the last one reported: {}", ended.message),
        None => "without reporting an error".to_owned(),
    };
    let page = first + range.stored;
    let ranges = entry.ranges();
    let is_page = ranges
        .iter()
        .any(|(start, count)| *start == first && range.stored < *count);
    let of_the_node = range.ended.as_ref().is_some_and(is_of_the_node);
    let deadly = Reason::WorkersDied.as_str();
    let skipped = entry.skipped();
    let skipped = skipped.iter().filter(|page| page.reason == deadly).count();
    if skips_bad_pages
        && !of_the_node
        && entry.prepared
        && is_page
        && range.trial == Some(page)
        && range.attempts == DEATHS_ALLOWED + 1
        && skipped < DEADLY_PAGES_ALLOWED
    {
        let message = format!("page {}: {deaths} workers died on it; {last}", page + 1);
        let failure = Failure::poison(Stage::Intake, Reason::WorkersDied, message);
        return Ok(Some(SkippedPage::new(page, &failure)));
    }
    let stored = range.stored;
    let message = format!("{deaths} workers died on this document, after {stored} pages; {last}");
    Err(Failure::poison(Stage::Intake, Reason::WorkersDied, message))
}

/// Whether a worker reported a failure of its device: it says little about the page. A dead letter
/// can be redriven, a skipped page cannot.
fn is_of_the_node(ended: &EndOfWorker) -> bool {
    [Reason::DeviceFailed, Reason::OutOfMemory]
        .iter()
        .any(|reason| ended.reason == reason.as_str())
}

/// Fails if too many complete rounds have left another number of rows than they stored.
pub(super) fn check_repeats(repeats: u32, found: u64, expected: u64) -> Result<(), Failure> {
    if repeats < REPEATS_ALLOWED {
        return Ok(());
    }
    let rounds = repeats + 1;
    let message = format!(
        "the document was ingested {rounds} times, and Milvus still holds {found} rows of it \
         instead of {expected}: something else writes or deletes rows with its file id"
    );
    Err(Failure::permanent(
        Stage::Milvus,
        Reason::RowsNotOnce,
        message,
    ))
}

/// Fails if too many renderers were killed, or stood still, on the same page. The kernel kills the process that uses
/// the most memory, so the document may be the cause.
pub(super) fn check_renderer_deaths(killed: u32, failure: &Failure) -> Result<(), Failure> {
    if killed <= DEATHS_ALLOWED {
        return Ok(());
    }
    let message = format!("{killed} times: {}", failure.message);
    Err(Failure::poison(Stage::Render, failure.reason, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::failure::Class;
    use crate::stores::ledger::{State, an_entry};

    /// A document of two ranges, with the second in this state.
    fn entry(range: RangeEntry) -> Entry {
        let mut entry = an_entry(State::Working);
        entry.pages = Some(100);
        entry.range_pages = Some(64);
        entry.units.insert("64".into(), range);
        entry
    }

    fn range(attempts: u32) -> RangeEntry {
        RangeEntry {
            attempts,
            stored: 5,
            trial: Some(69),
            ..RangeEntry::default()
        }
    }

    #[test]
    fn a_document_is_poison_when_workers_die_without_progress() {
        let check = |attempts| check_worker_deaths(&entry(range(attempts)), 64, false);
        assert_eq!(check(DEATHS_ALLOWED), Ok(None));
        let failure = check(DEATHS_ALLOWED + 1).unwrap_err();
        assert_eq!(failure.class, Class::Poison);
        assert_eq!(failure.reason, Reason::WorkersDied);
        assert!(failure.message.starts_with("3 workers died"), "{failure}");
        let range = RangeEntry {
            ended: Some((&Failure::fatal(Stage::Embed, Reason::EmbedderDied, "x")).into()),
            ..range(DEATHS_ALLOWED + 1)
        };
        let failure = check_worker_deaths(&entry(range), 64, false).unwrap_err();
        assert!(
            failure
                .message
                .ends_with("the last one reported: embed: EmbedderDied: x"),
            "{failure}"
        );
    }

    #[test]
    fn a_document_that_is_never_stored_once_ends() {
        assert!(check_repeats(REPEATS_ALLOWED - 1, 3, 2).is_ok());
        let failure = check_repeats(REPEATS_ALLOWED, 3, 2).unwrap_err();
        assert_eq!(failure.class, Class::Permanent);
        assert_eq!(failure.reason, Reason::RowsNotOnce);
        assert!(
            failure.message.contains("3 rows of it instead of 2"),
            "{failure}"
        );
    }

    #[test]
    fn a_page_that_workers_die_on_alone_is_skipped() {
        let check = |entry: &Entry| check_worker_deaths(entry, 64, true);
        assert_eq!(check(&entry(range(DEATHS_ALLOWED))), Ok(None));
        let suspect = entry(range(DEATHS_ALLOWED + 1));
        let skipped = check(&suspect).unwrap().unwrap();
        assert_eq!((skipped.page, skipped.reason.as_str()), (69, "WorkersDied"));
        assert!(
            skipped.message.starts_with("page 70: 3 workers died"),
            "{skipped:?}"
        );

        let poison = |entry: &Entry| check(entry).unwrap_err().class == Class::Poison;
        assert!(
            poison(&entry(range(DEATHS_ALLOWED + 2))),
            "it was not the page"
        );
        let mut broken_gpu = suspect.clone();
        if let Some(range) = broken_gpu.units.get_mut("64") {
            let device = Failure::fatal(Stage::Embed, Reason::DeviceFailed, "CUDA error 719");
            range.ended = Some((&device).into());
        }
        assert!(poison(&broken_gpu), "the page may be sound");
        let mut before_the_page = suspect.clone();
        if let Some(range) = before_the_page.units.get_mut("64") {
            range.trial = Some(68);
        }
        assert!(
            poison(&before_the_page),
            "the last worker died before it began the page"
        );
        let mut unprepared = suspect.clone();
        unprepared.prepared = false;
        assert!(poison(&unprepared), "no page was worked on");
        let all = RangeEntry {
            stored: 36,
            trial: Some(100),
            ..range(DEATHS_ALLOWED + 1)
        };
        assert!(poison(&entry(all)), "no page is left");
        let mut hostile = suspect.clone();
        let earlier = RangeEntry {
            skipped: (0..3)
                .map(|page| SkippedPage {
                    page,
                    ..skipped.clone()
                })
                .collect(),
            ..RangeEntry::default()
        };
        hostile.units.insert("0".into(), earlier);
        assert!(poison(&hostile), "each page costs three workers");
    }

    /// Only then the page is known that the last worker died on.
    #[test]
    fn the_last_attempt_before_a_verdict_works_page_by_page() {
        assert!(!works_page_by_page(&range(1)));
        assert!(!works_page_by_page(&range(2)));
        for attempts in 1..10 {
            let next = range(attempts + 1);
            let is_skipped = check_worker_deaths(&entry(next), 64, true);
            if is_skipped.is_ok_and(|page| page.is_some()) {
                assert!(works_page_by_page(&range(attempts)));
            }
        }
    }

    #[test]
    fn a_document_is_poison_when_renderers_are_killed_on_the_same_page() {
        let killed = Failure::transient(Stage::Render, Reason::RendererKilled, "signal 9");
        assert!(check_renderer_deaths(DEATHS_ALLOWED, &killed).is_ok());
        let failure = check_renderer_deaths(DEATHS_ALLOWED + 1, &killed).unwrap_err();
        assert_eq!(failure.class, Class::Poison);
        assert_eq!(failure.message, "4 times: signal 9");
        let stalled = Failure::transient(Stage::Render, Reason::RendererStalled, "60 s");
        let failure = check_renderer_deaths(DEATHS_ALLOWED + 1, &stalled).unwrap_err();
        assert_eq!(failure.reason, Reason::RendererStalled);
    }
}
