//! Requests that rdkafka's safe API lacks: descriptions of many topics at once, the committed offsets
//! of any group, the states of many groups, and the settings of many topics, from a client that is in
//! no group; offsets of which some may be missing; changes of topics with the brokers' words.
//!
//! Only this module of the operator calls librdkafka directly. Every call blocks.
#![allow(unsafe_code)]

mod settings;
mod topics;

use std::{
    collections::{HashMap, HashSet},
    ffi::{CStr, CString, c_char},
    ptr,
    time::Duration,
};

use rdkafka::{
    ClientContext, TopicPartitionList, bindings as rd,
    client::Client,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};

pub(super) use settings::{configurations, replication_factors};
pub(super) use topics::{TopicAnswers, TopicRefusal, create_partitions, create_topics};

/// The number of partitions of each topic, or its error code.
pub(super) fn describe_topics<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> KafkaResult<HashMap<String, Result<i32, RDKafkaErrorCode>>> {
    // SAFETY: the description lives during the call.
    descriptions(client, topics, timeout, |description| unsafe {
        let code = rd::rd_kafka_error_code(rd::rd_kafka_TopicDescription_error(description));
        let mut partitions = 0;
        rd::rd_kafka_TopicDescription_partitions(description, &raw mut partitions);
        if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            Ok(i32::try_from(partitions).unwrap_or(i32::MAX))
        } else {
            Err(code.into())
        }
    })
}

/// Asks for descriptions of topics, and reads something from each. The pointer is valid during the
/// call of `read`.
fn descriptions<C: ClientContext, T>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
    read: impl Fn(*const rd::rd_kafka_TopicDescription_t) -> T,
) -> KafkaResult<HashMap<String, T>> {
    let names = Names::new(topics)?;
    let mut found = HashMap::with_capacity(topics.len());
    // SAFETY: `names` outlives the call, which copies them; pointers of the result are used while
    // its event lives.
    unsafe {
        let collection = Guard(
            rd::rd_kafka_TopicCollection_of_topic_names(names.pointers().as_mut_ptr(), names.len()),
            rd::rd_kafka_TopicCollection_destroy,
        );
        let operation = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let event = call(client, operation, timeout, |options, queue| {
            rd::rd_kafka_DescribeTopics(client.native_ptr(), collection.0, options, queue);
        })?;
        let result = not_null(rd::rd_kafka_event_DescribeTopics_result(event.0))?;
        let mut count = 0;
        let descriptions = rd::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        for index in 0..count {
            let description = *descriptions.add(index);
            let name = text(rd::rd_kafka_TopicDescription_name(description));
            found.insert(name, read(description));
        }
    }
    Ok(found)
}

/// The committed offset of each partition `0..n` of each topic, `None` where there is none.
pub(super) fn committed<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    topics: &[(&str, i32)],
    timeout: Duration,
) -> KafkaResult<HashMap<String, Vec<Option<i64>>>> {
    let mut list = TopicPartitionList::new();
    let mut found = HashMap::with_capacity(topics.len());
    for (topic, partitions) in topics {
        if *partitions > 0 {
            list.add_partition_range(topic, 0, partitions - 1);
        }
        let none = vec![None; usize::try_from(*partitions).unwrap_or_default()];
        found.insert((*topic).to_owned(), none);
    }
    let group = CString::new(group)?;
    // SAFETY: `group` and `list` outlive the constructor of the request, which copies them; pointers
    // of the result are used while its event lives.
    unsafe {
        let request = Guard(
            rd::rd_kafka_ListConsumerGroupOffsets_new(group.as_ptr(), list.ptr()),
            rd::rd_kafka_ListConsumerGroupOffsets_destroy,
        );
        let mut requests = [request.0];
        let operation = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS;
        let event = call(client, operation, timeout, |options, queue| {
            rd::rd_kafka_ListConsumerGroupOffsets(
                client.native_ptr(),
                requests.as_mut_ptr(),
                requests.len(),
                options,
                queue,
            );
        })?;
        let result = not_null(rd::rd_kafka_event_ListConsumerGroupOffsets_result(event.0))?;
        let mut count = 0;
        let groups = rd::rd_kafka_ListConsumerGroupOffsets_result_groups(result, &raw mut count);
        if count != 1 {
            return Err(KafkaError::OffsetFetch(RDKafkaErrorCode::Fail));
        }
        let answer = *groups;
        check(rd::rd_kafka_error_code(rd::rd_kafka_group_result_error(
            answer,
        )))?;
        let offsets = not_null(rd::rd_kafka_group_result_partitions(answer))?;
        let length = usize::try_from((*offsets).cnt).unwrap_or_default();
        if length != list.count() {
            return Err(KafkaError::OffsetFetch(RDKafkaErrorCode::Fail));
        }
        for index in 0..length {
            let element = &*(*offsets).elems.add(index);
            check(element.err)?;
            let index = usize::try_from(element.partition).unwrap_or(usize::MAX);
            let slots = found.get_mut(text(element.topic).as_str());
            if let Some(slot) = slots.and_then(|slots| slots.get_mut(index)) {
                // Negative: the group never committed here.
                *slot = (element.offset >= 0).then_some(element.offset);
            }
        }
    }
    Ok(found)
}

/// The offset of each partition at the position that its offset in the list names, which must be
/// `Beginning` or `End` (at `read_committed`). Unlike `offsets_for_times` it returns what the other
/// brokers answered when one does not answer in time.
pub(super) fn list_offsets<C: ClientContext>(
    client: &Client<C>,
    partitions: &TopicPartitionList,
    timeout: Duration,
) -> KafkaResult<Vec<ListedOffset>> {
    let mut found = Vec::with_capacity(partitions.count());
    // SAFETY: `partitions` outlives the call, which copies it; the options are those of `call`,
    // which made them mutable; pointers of the result are used while its event lives.
    unsafe {
        let operation = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS;
        let event = call(client, operation, timeout, |options, queue| {
            let committed = rd::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED;
            // Fails only for an operation without this option.
            let error =
                rd::rd_kafka_AdminOptions_set_isolation_level(options.cast_mut(), committed);
            if !error.is_null() {
                rd::rd_kafka_error_destroy(error);
            }
            rd::rd_kafka_ListOffsets(client.native_ptr(), partitions.ptr(), options, queue);
        })?;
        let result = not_null(rd::rd_kafka_event_ListOffsets_result(event.0))?;
        let mut count = 0;
        let infos = rd::rd_kafka_ListOffsets_result_infos(result, &raw mut count);
        for index in 0..count {
            let info = *infos.add(index);
            let element = &*not_null(rd::rd_kafka_ListOffsetsResultInfo_topic_partition(info))?;
            let code = element.err;
            let offset = if code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                Err(code.into())
            } else if element.offset < 0 {
                Err(RDKafkaErrorCode::OperationTimedOut)
            } else {
                Ok(element.offset)
            };
            found.push(ListedOffset {
                topic: text(element.topic),
                partition: element.partition,
                offset,
            });
        }
    }
    Ok(found)
}

/// The answer for one partition.
pub(super) struct ListedOffset {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: Result<i64, RDKafkaErrorCode>,
}

/// The groups that are rebalancing.
pub(super) fn rebalancing<C: ClientContext>(
    client: &Client<C>,
    groups: &[&str],
    timeout: Duration,
) -> KafkaResult<HashSet<String>> {
    use rd::rd_kafka_consumer_group_state_t as State;

    let names = Names::new(groups)?;
    let mut found = HashSet::new();
    // SAFETY: `names` outlives the call, which copies them; pointers of the result are used while
    // its event lives.
    unsafe {
        let operation = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
        let event = call(client, operation, timeout, |options, queue| {
            rd::rd_kafka_DescribeConsumerGroups(
                client.native_ptr(),
                names.pointers().as_mut_ptr(),
                names.len(),
                options,
                queue,
            );
        })?;
        let result = not_null(rd::rd_kafka_event_DescribeConsumerGroups_result(event.0))?;
        let mut count = 0;
        let descriptions =
            rd::rd_kafka_DescribeConsumerGroups_result_groups(result, &raw mut count);
        for index in 0..count {
            let description = *descriptions.add(index);
            let state = rd::rd_kafka_ConsumerGroupDescription_state(description);
            if matches!(
                state,
                State::RD_KAFKA_CONSUMER_GROUP_STATE_PREPARING_REBALANCE
                    | State::RD_KAFKA_CONSUMER_GROUP_STATE_COMPLETING_REBALANCE
            ) {
                found.insert(text(rd::rd_kafka_ConsumerGroupDescription_group_id(
                    description,
                )));
            }
        }
    }
    Ok(found)
}

/// Sends a request and waits for the answer.
///
/// # Safety
/// `send` must pass the options and the queue to one request of the client and keep neither.
unsafe fn call<C: ClientContext>(
    client: &Client<C>,
    operation: rd::rd_kafka_admin_op_t,
    timeout: Duration,
    send: impl FnOnce(*const rd::rd_kafka_AdminOptions_t, *mut rd::rd_kafka_queue_t),
) -> KafkaResult<Guard<rd::rd_kafka_event_t>> {
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: every pointer is valid until its guard drops it, guards drop in the reverse order, and
    // the client outlives the call. An event owns what it points to; its queue may go before it.
    unsafe {
        let queue = Guard(
            rd::rd_kafka_queue_new(client.native_ptr()),
            rd::rd_kafka_queue_destroy,
        );
        let options = Guard(
            rd::rd_kafka_AdminOptions_new(client.native_ptr(), operation),
            rd::rd_kafka_AdminOptions_destroy,
        );
        rd::rd_kafka_AdminOptions_set_request_timeout(options.0, milliseconds, ptr::null_mut(), 0);
        send(options.0, queue.0);
        // The request has its own timeout; this one only guards against a lost answer.
        let event = Guard(
            rd::rd_kafka_queue_poll(queue.0, milliseconds.saturating_add(1000)),
            rd::rd_kafka_event_destroy,
        );
        if event.0.is_null() {
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::OperationTimedOut));
        }
        check(rd::rd_kafka_event_error(event.0))?;
        Ok(event)
    }
}

struct Names(Vec<CString>);

impl Names {
    fn new(names: &[&str]) -> KafkaResult<Self> {
        let names: Result<_, _> = names.iter().map(|name| CString::new(*name)).collect();
        Ok(Self(names?))
    }

    fn pointers(&self) -> Vec<*const c_char> {
        self.0.iter().map(|name| name.as_ptr()).collect()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Frees an object of librdkafka when it is dropped.
struct Guard<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the constructor that belongs to this destructor, which is
        // called once. It accepts the null pointer of a missing event.
        unsafe { (self.1)(self.0) }
    }
}

fn not_null<T>(pointer: *const T) -> KafkaResult<*const T> {
    if pointer.is_null() {
        Err(KafkaError::AdminOp(RDKafkaErrorCode::Fail))
    } else {
        Ok(pointer)
    }
}

/// # Safety
/// The pointer is null or a string that ends with a zero byte.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(pointer) }
        .to_string_lossy()
        .into_owned()
}

fn check(code: RDKafkaRespErr) -> KafkaResult<()> {
    if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        Ok(())
    } else {
        Err(KafkaError::AdminOp(code.into()))
    }
}
