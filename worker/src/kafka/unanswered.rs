//! One commit at a time.
//!
//! While a group rebalances, its coordinator does not answer, and every further commit waits in the
//! same connection behind the request to join. A commit sent each second would fill that
//! connection with requests that say the same.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The next commit waits no longer than this: an answer may be lost, and what is processed must not
/// look like a backlog for as long as librdkafka waits for it (`socket.timeout.ms`, a minute). A
/// coordinator that is silent for a minute gets a dozen requests.
const LONGEST_ANSWER: Duration = Duration::from_secs(5);

/// The commit of a consumer that the broker has not answered.
#[derive(Debug, Default)]
pub(super) struct Unanswered(Mutex<Option<Instant>>);

impl Unanswered {
    /// Whether another commit has to wait.
    pub(super) fn is_waiting(&self, now: Instant) -> bool {
        self.since()
            .is_some_and(|sent| now.saturating_duration_since(sent) < LONGEST_ANSWER)
    }

    /// A commit was sent.
    pub(super) fn sent(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// A commit was answered, or failed.
    pub(super) fn answered(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn since(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_commit_waits_for_the_answer_but_not_for_ever() {
        let commit = Unanswered::default();
        let start = Instant::now();
        assert!(!commit.is_waiting(start));

        commit.sent(start);
        assert!(commit.is_waiting(start + Duration::from_secs(1)));
        assert!(!commit.is_waiting(start + LONGEST_ANSWER));

        commit.answered();
        assert!(!commit.is_waiting(start + Duration::from_secs(1)));
    }
}
