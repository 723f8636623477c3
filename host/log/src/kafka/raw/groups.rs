//! Where a group stands, asked without being its member.
//!
//! The safe wrapper has no call for it; the other way is a client for each group, with threads of its own.

use std::ffi::{CStr, CString, c_int};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use super::Client;
use crate::kafka::client::failed;
use crate::{Error, Result};

/// The committed offsets of a group in the partitions `0..partitions` of a topic.
pub(in crate::kafka) fn committed(
    client: Arc<dyn Client>,
    group: &str,
    topic: &str,
    partitions: i32,
    within: Duration,
) -> Result<Vec<Option<i64>>> {
    let name =
        |name: &str| CString::new(name).map_err(|_| Error::Invalid(format!("`{}` is no name", name.escape_debug())));
    let (group, topic) = (name(group)?, name(topic)?);
    let request = Request::new(client, &group, &topic, partitions, within);
    let event = request.send();
    let doing = "asking where a group stands";
    let mut offsets = vec![None; usize::try_from(partitions).unwrap_or(0)];
    // SAFETY: the event lives until the end of this block, and with it what is read of it.
    unsafe {
        let Some(event) = ptr::NonNull::new(event) else {
            return Err(failed(doing, KafkaError::OffsetFetch(RDKafkaErrorCode::OperationTimedOut)));
        };
        let event = Event(event.as_ptr());
        check(sys::rd_kafka_event_error(event.0), doing)?;
        let result = sys::rd_kafka_event_ListConsumerGroupOffsets_result(event.0);
        let mut count = 0;
        let groups = sys::rd_kafka_ListConsumerGroupOffsets_result_groups(result, &raw mut count);
        if result.is_null() || groups.is_null() || count == 0 {
            return Ok(offsets);
        }
        let group = *groups;
        let error = sys::rd_kafka_group_result_error(group);
        if !error.is_null() {
            match RDKafkaErrorCode::from(sys::rd_kafka_error_code(error)) {
                RDKafkaErrorCode::NoError | RDKafkaErrorCode::GroupIdNotFound => {}
                code => return Err(failed(doing, KafkaError::OffsetFetch(code))),
            }
        }
        let list = sys::rd_kafka_group_result_partitions(group);
        if list.is_null() {
            return Ok(offsets);
        }
        for index in 0..usize::try_from((*list).cnt).unwrap_or(0) {
            let place = &*(*list).elems.add(index);
            if CStr::from_ptr(place.topic) != topic.as_c_str() {
                continue;
            }
            check(place.err, doing)?;
            let slot = usize::try_from(place.partition).ok().and_then(|number| offsets.get_mut(number));
            if let (Some(slot), true) = (slot, place.offset >= 0) {
                *slot = Some(place.offset);
            }
        }
    }
    Ok(offsets)
}

fn check(code: sys::rd_kafka_resp_err_t, doing: &str) -> Result<()> {
    match RDKafkaErrorCode::from(code) {
        RDKafkaErrorCode::NoError => Ok(()),
        code => Err(failed(doing, KafkaError::OffsetFetch(code))),
    }
}

/// A question on its way, with all that must live until it is answered.
struct Request {
    request: *mut sys::rd_kafka_ListConsumerGroupOffsets_t,
    options: *mut sys::rd_kafka_AdminOptions_t,
    queue: *mut sys::rd_kafka_queue_t,
    wait_ms: c_int,
    client: Arc<dyn Client>,
}

impl Request {
    fn new(client: Arc<dyn Client>, group: &CStr, topic: &CStr, partitions: i32, within: Duration) -> Self {
        let wait_ms = c_int::try_from(within.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the client lives as long as this; names and list are copied by the calls that take them.
        unsafe {
            let native = client.native();
            let list = sys::rd_kafka_topic_partition_list_new(partitions);
            for partition in 0..partitions {
                sys::rd_kafka_topic_partition_list_add(list, topic.as_ptr(), partition);
            }
            let request = sys::rd_kafka_ListConsumerGroupOffsets_new(group.as_ptr(), list);
            sys::rd_kafka_topic_partition_list_destroy(list);
            let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS;
            let options = sys::rd_kafka_AdminOptions_new(native, operation);
            // A timeout that is refused leaves the default, which is longer than the wait below.
            sys::rd_kafka_AdminOptions_set_request_timeout(options, wait_ms, ptr::null_mut(), 0);
            Self { request, options, queue: sys::rd_kafka_queue_new(native), wait_ms, client }
        }
    }

    /// Asks, and waits for the answer; null when none came.
    fn send(&self) -> *mut sys::rd_kafka_event_t {
        let mut requests = [self.request];
        // SAFETY: everything lives as long as `self`; the call reads the request and the options.
        unsafe {
            sys::rd_kafka_ListConsumerGroupOffsets(
                self.client.native(),
                requests.as_mut_ptr(),
                1,
                self.options,
                self.queue,
            );
            sys::rd_kafka_queue_poll(self.queue, self.wait_ms.saturating_add(1000))
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // SAFETY: made in `new`, given back once, before the client.
        unsafe {
            sys::rd_kafka_queue_destroy(self.queue);
            sys::rd_kafka_AdminOptions_destroy(self.options);
            sys::rd_kafka_ListConsumerGroupOffsets_destroy(self.request);
        }
    }
}

/// An answer, given back at the end.
pub(super) struct Event(pub(super) *mut sys::rd_kafka_event_t);

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: taken from the queue once.
        unsafe { sys::rd_kafka_event_destroy(self.0) };
    }
}
