//! The questions that wait for the model, in the order of their arrival.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use layra_embedding::MultiVector;
use tokio::sync::oneshot;

use crate::runtime::failure::Failure;

/// Questions that are computed at once.
const AT_ONCE: usize = 32;
/// Their bytes, unless it is a single one: a batch of long texts would take long.
const BYTES_AT_ONCE: usize = 16 << 10;

/// A question that waits.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) text: String,
    pub(super) answer: oneshot::Sender<Result<MultiVector, Failure>>,
}

impl Question {
    pub(super) fn reply(self, result: Result<MultiVector, Failure>) {
        // The receiver is gone if the question was given up in the meantime.
        let _ = self.answer.send(result);
    }
}

/// The questions that wait.
#[derive(Debug, Default)]
pub(super) struct Questions(Mutex<VecDeque<Question>>);

impl Questions {
    pub(super) fn push(&self, question: Question) {
        self.lock().push_back(question);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Takes the next questions. Those that were given up are left out.
    pub(super) fn take(&self) -> Vec<Question> {
        let mut waiting = self.lock();
        let (mut taken, mut bytes) = (Vec::new(), 0_usize);
        while let Some(next) = waiting.pop_front() {
            if next.answer.is_closed() {
                continue;
            }
            bytes = bytes.saturating_add(next.text.len());
            let is_full = taken.len() == AT_ONCE || bytes > BYTES_AT_ONCE;
            if is_full && !taken.is_empty() {
                waiting.push_front(next);
                break;
            }
            taken.push(next);
        }
        taken
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Question>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_questions_are_taken_at_once_in_order_without_those_given_up() {
        let questions = Questions::default();
        let mut receivers = Vec::new();
        for number in 0..AT_ONCE + 3 {
            let (answer, receiver) = oneshot::channel();
            receivers.push(receiver);
            let text = number.to_string();
            questions.push(Question { text, answer });
        }
        receivers.remove(1);
        let taken = questions.take();
        assert_eq!(taken.len(), AT_ONCE);
        assert_eq!((&*taken[0].text, &*taken[1].text), ("0", "2"));
        assert_eq!(questions.take().len(), 2);
        assert!(questions.is_empty());
    }

    #[test]
    fn a_long_question_is_taken_alone() {
        let questions = Questions::default();
        let mut receivers = Vec::new();
        for length in [1, BYTES_AT_ONCE + 1, 1] {
            let (answer, receiver) = oneshot::channel();
            receivers.push(receiver);
            let text = "x".repeat(length);
            questions.push(Question { text, answer });
        }
        let sizes = [(); 3].map(|()| questions.take().len());
        assert_eq!(sizes, [1, 1, 1]);
    }
}
