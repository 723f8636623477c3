//! librdkafka's own calls: batches from per-partition queues, and sending without a copy.
//!
//! All `unsafe` of this crate stands here, in `fate`, in `groups` and in `topics`. The safe wrapper takes one message at a time, each with an allocation and an event of its own,
//! which costs as much as everything else that a record goes through; these calls take hundreds.
//! Batches come from the queues of single partitions: taking them from the consumer's main queue would swallow rebalances.

#![expect(unsafe_code, reason = "librdkafka is a C library, and its batch calls have no safe wrapper")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use phronis_core::records::{Headers, HeadersBuilder};
use rdkafka::bindings as sys;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use super::bell::Bell;

mod fate;
pub(super) mod groups;
pub(super) mod topics;

pub(super) use fate::{Fate, Tally};

/// Something that owns a librdkafka client and keeps it alive.
pub(super) trait Client: Send + Sync {
    /// The client, valid while the owner lives.
    fn native(&self) -> *mut sys::rd_kafka_t;
}

/// A queue of messages or events of a client.
pub(super) struct Queue {
    ptr: NonNull<sys::rd_kafka_queue_t>,
    /// What the callback of this queue points to.
    hook: Option<Box<Hook>>,
    /// Dropped last: the client must outlive its queues.
    client: Arc<dyn Client>,
}

// SAFETY: librdkafka's queues are guarded by locks of their own; the hook is only read.
unsafe impl Send for Queue {}

/// What is rung when a queue is not empty any more.
struct Hook {
    bell: Arc<Bell>,
    place: u32,
}

impl Queue {
    /// The queue of one partition, cut off from the client's main queue, so that only [`Queue::take`] brings its messages.
    ///
    /// Made before the partition is assigned, it gets every message of the assignment.
    pub(super) fn of_partition(client: Arc<dyn Client>, topic: &str, partition: i32) -> Option<Self> {
        let topic = CString::new(topic).ok()?;
        // SAFETY: the client is alive, and the name is a C string that the call only reads.
        let ptr = unsafe { sys::rd_kafka_queue_get_partition(client.native(), topic.as_ptr(), partition) };
        let queue = Self { ptr: NonNull::new(ptr)?, hook: None, client };
        // SAFETY: the queue is alive; no destination means that it keeps its messages.
        unsafe { sys::rd_kafka_queue_forward(queue.ptr.as_ptr(), ptr::null_mut()) };
        Some(queue)
    }

    /// The queue of a client's events: delivery reports, logs, errors.
    pub(super) fn of_events(client: Arc<dyn Client>) -> Option<Self> {
        // SAFETY: the client is alive.
        let ptr = unsafe { sys::rd_kafka_queue_get_main(client.native()) };
        Some(Self { ptr: NonNull::new(ptr)?, hook: None, client })
    }

    /// The queue of a consumer's events: rebalances, commits, logs, errors.
    pub(super) fn of_consumer(client: Arc<dyn Client>) -> Option<Self> {
        // SAFETY: the client is alive.
        let ptr = unsafe { sys::rd_kafka_queue_get_consumer(client.native()) };
        Some(Self { ptr: NonNull::new(ptr)?, hook: None, client })
    }

    /// Rings a bell, at this place of it, whenever the queue stops being empty.
    pub(super) fn ring(&mut self, bell: Arc<Bell>, place: u32) {
        let hook = Box::new(Hook { bell, place });
        let opaque: *const Hook = &raw const *hook;
        // SAFETY: the hook is on the heap, and stays there until the callback is taken back in `drop`.
        unsafe { sys::rd_kafka_queue_cb_event_enable(self.ptr.as_ptr(), Some(rung), opaque.cast_mut().cast()) };
        self.hook = Some(hook);
    }

    /// How many messages or events wait.
    pub(super) fn len(&self) -> usize {
        // SAFETY: the queue is alive.
        unsafe { sys::rd_kafka_queue_length(self.ptr.as_ptr()) }
    }

    /// Takes up to `most` messages that are there, without waiting.
    pub(super) fn take<'a>(&self, room: &'a mut Room, most: usize) -> Taken<'a> {
        let most = most.min(ROOM);
        // SAFETY: the room has place for `ROOM` pointers, and librdkafka fills at most `most` of them.
        let count = unsafe { sys::rd_kafka_consume_batch_queue(self.ptr.as_ptr(), 0, room.0.as_mut_ptr(), most) };
        // -1 says that something went wrong before a message was taken.
        let count = usize::try_from(count).unwrap_or(0);
        Taken { messages: room.0.get(..count).unwrap_or_default() }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the queue is alive. Callbacks run under the queue's lock, which taking the callback back needs too:
        // after it, nobody reads the hook any more. The client lives on, as it is dropped after this.
        unsafe {
            if self.hook.is_some() {
                sys::rd_kafka_queue_cb_event_enable(self.ptr.as_ptr(), None, ptr::null_mut());
            }
            sys::rd_kafka_queue_destroy(self.ptr.as_ptr());
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("len", &self.len()).field("client", &self.client.native()).finish()
    }
}

/// Called by librdkafka's threads.
unsafe extern "C" fn rung(_: *mut sys::rd_kafka_t, opaque: *mut c_void) {
    // SAFETY: `opaque` is the hook of a queue whose callback is still set (see `Queue::ring` and `drop`).
    let hook = unsafe { &*opaque.cast_const().cast::<Hook>() };
    hook.bell.ring(hook.place);
}

/// Messages that one call takes. Larger calls save nothing measurable.
const ROOM: usize = 1024;

/// Room for the messages of one call, used again and again.
pub(super) struct Room(Vec<*mut sys::rd_kafka_message_t>);

// SAFETY: between calls the pointers are stale and never read.
unsafe impl Send for Room {}

impl Default for Room {
    fn default() -> Self {
        Self(vec![ptr::null_mut(); ROOM])
    }
}

/// Messages taken from a queue, given back when this is dropped.
pub(super) struct Taken<'a> {
    messages: &'a [*mut sys::rd_kafka_message_t],
}

impl Taken<'_> {
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Message<'_>> {
        // SAFETY: librdkafka filled these pointers, and the messages live until they are given back.
        self.messages.iter().map(|message| unsafe { Message(&**message) })
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        for message in self.messages {
            // SAFETY: each message was taken once and is given back once; references to it end with this.
            unsafe { sys::rd_kafka_message_destroy(*message) };
        }
    }
}

/// A message, or what went wrong in its partition.
pub(super) struct Message<'a>(&'a sys::rd_kafka_message_t);

impl Message<'_> {
    /// What went wrong, if this is not a message.
    pub(super) fn error(&self) -> Option<RDKafkaErrorCode> {
        let code = RDKafkaErrorCode::from(self.0.err);
        (code != RDKafkaErrorCode::NoError).then_some(code)
    }

    pub(super) fn offset(&self) -> i64 {
        self.0.offset
    }

    pub(super) fn key(&self) -> Option<&[u8]> {
        // SAFETY: librdkafka's key is null or has this length, and lives as long as the message.
        unsafe { bytes(self.0.key, self.0.key_len) }
    }

    /// The value; of an error, its text.
    pub(super) fn value(&self) -> Option<&[u8]> {
        // SAFETY: as for the key.
        unsafe { bytes(self.0.payload, self.0.len) }
    }

    /// Milliseconds since 1970, if the message has a time.
    pub(super) fn timestamp(&self) -> Option<i64> {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is alive.
        let at = unsafe { sys::rd_kafka_message_timestamp(self.0, &raw mut kind) };
        (at >= 0).then_some(at)
    }

    /// Adds the message's headers to a block.
    pub(super) fn headers(&self, block: &mut HeadersBuilder) {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is alive and keeps the headers; they are only read.
        if unsafe { sys::rd_kafka_message_headers(self.0, &raw mut headers) }
            != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            return;
        }
        for index in 0.. {
            let (mut name, mut value, mut len): (*const c_char, *const c_void, usize) = (ptr::null(), ptr::null(), 0);
            // SAFETY: the headers are alive; an index past the end is an error, not undefined.
            let found =
                unsafe { sys::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut len) };
            if found != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
                return;
            }
            // SAFETY: the name is a C string, the value null or of this length, and both live with the message.
            let (name, value) = unsafe { (CStr::from_ptr(name), bytes(value, len)) };
            block.push(&name.to_string_lossy(), value.unwrap_or_default());
        }
    }
}

/// # Safety
/// `at` is null, or valid for `len` bytes for as long as the result lives.
unsafe fn bytes<'a>(at: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: what this function asks for.
    (!at.is_null()).then(|| unsafe { std::slice::from_raw_parts(at.cast(), len) })
}

/// A topic to send to.
pub(super) struct Topic {
    ptr: NonNull<sys::rd_kafka_topic_t>,
    client: Arc<dyn Client>,
}

// SAFETY: librdkafka's topics are guarded by locks of their own.
unsafe impl Send for Topic {}

impl Topic {
    pub(super) fn new(client: Arc<dyn Client>, name: &str) -> Option<Self> {
        let name = CString::new(name).ok()?;
        // SAFETY: the client is alive, the name is copied, and no configuration means the client's.
        let ptr = unsafe { sys::rd_kafka_topic_new(client.native(), name.as_ptr(), ptr::null_mut()) };
        Some(Self { ptr: NonNull::new(ptr)?, client })
    }

    /// Queues all records of a tally for sending, in their order. Their values are not copied: the tally keeps them until each
    /// has its fate. While librdkafka's queue is full, `when_full` is called; it must serve reports.
    pub(super) fn send(&self, tally: &Arc<Tally>, partition: i32, mut when_full: impl FnMut()) {
        for (row, fate) in Tally::fates(tally).enumerate() {
            let mut refused = self.produce(tally, row, partition, &fate);
            while matches!(refused, Some(RDKafkaErrorCode::QueueFull)) {
                when_full();
                refused = self.produce(tally, row, partition, &fate);
            }
            match refused {
                None => fate.handed_over(),
                Some(code) => fate.told(Err(KafkaError::MessageProduction(code))),
            }
        }
    }

    /// Queues one record, unless it is refused.
    fn produce(&self, tally: &Tally, row: usize, partition: i32, fate: &Fate) -> Option<RDKafkaErrorCode> {
        use sys::rd_kafka_vtype_t as vtype;
        let records = tally.records();
        let part = |bytes: Option<&[u8]>| bytes.map_or((ptr::null(), 0), |bytes| (bytes.as_ptr(), bytes.len()));
        let ((key, key_len), (value, value_len)) = (part(records.key(row)), part(records.value(row)));
        let timestamp = records.timestamps.values().get(row).copied().unwrap_or(0);
        let headers = Block::of(records.headers(row));
        // SAFETY: every tag is followed by the arguments that librdkafka reads for it. Key and headers are copied or taken over;
        // the value lies in the tally's records, which live until each record has its fate.
        let code = unsafe {
            sys::rd_kafka_producev(
                self.client.native(),
                vtype::RD_KAFKA_VTYPE_RKT,
                self.ptr.as_ptr(),
                vtype::RD_KAFKA_VTYPE_PARTITION,
                partition,
                vtype::RD_KAFKA_VTYPE_VALUE,
                value,
                value_len,
                vtype::RD_KAFKA_VTYPE_KEY,
                key,
                key_len,
                vtype::RD_KAFKA_VTYPE_TIMESTAMP,
                timestamp,
                vtype::RD_KAFKA_VTYPE_OPAQUE,
                fate.opaque(),
                vtype::RD_KAFKA_VTYPE_HEADERS,
                headers.ptr(),
                vtype::RD_KAFKA_VTYPE_END,
            )
        };
        match RDKafkaErrorCode::from(code) {
            RDKafkaErrorCode::NoError => {
                headers.taken();
                None
            }
            code => Some(code),
        }
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: made in `new`, given back once, before its client.
        unsafe { sys::rd_kafka_topic_destroy(self.ptr.as_ptr()) };
    }
}

/// librdkafka's form of headers; none at all for none.
struct Block<'a>(*mut sys::rd_kafka_headers_t, PhantomData<&'a ()>);

impl<'a> Block<'a> {
    fn of(headers: Headers<'a>) -> Self {
        let mut block = Self(ptr::null_mut(), PhantomData);
        for (name, value) in headers.pairs() {
            // SAFETY: name and value are copied with the lengths given.
            unsafe {
                if block.0.is_null() {
                    // Most records have one.
                    block.0 = sys::rd_kafka_headers_new(1);
                }
                sys::rd_kafka_header_add(
                    block.0,
                    name.as_ptr().cast(),
                    name.len().cast_signed(),
                    value.as_ptr().cast(),
                    value.len().cast_signed(),
                );
            }
        }
        block
    }

    fn ptr(&self) -> *mut sys::rd_kafka_headers_t {
        self.0
    }

    /// They belong to a message now.
    fn taken(mut self) {
        self.0 = ptr::null_mut();
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: made in `of`, and nobody took them.
            unsafe { sys::rd_kafka_headers_destroy(self.0) };
        }
    }
}
