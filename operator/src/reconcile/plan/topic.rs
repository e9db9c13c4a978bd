//! The changes to make to the topics, and the condition TopicReady. Pure.

use jiff::{SignedDuration, Timestamp};
use layra_crds::KafkaSource;

use super::{conditions::Verdict, unmanaged};
use crate::{
    kafka::{TopicAction, TopicState},
    reconcile::{
        reason::Reason,
        world::{Problem, TopicFailure, Topics},
    },
};

/// A refused change is retried after this long: the cause may be gone.
const RETRY_AFTER: SignedDuration = SignedDuration::from_secs(30);
/// A failure that is older is forgotten: it was retried, or the topic exists.
const FORGET_AFTER: SignedDuration = SignedDuration::from_mins(5);
/// Retention of the tasks: long, so that none is deleted before it is processed, for example during
/// a long outage.
const TASK_RETENTION: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The changes to make, and the verdict on the topics.
pub(super) fn plan(
    kafka: &KafkaSource,
    topics: &Result<Topics, Problem>,
    failures: &[TopicFailure],
    now: Timestamp,
) -> (Vec<TopicAction>, Verdict) {
    let topics = match topics {
        Ok(topics) => topics,
        Err(problem) => {
            return (
                Vec::new(),
                Verdict::unknown(problem.reason, problem.message.clone()),
            );
        }
    };
    if !kafka.manage_topics {
        return (Vec::new(), unmanaged::judge(kafka, topics));
    }
    let wanted = wanted_actions(kafka, topics);
    let Some(first) = wanted.first() else {
        return (Vec::new(), existing_topics(kafka, topics));
    };
    let needs_brokers = wanted
        .iter()
        .any(|action| matches!(action, TopicAction::Create { .. }));
    if needs_brokers && usize::try_from(kafka.replication_factor).is_ok_and(|n| n > topics.brokers)
    {
        let verdict = Verdict::no(
            Reason::ReplicationFactorTooHigh,
            format!(
                "Topic {} cannot be created: replication factor {} needs at least as many brokers, but the cluster has {}. Lower source.kafka.replicationFactor or add brokers.",
                first.topic(),
                kafka.replication_factor,
                topics.brokers
            ),
        );
        return (Vec::new(), verdict);
    }
    let failure_of = |action: &TopicAction| {
        failures.iter().find(|failure| {
            failure.topic == action.topic() && now.duration_since(failure.at) < FORGET_AFTER
        })
    };
    // Each topic waits for its own retry: a refusal of one delays no other.
    let is_due = |action: &TopicAction| {
        failure_of(action).is_none_or(|failure| now.duration_since(failure.at) >= RETRY_AFTER)
    };
    if let Some(failure) = wanted.iter().find_map(failure_of) {
        let verdict = Verdict::no(
            Reason::TopicChangeFailed,
            format!(
                "Topic {} cannot be created or extended: {}. The operator retries.",
                failure.topic, failure.message
            ),
        );
        let due = wanted.into_iter().filter(is_due).collect();
        return (due, verdict);
    }
    let verdict = match first {
        TopicAction::Create { topic, .. } => Verdict::no(
            Reason::TopicCreating,
            format!("Topic {topic} is being created."),
        ),
        TopicAction::AddPartitions { topic, partitions } => Verdict::no(
            Reason::PartitionsIncreasing,
            format!("Topic {topic} is being extended to {partitions} partitions."),
        ),
    };
    (wanted, verdict)
}

fn wanted_actions(kafka: &KafkaSource, topics: &Topics) -> Vec<TopicAction> {
    let mut actions = Vec::new();
    for (topic, state) in [
        (kafka.topic.clone(), topics.tasks),
        (kafka.ranges_topic(), topics.ranges),
    ] {
        match state {
            TopicState::Absent => actions.push(TopicAction::Create {
                topic,
                partitions: kafka.partitions,
                replication_factor: kafka.replication_factor,
                config: config(kafka, Some(TASK_RETENTION)),
            }),
            TopicState::Present { partitions } if partitions < kafka.partitions => {
                actions.push(TopicAction::AddPartitions {
                    topic,
                    partitions: kafka.partitions,
                });
            }
            TopicState::Present { .. } => {}
        }
    }
    if topics.dead_letters == TopicState::Absent {
        actions.push(TopicAction::Create {
            topic: kafka.dead_letter_topic(),
            // Dead letters are few and read by people: one partition keeps them in order.
            partitions: 1,
            replication_factor: kafka.replication_factor,
            // They are kept until they are redriven or deleted.
            config: config(kafka, None),
        });
    }
    actions
}

/// Configuration of a new topic; without a `retention` its records are kept. The configuration of an
/// existing topic is left unchanged.
fn config(kafka: &KafkaSource, retention: Option<SignedDuration>) -> Vec<(String, String)> {
    let is_kept = retention.is_none();
    let retention = retention.map_or_else(|| "-1".to_owned(), |time| time.as_millis().to_string());
    let mut config = vec![
        ("cleanup.policy".to_owned(), "delete".to_owned()),
        ("retention.ms".to_owned(), retention),
    ];
    if kafka.replication_factor >= 3 {
        // With acks=all, a majority of the replicas has every record.
        let majority = kafka.replication_factor / 2 + 1;
        config.push(("min.insync.replicas".to_owned(), majority.to_string()));
    }
    let given = kafka.topic_config.iter();
    for (key, value) in given.filter(|(key, _)| !(is_kept && key.starts_with("retention."))) {
        config.retain(|(other, _)| other != key);
        config.push((key.clone(), value.clone()));
    }
    config
}

fn existing_topics(kafka: &KafkaSource, topics: &Topics) -> Verdict {
    let has = topics.partitions().unwrap_or_default();
    // Lowered replicas leave partitions behind.
    if has > kafka.partitions && kafka.partitions_per_replica.is_none() {
        return Verdict::no(
            Reason::PartitionsDecreaseRefused,
            format!(
                "Topic {} has {has} partitions, but source.kafka.partitions is {}, and Kafka cannot remove partitions. Set source.kafka.partitions to {has}. The workers keep running.",
                kafka.topic, kafka.partitions
            ),
        );
    }
    Verdict::yes(
        Reason::TopicsExist,
        format!(
            "Topic {} has {has} partitions; {} and {} exist.",
            kafka.topic,
            kafka.ranges_topic(),
            kafka.dead_letter_topic()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixtures, reconcile::plan::conditions::Status};

    const PRESENT: TopicState = TopicState::Present { partitions: 10 };

    fn kafka() -> KafkaSource {
        fixtures::pipeline().spec.source.kafka
    }

    fn step(
        kafka: &KafkaSource,
        tasks: TopicState,
        dead_letters: TopicState,
        failures: &[TopicFailure],
    ) -> (Vec<TopicAction>, Verdict) {
        plan(
            kafka,
            &Ok(Topics {
                brokers: 1,
                tasks,
                ranges: tasks,
                dead_letters,
            }),
            failures,
            now(),
        )
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap()
    }

    fn failed(topic: &str, seconds_ago: i64) -> TopicFailure {
        TopicFailure {
            topic: topic.into(),
            at: now() - SignedDuration::from_secs(seconds_ago),
            message: "Broker: Policy violation".into(),
        }
    }

    #[test]
    fn absent_topics_are_created() {
        let (actions, verdict) = step(&kafka(), TopicState::Absent, TopicState::Absent, &[]);
        insta::assert_debug_snapshot!(actions);
        assert_eq!(verdict.reason, Reason::TopicCreating);
    }

    #[test]
    fn created_topics_have_the_settings_of_the_spec_and_dead_letters_are_kept() {
        let mut kafka = kafka();
        let given = [("retention.ms", "86400000"), ("max.message.bytes", "9")];
        kafka.topic_config = given
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let setting = |actions: &[TopicAction], index: usize, key: &str| {
            let TopicAction::Create { config, .. } = &actions[index] else {
                panic!("{actions:?}")
            };
            let values: Vec<String> = config
                .iter()
                .filter(|(other, _)| other == key)
                .map(|(_, value)| value.clone())
                .collect();
            values.join(" and ")
        };
        let (actions, _) = step(&kafka, TopicState::Absent, TopicState::Absent, &[]);
        for (index, retention) in [(0, "86400000"), (1, "86400000"), (2, "-1")] {
            assert_eq!(setting(&actions, index, "retention.ms"), retention);
            assert_eq!(setting(&actions, index, "max.message.bytes"), "9");
            assert_eq!(setting(&actions, index, "cleanup.policy"), "delete");
        }
    }

    #[test]
    fn partitions_are_raised() {
        let (actions, verdict) = step(
            &kafka(),
            TopicState::Present { partitions: 4 },
            PRESENT,
            &[],
        );
        let expected =
            ["task_generation", "task_generation.ranges"].map(|topic| TopicAction::AddPartitions {
                topic: topic.into(),
                partitions: 10,
            });
        assert_eq!(actions, expected);
        assert_eq!(verdict.reason, Reason::PartitionsIncreasing);
    }

    #[test]
    fn a_topic_with_more_partitions_than_the_spec_is_stalled_without_an_attempt() {
        let (actions, verdict) = step(
            &kafka(),
            TopicState::Present { partitions: 12 },
            PRESENT,
            &[],
        );
        assert!(actions.is_empty());
        assert_eq!(
            (verdict.status, verdict.reason),
            (Status::False, Reason::PartitionsDecreaseRefused)
        );
    }

    #[test]
    fn partitions_follow_the_replicas_up_and_never_down() {
        let mut kafka = kafka();
        kafka.partitions_per_replica = Some(3);
        assert_eq!(kafka.wanted_partitions(2), 10, "`partitions` is the least");
        assert_eq!(kafka.wanted_partitions(5), 15);
        kafka.partitions = kafka.wanted_partitions(5);
        let (actions, _) = step(&kafka, PRESENT, PRESENT, &[]);
        let expected = TopicAction::AddPartitions {
            topic: "task_generation".into(),
            partitions: 15,
        };
        assert_eq!(actions[0], expected);
        let more = TopicState::Present { partitions: 40 };
        let (actions, verdict) = step(&kafka, more, PRESENT, &[]);
        assert!(actions.is_empty());
        assert_eq!(verdict.reason, Reason::TopicsExist);
    }

    #[test]
    fn a_replication_factor_above_the_number_of_brokers_is_not_attempted() {
        let kafka = KafkaSource {
            replication_factor: 3,
            ..kafka()
        };
        let (actions, verdict) = step(&kafka, TopicState::Absent, TopicState::Absent, &[]);
        assert!(actions.is_empty());
        assert_eq!(verdict.reason, Reason::ReplicationFactorTooHigh);

        let (_, verdict) = step(&kafka, PRESENT, PRESENT, &[]);
        assert!(verdict.is_true(), "existing topics stay as they are");
    }

    #[test]
    fn a_refused_change_is_retried_after_half_a_minute() {
        let absent = TopicState::Absent;
        let failed = |seconds| {
            ["task_generation", "task_generation.ranges"].map(|topic| failed(topic, seconds))
        };
        let (actions, verdict) = step(&kafka(), absent, PRESENT, &failed(10));
        assert!(actions.is_empty());
        assert_eq!(verdict.reason, Reason::TopicChangeFailed);

        let (actions, verdict) = step(&kafka(), absent, PRESENT, &failed(30));
        assert_eq!(actions.len(), 2);
        assert_eq!(
            verdict.reason,
            Reason::TopicChangeFailed,
            "the reason does not flap between attempts"
        );
    }

    #[test]
    fn every_refused_change_is_reported_and_waits_whichever_topic_it_is_of() {
        let absent = TopicState::Absent;
        let topics = [
            "task_generation",
            "task_generation.ranges",
            "task_generation.dlq",
        ];
        for refused in topics {
            let (actions, verdict) = step(&kafka(), absent, absent, &[failed(refused, 10)]);
            assert_eq!(verdict.reason, Reason::TopicChangeFailed, "{refused}");
            let words = format!("Topic {refused} cannot be created or extended: Broker: Policy");
            assert!(verdict.message.starts_with(&words), "{}", verdict.message);
            let left: Vec<&str> = actions.iter().map(TopicAction::topic).collect();
            let others = topics.into_iter().filter(|topic| *topic != refused);
            assert_eq!(left, others.collect::<Vec<_>>(), "the others do not wait");
        }
        let all = topics.map(|topic| failed(topic, 10));
        let (actions, verdict) = step(&kafka(), absent, absent, &all);
        assert_eq!(actions, [], "nothing is repeated every second");
        assert!(verdict.message.contains("Topic task_generation cannot"));
    }

    #[test]
    fn topics_that_somebody_else_manages_are_never_changed() {
        let kafka = KafkaSource {
            manage_topics: false,
            ..kafka()
        };
        let few = TopicState::Present { partitions: 4 };
        for tasks in [TopicState::Absent, few, PRESENT] {
            let (actions, _) = step(&kafka, tasks, TopicState::Absent, &[]);
            assert_eq!(actions, []);
        }
        let (_, verdict) = step(&kafka, TopicState::Absent, PRESENT, &[]);
        assert_eq!(verdict.reason, Reason::TopicMissing);
    }

    #[test]
    fn an_old_failure_does_not_count_once_the_topics_exist() {
        assert!(
            step(&kafka(), PRESENT, PRESENT, &[failed("task_generation", 10)])
                .1
                .is_true()
        );
    }

    #[test]
    fn with_kafka_unreachable_the_topics_are_unknown_and_nothing_is_attempted() {
        let topics = Err(Problem::new(Reason::KafkaUnreachable, "no"));
        let (actions, verdict) = plan(&kafka(), &topics, &[], now());
        assert!(actions.is_empty());
        assert_eq!(verdict.status, Status::Unknown);
    }
}
