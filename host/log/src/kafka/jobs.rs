//! Deliveries that wait for the thread that sends, within a bound of bytes.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use phronis_core::delivery::{Delivery, Receipt};
use tokio::sync::oneshot;

use super::bell::Bell;
use super::progress::Step;
use crate::{Error, Result};

/// Bytes that a sink may have under way.
const UNDER_WAY: usize = 24 << 20;

/// How long whoever submits may wait for room. Members must poll: what holds them up longer is a failure like any other.
const ROOM: Duration = Duration::from_secs(30);

/// Deliveries that wait for the thread.
#[derive(Default)]
pub(super) struct Jobs {
    queue: Mutex<JobQueue>,
    /// Rung by librdkafka and by those who submit.
    bell: Arc<Bell>,
    has_room: Condvar,
}

#[derive(Default)]
struct JobQueue {
    waiting: VecDeque<Job>,
    /// Bytes that wait or are on their way.
    bytes: usize,
    /// Those who wait for room.
    crowd: usize,
    is_closed: bool,
}

/// A delivery with its steps and who waits for it.
pub(super) struct Job {
    pub(super) delivery: Delivery,
    pub(super) steps: Vec<Step>,
    pub(super) answer: oneshot::Sender<Result<Receipt>>,
    /// What it counts as.
    bytes: usize,
}

impl Job {
    pub(super) fn new(delivery: Delivery, steps: Vec<Step>, answer: oneshot::Sender<Result<Receipt>>) -> Self {
        Self { bytes: bytes(&delivery), delivery, steps, answer }
    }
}

impl Jobs {
    /// Waits until there is room.
    ///
    /// # Errors
    /// When there is none for long, or nobody sends any more.
    pub(super) fn push(&self, job: Job) -> Result<()> {
        let until = Instant::now() + ROOM;
        let mut queue = self.lock();
        while !queue.is_closed && queue.has_no_room(job.bytes) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(queue.full());
            }
            queue.crowd += 1;
            queue = self.has_room.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
            queue.crowd -= 1;
        }
        self.add(queue, job)
    }

    /// The same without a wait, and whether there is room or not.
    pub(super) fn try_push(&self, job: Job) -> Result<()> {
        self.add(self.lock(), job)
    }

    /// # Errors
    /// When a delivery would have to wait.
    pub(super) fn has_room(&self, delivery: &Delivery) -> Result<()> {
        let bytes = bytes(delivery);
        let queue = self.lock();
        if queue.has_no_room(bytes) { Err(queue.full()) } else { Ok(()) }
    }

    fn add(&self, mut queue: MutexGuard<'_, JobQueue>, job: Job) -> Result<()> {
        if queue.is_closed {
            return Err(Error::Closed);
        }
        queue.bytes += job.bytes;
        queue.waiting.push_back(job);
        drop(queue);
        self.bell.call();
        Ok(())
    }

    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.bell.call();
        self.has_room.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    pub(super) fn take(&self) -> Option<Job> {
        self.lock().waiting.pop_front()
    }

    pub(super) fn put_back(&self, job: Job) {
        self.lock().waiting.push_front(job);
    }

    /// Makes room again for what a delivery took.
    pub(super) fn done(&self, job: &Job) {
        let mut queue = self.lock();
        queue.bytes = queue.bytes.saturating_sub(job.bytes);
        if queue.crowd > 0 {
            drop(queue);
            self.has_room.notify_all();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    pub(super) fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    /// Waits until the bell rings, but not for longer.
    pub(super) fn rest(&self, most: Duration) {
        self.bell.wait(Instant::now() + most);
        while self.bell.take().is_some() {}
    }

    fn lock(&self) -> MutexGuard<'_, JobQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JobQueue {
    fn has_no_room(&self, bytes: usize) -> bool {
        self.bytes > 0 && self.bytes + bytes > UNDER_WAY
    }

    fn full(&self) -> Error {
        Error::Full { reason: format!("{} MiB are on their way to Kafka", self.bytes >> 20) }
    }
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = self.lock();
        f.debug_struct("Jobs").field("waiting", &queue.waiting.len()).field("bytes", &queue.bytes).finish()
    }
}

fn bytes(delivery: &Delivery) -> usize {
    delivery.appends.iter().map(|append| append.records.bytes()).sum()
}
