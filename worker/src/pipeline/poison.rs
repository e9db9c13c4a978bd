//! Decides whether a document is poison: workers or renderers die repeatedly on the same pages.
//! No I/O.

use crate::runtime::failure::{Failure, Reason, Stage};
use crate::stores::ledger::RangeEntry;

/// Number of deaths on the same pages that does not yet make a document poison.
const DEATHS_ALLOWED: u32 = 3;

/// Fails if too many workers have died on the same page range without storing a page.
pub(super) fn check_worker_deaths(range: &RangeEntry) -> Result<(), Failure> {
    if range.attempts <= DEATHS_ALLOWED {
        return Ok(());
    }
    let deaths = range.attempts - 1;
    Err(Failure::poison(
        Stage::Intake,
        Reason::WorkersDied,
        format!(
            "{deaths} workers died on this document without reporting an error, after {} pages",
            range.stored
        ),
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
