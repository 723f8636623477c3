//! Which topic a name means now: the id that Kafka gives a topic when it is made, and that no other gets.
//!
//! The safe wrapper has no call for it.

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use super::Client;
use super::groups::Event;
use crate::kafka::client::failed;
use crate::{Error, Result};

const DOING: &str = "asking for the id of a topic";

/// The topic's id, as Kafka's own tools show it.
pub(in crate::kafka) fn identity(client: Arc<dyn Client>, topic: &str, within: Duration) -> Result<String> {
    let name = CString::new(topic).map_err(|_| Error::UnknownTopic(topic.escape_debug().to_string()))?;
    let request = Request::new(client, &name, within);
    let event = request.send().ok_or_else(|| error(RDKafkaErrorCode::OperationTimedOut))?;
    // SAFETY: the event lives until the end of this block, and with it what is read of it.
    unsafe {
        let code = RDKafkaErrorCode::from(sys::rd_kafka_event_error(event.0));
        if code != RDKafkaErrorCode::NoError {
            return Err(error(code));
        }
        let mut count = 0;
        let result = sys::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return Err(error(RDKafkaErrorCode::Fail));
        }
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if topics.is_null() || count == 0 {
            return Err(Error::UnknownTopic(topic.to_owned()));
        }
        let found = *topics;
        let problem = sys::rd_kafka_TopicDescription_error(found);
        if !problem.is_null() {
            match RDKafkaErrorCode::from(sys::rd_kafka_error_code(problem)) {
                RDKafkaErrorCode::NoError => {}
                RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
                    return Err(Error::UnknownTopic(topic.to_owned()));
                }
                code => return Err(error(code)),
            }
        }
        let id = sys::rd_kafka_TopicDescription_topic_id(found);
        let is_none = id.is_null()
            || sys::rd_kafka_Uuid_most_significant_bits(id) == 0 && sys::rd_kafka_Uuid_least_significant_bits(id) == 0;
        let text = if is_none { ptr::null() } else { sys::rd_kafka_Uuid_base64str(id) };
        if text.is_null() {
            return Err(Error::Invalid(format!("Kafka has no id for topic `{topic}`: brokers from 2.8 on give them")));
        }
        Ok(CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}

fn error(code: RDKafkaErrorCode) -> Error {
    failed(DOING, KafkaError::AdminOp(code))
}

/// A question on its way, with all that must live until it is answered.
struct Request {
    topics: *mut sys::rd_kafka_TopicCollection_t,
    options: *mut sys::rd_kafka_AdminOptions_t,
    queue: *mut sys::rd_kafka_queue_t,
    wait_ms: c_int,
    client: Arc<dyn Client>,
}

impl Request {
    fn new(client: Arc<dyn Client>, topic: &CStr, within: Duration) -> Self {
        let wait_ms = c_int::try_from(within.as_millis()).unwrap_or(c_int::MAX);
        let mut names: [*const c_char; 1] = [topic.as_ptr()];
        // SAFETY: the client lives as long as this; the names are copied by the call that takes them.
        unsafe {
            let native = client.native();
            let topics = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
            let options =
                sys::rd_kafka_AdminOptions_new(native, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
            // A timeout that is refused leaves the default, which is longer than the wait below.
            sys::rd_kafka_AdminOptions_set_request_timeout(options, wait_ms, ptr::null_mut(), 0);
            Self { topics, options, queue: sys::rd_kafka_queue_new(native), wait_ms, client }
        }
    }

    /// Asks, and waits for the answer.
    fn send(&self) -> Option<Event> {
        // SAFETY: everything lives as long as `self`; the call reads the topics and the options.
        let event = unsafe {
            sys::rd_kafka_DescribeTopics(self.client.native(), self.topics, self.options, self.queue);
            sys::rd_kafka_queue_poll(self.queue, self.wait_ms.saturating_add(1000))
        };
        NonNull::new(event).map(|event| Event(event.as_ptr()))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // SAFETY: made in `new`, given back once, before the client.
        unsafe {
            sys::rd_kafka_queue_destroy(self.queue);
            sys::rd_kafka_AdminOptions_destroy(self.options);
            sys::rd_kafka_TopicCollection_destroy(self.topics);
        }
    }
}
