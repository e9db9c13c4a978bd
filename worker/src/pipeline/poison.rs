//! What decides that a document is poison: workers, or renderers, keep dying at the same place of
//! it. Pure.

use crate::runtime::failure::{Failure, Stage};
use crate::stores::ledger::Unit;

/// Deaths at the same place after which a document is to blame.
const DEATHS_ALLOWED: u32 = 3;

/// The reason of a renderer's violent end, which can be the document's fault: the kernel ends the
/// process that takes the most memory.
pub(super) const RENDERER_KILLED: &str = "RendererKilled";

/// Whether a document is to blame for the workers that died on a range of its pages without
/// storing one.
pub(super) fn blame_for_workers(unit: &Unit) -> Result<(), Failure> {
    if unit.attempts <= DEATHS_ALLOWED {
        return Ok(());
    }
    let deaths = unit.attempts - 1;
    Err(Failure::poison(
        Stage::Intake,
        "WorkersDied",
        format!(
            "{deaths} workers died on it without a word, after {} pages",
            unit.stored
        ),
    ))
}

/// Whether a document is to blame for the renderers that were killed at the same place.
pub(super) fn blame_for_renderers(killed: u32, failure: &Failure) -> Result<(), Failure> {
    if killed <= DEATHS_ALLOWED {
        return Ok(());
    }
    let message = format!("{killed} times: {}", failure.message);
    Err(Failure::poison(Stage::Render, RENDERER_KILLED, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::failure::Class;

    #[test]
    fn a_document_is_blamed_when_workers_die_without_progress() {
        let unit = |attempts| Unit {
            attempts,
            ..Unit::default()
        };
        assert!(blame_for_workers(&unit(DEATHS_ALLOWED)).is_ok());
        let failure = blame_for_workers(&unit(DEATHS_ALLOWED + 1)).unwrap_err();
        assert_eq!(failure.class, Class::Poison);
        assert_eq!(failure.reason, "WorkersDied");
        assert!(failure.message.starts_with("3 workers died"), "{failure}");
    }

    #[test]
    fn a_document_is_blamed_when_renderers_are_killed_at_the_same_page() {
        let killed = Failure::transient(Stage::Render, RENDERER_KILLED, "signal 9");
        assert!(blame_for_renderers(DEATHS_ALLOWED, &killed).is_ok());
        let failure = blame_for_renderers(DEATHS_ALLOWED + 1, &killed).unwrap_err();
        assert_eq!(failure.class, Class::Poison);
        assert_eq!(failure.message, "4 times: signal 9");
    }
}
