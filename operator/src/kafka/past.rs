//! The end offsets at earlier times, by the timestamps of the records. An operator that has just
//! started learns from them how long the backlog has waited, so that a restart gives it no new
//! deadline.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use layra_autoscaler::{Backlog, EndOffsets, PartitionOffsets};
use rdkafka::{Offset, error::RDKafkaErrorCode};

use super::{
    KafkaError, Question,
    cluster::{Cluster, Offsets},
};

/// Seconds before now. The first ten are those from which the rate of arrivals is computed.
const AGES: [i64; 24] = [
    30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 420, 540, 720, 900, 1200, 1500, 1800, 2700,
    3600, 5400, 7200, 14_400, 28_800, 86_400,
];
/// No more is asked in a round after this time: its answers wait for it. The rest is read in the next
/// rounds.
const LONGEST: Duration = Duration::from_secs(2);

/// The offset of each partition at a time: that of the first record with its timestamp or a later
/// one. Without such a record it is unknown with `NoOffset`.
pub(super) type OffsetsAt = (Timestamp, HashMap<String, Offsets>);

/// The offsets of these topics at the earlier times of which `known` are known, the oldest first.
/// Those of the recent past are read first, in case there is not enough time.
pub(super) fn read(
    cluster: &Cluster,
    topics: &[(&str, i32)],
    now: Timestamp,
    known: usize,
) -> Vec<OffsetsAt> {
    read_with(now, known, LONGEST, |at| {
        cluster.offsets(topics, Offset::Offset(at.as_millisecond()))
    })
}

/// Whether the end offsets at all times are known.
pub(super) fn is_complete(past: &[EndOffsets]) -> bool {
    past.len() >= AGES.len()
}

fn read_with(
    now: Timestamp,
    known: usize,
    longest: Duration,
    offsets: impl Fn(Timestamp) -> Result<HashMap<String, Offsets>, KafkaError>,
) -> Vec<OffsetsAt> {
    let started = Instant::now();
    let mut read = Vec::new();
    for age in AGES.into_iter().skip(known) {
        let at = now - SignedDuration::from_secs(age);
        let Ok(offsets) = offsets(at) else { break };
        read.push((at, offsets));
        if started.elapsed() >= longest {
            break;
        }
    }
    read.reverse();
    read
}

/// The end offsets of a pipeline's topics at earlier times: what was read before what is known.
pub(super) fn of(question: &Question, backlog: &Backlog, read: &[OffsetsAt]) -> Arc<[EndOffsets]> {
    let older = read.iter().map(|(at, offsets)| EndOffsets {
        at: *at,
        tasks: ends(&backlog.tasks, offsets.get(&question.topic)),
        ranges: ends(&backlog.ranges, offsets.get(&question.ranges_topic)),
    });
    older.chain(backlog.past.iter().cloned()).collect()
}

fn ends(now: &[PartitionOffsets], then: Option<&Offsets>) -> Vec<i64> {
    let end = |(index, now): (usize, &PartitionOffsets)| match then.and_then(|it| it.get(index)) {
        Some(Ok(offset)) => (*offset).min(now.end),
        // All records are older.
        Some(Err(RDKafkaErrorCode::NoOffset)) => now.end,
        // Unknown: what waits seems to be young.
        _ => now.next(),
    };
    now.iter().enumerate().map(end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn records_at_and_after_a_time_were_not_there_before_it() {
        let question = Question {
            topic: "tasks".into(),
            ranges_topic: "ranges".into(),
            dead_letter_topic: "dlq".into(),
            consumer_group: "workers".into(),
        };
        let partition = PartitionOffsets {
            log_start: 0,
            end: 30,
            committed: Some(10),
        };
        let backlog = Backlog {
            tasks: vec![partition; 4],
            ..Backlog::default()
        };
        let offsets = vec![
            Ok(25),
            Err(RDKafkaErrorCode::NoOffset),
            Err(RDKafkaErrorCode::LeaderNotAvailable),
        ];
        let read = [(at(5), HashMap::from([("tasks".to_owned(), offsets)]))];
        let past = of(&question, &backlog, &read);
        assert_eq!(past[0].at, at(5));
        assert_eq!(past[0].tasks, [25, 30, 10, 10]);
        assert_eq!(past[0].ranges, [0; 0]);
    }

    #[test]
    fn what_was_read_before_a_failure_counts_and_the_oldest_comes_first() {
        let now = at(100_000);
        let ages = |oldest: i64| {
            let read = read_with(now, 0, LONGEST, |at| {
                if now.duration_since(at).as_secs() > oldest {
                    return Err(KafkaError::Unreachable("no response".into()));
                }
                Ok(HashMap::new())
            });
            let ages = read.iter().map(|(at, _)| now.duration_since(*at).as_secs());
            ages.collect::<Vec<_>>()
        };
        assert_eq!(ages(90), [90, 60, 30]);
        assert_eq!(ages(0), [0; 0]);
        let all = ages(i64::MAX);
        assert_eq!((all.len(), all[0]), (AGES.len(), 86_400));
    }

    /// A slow cluster answers one question a round.
    #[test]
    fn what_was_not_read_in_time_is_read_in_the_next_rounds() {
        let question = Question {
            topic: "tasks".into(),
            ranges_topic: "ranges".into(),
            dead_letter_topic: "dlq".into(),
            consumer_group: "workers".into(),
        };
        let now = at(100_000);
        let mut backlog = Backlog::default();
        let mut rounds = 0;
        while !is_complete(&backlog.past) {
            let read = read_with(now, backlog.past.len(), Duration::ZERO, |_| {
                Ok(HashMap::new())
            });
            backlog.past = of(&question, &backlog, &read);
            rounds += 1;
        }
        assert_eq!(rounds, AGES.len());
        let ages = backlog
            .past
            .iter()
            .map(|ends| now.duration_since(ends.at).as_secs());
        let mut expected = AGES;
        expected.reverse();
        assert!(ages.eq(expected));
    }
}
