//! Decides whether a document is poison: workers or renderers die repeatedly on the same pages.
//! No I/O.

use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::ledger::RangeEntry;

/// Number of deaths on the same pages that does not yet make a document poison.
const DEATHS_ALLOWED: u32 = 3;
/// How often a document is ingested again because Milvus does not hold it exactly once.
const REPEATS_ALLOWED: u32 = 4;

/// Fails if too many workers have died on the same page range without storing a page.
pub(super) fn check_worker_deaths(range: &RangeEntry) -> Result<(), Failure> {
    if range.attempts <= DEATHS_ALLOWED {
        return Ok(());
    }
    let (deaths, stored) = (range.attempts - 1, range.stored);
    let last = match &range.ended {
        Some(failure) => format!("the last one reported: {failure}"),
        None => "without reporting an error".to_owned(),
    };
    let message = format!("{deaths} workers died on this document, after {stored} pages; {last}");
    Err(Failure::poison(Stage::Intake, Reason::WorkersDied, message))
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

    #[test]
    fn a_document_is_poison_when_workers_die_without_progress() {
        let range = |attempts| RangeEntry {
            attempts,
            ..RangeEntry::default()
        };
        assert!(check_worker_deaths(&range(DEATHS_ALLOWED)).is_ok());
        let failure = check_worker_deaths(&range(DEATHS_ALLOWED + 1)).unwrap_err();
        assert_eq!(failure.class, Class::Poison);
        assert_eq!(failure.reason, Reason::WorkersDied);
        assert!(failure.message.starts_with("3 workers died"), "{failure}");
        let range = RangeEntry {
            ended: Some("embed: EmbedderDied: x".into()),
            ..range(DEATHS_ALLOWED + 1)
        };
        let failure = check_worker_deaths(&range).unwrap_err();
        assert!(
            failure.message.ends_with("embed: EmbedderDied: x"),
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
