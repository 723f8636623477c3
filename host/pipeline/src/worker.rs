//! A worker: one thread that polls a stream's partitions and takes each batch through its stages.
//!
//! This is the only place that names the order of the stages.
//! Deliveries are in flight while the next batch is judged; when one fails, everything behind it in its partition is forgotten
//! and the partition is read again from its committed offset: nothing is skipped, and nothing is delivered twice
//! where outputs and offsets become durable together.

mod in_flight;
mod partitions;
mod recovery;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use phronis_core::decode::{Checked, Decoder};
use phronis_core::records::Records;
use phronis_log::{Error as LogError, Log, Member, Polled, Sink, Source, Start, Subscription};

use self::in_flight::{Delivered, InFlight, Settled};
use self::partitions::Partition;
use crate::clock::{now_ms, now_us};
use crate::crew::Crew;
use crate::meters::Meters;
use crate::plugins::Board;
use crate::stage::deduplicate::deduplicate;
use crate::stage::{Judged, Times, deliver, detect, enrich};
use crate::status::StreamState;
use crate::stream::Stream;
use crate::stream::lag::Progress;
use crate::{Error, Result};

/// Deliveries under way. Enough to judge the next batches while some are on their way; more would only make a failure costlier.
const IN_FLIGHT: usize = 6;

/// The same where a transaction takes several: the next ones are judged while it is committed.
const IN_FLIGHT_TRANSACTIONS: usize = 8;

/// How long a poll waits; also how soon a worker notices that it should stop, or that a delivery failed.
const POLL_WAIT: Duration = Duration::from_millis(100);

/// How long a worker looks away when its stream may not start yet.
const IDLE_WAIT: Duration = Duration::from_millis(20);

/// How long a worker that is told to stop goes on with what was taken.
const DRAIN: Duration = Duration::from_secs(3);

/// First and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A worker.
pub(crate) struct Worker {
    stream: Arc<Stream>,
    board: Arc<Board>,
    log: Arc<dyn Log>,
    /// Which of the stream's workers this is.
    member: i32,
    source: Box<dyn Source>,
    sink: Box<dyn Sink>,
    decoder: Decoder,
    crew: Crew,
    partitions: HashMap<i32, Partition>,
    in_flight: InFlight,
    most_in_flight: usize,
    backoff: Duration,
    /// Something failed, and nothing has gone well since.
    is_recovering: bool,
    /// What it said last about itself.
    said: Option<(StreamState, Option<String>)>,
    meters: Meters,
    should_stop: Arc<AtomicBool>,
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
            beside: Vec::new(),
            member,
            members: options.workers.min(options.partitions),
            start: Start::Earliest,
            exactly_once: options.exactly_once,
        })?;
        Ok(Self {
            member,
            source,
            sink,
            decoder: Decoder::new(Arc::clone(&options.contract)),
            meters: Meters::new(&options.id),
            crew: Crew::new(Arc::clone(&options.contract)).map_err(Error::Host)?,
            partitions: HashMap::new(),
            in_flight: InFlight::default(),
            most_in_flight: if options.exactly_once { IN_FLIGHT_TRANSACTIONS } else { IN_FLIGHT },
            backoff: BACKOFF.0,
            is_recovering: false,
            said: None,
            stream,
            board,
            log,
            should_stop,
        })
    }

    /// Works until told to stop, then finishes what is in flight.
    ///
    /// # Errors
    /// The group has put this member out: only a new worker can go on.
    pub(crate) fn run(mut self) -> Result<()> {
        while !self.should_stop() {
            let stepped = if self.may_work() {
                self.step(POLL_WAIT)
            } else {
                self.stay().and_then(|()| self.settle(self.most_in_flight)).map(|()| false)
            };
            if let Err(error) = stepped {
                if matches!(error, Error::Log(LogError::ShutOut { .. })) {
                    return Err(error);
                }
                self.recover(&error);
            }
        }
        if let Err(error) = self.drain() {
            tracing::warn!(stream = %self.stream.options.id, %error, "the last deliveries were not taken, they will be judged again");
        }
        self.say(StreamState::Stopped, None);
        Ok(())
    }

    /// Judges what was taken before the end, as far as the time allows: the log keeps what is left.
    fn drain(&mut self) -> Result<()> {
        let until = Instant::now() + DRAIN;
        while Instant::now() < until && self.may_work() && self.step(Duration::ZERO)? {}
        self.settle_all()
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
            self.say(StreamState::Held, Some(detail));
            return false;
        }
        if let Err(error) = self.crew.follow(lineup) {
            self.say(StreamState::Blocked, Some(error));
            return false;
        }
        true
    }

    /// Takes what comes within the wait; false when nothing came.
    fn step(&mut self, wait: Duration) -> Result<bool> {
        self.check_rewound()?;
        self.make_ready()?;
        // Small batches wait for company only as long as a delivery is under way: one sync serves them all.
        let polled = match self.source.poll(self.stream.options.batch, wait) {
            Err(error @ LogError::OutOfRange { partition, .. }) => {
                self.stop_partition(partition, &error);
                Polled::Idle
            }
            Err(error) => {
                // Whether something was taken before it failed, nobody can tell.
                self.partitions.values_mut().for_each(|partition| partition.must_rewind = true);
                return Err(error.into());
            }
            Ok(polled) => polled,
        };
        let is_idle = matches!(polled, Polled::Idle);
        match polled {
            Polled::Records(records) => {
                // What changed while the poll waited holds for this batch already.
                let lineup = self.board.lineup(&self.stream.options.id);
                if lineup.is_ready && !lineup.is_held {
                    self.crew.follow(lineup).map_err(Error::Host)?;
                }
                self.batch(&records).inspect_err(|_| self.must_rewind(records.partition))?;
            }
            Polled::Assigned(partitions) => self.take_over(&partitions),
            Polled::Revoked(partitions) => self.hand_over(&partitions)?,
            Polled::Lost(partitions) => self.lose(&partitions),
            Polled::Idle => {}
        }
        self.settle(self.most_in_flight)?;
        if is_idle && self.in_flight.is_empty() {
            self.is_recovering = false;
        }
        if !self.is_recovering {
            self.say(StreamState::Running, None);
        }
        Ok(!is_idle)
    }

    /// One batch, in as many deliveries as the log can take.
    fn batch(&mut self, records: &Records) -> Result<()> {
        if self.try_batch(records, false)? {
            return Ok(());
        }
        let half = records.len() / 2;
        if half == 0 {
            tracing::warn!(stream = %self.stream.options.id, partition = records.partition, "one event has more findings than the log can take at once");
            self.try_batch(records, true)?;
            return Ok(());
        }
        self.batch(&records.slice(0, half))?;
        self.batch(&records.slice(half, records.len() - half))
    }

    /// One batch, stage by stage; false when what it leaves behind is too much for one delivery.
    fn try_batch(&mut self, records: &Records, is_findings_refused: bool) -> Result<bool> {
        let polled = now_us();
        let partition = records.partition;
        let Some(next) = records.next_offset() else { return Ok(true) };
        let timestamps = records.body.timestamps.values();
        let first = timestamps.first().copied().unwrap_or(0);
        let newest = timestamps.last().copied().unwrap_or(0);
        let Some(state) = self.partitions.get_mut(&partition) else {
            return Err(Error::Host(format!("records of partition {partition}, which is not this worker's")));
        };
        let from = state.next;
        if self.in_flight.oldest(partition).is_none() {
            self.stream.set_pending(partition, first);
        }
        if std::mem::replace(&mut state.is_stopped, false) {
            self.stream.partition_goes_on(partition);
        }
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
        self.in_flight.push(Delivered { ticket, partition, next, tally, first, newest });
        Ok(true)
    }

    /// Takes the receipts that are there, and waits for them while more than `most` are missing.
    fn settle(&mut self, most: usize) -> Result<()> {
        while let Some(settled) = self.in_flight.settle(most) {
            self.settled(settled)?;
        }
        Ok(())
    }

    /// Waits for all receipts, also for those after a failure; the first failure is the answer.
    fn settle_all(&mut self) -> Result<()> {
        let mut first = Ok(());
        while let Some(settled) = self.in_flight.settle(0) {
            let outcome = self.settled(settled);
            first = first.and(outcome);
        }
        first
    }

    /// Counts a delivery that is durable, or remembers that its partition must be read again.
    fn settled(&mut self, settled: Settled) -> Result<()> {
        let Settled { partition, next, tally, newest, outcome } = settled;
        if let Err(error) = outcome {
            self.stream.limits.learn_from(&error, self.log.as_ref(), &self.stream.options.topics);
            self.must_rewind(partition);
            return Err(error.into());
        }
        self.stream.counts.add(&tally);
        self.meters.delivered(&tally, now_ms().saturating_sub(newest));
        self.stream
            .set_progress(partition, Some(Progress { delivered: next, pending: self.in_flight.oldest(partition) }));
        self.backoff = BACKOFF.0;
        self.is_recovering = false;
        Ok(())
    }

    /// Says what it does, where that is news.
    fn say(&mut self, state: StreamState, detail: Option<String>) {
        let word = (state, detail);
        if self.said.as_ref() != Some(&word) {
            self.said = Some(word.clone());
            self.stream.set_condition(self.member, word.0, word.1);
        }
    }

    fn should_stop(&self) -> bool {
        self.should_stop.load(Ordering::Relaxed)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stream.forget_worker(self.member, self.partitions.keys().copied());
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
