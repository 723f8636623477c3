//! What becomes of records on their way out: a tally for those of one partition, and the reports that fill it.
//!
//! A report tells of hundreds of messages that a broker acknowledged at once, and is taken as a whole; the safe wrapper makes an
//! object with counted references of each. All messages of a tally share the one reference that librdkafka has of it.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use phronis_core::records::NewRecords;
use rdkafka::bindings as sys;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::util::IntoOpaque;

use super::Queue;

/// Records for one partition on their way out, and what became of them.
#[derive(Debug)]
pub(in crate::kafka) struct Tally {
    records: NewRecords,
    /// Records without a fate.
    left: AtomicUsize,
    /// Offset of the first record.
    base: AtomicI64,
    failure: OnceLock<KafkaError>,
}

impl Tally {
    pub(in crate::kafka) fn new(records: NewRecords) -> Arc<Self> {
        let left = AtomicUsize::new(records.len());
        Arc::new(Self { records, left, base: AtomicI64::new(i64::MAX), failure: OnceLock::new() })
    }

    /// A fate for each of the records, in their order. To be taken once.
    pub(super) fn fates(tally: &Arc<Self>) -> impl Iterator<Item = Fate> {
        let count = tally.records.len();
        // The reference of all of them, which the last fate gives back.
        let lent = (count > 0).then(|| Arc::into_raw(Arc::clone(tally)));
        lent.into_iter().flat_map(move |lent| std::iter::repeat_n(lent, count)).map(Fate)
    }

    pub(super) fn records(&self) -> &NewRecords {
        &self.records
    }

    pub(in crate::kafka) fn is_done(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }

    pub(in crate::kafka) fn failure(&self) -> Option<&KafkaError> {
        self.failure.get()
    }

    /// The offset of the first record, once all are done; -1 when there is none.
    pub(in crate::kafka) fn base_offset(&self) -> i64 {
        match self.base.load(Ordering::Relaxed) {
            i64::MAX => -1,
            offset => offset,
        }
    }

    /// Notes what became of `count` records: the first one's offset, or why they have none.
    fn note(&self, fate: Result<i64, KafkaError>) {
        match fate {
            Ok(offset) => {
                self.base.fetch_min(offset, Ordering::Relaxed);
            }
            Err(error) => {
                // The first failure says why; those behind it follow from it.
                drop(self.failure.set(error));
            }
        }
    }

    /// So many records more have their fate.
    ///
    /// # Safety
    /// `tally` is what [`Tally::fates`] lent, and these records had no fate before.
    unsafe fn settle(tally: *const Self, count: usize) {
        // SAFETY: the reference that was lent lives until the last record has its fate, which is at the earliest now.
        let is_last = unsafe { &*tally }.left.fetch_sub(count, Ordering::Release) == count;
        if is_last {
            // SAFETY: nobody has a fate of it any more, so nobody gives this reference back again.
            drop(unsafe { Arc::from_raw(tally) });
        }
    }
}

/// The right to say once what became of a record: with librdkafka while it is under way.
pub(in crate::kafka) struct Fate(*const Tally);

// SAFETY: a tally is shared between threads by itself, and a fate is used up when it is told.
unsafe impl Send for Fate {}
// SAFETY: as above; a shared fate tells nothing.
unsafe impl Sync for Fate {}

impl Fate {
    /// What librdkafka gives back with the report.
    pub(super) fn opaque(&self) -> *mut c_void {
        self.0.cast_mut().cast()
    }

    /// librdkafka has it now.
    pub(super) fn handed_over(self) {}

    /// Says what became of the record: its offset, or why it has none.
    pub(in crate::kafka) fn told(self, fate: Result<i64, KafkaError>) {
        // SAFETY: a fate that is not told yet keeps its tally alive, and is told once, as it is used up.
        unsafe {
            (*self.0).note(fate);
            Tally::settle(self.0, 1);
        }
    }
}

impl IntoOpaque for Fate {
    fn into_ptr(self) -> *mut c_void {
        self.opaque()
    }

    unsafe fn from_ptr(opaque: *mut c_void) -> Self {
        Self(opaque.cast_const().cast())
    }
}

/// Messages of one report that follow each other in one tally, all of them acknowledged.
struct Run {
    tally: *const Tally,
    count: usize,
    first: i64,
}

impl Run {
    fn end(self) {
        // SAFETY: librdkafka gives each opaque back once, with the report.
        unsafe {
            (*self.tally).note(Ok(self.first));
            Tally::settle(self.tally, self.count);
        }
    }
}

impl Queue {
    /// Serves what waits in a producer's queue of events, after a wait for the first of them; errors of the client go to `heard`.
    pub(in crate::kafka) fn serve_reports(&self, wait: Duration, mut heard: impl FnMut(KafkaError, &str)) {
        let mut wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is alive.
        while let Some(event) = NonNull::new(unsafe { sys::rd_kafka_queue_poll(self.ptr.as_ptr(), wait_ms) }) {
            let event = event.as_ptr();
            // SAFETY: the event lives until it is destroyed here, and with it all that is read of it.
            unsafe {
                match sys::rd_kafka_event_type(event) {
                    sys::RD_KAFKA_EVENT_DR => serve_report(event),
                    sys::RD_KAFKA_EVENT_ERROR => {
                        let error = KafkaError::Global(RDKafkaErrorCode::from(sys::rd_kafka_event_error(event)));
                        let reason = CStr::from_ptr(sys::rd_kafka_event_error_string(event)).to_string_lossy();
                        heard(error, reason.trim());
                    }
                    _ => {}
                }
                sys::rd_kafka_event_destroy(event);
            }
            wait_ms = 0;
        }
    }
}

/// Tells the fates of all messages of a report.
///
/// # Safety
/// The event is alive and a delivery report, and its messages were sent with fates.
unsafe fn serve_report(event: *mut sys::rd_kafka_event_t) {
    let mut run: Option<Run> = None;
    // SAFETY: the event is alive; it brings each of its messages once, and null behind the last.
    while let Some(message) = unsafe { sys::rd_kafka_event_message_next(event).as_ref() } {
        let (tally, code) = (message._private.cast_const().cast::<Tally>(), RDKafkaErrorCode::from(message.err));
        match &mut run {
            Some(run) if run.tally == tally && code == RDKafkaErrorCode::NoError => {
                run.count += 1;
                run.first = run.first.min(message.offset);
                continue;
            }
            _ => {}
        }
        if let Some(run) = run.take() {
            run.end();
        }
        if code == RDKafkaErrorCode::NoError {
            run = Some(Run { tally, count: 1, first: message.offset });
        } else {
            Fate(tally).told(Err(KafkaError::MessageProduction(code)));
        }
    }
    if let Some(run) = run {
        run.end();
    }
}
