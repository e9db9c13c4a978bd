//! The backlog of a pipeline, from offsets of which some may be unknown. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use layra_autoscaler::{Backlog, Partition, PartitionOffsets, Topic};

use rdkafka::error::RDKafkaErrorCode;

use super::{
    KafkaError, Question,
    cluster::{Offsets, description, is_denial},
};

/// The offsets that were read for a pipeline.
pub(super) struct Read<'a> {
    pub(super) starts: &'a HashMap<String, Offsets>,
    pub(super) committed: &'a HashMap<String, Vec<Option<i64>>>,
    pub(super) ends: &'a HashMap<String, Offsets>,
}

impl Read<'_> {
    /// The backlog, unless no partition of a topic could be read. `last` is the one before.
    pub(super) fn backlog(
        &self,
        question: &Question,
        last: Option<&Backlog>,
    ) -> Result<Backlog, KafkaError> {
        let mut unread = BTreeMap::new();
        let mut topic = |topic: Topic, name: &str, last: Option<&Vec<PartitionOffsets>>| {
            let partitions = self.join(name);
            let mut errors = Vec::new();
            let mut offsets = Vec::with_capacity(partitions.len());
            for (index, partition) in partitions.into_iter().enumerate() {
                offsets.push(partition.unwrap_or_else(|error| {
                    errors.push((index, error));
                    without_lag(last.and_then(|last| last.get(index)))
                }));
            }
            if let Some((index, error)) = errors.first().filter(|_| errors.len() == offsets.len()) {
                let words = format!("no offset of {name}/{index}: {}", description(*error));
                return Err(if is_denial(*error) {
                    KafkaError::Unauthorized(words)
                } else {
                    KafkaError::Unreachable(words)
                });
            }
            let errors = errors.into_iter();
            unread.extend(
                errors.map(|(index, error)| (Partition::of(topic, index), description(error))),
            );
            Ok(offsets)
        };
        let tasks = topic(Topic::Tasks, &question.topic, last.map(|last| &last.tasks))?;
        let ranges = topic(
            Topic::Ranges,
            &question.ranges_topic,
            last.map(|last| &last.ranges),
        )?;
        Ok(Backlog {
            tasks,
            ranges,
            rebalancing: false,
            unread,
            past: last.map(|last| Arc::clone(&last.past)).unwrap_or_default(),
        })
    }

    fn join(&self, topic: &str) -> Vec<Result<PartitionOffsets, RDKafkaErrorCode>> {
        let of = |all: &HashMap<String, Offsets>| all.get(topic).cloned().unwrap_or_default();
        let none = Vec::new();
        let committed = self.committed.get(topic).unwrap_or(&none);
        of(self.starts)
            .into_iter()
            .zip(committed)
            .zip(of(self.ends))
            .map(|((log_start, committed), end)| {
                Ok(PartitionOffsets {
                    log_start: log_start?,
                    end: end?,
                    committed: *committed,
                })
            })
            .collect()
    }
}

/// A partition that could not be read: at its last end, so that nothing seems to arrive when it can
/// be read again, and without lag, because nobody can process what it holds.
fn without_lag(last: Option<&PartitionOffsets>) -> PartitionOffsets {
    let last = last.copied().unwrap_or_default();
    PartitionOffsets {
        committed: Some(last.end),
        ..last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unread_partitions_make_the_backlog_a_lower_bound() {
        let question = Question {
            topic: "tasks".into(),
            ranges_topic: "ranges".into(),
            dead_letter_topic: "dlq".into(),
            consumer_group: "workers".into(),
        };
        let no_leader = || Err(RDKafkaErrorCode::LeaderNotAvailable);
        let offsets = |tasks: Offsets| HashMap::from([("tasks".to_owned(), tasks)]);
        let committed = HashMap::from([("tasks".to_owned(), vec![Some(10), Some(10), None])]);
        let starts = offsets(vec![Ok(0), no_leader(), Ok(0)]);
        let last = Backlog {
            tasks: vec![
                PartitionOffsets {
                    log_start: 0,
                    end: 25,
                    committed: Some(10),
                };
                3
            ],
            ..Backlog::default()
        };
        let read = |ends: Offsets| {
            let ends = offsets(ends);
            let read = Read {
                starts: &starts,
                committed: &committed,
                ends: &ends,
            };
            read.backlog(&question, Some(&last))
        };
        let backlog = read(vec![Ok(30), no_leader(), no_leader()]).unwrap();
        assert_eq!(backlog.lag(), 20, "only what can be processed");
        assert_eq!(backlog.tasks[1].end, 25, "nothing arrives when it is back");
        let unread: Vec<String> = backlog
            .unread
            .iter()
            .map(|(partition, why)| format!("{}/{} {why}", partition.topic, partition.number))
            .collect();
        assert_eq!(
            unread,
            [
                "tasks/1 Broker: Leader not available",
                "tasks/2 Broker: Leader not available"
            ]
        );
        assert_eq!(
            read(vec![no_leader(), no_leader(), no_leader()]),
            Err(KafkaError::Unreachable(
                "no offset of tasks/0: Broker: Leader not available".into()
            ))
        );
        let denied = vec![Err(RDKafkaErrorCode::TopicAuthorizationFailed); 3];
        assert_eq!(
            read(denied),
            Err(KafkaError::Unauthorized(
                "no offset of tasks/0: Broker: Topic authorization failed".into()
            ))
        );
    }
}
