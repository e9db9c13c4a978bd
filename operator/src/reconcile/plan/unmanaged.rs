//! Topics that somebody else creates and changes (`source.kafka.manageTopics: false`): only what is
//! missing or different is reported. Pure.

use layra_crds::KafkaSource;

use super::conditions::Verdict;
use crate::{
    kafka::TopicState,
    reconcile::{reason::Reason, world::Topics},
};

/// The verdict on the topics.
pub(super) fn judge(kafka: &KafkaSource, topics: &Topics) -> Verdict {
    let dead_letters = kafka.dead_letter_topic();
    let read = [
        (kafka.topic.clone(), topics.tasks),
        (kafka.ranges_topic(), topics.ranges),
    ];
    let missing: Vec<String> = read
        .iter()
        .map(|(name, state)| (name, *state, kafka.partitions))
        .chain([(&dead_letters, topics.dead_letters, 1)])
        .filter(|(_, state, _)| *state == TopicState::Absent)
        .map(|(name, _, partitions)| format!("{name} (partitions: {partitions})"))
        .collect();
    if !missing.is_empty() {
        let message = format!(
            "Missing: {}. source.kafka.manageTopics is false, so the operator does not create them. Have their owner create them.",
            missing.join(", ")
        );
        return Verdict::no(Reason::TopicMissing, message);
    }
    // Lowered replicas leave partitions behind.
    let may_have_more = kafka.partitions_per_replica.is_some();
    let different = read.iter().find_map(|(name, state)| match state {
        TopicState::Present { partitions }
            if *partitions < kafka.partitions
                || (*partitions > kafka.partitions && !may_have_more) =>
        {
            Some((name, *partitions))
        }
        _ => None,
    });
    let asked_for = if may_have_more {
        "source.kafka.partitionsPerReplica and scaling.maxReplicas ask for"
    } else {
        "source.kafka.partitions is"
    };
    match different {
        Some((name, partitions)) => Verdict::yes(
            Reason::PartitionsDiffer,
            format!(
                "Topic {name} has {partitions} partitions, but {asked_for} {}. source.kafka.manageTopics is false, so the operator changes none. Have its owner change them, or change the fields.",
                kafka.partitions
            ),
        ),
        None => Verdict::yes(
            Reason::TopicsExist,
            format!(
                "Topic {} has {} partitions; {} and {dead_letters} exist. Somebody else manages them.",
                kafka.topic,
                kafka.partitions,
                kafka.ranges_topic()
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    fn judged(tasks: TopicState, ranges: TopicState, dead_letters: TopicState) -> Verdict {
        let kafka = fixtures::pipeline().spec.source.kafka;
        let topics = Topics {
            brokers: 1,
            tasks,
            ranges,
            dead_letters,
        };
        judge(&kafka, &topics)
    }

    const ABSENT: TopicState = TopicState::Absent;

    fn with(partitions: i32) -> TopicState {
        TopicState::Present { partitions }
    }

    #[test]
    fn every_missing_topic_is_named_with_the_partitions_that_it_needs() {
        let verdict = judged(with(10), ABSENT, ABSENT);
        assert_eq!(
            (verdict.is_true(), verdict.reason),
            (false, Reason::TopicMissing)
        );
        let words = "Missing: task_generation.ranges (partitions: 10), task_generation.dlq (partitions: 1).";
        assert!(verdict.message.starts_with(words), "{}", verdict.message);
    }

    #[test]
    fn more_or_fewer_partitions_are_a_difference_with_which_the_pipeline_works() {
        for (tasks, ranges, name) in [
            (with(4), with(10), "task_generation"),
            (with(12), with(10), "task_generation"),
            (with(10), with(4), "task_generation.ranges"),
        ] {
            let verdict = judged(tasks, ranges, with(1));
            assert_eq!(
                (verdict.is_true(), verdict.reason),
                (true, Reason::PartitionsDiffer)
            );
            assert!(verdict.message.starts_with(&format!("Topic {name} has ")));
        }
    }

    #[test]
    fn with_partitions_for_each_replica_more_are_fine_and_the_message_names_the_fields() {
        let mut kafka = fixtures::pipeline().spec.source.kafka;
        kafka.partitions_per_replica = Some(3);
        let judged = |partitions| {
            let topics = Topics {
                brokers: 1,
                tasks: with(partitions),
                ranges: with(partitions),
                dead_letters: with(1),
            };
            judge(&kafka, &topics)
        };
        assert_eq!(judged(12).reason, Reason::TopicsExist);
        let few = judged(4);
        assert_eq!(few.reason, Reason::PartitionsDiffer);
        assert!(
            few.message.contains("maxReplicas ask for 10."),
            "{}",
            few.message
        );
    }

    #[test]
    fn suitable_topics_are_not_mentioned() {
        assert_eq!(
            judged(with(10), with(10), with(3)).reason,
            Reason::TopicsExist
        );
    }
}
