//! Deletes the topics of the pipeline that `kubectl layra validate --disruptive` has made, and of no
//! other.

use std::time::Duration;

use layra_crds::{KafkaSource, VALIDATION_SUFFIX, is_of_validation};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::kafka::client::{client_config, describe_error};
use crate::runtime::failure::{Failure, Reason, Stage};
use crate::runtime::settings::Settings;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Returns the topics that are left, and why.
pub(super) async fn remove(settings: &Settings) -> Result<Vec<String>, Failure> {
    let kafka = &settings.config.source.kafka;
    let topics = topics_of_a_validation(kafka)
        .map_err(|message| Failure::permanent(Stage::Intake, Reason::InvalidTask, message))?;
    let failure = |error: KafkaError| {
        let message = format!("deleting topics: {}", describe_error(&error));
        Failure::transient(Stage::Intake, Reason::KafkaUnavailable, message)
    };
    let admin: AdminClient<DefaultClientContext> =
        client_config(settings).create().map_err(failure)?;
    let options = AdminOptions::new()
        .request_timeout(Some(TIMEOUT))
        .operation_timeout(Some(TIMEOUT));
    let names = topics.each_ref().map(String::as_str);
    let deleted = admin.delete_topics(&names, &options).await;
    let left = deleted.map_err(failure)?.into_iter().filter_map(refusal);
    // Kafka forgets a group without members and offsets by itself, later.
    let _ = admin
        .delete_groups(&[kafka.consumer_group.as_str()], &options)
        .await;
    Ok(left.collect())
}

/// `Err`: the pipeline is not that of a validation, and its topics may hold messages of users.
fn topics_of_a_validation(kafka: &KafkaSource) -> Result<[String; 3], String> {
    let refusal = |field: &str, name: &str, expected: &str| {
        format!(
            "source.kafka.{field} is {name}, and a validation has {expected}: no topic is deleted. Call \
             this only for the pipeline that kubectl layra validate --disruptive has made"
        )
    };
    let (topic, group) = (&kafka.topic, &kafka.consumer_group);
    for (field, name) in [("topic", topic), ("consumerGroup", group)] {
        if !is_of_validation(name) {
            let expected =
                format!("a name that ends in {VALIDATION_SUFFIX}- and 8 hexadecimal digits");
            return Err(refusal(field, name, &expected));
        }
    }
    let (ranges, dead_letters) = (kafka.ranges_topic(), kafka.dead_letter_topic());
    for (field, name, expected) in [
        ("rangesTopic", &ranges, format!("{topic}.ranges")),
        ("deadLetterTopic", &dead_letters, format!("{topic}.dlq")),
    ] {
        if *name != expected {
            return Err(refusal(field, name, &expected));
        }
    }
    Ok([topic.clone(), ranges, dead_letters])
}

fn refusal(deleted: Result<String, (String, RDKafkaErrorCode)>) -> Option<String> {
    match deleted {
        Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => None,
        Err((topic, code)) => Some(format!("topic {topic}: {code}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_topics_of_a_validation_are_deleted() {
        let of = |field: &str, name: &str| {
            let mut kafka = json!({
                "bootstrapServers": "kafka:9092", "topic": "tasks-validate-1a2b3c4d",
                "consumerGroup": "workers-validate-1a2b3c4d",
            });
            kafka[field] = json!(name);
            let kafka: KafkaSource = serde_json::from_value(kafka).unwrap();
            topics_of_a_validation(&kafka)
        };
        let topic = "tasks-validate-1a2b3c4d";
        let expected = ["", ".ranges", ".dlq"].map(|end| format!("{topic}{end}"));
        assert_eq!(of("topic", topic), Ok(expected));
        for (field, name) in [
            ("topic", "tasks"),
            ("topic", "tasks-validate"),
            ("consumerGroup", "workers-validate"),
            ("rangesTopic", "ranges-validate-1a2b3c4d"),
            ("deadLetterTopic", "dead-letters"),
        ] {
            let refused = of(field, name).unwrap_err();
            let start = format!("source.kafka.{field} is {name}, and");
            assert!(refused.starts_with(&start), "{refused}");
        }
    }

    #[test]
    fn a_topic_that_does_not_exist_is_not_left() {
        assert_eq!(refusal(Ok("a".to_owned())), None);
        let of = |code| refusal(Err(("a".to_owned(), code)));
        assert_eq!(of(RDKafkaErrorCode::UnknownTopicOrPartition), None);
        let refused = of(RDKafkaErrorCode::TopicAuthorizationFailed).unwrap();
        assert!(refused.starts_with("topic a: "), "{refused}");
    }
}
