//! The committed offsets of any consumer group, asked with a client that is in no group.
//!
//! The safe API only knows the group of the client itself, which would need a client for every
//! pipeline. This is the one place of the operator that calls librdkafka directly.
#![allow(unsafe_code)]

use std::{ffi::CString, ptr, time::Duration};

use rdkafka::{
    ClientContext, TopicPartitionList, bindings as rd,
    client::Client,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    types::RDKafkaRespErr,
};

/// The committed offset of each partition `0..partitions`, `None` where there is none. Blocks.
pub(super) fn committed<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    topic: &str,
    partitions: i32,
    timeout: Duration,
) -> KafkaResult<Vec<Option<i64>>> {
    let mut list = TopicPartitionList::new();
    if partitions > 0 {
        list.add_partition_range(topic, 0, partitions - 1);
    }
    let group = CString::new(group)?;
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);

    let mut found = vec![None; usize::try_from(partitions).unwrap_or_default()];
    // SAFETY: every pointer made here is valid until its guard drops it at the end of this scope,
    // and guards drop in the reverse order; the client outlives the call; librdkafka copies the
    // request before `rd_kafka_ListConsumerGroupOffsets` returns.
    unsafe {
        let queue = Guard(
            rd::rd_kafka_queue_new(client.native_ptr()),
            rd::rd_kafka_queue_destroy,
        );
        let operation = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS;
        let options = Guard(
            rd::rd_kafka_AdminOptions_new(client.native_ptr(), operation),
            rd::rd_kafka_AdminOptions_destroy,
        );
        rd::rd_kafka_AdminOptions_set_request_timeout(options.0, milliseconds, ptr::null_mut(), 0);
        let request = Guard(
            rd::rd_kafka_ListConsumerGroupOffsets_new(group.as_ptr(), list.ptr()),
            rd::rd_kafka_ListConsumerGroupOffsets_destroy,
        );
        let mut requests = [request.0];
        rd::rd_kafka_ListConsumerGroupOffsets(
            client.native_ptr(),
            requests.as_mut_ptr(),
            requests.len(),
            options.0,
            queue.0,
        );

        // The request has its own time limit; this one only guards against a lost answer.
        let event = Guard(
            rd::rd_kafka_queue_poll(queue.0, milliseconds.saturating_add(1000)),
            rd::rd_kafka_event_destroy,
        );
        if event.0.is_null() {
            return Err(KafkaError::OffsetFetch(RDKafkaErrorCode::OperationTimedOut));
        }
        check(rd::rd_kafka_event_error(event.0))?;
        let result = rd::rd_kafka_event_ListConsumerGroupOffsets_result(event.0);
        if result.is_null() {
            return Err(KafkaError::OffsetFetch(RDKafkaErrorCode::Fail));
        }
        let mut count = 0;
        let groups = rd::rd_kafka_ListConsumerGroupOffsets_result_groups(result, &raw mut count);
        if count != 1 {
            return Err(KafkaError::OffsetFetch(RDKafkaErrorCode::Fail));
        }
        let answer = *groups;
        check(rd::rd_kafka_error_code(rd::rd_kafka_group_result_error(
            answer,
        )))?;
        let offsets = rd::rd_kafka_group_result_partitions(answer);
        if offsets.is_null() {
            return Err(KafkaError::OffsetFetch(RDKafkaErrorCode::Fail));
        }
        let length = usize::try_from((*offsets).cnt).unwrap_or_default();
        if length != found.len() {
            return Err(KafkaError::OffsetFetch(RDKafkaErrorCode::Fail));
        }
        for index in 0..length {
            let element = &*(*offsets).elems.add(index);
            check(element.err)?;
            let slot = usize::try_from(element.partition)
                .ok()
                .and_then(|i| found.get_mut(i));
            if let Some(slot) = slot {
                // Negative: the group never committed here.
                *slot = (element.offset >= 0).then_some(element.offset);
            }
        }
    }
    Ok(found)
}

/// Frees what librdkafka allocated, on every way out.
struct Guard<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for Guard<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the constructor that belongs to this destructor, which is
        // called once. It accepts the null of an event that did not come.
        unsafe { (self.1)(self.0) }
    }
}

fn check(code: RDKafkaRespErr) -> KafkaResult<()> {
    if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        Ok(())
    } else {
        Err(KafkaError::OffsetFetch(code.into()))
    }
}
