//! Deletes the topics of the pipeline that `kubectl layra validate --disruptive` has made, and of no
//! other.

use std::time::Duration;

use layra_crds::VALIDATION_SUFFIX;
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
    let (topic, group) = (&kafka.topic, &kafka.consumer_group);
    if !is_of_a_validation(topic, group) {
        let message =
            format!("{topic} is no topic of a validation: it does not end in {VALIDATION_SUFFIX}");
        return Err(Failure::permanent(
            Stage::Intake,
            Reason::InvalidTask,
            message,
        ));
    }
    let failure = |error: KafkaError| {
        let message = format!("deleting topics: {}", describe_error(&error));
        Failure::transient(Stage::Intake, Reason::KafkaUnavailable, message)
    };
    let admin: AdminClient<DefaultClientContext> =
        client_config(settings).create().map_err(failure)?;
    let options = AdminOptions::new()
        .request_timeout(Some(TIMEOUT))
        .operation_timeout(Some(TIMEOUT));
    let topics = [
        topic.clone(),
        kafka.ranges_topic(),
        kafka.dead_letter_topic(),
    ];
    let names = topics.each_ref().map(String::as_str);
    let deleted = admin.delete_topics(&names, &options).await;
    let left = deleted.map_err(failure)?.into_iter().filter_map(refusal);
    // Kafka forgets a group without members and offsets by itself, later.
    let _ = admin.delete_groups(&[group.as_str()], &options).await;
    Ok(left.collect())
}

fn is_of_a_validation(topic: &str, group: &str) -> bool {
    [topic, group]
        .into_iter()
        .all(|name| name.ends_with(VALIDATION_SUFFIX))
}

fn refusal(deleted: Result<String, (String, RDKafkaErrorCode)>) -> Option<String> {
    match deleted {
        Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => None,
        Err((topic, code)) => Some(format!("topic {topic}: {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_topics_of_a_validation_are_deleted() {
        assert!(is_of_a_validation("tasks-validate", "workers-validate"));
        assert!(!is_of_a_validation("tasks", "workers-validate"));
        assert!(!is_of_a_validation("tasks-validate", "workers"));
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
