//! Questions and their newest answers, shared by the pipelines that ask and the thread that reads.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{Answer, KafkaError, Question};

/// A question that nobody repeated for this long is forgotten.
const INTEREST: Duration = Duration::from_mins(3);

/// Questions and their newest answers.
#[derive(Default)]
pub(super) struct Board {
    entries: Mutex<HashMap<Question, Entry>>,
    /// Topics that were changed.
    changed: Mutex<HashSet<String>>,
    /// Somebody waits for an answer: the next round must come soon.
    urgent: Mutex<bool>,
    wake: Condvar,
}

struct Entry {
    answer: watch::Sender<Option<Known>>,
    /// Who asks, and when that was last.
    askers: HashMap<String, (Instant, Asker)>,
}

/// Asks a question again and again.
#[derive(Clone)]
pub(crate) struct Asker {
    /// Tells it from others with the same question.
    pub(crate) name: String,
    /// Called when the answer changed. Must not block.
    pub(crate) on_change: Arc<dyn Fn() + Send + Sync>,
}

/// An answer, or why there is none.
type Known = Result<Answer, KafkaError>;

impl Board {
    pub(super) fn subscribe(
        &self,
        question: &Question,
        asker: &Asker,
    ) -> watch::Receiver<Option<Known>> {
        let mut entries = lock(&self.entries);
        let entry = entries.entry(question.clone()).or_insert_with(|| Entry {
            answer: watch::Sender::new(None),
            askers: HashMap::new(),
        });
        entry
            .askers
            .insert(asker.name.clone(), (Instant::now(), asker.clone()));
        let answer = entry.answer.subscribe();
        drop(entries);
        if answer.borrow().is_none() {
            self.hurry();
        }
        answer
    }

    pub(super) fn questions(&self) -> Vec<Question> {
        let mut entries = lock(&self.entries);
        entries.retain(|_, entry| {
            entry
                .askers
                .retain(|_, (asked, _)| asked.elapsed() < INTEREST);
            !entry.askers.is_empty()
        });
        entries.keys().cloned().collect()
    }

    pub(super) fn take_changed(&self) -> HashSet<String> {
        std::mem::take(&mut *lock(&self.changed))
    }

    pub(super) fn publish(&self, answers: &HashMap<Question, Known>) {
        let changed_meanwhile = lock(&self.changed).clone();
        let mut call = Vec::new();
        for (question, entry) in lock(&self.entries).iter() {
            let Some(answer) = answers.get(question) else {
                continue;
            };
            if question
                .topics()
                .iter()
                .any(|topic| changed_meanwhile.contains(*topic))
            {
                continue;
            }
            let differs = entry.answer.send_if_modified(|known| {
                let differs = known.as_ref() != Some(answer);
                if differs {
                    *known = Some(answer.clone());
                }
                differs
            });
            if differs {
                call.extend(entry.askers.values().map(|(_, asker)| asker.clone()));
            }
        }
        for asker in call {
            (asker.on_change)();
        }
    }

    /// A topic was changed: no answer about it counts, not even one that is on its way.
    pub(super) fn forget_topic(&self, topic: &str) {
        lock(&self.changed).insert(topic.to_owned());
        for (question, entry) in lock(&self.entries).iter() {
            if question.topics().contains(&topic) {
                entry.answer.send_replace(None);
            }
        }
    }

    fn hurry(&self) {
        *lock(&self.urgent) = true;
        self.wake.notify_one();
    }

    /// Sleeps; not to the end of the pause, but for `gathering`, once the next round is urgent.
    pub(super) fn pause(&self, pause: Duration, gathering: Duration) {
        let until = Instant::now() + pause;
        let urgent = lock(&self.urgent);
        let (urgent, _) = self
            .wake
            .wait_timeout_while(urgent, pause, |urgent| !*urgent)
            .unwrap_or_else(PoisonError::into_inner);
        drop(urgent);
        let left = until.saturating_duration_since(Instant::now());
        std::thread::sleep(gathering.min(left));
        *lock(&self.urgent) = false;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn question(topic: &str) -> Question {
        Question {
            topic: topic.into(),
            ranges_topic: format!("{topic}.ranges"),
            dead_letter_topic: format!("{topic}.dlq"),
            consumer_group: "workers".into(),
        }
    }

    fn asker(name: &str, calls: &Arc<AtomicUsize>) -> Asker {
        let calls = Arc::clone(calls);
        Asker {
            name: name.to_owned(),
            on_change: Arc::new(move || {
                calls.fetch_add(1, Ordering::Relaxed);
            }),
        }
    }

    fn refused(why: &str) -> HashMap<Question, Known> {
        HashMap::from([(question("tasks"), Err(KafkaError::Refused(why.into())))])
    }

    #[test]
    fn all_that_share_a_question_hear_of_a_change_once() {
        let board = Board::default();
        let (one, other) = (Arc::default(), Arc::default());
        for _ in 0..2 {
            board.subscribe(&question("tasks"), &asker("a/one", &one));
            board.subscribe(&question("tasks"), &asker("b/other", &other));
        }
        assert_eq!(board.questions().len(), 1);
        for why in ["new", "new", "newer"] {
            board.publish(&refused(why));
        }
        let calls = |of: &AtomicUsize| of.load(Ordering::Relaxed);
        assert_eq!((calls(&one), calls(&other)), (2, 2));
    }

    #[test]
    fn an_answer_that_was_on_its_way_during_a_change_does_not_count() {
        let board = Board::default();
        let calls = Arc::default();
        let answer = board.subscribe(&question("tasks"), &asker("a/one", &calls));
        board.forget_topic("tasks.dlq");
        board.publish(&refused("stale"));
        assert!(answer.borrow().is_none());
        assert!(board.take_changed().contains("tasks.dlq"));
        board.publish(&refused("fresh"));
        assert!(answer.borrow().is_some());
    }
}
