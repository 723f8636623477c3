//! A worker: one thread that polls a stream's partitions and takes each batch through its stages.
//!
//! This is the only place that names the order of the stages.
//! Deliveries are in flight while the next batch is judged; when one fails, everything behind it in its partition is forgotten
//! and the partition is read again from its committed offset: nothing is skipped, and nothing is delivered twice
//! where outputs and offsets become durable together.

mod again;
mod in_flight;
mod lane;
mod order;
mod partitions;
mod poison;
mod recovery;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use phronis_core::decode::{Checked, Decoder};
use phronis_core::delivery::{Commit, Delivery};
use phronis_core::records::Records;
use phronis_log::{Error as LogError, Log, Member, Polled, Sink, Source, Start, Subscription};

use self::in_flight::{Delivered, InFlight, Settled};
use self::lane::{Input, Lane};
use self::partitions::Partition;
use self::poison::Watch;
use crate::clock::{now_ms, now_us};
use crate::crew::Crew;
use crate::meters::Meters;
use crate::plugins::Board;
use crate::stage::course::Course;
use crate::stage::deduplicate::deduplicate;
use crate::stage::order::{Full, withdraw};
use crate::stage::{Judged, Leaving, Times, deliver, detect, enrich, halt};
use crate::status::{StreamCounts, StreamState};
use crate::stream::Stream;
use crate::stream::lag::Progress;
use crate::{Error, Result, failpoint};

/// Deliveries under way. Enough to judge the next batches while some are on their way; more would only make a failure costlier.
const IN_FLIGHT: usize = 6;

/// The same where a transaction takes several: the next ones are judged while it is committed.
const IN_FLIGHT_TRANSACTIONS: usize = 10;

/// How long a poll waits; also how soon a worker notices that it should stop, or that a delivery failed.
const POLL_WAIT: Duration = Duration::from_millis(100);

/// How long a worker looks away when its stream may not start yet.
const IDLE_WAIT: Duration = Duration::from_millis(20);

/// How long a worker that is told to stop goes on with what was taken.
const DRAIN: Duration = Duration::from_secs(3);

/// How long it then waits for the last deliveries: the host ends hard some time later.
const LAST: Duration = Duration::from_secs(10);

/// How long a worker may wait for deliveries without a look at its group: others wait for its partitions meanwhile.
const AWAY: Duration = Duration::from_secs(30);

/// First and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tried {
    /// Its delivery is on its way.
    Submitted,
    /// It leaves behind too much for one delivery.
    TooMuch,
    /// From this record on it finds no room to wait in.
    Full(Full),
}

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
    partitions: HashMap<Lane, Partition>,
    watch: Watch,
    in_flight: InFlight,
    most_in_flight: usize,
    backoff: Duration,
    /// Something failed, and nothing has gone well since.
    is_recovering: bool,
    /// What it said last about itself.
    said: Option<(StreamState, Option<String>)>,
    meters: Meters,
    should_stop: Arc<AtomicBool>,
    /// What was read last of raw for letters that come back.
    read_last: RefCell<Option<Records>>,
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
            beside: vec![Arc::clone(&options.topics.retry)],
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
            crew: Crew::new(Arc::clone(&options.contract), options.ordered.is_some()).map_err(Error::Host)?,
            partitions: HashMap::new(),
            watch: Watch::new(stream.starts.clone()),
            in_flight: InFlight::default(),
            most_in_flight: if options.exactly_once { IN_FLIGHT_TRANSACTIONS } else { IN_FLIGHT },
            backoff: BACKOFF.0,
            is_recovering: false,
            said: None,
            stream,
            board,
            log,
            should_stop,
            read_last: RefCell::default(),
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
                self.stay().and_then(|()| self.settle()).map(|()| false)
            };
            if let Err(error) = stepped {
                if matches!(error, Error::Log(LogError::ShutOut { .. })) {
                    self.watch.let_all_go();
                    return Err(error);
                }
                self.recover(&error);
            }
        }
        if let Err(error) = self.drain() {
            tracing::warn!(stream = %self.stream.options.id, %error, "the last deliveries were not taken, they will be judged again");
        }
        self.watch.let_all_go();
        self.say(StreamState::Stopped, None);
        Ok(())
    }

    /// Judges what was taken before the end, as far as the time allows: the log keeps what is left.
    fn drain(&mut self) -> Result<()> {
        let until = Instant::now() + DRAIN;
        while Instant::now() < until && self.may_work() && self.step(Duration::ZERO)? {}
        self.settle_all(LAST)
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
        if let Some(detail) = self.crew.why_held() {
            self.say(StreamState::Held, Some(detail));
            return false;
        }
        true
    }

    /// Takes what comes within the wait; false when nothing came.
    fn step(&mut self, wait: Duration) -> Result<bool> {
        self.check_rewound()?;
        self.make_ready()?;
        self.keep_order()?;
        // Small batches wait for company only as long as a delivery is under way: one sync serves them all.
        let polled = match self.source.poll(self.stream.options.batch, wait) {
            Err(LogError::OutOfRange { topic, partition, offset, earliest, latest }) => {
                let lane = self.lane(&topic, partition);
                self.stop_partition(lane, &LogError::OutOfRange { topic, partition, offset, earliest, latest });
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
                let lane = self.lane(&records.topic, records.partition);
                let is_careful = self.is_careful(lane, &records);
                let _turn = (!is_careful).then(poison::turn);
                let outcome = match lane.input {
                    _ if is_careful => self.carefully(lane, &records),
                    Input::Raw => self.batch(&records).map(|_| ()),
                    Input::Retry => self.again(&records),
                };
                match outcome.inspect_err(|_| self.must_rewind(lane)) {
                    Err(Error::Held) => self.hold_back()?,
                    outcome => outcome?,
                }
            }
            Polled::Assigned(partitions) => {
                // Another topic may have the name by now.
                self.read_last.take();
                self.take_over(&partitions);
            }
            Polled::Revoked(partitions) => self.hand_over(&partitions)?,
            Polled::Lost(partitions) => self.lose(&partitions),
            Polled::Idle => {}
        }
        self.settle()?;
        if is_idle && self.in_flight.is_empty() {
            self.is_recovering = false;
        }
        if !self.is_recovering {
            self.say(StreamState::Running, None);
        }
        Ok(!is_idle)
    }

    /// One batch, in as many deliveries as the log can take; false when its partition stands still before the end of it.
    fn batch(&mut self, records: &Records) -> Result<bool> {
        let full = match self.try_batch(records, false)? {
            Tried::Submitted => return Ok(true),
            Tried::Full(full) => Some(full),
            Tried::TooMuch => None,
        };
        let half = records.len() / 2;
        match full {
            Some(full) => {
                if full.row == 0 || self.batch(&records.slice(0, full.row))? {
                    self.stand_still(Lane::raw(records.partition), full)?;
                }
                Ok(false)
            }
            None if half == 0 => {
                tracing::warn!(stream = %self.stream.options.id, partition = records.partition, "one event has more findings than the log can take at once");
                self.try_batch(records, true)?;
                Ok(true)
            }
            None => Ok(self.batch(&records.slice(0, half))? && self.batch(&records.slice(half, records.len() - half))?),
        }
    }

    /// One batch, stage by stage.
    fn try_batch(&mut self, records: &Records, is_findings_refused: bool) -> Result<Tried> {
        let polled = now_us();
        let lane = Lane::raw(records.partition);
        let Some(next) = records.next_offset() else { return Ok(Tried::Submitted) };
        if self.stream.options.ordered.is_some() {
            self.catch_up(lane.partition)?;
        }
        let timestamps = records.body.timestamps.values();
        let first = timestamps.first().copied().unwrap_or(0);
        let newest = timestamps.last().copied().unwrap_or(0);
        self.goes_on(lane)?;
        if self.in_flight.oldest(lane).is_none() {
            self.stream.set_pending(lane.partition, first);
        }
        let started = Instant::now();
        failpoint::pass_records(records);

        let checked = self.decoder.check(records.clone());
        self.meters.checked(started.elapsed());

        let times = Times { polled, checked: now_us(), judged: 0 };
        let mut judged = Judged::new(checked, i64::MIN, times);
        if let Some(state) = self.partitions.get_mut(&lane) {
            state.watermark = watermark(state.watermark, &judged.checked);
            judged.watermark = state.watermark;
            if let (Some(window), Some(rule)) = (&mut state.window, self.stream.options.contract.deduplicate()) {
                deduplicate(&mut judged, rule.field, window);
            }
        }
        let course = Course::default();
        halt::hold(&mut judged, &self.stream.agents, self.stream.options.on_halted);
        if let Err(full) = self.judge(&mut judged, &course, is_findings_refused)? {
            return Ok(Tried::Full(full));
        }
        self.meters.judged(started.elapsed());

        let (delivery, tally) = match self.deliver(&mut judged, &course) {
            Ok(Ok(delivered)) => delivered,
            Ok(Err(full)) => return Ok(Tried::Full(full)),
            Err(deliver::Failure::TooMuch) if !is_findings_refused => return Ok(Tried::TooMuch),
            Err(failure) => return Err(Error::Host(failure.to_string())),
        };
        self.submit(lane, delivery, next, tally, (first, newest))?;
        for waiting in &judged.ranges {
            waiting.plugin.breaker.ranges_written(1);
        }
        self.meters.submitted(started.elapsed());
        Ok(Tried::Submitted)
    }

    /// Asks the plugins, in their order, as far as the course goes. In an ordered stream, an event that waits behind another
    /// is shown to no plugin, and one that has to wait since the enrichers spoke to no detector.
    fn judge(
        &mut self,
        judged: &mut Judged,
        course: &Course,
        is_findings_refused: bool,
    ) -> Result<std::result::Result<(), Full>> {
        let is_ordered = self.stream.options.ordered.is_some();
        if let Err(full) = self.hold_order(judged, course) {
            return Ok(Err(full));
        }
        let runs = course.enrichers(&self.crew.lineup);
        for (enricher, runs) in self.crew.enrichers.iter_mut().zip(runs) {
            if runs { enrich::enrich(judged, enricher, is_ordered)? } else { enrich::pass_by(judged, enricher) }
        }
        if let Err(full) = self.hold_order(judged, course) {
            return Ok(Err(full));
        }
        for detector in &mut self.crew.detectors {
            if course.judges(&detector.placed.version.id.name) {
                detect::detect(judged, detector)?;
            }
        }
        if is_findings_refused {
            judged.refuse_findings();
        }
        judged.times.judged = now_us();
        Ok(Ok(()))
    }

    /// Writes what a batch leaves behind. In an ordered stream, what is too large for its topic makes others wait.
    fn deliver(
        &self,
        judged: &mut Judged,
        course: &Course,
    ) -> std::result::Result<std::result::Result<(Delivery, StreamCounts), Full>, deliver::Failure> {
        let Crew { lineup, writer, .. } = &self.crew;
        loop {
            match deliver::deliver(judged, &self.stream, lineup, writer, course) {
                Err(deliver::Failure::TooLarge(events)) => {
                    let leaving = events.into_iter().map(|(event, bytes)| (event, Leaving::TooLarge { bytes }));
                    judged.leaving.extend(leaving);
                    if let Err(full) = self.hold_order(judged, course) {
                        return Ok(Err(full));
                    }
                    withdraw(judged);
                }
                other => return other.map(Ok),
            }
        }
    }

    /// What is known of the order of a partition.
    fn line(&mut self, partition: i32) -> Option<&mut order::Line> {
        self.partitions.get_mut(&Lane::raw(partition))?.line.as_mut()
    }

    /// A partition has records again.
    fn goes_on(&mut self, lane: Lane) -> Result<()> {
        let Some(state) = self.partitions.get_mut(&lane) else {
            return Err(Error::Host(format!("records of {lane:?}, which is not this worker's")));
        };
        if std::mem::replace(&mut state.is_stopped, false) {
            self.stream.partition_goes_on(lane.spot());
        }
        Ok(())
    }

    /// Hands over what a batch leaves behind, with the step of its partition.
    fn submit(
        &mut self,
        lane: Lane,
        mut delivery: Delivery,
        next: i64,
        tally: StreamCounts,
        (first, newest): (i64, i64),
    ) -> Result<()> {
        let Some(state) = self.partitions.get_mut(&lane) else { return Ok(()) };
        let records = usize::try_from(next - state.next).unwrap_or(0);
        delivery.commits.push(Commit {
            group: Arc::clone(&self.stream.group),
            topic: Arc::clone(lane.topic(&self.stream.options.topics)),
            partition: lane.partition,
            from: state.next,
            next,
        });
        let dlq = &self.stream.options.topics.dlq;
        let writes_letters = delivery.appends.iter().any(|append| append.topic == *dlq);
        if writes_letters && let Some(line) = self.line(lane.partition) {
            line.wrote();
        }
        let ticket = self.sink.submit(delivery)?;
        if let Some(state) = self.partitions.get_mut(&lane) {
            state.next = next;
        }
        self.in_flight.push(Delivered { ticket, lane, next, records, tally, first, newest });
        Ok(())
    }

    /// Takes the receipts that are there. While too many are missing it takes no records and keeps its place in the group;
    /// never to be called with records in hand, which may be someone else's afterwards.
    fn settle(&mut self) -> Result<()> {
        while !self.settle_some(POLL_WAIT)? {
            if self.should_stop() {
                return self.settle_all(LAST);
            }
            self.stay()?;
        }
        Ok(())
    }

    /// Takes the receipts that are there. While too many are missing it waits so long for the next; false when that did not come.
    fn settle_some(&mut self, wait: Duration) -> Result<bool> {
        loop {
            let is_full = self.in_flight.is_full(self.most_in_flight);
            let until = Instant::now() + if is_full { wait } else { Duration::ZERO };
            match self.in_flight.settle(until) {
                Some(settled) => self.settled(settled)?,
                None => return Ok(!is_full),
            }
        }
    }

    /// Waits for all receipts, for so long at most, also for those after a failure; the first failure is the answer.
    fn settle_all(&mut self, within: Duration) -> Result<()> {
        let (until, mut first) = (Instant::now() + within, Ok(()));
        while !self.in_flight.is_empty() {
            let outcome = self.in_flight.settle(until).ok_or_else(unanswered);
            let is_late = outcome.is_err();
            let outcome = outcome.and_then(|settled| self.settled(settled));
            first = first.and(outcome);
            if is_late {
                break;
            }
        }
        first
    }

    /// Counts a delivery that is durable, or remembers that its partition must be read again.
    fn settled(&mut self, settled: Settled) -> Result<()> {
        let Settled { lane, next, tally, newest, outcome } = settled;
        if let Err(error) = outcome {
            self.stream.limits.learn_from(&error, self.log.as_ref(), &self.stream.options.topics);
            self.must_rewind(lane);
            return Err(error.into());
        }
        self.stream.counts.add(&tally);
        self.meters.delivered(&tally, (lane.input == Input::Raw).then(|| now_ms().saturating_sub(newest)));
        self.set_progress(lane, Some(Progress { delivered: next, pending: self.in_flight.oldest(lane) }));
        if lane.input == Input::Raw
            && let Some(line) = self.line(lane.partition)
        {
            line.passed(next);
        }
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
        let raw = self.partitions.keys().filter(|lane| lane.input == Input::Raw);
        self.stream.forget_worker(self.member, raw.map(|lane| lane.partition));
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("stream", &self.stream.options.id).finish_non_exhaustive()
    }
}

/// The log has not said in time what became of deliveries.
fn unanswered() -> Error {
    LogError::Unreachable { reason: "deliveries were not answered in time".to_owned() }.into()
}

fn watermark(before: i64, checked: &Checked) -> i64 {
    checked.events.event_times.values().iter().copied().max().map_or(before, |latest| latest.max(before))
}
