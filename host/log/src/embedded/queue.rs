//! The way to the writer: jobs in order, bounded by the bytes that are under way.
//!
//! A job's bytes count until the writer has answered it, so that the bound holds for everything that memory holds.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use phronis_core::delivery::{Commit, Receipt};
use tokio::sync::oneshot;

use super::catalog::{Partition, lock};
use super::codec::Row;
use super::writer::Writer;
use crate::{Error, Result};

/// Something for the writer to do.
pub(super) enum Job {
    /// Appends and commits; queued ones share a transaction.
    Deliver(Work),
    /// Anything else, alone.
    Call(Box<dyn FnOnce(&mut Writer) + Send>),
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Self::Deliver(work) => work.memory,
            Self::Call(_) => 0,
        }
    }
}

/// A delivery, resolved and encoded.
pub(super) struct Work {
    pub(super) appends: Vec<(Arc<Partition>, Vec<Row>)>,
    pub(super) commits: Vec<(Arc<Partition>, Commit)>,
    /// Bytes held in memory until it is answered.
    pub(super) memory: usize,
    pub(super) answer: oneshot::Sender<Result<Receipt>>,
}

/// The queue.
pub(super) struct Queue {
    state: Mutex<State>,
    room: Condvar,
    work: Condvar,
    bound: usize,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    bytes: usize,
    /// Who waits for room: nobody who can come later goes before them.
    waiting: usize,
    closed: bool,
}

impl Queue {
    pub(super) fn new(bound: usize) -> Self {
        Self { state: Mutex::default(), room: Condvar::new(), work: Condvar::new(), bound }
    }

    /// An error when so many bytes would have to wait.
    pub(super) fn has_room(&self, bytes: usize) -> Result<()> {
        self.room_now(&lock(&self.state), bytes)
    }

    /// Adds a job, waiting for room. A job larger than the bound goes in alone.
    pub(super) fn push(&self, job: Job) -> Result<()> {
        let bytes = job.bytes();
        let waiting = |state: &mut State| !state.closed && self.room_in(state, bytes).is_err();
        let mut state = lock(&self.state);
        state.waiting += 1;
        let mut state = self.room.wait_while(state, waiting).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        self.add(state, job)
    }

    /// Adds a job if there is room.
    pub(super) fn try_push(&self, job: Job) -> Result<()> {
        let bytes = job.bytes();
        let state = lock(&self.state);
        self.room_now(&state, bytes)?;
        self.add(state, job)
    }

    /// Takes jobs of about so many bytes; `None` once it is closed and empty, nothing when the time is over.
    pub(super) fn take(&self, bytes: usize, until: Instant) -> Option<Vec<Job>> {
        let wait = until.saturating_duration_since(Instant::now());
        let idle = |state: &mut State| !state.closed && state.jobs.is_empty();
        let (mut state, _) =
            self.work.wait_timeout_while(lock(&self.state), wait, idle).unwrap_or_else(PoisonError::into_inner);
        let (mut taken, mut size) = (Vec::new(), 0);
        while let Some(job) = state.jobs.front() {
            size += job.bytes();
            if size > bytes && !taken.is_empty() {
                break;
            }
            taken.extend(state.jobs.pop_front());
        }
        (!taken.is_empty() || !state.closed).then_some(taken)
    }

    /// Frees what answered jobs held.
    pub(super) fn release(&self, bytes: usize) {
        let mut state = lock(&self.state);
        state.bytes = state.bytes.saturating_sub(bytes);
        drop(state);
        self.room.notify_all();
    }

    pub(super) fn is_empty(&self) -> bool {
        lock(&self.state).jobs.is_empty()
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    /// Takes no more jobs; those that are in are still done.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.room.notify_all();
        self.work.notify_all();
    }

    /// Drops what is left: their tickets say that the log is closed.
    pub(super) fn clear(&self) {
        lock(&self.state).jobs.clear();
    }

    /// Room for someone who does not wait: what processing waits for comes first, or posts could starve it.
    fn room_now(&self, state: &State, bytes: usize) -> Result<()> {
        if state.waiting > 0 {
            return Err(Error::Full { reason: "others wait for room already".to_owned() });
        }
        self.room_in(state, bytes)
    }

    fn room_in(&self, state: &State, bytes: usize) -> Result<()> {
        if state.bytes == 0 || state.bytes + bytes <= self.bound {
            return Ok(());
        }
        Err(Error::Full { reason: format!("{} bytes are still being written", state.bytes) })
    }

    fn add(&self, mut state: MutexGuard<'_, State>, job: Job) -> Result<()> {
        if state.closed {
            return Err(Error::Closed);
        }
        state.bytes += job.bytes();
        state.jobs.push_back(job);
        drop(state);
        self.work.notify_one();
        Ok(())
    }
}
