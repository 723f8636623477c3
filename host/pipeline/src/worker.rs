//! A worker: one thread that polls a stream's partitions and takes each batch through its stages.
//!
//! This is the only place that names the order of the stages.
//! Deliveries are in flight while the next batch is judged; when one fails, everything behind it is forgotten
//! and the partition is read again from its committed offset: nothing is skipped, and nothing is delivered twice,
//! because outputs and offsets become durable together.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use phronis_core::contract::Deduplicate;
use phronis_core::decode::{Checked, Decoder};
use phronis_core::records::{Records, TopicName};
use phronis_log::{Log, Member, PollLimits, Polled, Position, Sink, Source, Start, Subscription, Ticket};

use crate::clock::{now_ms, now_us};
use crate::crew::Crew;
use crate::meters::Meters;
use crate::plugins::Board;
use crate::stage::deduplicate::{Window, deduplicate};
use crate::stage::{Judged, Times, deliver, detect, enrich};
use crate::status::{StreamCounts, StreamState};
use crate::stream::Stream;
use crate::{Error, Result};

/// Deliveries under way. Enough to judge the next batch while one is being synced; more would only make a failure costlier.
const IN_FLIGHT: usize = 4;

/// How long a poll waits; also how soon a worker notices that it should stop, or that a delivery failed.
const POLL_WAIT: Duration = Duration::from_millis(100);

/// How long a worker looks away when its stream may not start yet.
const IDLE_WAIT: Duration = Duration::from_millis(20);

/// How long a worker that is told to stop goes on with what was taken.
const DRAIN: Duration = Duration::from_secs(10);

/// Bounds of one read of what de-duplication must remember.
const READ_BACK: PollLimits = PollLimits { records: 8192, bytes: 4 << 20 };

/// First and longest pause after a failed delivery.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A worker.
pub(crate) struct Worker {
    stream: Arc<Stream>,
    board: Arc<Board>,
    log: Arc<dyn Log>,
    source: Box<dyn Source>,
    sink: Box<dyn Sink>,
    decoder: Decoder,
    crew: Crew,
    partitions: HashMap<i32, Partition>,
    in_flight: VecDeque<InFlight>,
    backoff: Duration,
    meters: Meters,
    should_stop: Arc<AtomicBool>,
}

/// What a worker knows of a partition that it owns.
#[derive(Debug)]
struct Partition {
    /// Where the next delivery's commit starts.
    next: i64,
    /// Latest event time, in microseconds since 1970.
    watermark: i64,
    window: Option<Window>,
    /// The last delivery failed, and reading again from the committed offset did too: nothing may be judged before it did not.
    must_rewind: bool,
}

/// A delivery that is not durable yet.
#[derive(Debug)]
struct InFlight {
    ticket: Ticket,
    tally: StreamCounts,
    /// Timestamp of the newest record, in milliseconds since 1970.
    newest: i64,
}

impl Worker {
    pub(crate) fn new(
        stream: Arc<Stream>,
        board: Arc<Board>,
        log: Arc<dyn Log>,
        member: i32,
        should_stop: Arc<AtomicBool>,
    ) -> Result<Self> {
        let options = &stream.options;
        let Member { source, sink } = log.join(&Subscription {
            group: Arc::clone(&stream.group),
            topics: vec![Arc::clone(&options.topics.raw)],
            member,
            members: options.workers.min(options.partitions),
            start: Start::Earliest,
            exactly_once: options.exactly_once,
        })?;
        Ok(Self {
            source,
            sink,
            decoder: Decoder::new(Arc::clone(&options.contract)),
            meters: Meters::new(&options.id),
            crew: Crew::new(Arc::clone(&options.contract)).map_err(Error::Host)?,
            partitions: HashMap::new(),
            in_flight: VecDeque::new(),
            backoff: BACKOFF.0,
            stream,
            board,
            log,
            should_stop,
        })
    }

    /// Works until told to stop, then finishes what is in flight.
    pub(crate) fn run(mut self) {
        while !self.should_stop.load(Ordering::Relaxed) {
            let stepped = if self.may_work() {
                self.step(POLL_WAIT)
            } else {
                std::thread::sleep(IDLE_WAIT);
                self.settle(IN_FLIGHT).map(|()| false)
            };
            if let Err(error) = stepped {
                self.recover(&error);
            }
        }
        if let Err(error) = self.drain() {
            tracing::warn!(stream = %self.stream.options.id, %error, "the last deliveries were not taken, they will be judged again");
        }
        self.stream.set_condition(0, StreamState::Stopped, None);
    }

    /// Judges what was taken before the end, as far as the time allows: the log keeps what is left.
    fn drain(&mut self) -> Result<()> {
        let until = Instant::now() + DRAIN;
        while Instant::now() < until && self.may_work() && self.step(Duration::ZERO)? {}
        self.settle(0)
    }

    /// Follows the lineup and says whether the stream may run.
    fn may_work(&mut self) -> bool {
        let lineup = self.board.lineup(&self.stream.options.id);
        if !lineup.is_ready {
            return false;
        }
        if lineup.is_held {
            let names: Vec<_> = lineup.bypassed.iter().map(|name| name.as_str()).collect();
            let detail = format!("waits for a good version of {}", names.join(", "));
            self.stream.set_condition(0, StreamState::Held, Some(detail));
            return false;
        }
        if let Err(error) = self.crew.follow(lineup) {
            self.stream.set_condition(0, StreamState::Blocked, Some(error));
            return false;
        }
        true
    }

    /// Takes what comes within the wait; false when nothing came.
    fn step(&mut self, wait: Duration) -> Result<bool> {
        if self.partitions.values().any(|partition| partition.must_rewind) {
            return Err(Error::Host("a partition could not be read again from its committed offset".into()));
        }
        // Small batches wait for company only as long as a delivery is under way: one sync serves them all.
        let polled = self.source.poll(self.stream.options.batch, wait)?;
        let is_idle = matches!(polled, Polled::Idle);
        match polled {
            Polled::Records(records) => {
                // What changed while the poll waited holds for this batch already.
                let lineup = self.board.lineup(&self.stream.options.id);
                if lineup.is_ready && !lineup.is_held {
                    self.crew.follow(lineup).map_err(Error::Host)?;
                }
                self.batch(records)?;
            }
            Polled::Assigned(partitions) => {
                for (_, partition, next) in partitions {
                    self.take_over(partition, next);
                }
            }
            Polled::Revoked(partitions) => {
                self.settle(0)?;
                self.forget(&partitions);
            }
            Polled::Lost(partitions) => {
                self.in_flight.clear();
                self.forget(&partitions);
            }
            Polled::Idle => {}
        }
        self.settle(IN_FLIGHT)?;
        if self.stream.condition().0 != StreamState::Running {
            self.stream.set_condition(0, StreamState::Running, None);
        }
        Ok(!is_idle)
    }

    /// One batch, in as many deliveries as the log can take.
    fn batch(&mut self, records: Records) -> Result<()> {
        if self.try_batch(&records, false)? {
            return Ok(());
        }
        let half = records.len() / 2;
        if half == 0 {
            tracing::warn!(stream = %self.stream.options.id, partition = records.partition, "one event has more findings than the log can take at once");
            self.try_batch(&records, true)?;
            return Ok(());
        }
        self.batch(records.slice(0, half))?;
        self.batch(records.slice(half, records.len() - half))
    }

    /// One batch, stage by stage; false when what it leaves behind is too much for one delivery.
    fn try_batch(&mut self, records: &Records, is_findings_refused: bool) -> Result<bool> {
        let polled = now_us();
        let partition = records.partition;
        let Some(next) = records.next_offset() else { return Ok(true) };
        let newest = records.body.timestamps.values().last().copied().unwrap_or(0);
        let Some(state) = self.partitions.get_mut(&partition) else {
            return Err(Error::Host(format!("records of partition {partition}, which is not this worker's")));
        };
        let from = state.next;
        let started = Instant::now();

        let checked = self.decoder.check(records.clone());
        self.meters.checked(started.elapsed());

        state.watermark = watermark(state.watermark, &checked);
        let times = Times { polled, checked: now_us(), judged: 0 };
        let mut judged = Judged::new(checked, state.watermark, times);
        if let (Some(window), Some(rule)) = (&mut state.window, self.stream.options.contract.deduplicate()) {
            deduplicate(&mut judged, rule.field, window);
        }
        for enricher in &mut self.crew.enrichers {
            enrich::enrich(&mut judged, enricher)?;
        }
        for detector in &mut self.crew.detectors {
            detect::detect(&mut judged, detector)?;
        }
        if is_findings_refused {
            judged.refuse_findings();
        }
        judged.times.judged = now_us();
        self.meters.judged(started.elapsed());

        let Crew { lineup, writer, .. } = &self.crew;
        let (delivery, tally) = match deliver::deliver(&judged, &self.stream, lineup, writer, from, next) {
            Ok(delivered) => delivered,
            Err(deliver::Failure::TooMuch) if !is_findings_refused => return Ok(false),
            Err(failure) => return Err(Error::Host(failure.to_string())),
        };
        let ticket = self.sink.submit(delivery)?;
        self.meters.submitted(started.elapsed());
        state.next = next;
        self.in_flight.push_back(InFlight { ticket, tally, newest });
        Ok(true)
    }

    /// Takes the receipts that are there, and waits for them while more than `most` are missing.
    fn settle(&mut self, most: usize) -> Result<()> {
        while let Some(mut first) = self.in_flight.pop_front() {
            let outcome = if self.in_flight.len() >= most {
                first.ticket.wait()
            } else {
                match first.ticket.try_wait() {
                    Some(outcome) => outcome,
                    None => {
                        self.in_flight.push_front(first);
                        return Ok(());
                    }
                }
            };
            outcome?;
            self.stream.counts.add(&first.tally);
            self.meters.delivered(&first.tally, now_ms().saturating_sub(first.newest));
            self.backoff = BACKOFF.0;
        }
        Ok(())
    }

    /// After a failure: forget what is in flight, go back to what is committed, and try again a little later.
    fn recover(&mut self, error: &Error) {
        tracing::warn!(stream = %self.stream.options.id, %error, retry_in = ?self.backoff, "delivery failed, reading again from the committed offset");
        self.stream.set_condition(0, StreamState::Blocked, Some(error.to_string()));
        for pending in std::mem::take(&mut self.in_flight) {
            // Those of other partitions may have become durable, those behind the failed one cannot.
            if pending.ticket.wait().is_ok() {
                self.stream.counts.add(&pending.tally);
                self.meters.delivered(&pending.tally, now_ms().saturating_sub(pending.newest));
            }
        }
        self.pause();
        let raw = Arc::clone(&self.stream.options.topics.raw);
        for (partition, state) in &mut self.partitions {
            state.must_rewind = true;
            match self.source.rewind(&raw, *partition) {
                Ok(next) => {
                    state.next = next;
                    state.must_rewind = false;
                }
                Err(error) => {
                    tracing::error!(stream = %self.stream.options.id, partition, %error, "the committed offset cannot be read");
                }
            }
        }
    }

    fn pause(&mut self) {
        let until = Instant::now() + self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
        while Instant::now() < until && !self.should_stop.load(Ordering::Relaxed) {
            std::thread::sleep(IDLE_WAIT);
        }
    }

    fn forget(&mut self, partitions: &[(TopicName, i32)]) {
        for (_, partition) in partitions {
            self.partitions.remove(partition);
        }
    }

    /// Takes a partition over; nothing of it is judged before what de-duplication must remember is read back.
    fn take_over(&mut self, partition: i32, next: i64) {
        let mut state = Partition { next, watermark: i64::MIN, window: None, must_rewind: false };
        if let Some(rule) = self.stream.options.contract.deduplicate() {
            while !self.should_stop.load(Ordering::Relaxed) {
                match self.remembered(partition, next, rule) {
                    Ok(window) => {
                        state.window = Some(window);
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(stream = %self.stream.options.id, partition, %error, "what de-duplication must remember cannot be read, trying again");
                        self.stream.set_condition(0, StreamState::Blocked, Some(error.to_string()));
                        self.pause();
                    }
                }
            }
        }
        self.partitions.insert(partition, state);
    }

    /// The keys of the last records before an offset, as far back as the window reaches and retention has left.
    fn remembered(&mut self, partition: i32, next: i64, rule: Deduplicate) -> Result<Window> {
        let mut window = Window::new(rule.window);
        let depth = i64::try_from(rule.window).unwrap_or(i64::MAX);
        let raw = Arc::clone(&self.stream.options.topics.raw);
        let mut from = Position::Offset(next.saturating_sub(depth).max(0));
        'reading: loop {
            let mut reader = match self.log.reader(&raw, partition, from) {
                Err(phronis_log::Error::OutOfRange { .. }) => self.log.reader(&raw, partition, Position::Earliest)?,
                other => other?,
            };
            while reader.position() < next {
                let records = match reader.next(READ_BACK, Duration::ZERO) {
                    Ok(Some(records)) => records,
                    Ok(None) => break,
                    Err(phronis_log::Error::OutOfRange { .. }) => {
                        from = Position::Earliest;
                        continue 'reading;
                    }
                    Err(error) => return Err(error.into()),
                };
                let ahead = records.offsets.values().iter().take_while(|offset| **offset < next).count();
                let mut seen = Judged::new(self.decoder.check(records.slice(0, ahead)), i64::MIN, Times::default());
                deduplicate(&mut seen, rule.field, &mut window);
            }
            return Ok(window);
        }
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("stream", &self.stream.options.id).finish_non_exhaustive()
    }
}

fn watermark(before: i64, checked: &Checked) -> i64 {
    checked.events.event_times.values().iter().copied().max().map_or(before, |latest| latest.max(before))
}
