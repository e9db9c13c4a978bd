//! Creates and extends topics. rdkafka's `AdminClient` drops the brokers' words about a refusal.

use std::{collections::HashMap, ffi::CString, ptr, time::Duration};

use rdkafka::{
    ClientContext, bindings as rd,
    client::Client,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};

use super::{Guard, call, not_null, text};
use crate::kafka::TopicAction;

/// The brokers' answer for each topic.
pub(in crate::kafka) type TopicAnswers = HashMap<String, Result<(), TopicRefusal>>;

/// Why a topic was not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::kafka) struct TopicRefusal {
    pub(in crate::kafka) code: RDKafkaErrorCode,
    /// The brokers' words, empty if they sent none.
    pub(in crate::kafka) words: String,
}

/// Sends those of the actions that create a topic.
pub(in crate::kafka) fn create_topics<C: ClientContext>(
    client: &Client<C>,
    actions: &[TopicAction],
    timeout: Duration,
) -> KafkaResult<TopicAnswers> {
    let new: KafkaResult<Vec<_>> = actions.iter().filter_map(new_topic).collect();
    let new = new?;
    if new.is_empty() {
        return Ok(HashMap::new());
    }
    let operation = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATETOPICS;
    // SAFETY: `new` outlives the call, which copies it; pointers of the result are used while its
    // event lives.
    unsafe {
        let event = call(client, operation, timeout, |options, queue| {
            wait_for_controller(options, timeout);
            let mut pointers: Vec<_> = new.iter().map(|topic| topic.0).collect();
            rd::rd_kafka_CreateTopics(
                client.native_ptr(),
                pointers.as_mut_ptr(),
                pointers.len(),
                options,
                queue,
            );
        })?;
        let result = not_null(rd::rd_kafka_event_CreateTopics_result(event.0))?;
        let mut count = 0;
        let topics = rd::rd_kafka_CreateTopics_result_topics(result, &raw mut count);
        Ok(answers(topics, count))
    }
}

/// Sends those of the actions that add partitions.
pub(in crate::kafka) fn create_partitions<C: ClientContext>(
    client: &Client<C>,
    actions: &[TopicAction],
    timeout: Duration,
) -> KafkaResult<TopicAnswers> {
    let new: KafkaResult<Vec<_>> = actions.iter().filter_map(new_partitions).collect();
    let new = new?;
    if new.is_empty() {
        return Ok(HashMap::new());
    }
    let operation = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATEPARTITIONS;
    // SAFETY: as in `create_topics`.
    unsafe {
        let event = call(client, operation, timeout, |options, queue| {
            wait_for_controller(options, timeout);
            let mut pointers: Vec<_> = new.iter().map(|partitions| partitions.0).collect();
            rd::rd_kafka_CreatePartitions(
                client.native_ptr(),
                pointers.as_mut_ptr(),
                pointers.len(),
                options,
                queue,
            );
        })?;
        let result = not_null(rd::rd_kafka_event_CreatePartitions_result(event.0))?;
        let mut count = 0;
        let topics = rd::rd_kafka_CreatePartitions_result_topics(result, &raw mut count);
        Ok(answers(topics, count))
    }
}

/// `None` if the action creates no topic.
fn new_topic(action: &TopicAction) -> Option<KafkaResult<Guard<rd::rd_kafka_NewTopic_t>>> {
    let TopicAction::Create {
        topic,
        partitions,
        replication_factor,
        config,
    } = action
    else {
        return None;
    };
    let create = || {
        let name = CString::new(topic.as_str())?;
        // SAFETY: the strings outlive the calls, which copy them, and the guard frees the topic.
        unsafe {
            let new = rd::rd_kafka_NewTopic_new(
                name.as_ptr(),
                *partitions,
                *replication_factor,
                ptr::null_mut(),
                0,
            );
            if new.is_null() {
                return Err(invalid(topic));
            }
            let new = Guard(new, rd::rd_kafka_NewTopic_destroy);
            for (key, value) in config {
                let (key, value) = (CString::new(key.as_str())?, CString::new(value.as_str())?);
                super::check(rd::rd_kafka_NewTopic_set_config(
                    new.0,
                    key.as_ptr(),
                    value.as_ptr(),
                ))?;
            }
            Ok(new)
        }
    };
    Some(create())
}

/// `None` if the action adds no partitions.
fn new_partitions(
    action: &TopicAction,
) -> Option<KafkaResult<Guard<rd::rd_kafka_NewPartitions_t>>> {
    let TopicAction::AddPartitions { topic, partitions } = action else {
        return None;
    };
    let create = || {
        let name = CString::new(topic.as_str())?;
        let total = usize::try_from(*partitions).unwrap_or_default();
        // SAFETY: the name outlives the call, which copies it, and the guard frees the partitions.
        unsafe {
            let new = rd::rd_kafka_NewPartitions_new(name.as_ptr(), total, ptr::null_mut(), 0);
            if new.is_null() {
                return Err(invalid(topic));
            }
            Ok(Guard(new, rd::rd_kafka_NewPartitions_destroy))
        }
    };
    Some(create())
}

/// librdkafka refuses an empty name and a number of partitions that is out of range.
fn invalid(topic: &str) -> KafkaError {
    KafkaError::AdminOpCreation(format!("topic {topic} has an invalid name or size"))
}

/// Lets the controller take as long as the request may.
///
/// # Safety
/// The options must be those of [`call`], which made them mutable.
unsafe fn wait_for_controller(options: *const rd::rd_kafka_AdminOptions_t, timeout: Duration) {
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: as the caller promises.
    unsafe {
        rd::rd_kafka_AdminOptions_set_operation_timeout(
            options.cast_mut(),
            milliseconds,
            ptr::null_mut(),
            0,
        );
    }
}

/// # Safety
/// `topics` points to `count` results whose event lives.
unsafe fn answers(topics: *mut *const rd::rd_kafka_topic_result_t, count: usize) -> TopicAnswers {
    let mut answers = HashMap::with_capacity(count);
    for index in 0..count {
        // SAFETY: as the caller promises.
        unsafe {
            let topic = *topics.add(index);
            let name = text(rd::rd_kafka_topic_result_name(topic));
            let code = rd::rd_kafka_topic_result_error(topic);
            let answer = if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                Ok(())
            } else {
                Err(TopicRefusal {
                    code: code.into(),
                    words: text(rd::rd_kafka_topic_result_error_string(topic)),
                })
            };
            answers.insert(name, answer);
        }
    }
    answers
}
