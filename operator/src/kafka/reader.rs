//! Reads topics and offsets of one cluster again and again, for all its pipelines at once.
//!
//! One round asks every leader once for the ends of all partitions. Only the pipelines whose ends
//! moved, that have a backlog, or that were not looked at for a while are asked about in full: log
//! starts, committed offsets, the group's state. An idle pipeline costs its share of one request.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use layra_autoscaler::{Backlog, PartitionOffsets};
use rdkafka::Offset;

use super::{
    Answer, Connection, KafkaError, Question, TopicState,
    board::{Asker, Board},
    cluster::Cluster,
};

/// The least time between the beginnings of two rounds ...
const INTERVAL: Duration = Duration::from_secs(1);
/// ... and so many times as long as a round takes, so that reading never takes more than a part of
/// a processor, here or at the brokers.
const TIMES_A_ROUND: u32 = 8;
const LONGEST_INTERVAL: Duration = Duration::from_secs(10);
/// An urgent round waits for others that want it too: so long, or as long as the last one took.
const GATHERING: Duration = Duration::from_millis(50);
/// How old the answer about a topic's existence, and about an idle pipeline's group, may be.
const TOPIC_AGE: Duration = Duration::from_secs(30);
const GROUP_AGE: Duration = Duration::from_secs(30);
/// A topic that does not exist is looked for again after this time.
const ABSENT_AGE: Duration = Duration::from_secs(2);
/// How long a new question waits for its first answer.
const PATIENCE: Duration = Duration::from_secs(12);

/// The reader of one cluster. Its thread ends with it.
pub(super) struct Reader {
    board: Arc<Board>,
}

impl Reader {
    /// Makes the client and starts its thread. Nothing is sent before the first question.
    pub(super) fn start(connection: &Connection) -> Result<Self, KafkaError> {
        let cluster = Cluster::new(connection)?;
        let board = Arc::new(Board::default());
        let weak = Arc::downgrade(&board);
        std::thread::Builder::new()
            .name("kafka-reader".to_owned())
            .spawn(move || {
                let mut known = Known::default();
                // Without a board nobody asks any more.
                while let Some(board) = weak.upgrade() {
                    let began = Instant::now();
                    let questions = board.questions();
                    if !questions.is_empty() {
                        known.forget(&board.take_changed());
                        let answers = known.round(&cluster, &questions);
                        board.publish(&answers);
                    }
                    let round = began.elapsed();
                    let pause = (round * TIMES_A_ROUND)
                        .clamp(INTERVAL, LONGEST_INTERVAL)
                        .saturating_sub(round);
                    board.pause(pause, round.max(GATHERING));
                }
            })
            .map_err(|error| KafkaError::Settings(format!("no thread for the client: {error}")))?;
        Ok(Self { board })
    }

    /// The newest answer; waits for the first one.
    pub(super) async fn ask(
        &self,
        question: &Question,
        asker: &Asker,
    ) -> Result<Answer, KafkaError> {
        let mut answer = self.board.subscribe(question, asker);
        let first = tokio::time::timeout(PATIENCE, answer.wait_for(Option::is_some)).await;
        match first {
            Ok(Ok(answer)) => answer
                .clone()
                .unwrap_or_else(|| Err(KafkaError::Unreachable("no answer".to_owned()))),
            Ok(Err(_)) | Err(_) => Err(KafkaError::Unreachable(format!(
                "no answer within {} seconds",
                PATIENCE.as_secs()
            ))),
        }
    }

    /// A topic was changed: what is known of it says nothing any more.
    pub(super) fn forget_topic(&self, topic: &str) {
        self.board.forget_topic(topic);
    }
}

/// What the thread knows from earlier rounds.
#[derive(Default)]
struct Known {
    brokers: Option<(Instant, usize)>,
    /// Each with the time of the look; `None`: it has to be looked at again.
    topics: HashMap<String, (Option<Instant>, TopicState)>,
    readings: HashMap<Question, Reading>,
}

/// The last full look at a pipeline's offsets.
struct Reading {
    at: Instant,
    backlog: Backlog,
}

impl Known {
    fn forget(&mut self, topics: &HashSet<String>) {
        self.topics.retain(|topic, _| !topics.contains(topic));
    }

    /// Answers all questions.
    fn round(
        &mut self,
        cluster: &Cluster,
        questions: &[Question],
    ) -> HashMap<Question, Result<Answer, KafkaError>> {
        let asked: HashSet<&Question> = questions.iter().collect();
        self.readings.retain(|question, _| asked.contains(question));
        let states = self
            .brokers(cluster, &questions[0].topic)
            .and_then(|brokers| Ok((brokers, self.topics(cluster, questions)?)));
        let (brokers, refused) = match states {
            Ok(known) => known,
            Err(error) => return all(questions, &error),
        };
        let backlogs = match self.backlogs(cluster, questions) {
            Ok(backlogs) => backlogs,
            Err(error) => {
                // One topic that was deleted fails the request for all: the next round looks which.
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
        let brokers = cluster.brokers(topic)?;
        self.brokers = Some((Instant::now(), brokers));
        Ok(brokers)
    }

    /// Looks at topics that were not looked at for a while; returns those that the cluster refuses
    /// to talk about.
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
        for (name, state) in cluster.topics(&old)? {
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

    fn state(&self, topic: &str) -> TopicState {
        self.topics
            .get(topic)
            .map_or(TopicState::Absent, |(_, state)| *state)
    }

    fn partitions(&self, topic: &str) -> i32 {
        match self.state(topic) {
            TopicState::Present { partitions } => partitions,
            TopicState::Absent => 0,
        }
    }

    /// The offsets of every pipeline. An error for all means that the cluster does not answer.
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
        let mut looked = self.look(cluster, &active)?;
        let backlogs = questions.iter().map(|question| {
            let backlog = match (looked.remove(question), self.readings.get(question)) {
                (Some(looked), _) => looked,
                (None, Some(reading)) => Ok(reading.backlog.clone()),
                (None, None) => Err(KafkaError::Unreachable("no offsets were read".to_owned())),
            };
            (question.clone(), backlog)
        });
        Ok(backlogs.collect())
    }

    /// Topics and their sizes, tasks and ranges of all pipelines.
    fn sizes<'a>(&self, questions: impl IntoIterator<Item = &'a Question>) -> Vec<(&'a str, i32)> {
        questions
            .into_iter()
            .flat_map(|question| [question.topic.as_str(), &question.ranges_topic])
            .map(|topic| (topic, self.partitions(topic)))
            .collect()
    }

    /// Whether the ends alone do not tell how a pipeline stands.
    fn is_active(
        &self,
        question: &Question,
        ends: &HashMap<String, Result<Vec<i64>, KafkaError>>,
    ) -> bool {
        let Some(reading) = self.readings.get(question) else {
            return true;
        };
        let same = |topic: &str, known: &[PartitionOffsets]| {
            let known = known.iter().map(|offsets| offsets.end);
            matches!(ends.get(topic), Some(Ok(ends)) if ends.iter().copied().eq(known))
        };
        reading.backlog.lag() > 0
            || reading.backlog.rebalancing
            || reading.at.elapsed() >= GROUP_AGE
            || !same(&question.topic, &reading.backlog.tasks)
            || !same(&question.ranges_topic, &reading.backlog.ranges)
    }

    /// A full look at some pipelines. The order matters: the ends come after the committed offsets,
    /// so that work that is committed meanwhile is never counted as negative; and a range is on its
    /// way before its task is committed, so that the backlog never seems empty in between.
    fn look(
        &mut self,
        cluster: &Cluster,
        questions: &[Question],
    ) -> Result<HashMap<Question, Result<Backlog, KafkaError>>, KafkaError> {
        // What does not exist has no offsets: nobody needs to be asked.
        let (questions, absent): (Vec<&Question>, Vec<&Question>) = questions
            .iter()
            .partition(|question| self.state(&question.topic) != TopicState::Absent);
        let mut looked = HashMap::new();
        for question in absent {
            let error = KafkaError::Refused(format!("topic {} does not exist", question.topic));
            self.readings.remove(question);
            looked.insert(question.clone(), Err(error));
        }
        if questions.is_empty() {
            return Ok(looked);
        }
        let sizes = self.sizes(questions.iter().copied());
        let starts = cluster.offsets(&sizes, Offset::Beginning)?;
        let mut committed = HashMap::new();
        for question in questions.iter().copied() {
            let topics = self.sizes([question]);
            let answer = cluster.committed(&question.consumer_group, &topics);
            committed.insert(question, answer);
        }
        let groups: HashSet<&str> = questions
            .iter()
            .map(|question| question.consumer_group.as_str())
            .collect();
        // Who may not describe groups goes without: only the pause during a rebalance is lost.
        let rebalancing = cluster
            .rebalancing(&groups.into_iter().collect::<Vec<_>>())
            .unwrap_or_default();
        let ends = cluster.offsets(&sizes, Offset::End)?;

        let now = Instant::now();
        for question in questions {
            let backlog = match committed.remove(question) {
                Some(Ok(committed)) => {
                    let part = |topic: &str| join(topic, &starts, &committed, &ends);
                    part(&question.topic).and_then(|tasks| {
                        Ok(Backlog {
                            tasks,
                            ranges: part(&question.ranges_topic)?,
                            rebalancing: rebalancing.contains(&question.consumer_group),
                        })
                    })
                }
                Some(Err(error)) => Err(error),
                None => Err(KafkaError::Unreachable("no offsets were read".to_owned())),
            };
            match &backlog {
                Ok(backlog) => {
                    let backlog = backlog.clone();
                    self.readings
                        .insert(question.clone(), Reading { at: now, backlog });
                }
                Err(_) => drop(self.readings.remove(question)),
            }
            if backlog.is_err() {
                // It may have been deleted or made anew: the next round looks.
                for topic in question.topics() {
                    if let Some((looked_at, _)) = self.topics.get_mut(topic) {
                        *looked_at = None;
                    }
                }
            }
            looked.insert(question.clone(), backlog);
        }
        Ok(looked)
    }
}

fn join(
    topic: &str,
    starts: &HashMap<String, Result<Vec<i64>, KafkaError>>,
    committed: &HashMap<String, Vec<Option<i64>>>,
    ends: &HashMap<String, Result<Vec<i64>, KafkaError>>,
) -> Result<Vec<PartitionOffsets>, KafkaError> {
    let of = |all: &HashMap<String, Result<Vec<i64>, KafkaError>>| {
        all.get(topic).cloned().unwrap_or_else(|| Ok(Vec::new()))
    };
    let none = Vec::new();
    let committed = committed.get(topic).unwrap_or(&none);
    let offsets = of(starts)?.into_iter().zip(committed).zip(of(ends)?);
    Ok(offsets
        .map(|((log_start, committed), end)| PartitionOffsets {
            log_start,
            end,
            committed: *committed,
        })
        .collect())
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
