//! The retry branch: keeps time for letters, and moves those whose time has come to the retry topic. It judges nothing.
//!
//! One thread a stream. It owns partitions of dlq by a consumer group of its own, and with each the same partition of retry;
//! what it reads there it folds into the index of letters (`phronis_core::letter::index`), which it alone writes.
//! Before it moves the first letter of a partition it has read both topics to their ends, so that a letter that was moved
//! before a crash is not moved again. Due times stand in the letters: a restart loses none.
//!
//! A letter that cannot be written stops its partition, and says so; it is never skipped.
//!
//! Where a stream is exactly once, each move is a transaction with the group's place in dlq: a host whose partition is another's
//! by now moves nothing. When nobody says how a move ended, the branch ends with its producer and begins anew, so that no move
//! of the old one can come after the new one has read what was moved.

mod bodies;
mod edits;
mod jobs;
mod keep;
mod letters;
mod owned;
mod pace;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use phronis_core::delivery::{Append, Commit, Delivery};
use phronis_core::letter::Returned;
use phronis_core::letter::due::{Due, Next};
use phronis_core::letter::index::{Entry, NO_TIME, Partition, State, moved_from};
use phronis_core::records::{HeadersBuilder, NewRecords, Records, RecordsBuilder, TopicName};
use phronis_core::{Name, PluginId, Time, code};
use phronis_log::{Error as LogError, Log, Member, PollLimits, Polled, Result, Sink, Source, Start, Subscription};

pub(crate) use self::bodies::read_letters;
pub use self::edits::Edited;
pub use self::jobs::{Action, Job, JobState, MOST_PLACES, Progress, Selection};
pub(crate) use self::jobs::{NotAppended, append, discard_append, fresh_id, runs};
use self::keep::Keeper;
pub(crate) use self::keep::{job_of, jobs, row_of};
pub use self::letters::Condition;
pub(crate) use self::letters::Letters;
use self::owned::Owned;
use self::pace::Pace;
use crate::clock::{now_us, rest};
use crate::failpoint;
use crate::lasting::{BACKOFF, keep_going};
use crate::stream::Stream;
use crate::whole::settled;

/// Whether a plugin's breaker is open: its letters wait.
pub(crate) type IsOpen = Arc<dyn Fn(&PluginId) -> bool + Send + Sync>;

/// Told how many range letters of a plugin are outstanding here, and whether raw may soon forget the records of the oldest.
pub(crate) type Ranges = Arc<dyn Fn(&PluginId, u64, bool) + Send + Sync>;

/// Bounds of one read: some milliseconds of folding.
const READ: PollLimits = PollLimits { records: 1024, bytes: 4 << 20 };

/// With room for nothing, a member only keeps its place.
const NOTHING: PollLimits = PollLimits { records: 0, bytes: 0 };

/// Longest wait of a poll: how soon a redrive begins, a closed breaker is noticed, and the thread stops.
const WAIT: Duration = Duration::from_millis(100);

/// Due times in memory, a few dozen bytes each; what is more is read again when its time comes.
const DUE_TIMES: usize = 200_000;

/// Letters, and bytes of them, in one delivery to retry.
const BATCH: (usize, usize) = (500, 1 << 20);

/// How often the group's offsets follow.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// How often it is looked whether retention deleted letters: a question to the log, about what changes over days.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What the branch of one stream is made of.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) stream: Arc<Stream>,
    pub(crate) letters: Arc<Letters>,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) is_open: IsOpen,
    pub(crate) ranges: Ranges,
    pub(crate) should_stop: Arc<AtomicBool>,
}

/// Runs the branch of a stream until told to stop; a new one when it fails.
pub(crate) fn keep_time(parts: &Parts) {
    let run = || Branch::join(parts).and_then(Branch::run);
    keep_going(
        BACKOFF,
        &parts.should_stop,
        || run().map_err(|error| format!("{error} ({})", error.code())),
        |detail| {
            parts.letters.lose_all();
            tracing::warn!(stream = %parts.stream.options.id, %detail, "letters cannot come back, trying again");
            parts.letters.set_trouble(Some(detail));
        },
    );
    parts.letters.lose_all();
}

struct Branch<'a> {
    parts: &'a Parts,
    group: Arc<str>,
    source: Box<dyn Source>,
    sink: Box<dyn Sink>,
    owned: BTreeMap<i32, Owned>,
    due: Due,
    pace: Pace,
    /// The rate of the redrive that runs.
    redrive_pace: Option<(String, Pace)>,
    committed_at: Instant,
    /// When it was last looked whether retention deleted letters.
    looked_at: Instant,
    /// Plugins that have, or had, range letters.
    ranges: BTreeMap<Name, (u64, bool)>,
    /// The copy in the store, where there is one.
    keeper: Option<Keeper>,
}

impl<'a> Branch<'a> {
    fn join(parts: &'a Parts) -> Result<Self> {
        let options = &parts.stream.options;
        let group: Arc<str> = format!("phronis.{}.{}.retry", options.id.tenant, options.id.stream).into();
        let Member { source, sink } = parts.log.join(&Subscription {
            group: Arc::clone(&group),
            topics: vec![Arc::clone(&options.topics.dlq)],
            beside: vec![Arc::clone(&options.topics.retry)],
            member: 0,
            members: 1,
            start: Start::Earliest,
            exactly_once: options.exactly_once,
        })?;
        Ok(Self {
            parts,
            group,
            source,
            sink,
            owned: BTreeMap::new(),
            due: Due::new(DUE_TIMES),
            pace: Pace::new(options.letter_rates.due),
            redrive_pace: None,
            committed_at: Instant::now(),
            looked_at: Instant::now(),
            ranges: BTreeMap::new(),
            keeper: parts.letters.store().map(|store| Keeper::new(store.clone(), options.id.clone())),
        })
    }

    fn run(mut self) -> Result<()> {
        while !self.parts.should_stop.load(Ordering::Relaxed) {
            self.step()?;
        }
        let committed = self.commit();
        self.save();
        committed
    }

    fn step(&mut self) -> Result<()> {
        let is_catching_up = self.owned.values().any(|owned| !owned.is_ready());
        let (limits, wait) = if is_catching_up { (NOTHING, Duration::ZERO) } else { (READ, self.wait()) };
        match self.source.poll(limits, wait) {
            Ok(Polled::Assigned(partitions)) => self.take_over(&partitions),
            Ok(Polled::Revoked(partitions)) => {
                let committed = self.commit();
                self.save();
                self.let_go(&partitions);
                committed?;
            }
            Ok(Polled::Lost(partitions)) => self.let_go(&partitions),
            Ok(Polled::Records(records)) => self.fold(&records),
            Ok(Polled::Idle) => {}
            // Retention overtook the group: the partition is read again from what is left.
            Err(LogError::OutOfRange { topic, partition, .. }) => {
                self.commit()?;
                drop(self.source.rewind(&topic, partition));
                self.begin_again(partition);
                rest(BACKOFF.0, &self.parts.should_stop);
            }
            Err(error) => return Err(error),
        }
        self.catch_up()?;
        for plugin in self.due.held() {
            let id = PluginId { stream: self.parts.stream.options.id.clone(), name: plugin };
            if !(self.parts.is_open)(&id) {
                self.due.release(&id.name);
            }
        }
        self.move_due()?;
        self.redrive()?;
        if self.committed_at.elapsed() >= COMMIT_EVERY {
            self.commit()?;
            if self.looked_at.elapsed() >= LOOK_EVERY {
                self.forget_deleted();
            }
            self.save();
            self.follow_jobs();
            self.measure();
        }
        Ok(())
    }

    /// How long the poll may wait for records.
    fn wait(&self) -> Duration {
        let until_due = self.due.next().map(|due| due.0.saturating_sub(now_us()));
        let until_due = until_due.map(|micros| Duration::from_micros(u64::try_from(micros).unwrap_or(0)));
        // Behind its rate, it does not spin.
        until_due.unwrap_or(WAIT).clamp(Duration::from_millis(1), WAIT)
    }

    /// Folds records of one partition of dlq or retry into the index.
    fn fold(&mut self, records: &Records) {
        let is_dlq = records.topic == self.parts.stream.options.topics.dlq;
        let due = &mut self.due;
        let no_time = no_time(self.parts);
        self.parts.letters.change(records.partition, |index| fold(index, due, records, is_dlq, no_time));
    }

    /// Moves letters whose time has come.
    fn move_due(&mut self) -> Result<()> {
        let now = Time(now_us());
        let mut room = self.pace.allows(BATCH.0);
        let mut ready: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        while room > 0 {
            match self.due.pop(now) {
                None => break,
                Some(Next::Rescan(partition)) => self.rescan(partition)?,
                Some(Next::Letter((partition, offset))) => {
                    let Some((State::Waiting, plugin)) = self.parts.letters.state(partition, offset) else { continue };
                    let Some(owned) = self.owned.get(&partition) else { continue };
                    if let Some(later) = owned.not_before() {
                        self.due.add(Time(now.0.saturating_add(later)), (partition, offset));
                        // The others of the partition are as late; they are looked at in the next round.
                        room -= 1;
                        continue;
                    }
                    if let Some(plugin) = plugin
                        && (self.parts.is_open)(&plugin)
                    {
                        self.due.hold(&plugin.name, (partition, offset));
                        continue;
                    }
                    ready.entry(partition).or_default().push(offset);
                    room -= 1;
                }
            }
        }
        for (partition, mut offsets) in ready {
            offsets.sort_unstable();
            self.pace.spend(offsets.len());
            if let Err(error) = self.send(partition, &offsets, None) {
                self.stand_still(partition, error)?;
                for offset in offsets {
                    self.due.add(now, (partition, offset));
                }
            }
        }
        Ok(())
    }

    /// Appends letters to retry, as they are, with where they stand in dlq: those that nobody else decided about meanwhile.
    fn send(&mut self, partition: i32, offsets: &[i64], redrive: Option<&str>) -> Result<u64> {
        let parts = self.parts;
        let topics = &parts.stream.options.topics;
        let _alone = parts.letters.alone();
        let offsets = parts.letters.movable(partition, offsets);
        if offsets.is_empty() {
            return Ok(0);
        }
        let mut batch = Batch::default();
        let mut batches = Vec::new();
        let gone = read_letters(parts.log.as_ref(), &topics.dlq, partition, &offsets, |records, row| {
            batch.push(records, row, redrive);
            if batch.is_full() {
                batches.push(std::mem::take(&mut batch));
            }
        })?;
        batches.push(batch);
        let mut moved = 0;
        for Batch { records, offsets, .. } in batches.into_iter().filter(|batch| !batch.offsets.is_empty()) {
            let append = Append { topic: Arc::clone(&topics.retry), partition, records: records.finish() };
            failpoint::pass("letters-due");
            let commits = self.fence(partition);
            let ticket = self.sink.submit(Delivery { appends: vec![append], commits })?;
            settled(ticket, &self.parts.should_stop)?;
            failpoint::pass("letters-moved");
            moved += offsets.len() as u64;
            self.parts.letters.change(partition, |index| offsets.iter().for_each(|offset| index.moved(*offset)));
        }
        parts.letters.lose(partition, &gone);
        let why = if redrive.is_some() { "redrive" } else { "due" };
        counter!("phronis_letters_moved_total", "stream" => self.parts.stream.options.id.to_string(), "why" => why)
            .increment(moved);
        if let Some(owned) = self.owned.get_mut(&partition)
            && owned.goes_well()
        {
            self.parts.letters.set_condition(partition, Condition::Ready);
            tracing::info!(stream = %self.parts.stream.options.id, partition, "letters come back again");
        }
        Ok(moved)
    }

    /// With transactions, the group's place in dlq: unmoved, and refused of whoever does not own the partition any more.
    fn fence(&self, partition: i32) -> Vec<Commit> {
        let options = &self.parts.stream.options;
        let Some(owned) = self.owned.get(&partition).filter(|_| options.exactly_once) else { return Vec::new() };
        let (group, topic, at) = (Arc::clone(&self.group), Arc::clone(&options.topics.dlq), owned.committed.dlq);
        vec![Commit { group, topic, partition, from: at, next: at }]
    }

    /// A letter could not be written: its partition stands still for a while, and is read to its end before the next try.
    ///
    /// # Errors
    /// With transactions, when it is not known how that ended.
    fn stand_still(&mut self, partition: i32, error: LogError) -> Result<()> {
        let is_open = matches!(error, LogError::Unreachable { .. } | LogError::Fenced { .. } | LogError::Closed);
        if self.parts.stream.options.exactly_once {
            if is_open {
                return Err(error);
            }
            // Nothing more is taken behind a fence that failed before the member has gone back.
            let at = self.source.rewind(&self.parts.stream.options.topics.dlq, partition)?;
            self.owned.get_mut(&partition).into_iter().for_each(|owned| owned.set_committed(true, at));
        }
        let Some(owned) = self.owned.get_mut(&partition) else { return Ok(()) };
        let detail = format!("letters of partition {partition} do not come back: {error}");
        tracing::error!(stream = %self.parts.stream.options.id, partition, code = %error.code(), "{detail}");
        owned.failed();
        self.parts.letters.set_read(partition, false);
        self.parts.letters.set_condition(partition, Condition::Blocked { code: error.code(), detail });
        Ok(())
    }

    /// Adds all that wait in a partition to the due times.
    fn rescan(&mut self, partition: i32) -> Result<()> {
        let Self { parts, due, .. } = self;
        let no_time = no_time(parts);
        let dlq = &parts.stream.options.topics.dlq;
        let mut from = 0;
        loop {
            let offsets = parts.letters.select(partition, from, READ.records, &[State::Waiting], |_| true);
            let Some(last) = offsets.last() else { return Ok(()) };
            from = last.saturating_add(1);
            let read = read_letters(parts.log.as_ref(), dlq, partition, &offsets, |records, row| {
                if let Some(offset) = records.offsets.values().get(row)
                    && let Entry::Letter { due_at: Some(at), .. } = entry(records, row)
                    && let Some(at) = if at == NO_TIME { no_time } else { Some(at) }
                {
                    due.add(at, (partition, *offset));
                }
            });
            match read {
                Ok(gone) => parts.letters.lose(partition, &gone),
                Err(error) => {
                    due.forget(partition, Time(now_us().saturating_add(1_000_000)));
                    return self.stand_still(partition, error);
                }
            }
        }
    }

    /// Lets the group's offsets follow what is folded. Nothing depends on them but what retention may delete.
    ///
    /// # Errors
    /// With transactions, when it is not known how that ended.
    fn commit(&mut self) -> Result<()> {
        self.committed_at = Instant::now();
        let topics = &self.parts.stream.options.topics;
        let mut commits = Vec::new();
        for (partition, owned) in self.owned.iter().filter(|(_, owned)| owned.is_ready()) {
            let Some(now) = self.parts.letters.positions(*partition) else { continue };
            for (topic, from, next) in
                [(&topics.dlq, owned.committed.dlq, now.dlq), (&topics.retry, owned.committed.retry, now.retry)]
            {
                if next > from {
                    let (group, topic) = (Arc::clone(&self.group), Arc::clone(topic));
                    commits.push(Commit { group, topic, partition: *partition, from, next });
                }
            }
        }
        if commits.is_empty() {
            return Ok(());
        }
        let delivery = Delivery { appends: Vec::new(), commits: commits.clone() };
        let committed = self.sink.submit(delivery).and_then(|ticket| settled(ticket, &self.parts.should_stop));
        if let Err(error) = committed {
            tracing::debug!(stream = %self.parts.stream.options.id, %error, "the offsets of the retry branch were not taken");
            if self.parts.should_stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            if self.parts.stream.options.exactly_once {
                return Err(error);
            }
            // Nothing more is taken of these partitions before the member has gone back to what is certain;
            // what it reads again was folded.
            for Commit { topic, partition, .. } in commits {
                let (Ok(at), Some(owned)) = (self.source.rewind(&topic, partition), self.owned.get_mut(&partition))
                else {
                    continue;
                };
                owned.set_committed(topic == topics.dlq, at);
            }
            return Ok(());
        }
        for Commit { topic, partition, next, .. } in commits {
            if let Some(owned) = self.owned.get_mut(&partition) {
                owned.set_committed(topic == topics.dlq, next);
            }
        }
        Ok(())
    }

    /// Stores what changed. The store may be away: what changed meanwhile is stored when it is back.
    fn save(&mut self) {
        let Some(keeper) = &mut self.keeper else { return };
        for (partition, _) in self.owned.iter().filter(|(_, owned)| owned.is_ready()) {
            keeper.save(*partition, &self.parts.letters);
        }
    }

    fn measure(&mut self) {
        for (partition, owned) in self.owned.iter_mut().filter(|(_, owned)| owned.is_over()) {
            owned.goes_well();
            self.parts.letters.set_condition(*partition, Condition::Ready);
        }
        self.count_ranges();
        let stream = self.parts.stream.options.id.to_string();
        let (waiting, parked) = self.parts.letters.outstanding();
        for (state, count) in [("waiting", waiting), ("parked", parked)] {
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
            gauge!("phronis_letters", "stream" => stream.clone(), "state" => state).set(count as f64);
        }
        let blocked = self.owned.values().filter(|owned| owned.is_failing()).count();
        gauge!("phronis_letters_blocked_partitions", "stream" => stream)
            .set(f64::from(u32::try_from(blocked).unwrap_or(u32::MAX)));
    }
}

impl Branch<'_> {
    /// Tells breakers how many range letters wait for them: they bear so many and no more, and none for longer than half of the
    /// time that raw keeps its records. Known once all was read.
    fn count_ranges(&mut self) {
        if self.owned.values().any(|owned| !owned.is_ready()) {
            return;
        }
        self.ranges.values_mut().for_each(|known| *known = (0, false));
        let options = &self.parts.stream.options;
        let bearable = options.retention.age.map(|age| i64::try_from(age.as_micros() / 2).unwrap_or(i64::MAX));
        let late_before = bearable.map(|most| Time(now_us().saturating_sub(most)));
        for (class, sum) in self.parts.letters.classes() {
            if let (code::BREAKER_OPEN, Some(plugin)) = (class.code, class.plugin_name()) {
                let (letters, is_late) = self.ranges.entry(plugin.clone()).or_default();
                *letters += sum.waiting + sum.parked;
                *is_late |= sum.oldest.zip(late_before).is_some_and(|(oldest, before)| oldest < before);
            }
        }
        for (plugin, (letters, is_late)) in &self.ranges {
            let id = PluginId { stream: options.id.clone(), name: plugin.clone() };
            (self.parts.ranges)(&id, *letters, *is_late);
        }
        self.ranges.retain(|_, (letters, _)| *letters > 0);
    }
}

/// When letters are due that wait behind another: the worker of an ordered stream knows.
/// In a stream that is not ordered any more they wait for nobody.
pub(crate) fn no_time(parts: &Parts) -> Option<Time> {
    parts.stream.options.ordered.is_none().then_some(Time(0))
}

/// Folds records of one partition into its index, and notes when letters are due.
/// Letters that wait behind another are due at `no_time`.
pub(crate) fn fold(index: &mut Partition, due: &mut Due, records: &Records, is_dlq: bool, no_time: Option<Time>) {
    for (row, offset) in records.offsets.values().iter().enumerate() {
        if !is_dlq {
            index.take_retry(*offset, moved_from(records.body.headers(row)));
        } else if *offset >= index.positions().dlq
            && let Some(at) = index.take_dlq(*offset, &entry(records, row))
            && let Some(at) = if at == NO_TIME { no_time } else { Some(at) }
        {
            due.add(at, (records.partition, *offset));
        }
    }
}

/// What a record of dlq says.
pub(crate) fn entry(records: &Records, row: usize) -> Entry {
    let timestamp = records.body.timestamps.values().get(row).copied().unwrap_or_default();
    Entry::read(records.body.headers(row), records.body.value(row), timestamp)
}

/// Letters on their way to retry.
#[derive(Default)]
pub(crate) struct Batch {
    records: RecordsBuilder,
    offsets: Vec<i64>,
    bytes: usize,
    headers: HeadersBuilder,
}

impl Batch {
    /// Adds a letter, as it stands in dlq.
    pub(crate) fn push(&mut self, letters: &Records, row: usize, redrive: Option<&str>) {
        let Some(offset) = letters.offsets.values().get(row).copied() else { return };
        let (body, headers) = (&letters.body, &mut self.headers);
        headers.clear();
        Returned::write(body.headers(row), offset, redrive, headers);
        let timestamp = body.timestamps.values().get(row).copied().unwrap_or_default();
        let (key, value) = (body.key(row), body.value(row));
        self.bytes += headers.as_bytes().len() + key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        self.records.push(timestamp, key, value, headers.as_bytes());
        self.offsets.push(offset);
    }

    /// What retry is given.
    pub(crate) fn into_records(self) -> NewRecords {
        self.records.finish()
    }

    fn is_full(&self) -> bool {
        self.offsets.len() >= BATCH.0 || self.bytes >= BATCH.1
    }
}

/// The topics of the branch, for those who ask which is which.
fn is_dlq(branch: &Branch<'_>, topic: &TopicName) -> bool {
    *topic == branch.parts.stream.options.topics.dlq
}
