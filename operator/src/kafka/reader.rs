//! Reads topics and offsets of one cluster periodically, for all its pipelines at once.
//!
//! A round requests the end offsets of all partitions, with one request to each leader. The log
//! starts, committed offsets and group state are read only for pipelines whose end offsets moved,
//! that have a backlog, or whose last full reading is old. An idle pipeline costs its share of one
//! request.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use layra_autoscaler::{Backlog, PartitionOffsets};
use rdkafka::Offset;

use super::{
    Answer, Connection, KafkaError, Question, TopicState,
    backlog::Read,
    cluster::{Cluster, Offsets},
    past,
    subscriptions::{Subscriber, Subscriptions},
    topic_settings::SettingsCache,
};

/// The shortest and the longest time between the starts of two rounds.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
const LONGEST_INTERVAL: Duration = Duration::from_secs(10);
/// Between these limits, the interval is this many times the duration of a round, so that reading
/// takes only a fraction of a core here and at the brokers.
const INTERVAL_PER_ROUND: u32 = 32;
/// An urgent round is delayed by this, or by the duration of the last round if that was longer, so
/// that it serves other new questions, too.
const COALESCE: Duration = Duration::from_millis(50);
/// How often a topic, and the offsets of an idle pipeline, are read again. The end offsets of all
/// pipelines are read in every round, so new messages are noticed at once; what waits is the notice
/// of offsets that somebody reset.
const TOPIC_AGE: Duration = Duration::from_secs(30);
const GROUP_AGE: Duration = Duration::from_mins(1);
/// How often an absent topic is read again.
const ABSENT_AGE: Duration = Duration::from_secs(2);
/// How long a new question waits for its first answer.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(12);

/// The reader of one cluster. Its thread ends when it is dropped.
pub(super) struct Reader {
    subscriptions: Arc<Subscriptions>,
}

impl Reader {
    /// Creates the client and starts its thread. Nothing is sent before the first question.
    pub(super) fn start(connection: &Connection) -> Result<Self, KafkaError> {
        let cluster = Cluster::new(connection)?;
        let subscriptions = Arc::new(Subscriptions::default());
        let weak = Arc::downgrade(&subscriptions);
        std::thread::Builder::new()
            .name("kafka-reader".to_owned())
            .spawn(move || {
                let mut state = ClusterState::default();
                while let Some(subscriptions) = weak.upgrade() {
                    let started = Instant::now();
                    let questions = subscriptions.questions();
                    if !questions.is_empty() {
                        state.forget(&subscriptions.take_changed());
                        let answers = state.round(&cluster, &questions);
                        subscriptions.publish(&answers);
                        // The next round has them.
                        state.refresh_settings(&cluster);
                    }
                    let round = started.elapsed();
                    let pause = (round * INTERVAL_PER_ROUND)
                        .clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL)
                        .saturating_sub(round);
                    subscriptions.pause(pause, round.max(COALESCE));
                }
            })
            .map_err(|error| {
                KafkaError::Settings(format!("its thread cannot be started: {error}"))
            })?;
        Ok(Self { subscriptions })
    }

    /// The latest answer; waits for the first one.
    pub(super) async fn query(
        &self,
        question: &Question,
        subscriber: &Subscriber,
    ) -> Result<Answer, KafkaError> {
        let mut answer = self.subscriptions.subscribe(question, subscriber);
        let first =
            tokio::time::timeout(FIRST_ANSWER_TIMEOUT, answer.wait_for(Option::is_some)).await;
        match first {
            Ok(Ok(answer)) => answer
                .clone()
                .unwrap_or_else(|| Err(KafkaError::Unreachable("no response".to_owned()))),
            Ok(Err(_)) | Err(_) => Err(KafkaError::Unreachable(format!(
                "no response within {} seconds",
                FIRST_ANSWER_TIMEOUT.as_secs()
            ))),
        }
    }

    /// Asks no more for this subscriber.
    pub(super) fn unsubscribe(&self, subscriber: &str) {
        self.subscriptions.unsubscribe(subscriber);
    }

    /// Drops the answers about a topic that was changed.
    pub(super) fn forget_topic(&self, topic: &str) {
        self.subscriptions.forget_topic(topic);
    }
}

/// Results of earlier rounds.
#[derive(Default)]
struct ClusterState {
    brokers: Option<(Instant, usize)>,
    /// With the time of the read; `None`: it must be read again.
    topics: HashMap<String, (Option<Instant>, TopicState)>,
    readings: HashMap<Question, Reading>,
    settings: SettingsCache,
}

/// The last full reading of a pipeline's offsets.
struct Reading {
    at: Instant,
    backlog: Backlog,
    /// There was a backlog already at the first reading: how old it is shows the past.
    wants_past: bool,
}

impl Reading {
    /// How much of the past is known while more of it is needed.
    fn missing_past(&self) -> Option<usize> {
        let past = &self.backlog.past;
        let is_missing = self.wants_past && self.backlog.lag() > 0 && !past::is_complete(past);
        is_missing.then_some(past.len())
    }
}

impl ClusterState {
    fn forget(&mut self, topics: &HashSet<String>) {
        self.topics.retain(|topic, _| !topics.contains(topic));
    }

    fn round(
        &mut self,
        cluster: &Cluster,
        questions: &[Question],
    ) -> HashMap<Question, Result<Answer, KafkaError>> {
        let asked: HashSet<&Question> = questions.iter().collect();
        self.readings.retain(|question, _| asked.contains(question));
        let read = self
            .brokers(cluster, &questions[0].topic)
            .and_then(|brokers| Ok((brokers, self.topics(cluster, questions)?)));
        let (brokers, refused) = match read {
            Ok(read) => read,
            Err(error) => return all(questions, &error),
        };
        let backlogs = match self.backlogs(cluster, questions) {
            Ok(backlogs) => backlogs,
            Err(error) => {
                self.topics.clear();
                return all(questions, &error);
            }
        };
        questions
            .iter()
            .map(|question| {
                let refusal = question
                    .topics()
                    .into_iter()
                    .find_map(|topic| refused.get(topic));
                let answer = match refusal {
                    Some(error) => Err(error.clone()),
                    None => Ok(Answer {
                        brokers,
                        topic: self.state(&question.topic),
                        ranges_topic: self.state(&question.ranges_topic),
                        dead_letter_topic: self.state(&question.dead_letter_topic),
                        settings: question.topics().map(|topic| self.settings.get(topic)),
                        backlog: backlogs[question].clone(),
                    }),
                };
                (question.clone(), answer)
            })
            .collect()
    }

    fn brokers(&mut self, cluster: &Cluster, topic: &str) -> Result<usize, KafkaError> {
        if let Some((at, brokers)) = self.brokers
            && at.elapsed() < TOPIC_AGE
        {
            return Ok(brokers);
        }
        match (cluster.brokers(topic), self.brokers) {
            (Ok(brokers), _) => {
                self.brokers = Some((Instant::now(), brokers));
                Ok(brokers)
            }
            // One broker may be silent; if all are, no offset is read either.
            (Err(KafkaError::Unreachable(_)), Some((_, brokers))) => Ok(brokers),
            (Err(error), _) => Err(error),
        }
    }

    /// Reads the topics whose last read is old; returns those for which there is an error. One that
    /// was read before stays known while the cluster does not answer.
    fn topics(
        &mut self,
        cluster: &Cluster,
        questions: &[Question],
    ) -> Result<HashMap<String, KafkaError>, KafkaError> {
        let named: HashSet<&str> = questions.iter().flat_map(Question::topics).collect();
        self.topics.retain(|name, _| named.contains(name.as_str()));
        let old: Vec<&str> = named
            .into_iter()
            .filter(|name| {
                self.topics.get(*name).is_none_or(|(at, state)| {
                    let age = match state {
                        TopicState::Present { .. } => TOPIC_AGE,
                        TopicState::Absent => ABSENT_AGE,
                    };
                    at.is_none_or(|at| at.elapsed() >= age)
                })
            })
            .collect();
        let mut refused = HashMap::new();
        if old.is_empty() {
            return Ok(refused);
        }
        let now = Some(Instant::now());
        let described = match cluster.topics(&old) {
            Ok(described) => described,
            // As for the brokers. The questions about other topics have their answers.
            Err(error @ KafkaError::Unreachable(_)) => {
                let unknown = old.into_iter().filter(|name| !self.is_known(name));
                let errors = unknown.map(|name| (name.to_owned(), error.clone()));
                return Ok(errors.collect());
            }
            Err(error) => return Err(error),
        };
        for (name, state) in described {
            match state {
                Ok(state) => {
                    self.topics.insert(name, (now, state));
                }
                Err(error) => {
                    self.topics.remove(&name);
                    refused.insert(name, error);
                }
            }
        }
        Ok(refused)
    }

    /// Reads the settings of some of the topics that exist.
    fn refresh_settings(&mut self, cluster: &Cluster) {
        let existing: Vec<&str> = self
            .topics
            .iter()
            .filter(|(_, (_, state))| *state != TopicState::Absent)
            .map(|(topic, _)| topic.as_str())
            .collect();
        self.settings.refresh(cluster, &existing);
    }

    fn state(&self, topic: &str) -> TopicState {
        self.topics
            .get(topic)
            .map_or(TopicState::Absent, |(_, state)| *state)
    }

    fn is_known(&self, topic: &str) -> bool {
        matches!(
            self.topics.get(topic),
            Some((_, TopicState::Present { .. }))
        )
    }

    fn partitions(&self, topic: &str) -> i32 {
        match self.state(topic) {
            TopicState::Present { partitions } => partitions,
            TopicState::Absent => 0,
        }
    }

    /// The offsets of every pipeline. An error for all means that the cluster does not respond.
    fn backlogs(
        &mut self,
        cluster: &Cluster,
        questions: &[Question],
    ) -> Result<HashMap<Question, Result<Backlog, KafkaError>>, KafkaError> {
        let ends = cluster.offsets(&self.sizes(questions), Offset::End)?;
        let active: Vec<Question> = questions
            .iter()
            .filter(|question| self.is_active(question, &ends))
            .cloned()
            .collect();
        let mut read = self.read_offsets(cluster, &active)?;
        let backlogs = questions.iter().map(|question| {
            let backlog = match (read.remove(question), self.readings.get(question)) {
                (Some(backlog), _) => backlog,
                (None, Some(reading)) => Ok(reading.backlog.clone()),
                (None, None) => Err(KafkaError::Unreachable(
                    "no offsets have been read yet".to_owned(),
                )),
            };
            (question.clone(), backlog)
        });
        Ok(backlogs.collect())
    }

    /// The tasks and ranges topics of the pipelines with their numbers of partitions, each topic once:
    /// librdkafka refuses a request that names a partition twice.
    fn sizes<'a>(&self, questions: impl IntoIterator<Item = &'a Question>) -> Vec<(&'a str, i32)> {
        let topics: BTreeSet<&str> = questions
            .into_iter()
            .flat_map(|question| [question.topic.as_str(), &question.ranges_topic])
            .collect();
        let with_size = |topic| (topic, self.partitions(topic));
        topics.into_iter().map(with_size).collect()
    }

    /// Whether the end offsets alone do not show the state of a pipeline.
    fn is_active(&self, question: &Question, ends: &HashMap<String, Offsets>) -> bool {
        let Some(reading) = self.readings.get(question) else {
            return true;
        };
        let unchanged = |topic: &str, last: &[PartitionOffsets]| {
            let last = last.iter().map(|offsets| Ok(&offsets.end));
            let ends = ends.get(topic).into_iter().flatten();
            ends.map(|end| end.as_ref().map_err(drop)).eq(last)
        };
        reading.backlog.lag() > 0
            || reading.backlog.rebalancing
            || !reading.backlog.unread.is_empty()
            || reading.at.elapsed() >= GROUP_AGE
            || !unchanged(&question.topic, &reading.backlog.tasks)
            || !unchanged(&question.ranges_topic, &reading.backlog.ranges)
    }

    /// Whether the last reading showed no backlog.
    fn was_idle(&self, question: &Question) -> bool {
        let last = self.readings.get(question);
        last.is_some_and(|reading| reading.backlog.lag() == 0 && !reading.backlog.rebalancing)
    }

    /// A full reading of some pipelines. The order matters. End offsets are read after committed
    /// offsets, so that a commit in between never makes the lag negative. A worker sends page ranges
    /// before it commits their task, so the backlog never looks empty in between.
    fn read_offsets(
        &mut self,
        cluster: &Cluster,
        questions: &[Question],
    ) -> Result<HashMap<Question, Result<Backlog, KafkaError>>, KafkaError> {
        // An absent topic has no offsets.
        let (questions, absent): (Vec<&Question>, Vec<&Question>) = questions
            .iter()
            .partition(|question| self.state(&question.topic) != TopicState::Absent);
        let mut read = HashMap::new();
        for question in absent {
            let error = KafkaError::Refused(format!("topic {} does not exist", question.topic));
            self.readings.remove(question);
            read.insert(question.clone(), Err(error));
        }
        if questions.is_empty() {
            return Ok(read);
        }
        let sizes = self.sizes(questions.iter().copied());
        let starts = cluster.offsets(&sizes, Offset::Beginning)?;
        let mut committed = HashMap::new();
        for question in questions.iter().copied() {
            let topics = self.sizes([question]);
            let answer = cluster.committed(&question.consumer_group, &topics);
            committed.insert(question, answer);
        }
        // Of a group without a backlog every offset is committed: a rebalance makes none doubtful. Each
        // group costs two requests.
        let groups: HashSet<&str> = questions
            .iter()
            .filter(|question| !self.was_idle(question))
            .map(|question| question.consumer_group.as_str())
            .collect();
        // Without the permission to describe groups, only the hold during a rebalance is lost.
        let rebalancing = cluster
            .rebalancing(&groups.into_iter().collect::<Vec<_>>())
            .unwrap_or_default();
        let ends = cluster.offsets(&sizes, Offset::End)?;

        let now = Instant::now();
        for question in questions.iter().copied() {
            let backlog = match committed.remove(question) {
                Some(Ok(committed)) => {
                    let last = self.readings.get(question).map(|reading| &reading.backlog);
                    let read = Read {
                        starts: &starts,
                        committed: &committed,
                        ends: &ends,
                    };
                    read.backlog(question, last).map(|backlog| Backlog {
                        rebalancing: rebalancing.contains(&question.consumer_group),
                        ..backlog
                    })
                }
                Some(Err(error)) => Err(error),
                None => Err(KafkaError::Unreachable(
                    "no offsets have been read yet".to_owned(),
                )),
            };
            match &backlog {
                Ok(backlog) => {
                    let last = self.readings.get(question);
                    let reading = Reading {
                        at: now,
                        backlog: backlog.clone(),
                        wants_past: last.is_none_or(|last| last.wants_past) && backlog.lag() > 0,
                    };
                    self.readings.insert(question.clone(), reading);
                }
                Err(_) => drop(self.readings.remove(question)),
            }
            if backlog
                .as_ref()
                .is_ok_and(|backlog| !backlog.unread.is_empty())
                || backlog.is_err()
            {
                // The topic may have been deleted or recreated: the next round reads it again.
                for topic in question.topics() {
                    if let Some((read_at, _)) = self.topics.get_mut(topic) {
                        *read_at = None;
                    }
                }
            }
            read.insert(question.clone(), backlog);
        }
        self.read_past(cluster, &questions, &mut read);
        Ok(read)
    }

    /// Adds the end offsets of earlier times to the backlogs that were there at the first reading. The
    /// pipelines of which least is known come first.
    fn read_past(
        &mut self,
        cluster: &Cluster,
        questions: &[&Question],
        read: &mut HashMap<Question, Result<Backlog, KafkaError>>,
    ) {
        if cluster.has_silent_broker() {
            return;
        }
        let missing = |question: &Question| self.readings.get(question)?.missing_past();
        let Some(known) = questions.iter().filter_map(|it| missing(it)).min() else {
            return;
        };
        let questions = questions.iter().copied();
        let questions: Vec<&Question> = questions.filter(|it| missing(it) == Some(known)).collect();
        let sizes = self.sizes(questions.iter().copied());
        let past = past::read(cluster, &sizes, Timestamp::now(), known);
        for question in questions {
            let reading = self.readings.get_mut(question);
            if let (Some(reading), Some(Ok(backlog))) = (reading, read.get_mut(question)) {
                backlog.past = past::of(question, backlog, &past);
                reading.backlog.past = Arc::clone(&backlog.past);
            }
        }
    }
}

fn all(
    questions: &[Question],
    error: &KafkaError,
) -> HashMap<Question, Result<Answer, KafkaError>> {
    questions
        .iter()
        .map(|question| (question.clone(), Err(error.clone())))
        .collect()
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
