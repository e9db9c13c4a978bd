//! Topics that exist and do not suit the pipeline: TopicReady stays true, and its reason says what to
//! change. The operator changes no setting of a topic that exists. Pure.

use layra_crds::KafkaSource;

use super::conditions::{Status, Verdict};
use crate::{kafka::TopicSettings, reconcile::reason::Reason};

/// Kafka's default. With less, tasks are deleted during an outage of a long weekend.
const SHORTEST_RETENTION_MS: i64 = 7 * 24 * 3600 * 1000;

/// The verdict on topics that exist, with the worst of their settings. What was found `before` stays
/// until all settings have been read: after a restart of the operator that takes a moment.
pub(super) fn judge(
    verdict: Verdict,
    kafka: &KafkaSource,
    settings: &[Option<TopicSettings>; 3],
    before: Option<Verdict>,
) -> Verdict {
    let exist = matches!(
        verdict.reason,
        Reason::TopicsExist | Reason::PartitionsDiffer
    );
    if !exist || verdict.status != Status::True {
        return verdict;
    }
    let before = before.filter(|before| before.reason.is_topic_setting());
    if let Some(before) = before
        && settings.contains(&None)
    {
        return before;
    }
    let names = [
        kafka.topic.clone(),
        kafka.ranges_topic(),
        kafka.dead_letter_topic(),
    ];
    let known = || {
        let pairs = names.iter().zip(settings);
        pairs.filter_map(|(name, settings)| Some((name, settings.as_ref()?)))
    };
    let compacted = known().find_map(|(name, settings)| {
        settings.compacted.then(|| {
            Verdict::yes(
                Reason::TopicCompacted,
                format!(
                    "Topic {name} has cleanup.policy=compact, so Kafka deletes a task when a later one has the same key. Set cleanup.policy=delete on the topic."
                ),
            )
        })
    });
    // What the spec asks for is no surprise.
    let wanted = kafka.topic_config.get("retention.ms");
    let wanted = wanted.and_then(|text| text.parse::<i64>().ok());
    let short = || {
        known().find_map(|(name, settings)| {
            let retention = settings.retention_ms.filter(|it| Some(*it) != wanted)?;
            (0..SHORTEST_RETENTION_MS).contains(&retention).then(|| {
                Verdict::yes(
                    Reason::RetentionShort,
                    format!(
                        "Topic {name} has retention.ms={retention}, less than 7 days: Kafka deletes tasks that wait longer, for example during an outage. Raise retention.ms on the topic; topics that the operator creates keep tasks for 30 days."
                    ),
                )
            })
        })
    };
    let replicas = || {
        known().find_map(|(name, settings)| {
            let has = settings.replication_factor?;
            let want = kafka.replication_factor;
            (has != want).then(|| {
                Verdict::yes(
                    Reason::ReplicationFactorDiffers,
                    format!(
                        "Topic {name} has replication factor {has}, but source.kafka.replicationFactor is {want}. Reassign its partitions (kafka-reassign-partitions.sh --bootstrap-server {} --reassignment-json-file FILE --execute), or set source.kafka.replicationFactor to {has}.",
                        kafka.bootstrap_servers
                    ),
                )
            })
        })
    };
    let in_sync = || {
        known().find_map(|(name, settings)| {
            let replicas = settings.replication_factor.filter(|count| *count >= 3)?;
            let least = settings.min_insync_replicas.filter(|least| *least < 2)?;
            let wanted = kafka.topic_config.get("min.insync.replicas");
            let is_asked_for = wanted.is_some_and(|text| *text == least.to_string());
            (!is_asked_for).then(|| {
                Verdict::yes(
                    Reason::MinInsyncReplicasLow,
                    format!(
                        "Topic {name} has {replicas} replicas and min.insync.replicas={least}: a record is acknowledged when a single broker has it, and is lost with this broker. Set it to 2 (kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {name} --add-config min.insync.replicas=2).",
                        kafka.bootstrap_servers
                    ),
                )
            })
        })
    };
    compacted
        .or_else(short)
        .or_else(in_sync)
        .or_else(replicas)
        .unwrap_or(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    fn judged(change: impl Fn(&mut TopicSettings), topic: usize) -> Verdict {
        let kafka = fixtures::pipeline().spec.source.kafka;
        let good = TopicSettings {
            replication_factor: Some(kafka.replication_factor),
            compacted: false,
            retention_ms: Some(-1),
            min_insync_replicas: Some(2),
        };
        let mut settings = [Some(good); 3];
        settings[topic].as_mut().map(change);
        let verdict = Verdict::yes(Reason::TopicsExist, "They exist.");
        judge(verdict, &kafka, &settings, None)
    }

    #[test]
    fn suitable_topics_are_not_mentioned() {
        assert_eq!(judged(|_| {}, 0).reason, Reason::TopicsExist);
        let week = |settings: &mut TopicSettings| settings.retention_ms = Some(604_800_000);
        assert_eq!(judged(week, 0).reason, Reason::TopicsExist);
    }

    #[test]
    fn what_can_lose_tasks_is_a_reason_and_does_not_make_the_topics_unready() {
        for (verdict, reason, words) in [
            (
                judged(|settings| settings.compacted = true, 0),
                Reason::TopicCompacted,
                "Topic task_generation has cleanup.policy=compact",
            ),
            (
                judged(|settings| settings.retention_ms = Some(3_600_000), 2),
                Reason::RetentionShort,
                "Topic task_generation.dlq has retention.ms=3600000",
            ),
            (
                judged(|settings| settings.replication_factor = Some(7), 1),
                Reason::ReplicationFactorDiffers,
                "Topic task_generation.ranges has replication factor 7",
            ),
        ] {
            assert!(verdict.is_true());
            assert_eq!(verdict.reason, reason);
            assert!(verdict.message.contains(words), "{}", verdict.message);
        }
    }

    #[test]
    fn a_short_retention_that_the_spec_asks_for_is_no_finding() {
        let mut kafka = fixtures::pipeline().spec.source.kafka;
        let config = ("retention.ms".to_owned(), "3600000".to_owned());
        kafka.topic_config = [config].into();
        let reason = |retention| {
            let settings = Some(TopicSettings {
                replication_factor: Some(kafka.replication_factor),
                compacted: false,
                retention_ms: Some(retention),
                min_insync_replicas: None,
            });
            let verdict = Verdict::yes(Reason::TopicsExist, "They exist.");
            judge(verdict, &kafka, &[settings; 3], None).reason
        };
        assert_eq!(reason(3_600_000), Reason::TopicsExist);
        assert_eq!(reason(3_500_000), Reason::RetentionShort);
    }

    #[test]
    fn records_that_one_broker_acknowledges_are_a_finding_where_there_are_more() {
        let one = |replicas| {
            move |settings: &mut TopicSettings| {
                settings.replication_factor = Some(replicas);
                settings.min_insync_replicas = Some(1);
            }
        };
        let low = judged(one(3), 0);
        assert_eq!(low.reason, Reason::MinInsyncReplicasLow);
        let command = "--entity-name task_generation --add-config min.insync.replicas=2";
        assert!(low.message.contains(command), "{}", low.message);
        assert_ne!(judged(one(1), 0).reason, Reason::MinInsyncReplicasLow);
    }

    #[test]
    fn the_worst_setting_is_the_reason() {
        let all = |settings: &mut TopicSettings| {
            *settings = TopicSettings {
                replication_factor: Some(7),
                compacted: true,
                retention_ms: Some(0),
                min_insync_replicas: Some(1),
            };
        };
        assert_eq!(judged(all, 0).reason, Reason::TopicCompacted);
    }

    #[test]
    fn settings_that_may_not_be_read_are_not_judged() {
        let kafka = fixtures::pipeline().spec.source.kafka;
        let verdict = Verdict::yes(Reason::TopicsExist, "They exist.");
        assert_eq!(
            judge(verdict, &kafka, &[None; 3], None).reason,
            Reason::TopicsExist
        );
        let creating = Verdict::no(Reason::TopicCreating, "Soon.");
        let compacted = Some(TopicSettings {
            compacted: true,
            ..TopicSettings::default()
        });
        assert_eq!(
            judge(creating, &kafka, &[compacted; 3], None).reason,
            Reason::TopicCreating
        );
    }

    #[test]
    fn a_finding_stays_until_the_settings_are_read_again() {
        let kafka = fixtures::pipeline().spec.source.kafka;
        let exist = || Verdict::yes(Reason::TopicsExist, "They exist.");
        let before = || Some(Verdict::yes(Reason::TopicCompacted, "Compacted."));
        let unread = judge(exist(), &kafka, &[None; 3], before());
        assert_eq!(unread.reason, Reason::TopicCompacted);
        let read = [Some(TopicSettings::default()); 3];
        let corrected = judge(exist(), &kafka, &read, before());
        assert_eq!(corrected.reason, Reason::TopicsExist);
    }
}
