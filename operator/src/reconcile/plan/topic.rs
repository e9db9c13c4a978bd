//! What to do with the topics, and what to say of them. Pure.

use jiff::{SignedDuration, Timestamp};
use layra_crds::KafkaSource;

use super::conditions::Verdict;
use crate::{
    kafka::{TopicAction, TopicState},
    reconcile::world::{Problem, TopicFailure, Topics},
};

/// A refused change is tried again after this long: the cause may be gone.
const RETRY_AFTER: SignedDuration = SignedDuration::from_secs(30);
/// A task must not vanish while it waits, for example during a long outage.
const TASK_RETENTION: SignedDuration = SignedDuration::from_hours(30 * 24);

pub(crate) const CREATING: &str = "TopicCreating";
pub(crate) const INCREASING: &str = "PartitionsIncreasing";
pub(crate) const DECREASE_REFUSED: &str = "PartitionsDecreaseRefused";
pub(crate) const REPLICATION_TOO_HIGH: &str = "ReplicationFactorTooHigh";
pub(crate) const CHANGE_FAILED: &str = "TopicChangeFailed";

/// The changes to make, and the state of the topics.
pub(super) fn plan(
    kafka: &KafkaSource,
    topics: &Result<Topics, Problem>,
    failure: Option<&TopicFailure>,
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
    let wanted = wanted_actions(kafka, topics);
    let Some(first) = wanted.first() else {
        return (Vec::new(), settled(kafka, topics));
    };
    let needs_brokers = wanted
        .iter()
        .any(|action| matches!(action, TopicAction::Create { .. }));
    if needs_brokers && usize::try_from(kafka.replication_factor).is_ok_and(|n| n > topics.brokers)
    {
        let verdict = Verdict::no(
            REPLICATION_TOO_HIGH,
            format!(
                "Topic {} cannot be created: replicationFactor {} needs as many brokers, and Kafka has {}. Lower source.kafka.replicationFactor or add brokers.",
                first.topic(),
                kafka.replication_factor,
                topics.brokers
            ),
        );
        return (Vec::new(), verdict);
    }
    if let Some(failure) = failure.filter(|failure| failure.topic == first.topic()) {
        let verdict = Verdict::no(
            CHANGE_FAILED,
            format!(
                "Kafka refused to change topic {}: {}.",
                failure.topic, failure.message
            ),
        );
        let due = now.duration_since(failure.at) >= RETRY_AFTER;
        return (if due { wanted } else { Vec::new() }, verdict);
    }
    let verdict = match first {
        TopicAction::Create { topic, .. } => {
            Verdict::no(CREATING, format!("Topic {topic} is being created."))
        }
        TopicAction::AddPartitions { topic, partitions } => Verdict::no(
            INCREASING,
            format!("Topic {topic} is given {partitions} partitions."),
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
            // Failures are few and read by people: one partition keeps them in order.
            partitions: 1,
            replication_factor: kafka.replication_factor,
            // They stay until somebody has dealt with them.
            config: config(kafka, None),
        });
    }
    actions
}

/// Settings of a new topic. Those of an existing one belong to whoever made it.
fn config(kafka: &KafkaSource, retention: Option<SignedDuration>) -> Vec<(&'static str, String)> {
    let retention = retention.map_or_else(|| "-1".to_owned(), |time| time.as_millis().to_string());
    let mut config = vec![
        ("cleanup.policy", "delete".to_owned()),
        ("retention.ms", retention),
    ];
    if kafka.replication_factor >= 3 {
        // A producer that asks for all acknowledgements gets a majority.
        config.push((
            "min.insync.replicas",
            (kafka.replication_factor / 2 + 1).to_string(),
        ));
    }
    config
}

fn settled(kafka: &KafkaSource, topics: &Topics) -> Verdict {
    let has = topics.partitions().unwrap_or_default();
    if has > kafka.partitions {
        return Verdict::no(
            DECREASE_REFUSED,
            format!(
                "Topic {} has {has} partitions, the spec says {}: Kafka cannot remove partitions. Set source.kafka.partitions to {has}. The workers go on meanwhile.",
                kafka.topic, kafka.partitions
            ),
        );
    }
    Verdict::yes(
        "TopicsExist",
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
    use crate::{fixtures, reconcile::plan::conditions::Holds};

    const PRESENT: TopicState = TopicState::Present { partitions: 10 };

    fn kafka() -> KafkaSource {
        fixtures::pipeline().spec.source.kafka
    }

    fn step(
        kafka: &KafkaSource,
        tasks: TopicState,
        dead_letters: TopicState,
        failure: Option<&TopicFailure>,
    ) -> (Vec<TopicAction>, Verdict) {
        plan(
            kafka,
            &Ok(Topics {
                brokers: 1,
                tasks,
                ranges: tasks,
                dead_letters,
            }),
            failure,
            now(),
        )
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap()
    }

    fn failed(seconds_ago: i64) -> TopicFailure {
        TopicFailure {
            topic: "task_generation".into(),
            at: now() - SignedDuration::from_secs(seconds_ago),
            message: "Broker: Policy violation".into(),
        }
    }

    #[test]
    fn absent_topics_are_created() {
        let (actions, verdict) = step(&kafka(), TopicState::Absent, TopicState::Absent, None);
        insta::assert_debug_snapshot!(actions);
        assert_eq!(verdict.reason, CREATING);
    }

    #[test]
    fn partitions_are_raised() {
        let (actions, verdict) = step(
            &kafka(),
            TopicState::Present { partitions: 4 },
            PRESENT,
            None,
        );
        let expected =
            ["task_generation", "task_generation.ranges"].map(|topic| TopicAction::AddPartitions {
                topic: topic.into(),
                partitions: 10,
            });
        assert_eq!(actions, expected);
        assert_eq!(verdict.reason, INCREASING);
    }

    #[test]
    fn more_partitions_than_asked_are_refused_without_an_attempt() {
        let (actions, verdict) = step(
            &kafka(),
            TopicState::Present { partitions: 12 },
            PRESENT,
            None,
        );
        assert!(actions.is_empty());
        assert_eq!(
            (verdict.holds, verdict.reason.as_str()),
            (Holds::False, DECREASE_REFUSED)
        );
    }

    #[test]
    fn a_replication_factor_above_the_brokers_is_not_tried() {
        let kafka = KafkaSource {
            replication_factor: 3,
            ..kafka()
        };
        let (actions, verdict) = step(&kafka, TopicState::Absent, TopicState::Absent, None);
        assert!(actions.is_empty());
        assert_eq!(verdict.reason, REPLICATION_TOO_HIGH);

        let (_, verdict) = step(&kafka, PRESENT, PRESENT, None);
        assert!(verdict.is_true(), "existing topics stay as they are");
    }

    #[test]
    fn a_refused_change_waits_before_it_is_tried_again() {
        let absent = TopicState::Absent;
        let (actions, verdict) = step(&kafka(), absent, PRESENT, Some(&failed(10)));
        assert!(actions.is_empty());
        assert_eq!(verdict.reason, CHANGE_FAILED);

        let (actions, verdict) = step(&kafka(), absent, PRESENT, Some(&failed(30)));
        assert_eq!(actions.len(), 2);
        assert_eq!(
            verdict.reason, CHANGE_FAILED,
            "the word does not flap between attempts"
        );
    }

    #[test]
    fn an_old_failure_is_forgotten_once_the_topics_are_there() {
        assert!(
            step(&kafka(), PRESENT, PRESENT, Some(&failed(10)))
                .1
                .is_true()
        );
    }

    #[test]
    fn an_unreachable_kafka_is_unknown_and_nothing_is_tried() {
        let seen = Err(Problem::new("KafkaUnreachable", "no"));
        let (actions, verdict) = plan(&kafka(), &seen, None, now());
        assert!(actions.is_empty());
        assert_eq!(verdict.holds, Holds::Unknown);
    }
}
