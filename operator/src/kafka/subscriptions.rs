//! Questions with their latest answers, shared by the pipelines and the thread that reads Kafka.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{Answer, KafkaError, Question};

/// A subscription that is not renewed for this long ends, for example after a pipeline has moved to
/// another cluster. That of a deleted pipeline ends at once.
const LIFETIME: Duration = Duration::from_mins(3);

/// All questions with their subscribers and latest answers.
#[derive(Default)]
pub(super) struct Subscriptions {
    entries: Mutex<Entries>,
    /// Topics that were changed since the last round.
    changed: Mutex<HashSet<String>>,
    /// A caller waits for its first answer: the next round must start soon.
    urgent: Mutex<bool>,
    wake: Condvar,
}

#[derive(Default)]
struct Entries {
    by_question: HashMap<Question, Entry>,
    /// The question of each subscriber, which has only one.
    asked: HashMap<String, Question>,
}

struct Entry {
    answer: watch::Sender<Option<AnswerResult>>,
    /// Subscribers by name, with the time of the last renewal.
    subscribers: HashMap<String, (Instant, Subscriber)>,
}

/// A pipeline that is notified when the answer to its question changes.
#[derive(Clone)]
pub(crate) struct Subscriber {
    /// Unique among the pipelines.
    pub(crate) name: String,
    /// Called when the answer changed. Must not block.
    pub(crate) on_change: Arc<dyn Fn() + Send + Sync>,
}

type AnswerResult = Result<Answer, KafkaError>;

impl Subscriptions {
    /// Subscribes, or renews a subscription. An earlier question of the subscriber is dropped.
    pub(super) fn subscribe(
        &self,
        question: &Question,
        subscriber: &Subscriber,
    ) -> watch::Receiver<Option<AnswerResult>> {
        let mut entries = lock(&self.entries);
        let name = &subscriber.name;
        if entries.asked.get(name) != Some(question) {
            entries.remove(name);
            entries.asked.insert(name.clone(), question.clone());
        }
        let by_question = &mut entries.by_question;
        let entry = by_question
            .entry(question.clone())
            .or_insert_with(|| Entry {
                answer: watch::Sender::new(None),
                subscribers: HashMap::new(),
            });
        entry.subscribers.insert(
            subscriber.name.clone(),
            (Instant::now(), subscriber.clone()),
        );
        let answer = entry.answer.subscribe();
        drop(entries);
        if answer.borrow().is_none() {
            self.request_round();
        }
        answer
    }

    /// Ends the subscription of a pipeline, if it has one.
    pub(super) fn unsubscribe(&self, subscriber: &str) {
        lock(&self.entries).remove(subscriber);
    }

    /// The questions that have subscribers.
    pub(super) fn questions(&self) -> Vec<Question> {
        let mut entries = lock(&self.entries);
        let Entries { by_question, asked } = &mut *entries;
        by_question.retain(|_, entry| {
            entry.subscribers.retain(|name, (renewed, _)| {
                let is_renewed = renewed.elapsed() < LIFETIME;
                if !is_renewed {
                    asked.remove(name);
                }
                is_renewed
            });
            !entry.subscribers.is_empty()
        });
        by_question.keys().cloned().collect()
    }

    /// The topics that were changed since the last call.
    pub(super) fn take_changed(&self) -> HashSet<String> {
        std::mem::take(&mut *lock(&self.changed))
    }

    /// Stores the answers of a round and notifies the subscribers of those that changed.
    pub(super) fn publish(&self, answers: &HashMap<Question, AnswerResult>) {
        let changed_meanwhile = lock(&self.changed).clone();
        let mut notified = Vec::new();
        for (question, entry) in &lock(&self.entries).by_question {
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
            let differs = entry.answer.send_if_modified(|last| {
                let differs = last.as_ref() != Some(answer);
                if differs {
                    *last = Some(answer.clone());
                }
                differs
            });
            if differs {
                let subscribers = entry.subscribers.values();
                notified.extend(subscribers.map(|(_, subscriber)| subscriber.clone()));
            }
        }
        for subscriber in notified {
            (subscriber.on_change)();
        }
    }

    /// Drops the answers about a topic that was changed, including those of a round in progress.
    pub(super) fn forget_topic(&self, topic: &str) {
        lock(&self.changed).insert(topic.to_owned());
        for (question, entry) in &lock(&self.entries).by_question {
            if question.topics().contains(&topic) {
                entry.answer.send_replace(None);
            }
        }
    }

    fn request_round(&self) {
        *lock(&self.urgent) = true;
        self.wake.notify_one();
    }

    /// Sleeps for `pause`. An urgent round ends the pause early, after another `coalesce` in which
    /// more questions may arrive.
    pub(super) fn pause(&self, pause: Duration, coalesce: Duration) {
        let until = Instant::now() + pause;
        let urgent = lock(&self.urgent);
        let (urgent, _) = self
            .wake
            .wait_timeout_while(urgent, pause, |urgent| !*urgent)
            .unwrap_or_else(PoisonError::into_inner);
        drop(urgent);
        let left = until.saturating_duration_since(Instant::now());
        std::thread::sleep(coalesce.min(left));
        *lock(&self.urgent) = false;
    }
}

impl Entries {
    fn remove(&mut self, subscriber: &str) {
        let Some(question) = self.asked.remove(subscriber) else {
            return;
        };
        if let Some(entry) = self.by_question.get_mut(&question) {
            entry.subscribers.remove(subscriber);
            if entry.subscribers.is_empty() {
                self.by_question.remove(&question);
            }
        }
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

    fn subscriber(name: &str, calls: &Arc<AtomicUsize>) -> Subscriber {
        let calls = Arc::clone(calls);
        Subscriber {
            name: name.to_owned(),
            on_change: Arc::new(move || {
                calls.fetch_add(1, Ordering::Relaxed);
            }),
        }
    }

    fn refused(why: &str) -> HashMap<Question, AnswerResult> {
        HashMap::from([(question("tasks"), Err(KafkaError::Refused(why.into())))])
    }

    #[test]
    fn every_subscriber_of_a_question_is_notified_once_of_a_change() {
        let subscriptions = Subscriptions::default();
        let (one, other) = (Arc::default(), Arc::default());
        for _ in 0..2 {
            subscriptions.subscribe(&question("tasks"), &subscriber("a/one", &one));
            subscriptions.subscribe(&question("tasks"), &subscriber("b/other", &other));
        }
        assert_eq!(subscriptions.questions().len(), 1);
        for why in ["new", "new", "newer"] {
            subscriptions.publish(&refused(why));
        }
        let calls = |of: &AtomicUsize| of.load(Ordering::Relaxed);
        assert_eq!((calls(&one), calls(&other)), (2, 2));
    }

    #[test]
    fn nothing_is_asked_for_a_pipeline_that_is_gone_or_asks_something_else() {
        let subscriptions = Subscriptions::default();
        let calls = Arc::default();
        let ask = |topic: &str, name: &str| {
            subscriptions.subscribe(&question(topic), &subscriber(name, &calls));
        };
        let asked = || {
            let mut topics: Vec<String> = subscriptions
                .questions()
                .into_iter()
                .map(|question| question.topic)
                .collect();
            topics.sort_unstable();
            topics
        };
        for (topic, name) in [("bad", "a"), ("good", "b"), ("good", "c")] {
            ask(topic, name);
        }
        assert_eq!(asked(), ["bad", "good"]);
        subscriptions.unsubscribe("a");
        subscriptions.unsubscribe("b");
        assert_eq!(asked(), ["good"], "another pipeline asks the same");
        ask("edited", "c");
        assert_eq!(asked(), ["edited"]);
        subscriptions.unsubscribe("c");
        assert_eq!(asked(), [""; 0]);
    }

    #[test]
    fn an_answer_from_before_a_change_is_dropped() {
        let subscriptions = Subscriptions::default();
        let calls = Arc::default();
        let answer = subscriptions.subscribe(&question("tasks"), &subscriber("a/one", &calls));
        subscriptions.forget_topic("tasks.dlq");
        subscriptions.publish(&refused("stale"));
        assert!(answer.borrow().is_none());
        assert!(subscriptions.take_changed().contains("tasks.dlq"));
        subscriptions.publish(&refused("fresh"));
        assert!(answer.borrow().is_some());
    }
}
