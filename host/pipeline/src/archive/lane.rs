//! One table of a stream: open or waiting to be, how far it is in each partition, and what it takes.
//!
//! Whatever fails, the rule is one: what the table does not have is read again from the log, from where the table says.
//! A lane that cannot write takes no more than its share of memory, and lets the source go on: what it missed it reads later.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge, histogram};
use phronis_archive::{Buffered, Committer, Error, Outcome};
use phronis_core::contract::Contract;
use phronis_core::delivery::Commit;
use phronis_core::plugin::Added;
use phronis_core::records::TopicName;
use phronis_core::{Code, StreamId};
use phronis_log::{Error as LogError, Log, Position};

use super::ask::{Asked, Shared};
use super::owned::Owned;
use super::rows::Rows;
use super::table::Table;
use super::{Parts, READ};
use crate::lasting::BACKOFF;
use crate::plugins::Board;

mod opening;
mod reading;

/// When neither the log nor the source brought anything more of a partition for so long, it is looked whether there is more.
const QUIET: Duration = Duration::from_secs(3);

/// How long a read of what was missed waits; the group hears of its member between two.
const CATCH_UP: Duration = Duration::from_millis(200);

/// One table.
pub(super) struct Lane {
    pub(super) table: Arc<Table>,
    stream: StreamId,
    raw: TopicName,
    contract: Arc<Contract>,
    board: Arc<Board>,
    log: Arc<dyn Log>,
    shared: Arc<Shared>,
    commit_every: Duration,
    added: Vec<Added>,
    /// The table and what makes its rows, while it is open.
    open: Option<(Committer, Rows)>,
    owned: BTreeMap<i32, Owned>,
    committed_at: Instant,
    trouble: Option<Trouble>,
    /// Records of the log that are not in the table, when that was last asked.
    lag: i64,
    /// What is to be archived before the table counts as up to date.
    oldest_mark: Option<Mark>,
    newest_mark: Option<Mark>,
    /// The ends of its partitions, as they were measured last.
    ends: BTreeMap<i32, i64>,
    /// Which topic of its name was read when the table was opened.
    pub(super) identity: Option<String>,
}

/// Why nothing is written.
struct Trouble {
    detail: String,
    until: Instant,
    pause: Duration,
    /// The log has lost what comes next in a partition: that does not go away by trying.
    is_gap: bool,
}

impl Lane {
    pub(super) fn new(parts: &Parts, table: &Arc<Table>) -> Self {
        let options = &parts.stream.options;
        Self {
            table: Arc::clone(table),
            stream: options.id.clone(),
            raw: Arc::clone(&options.topics.raw),
            contract: Arc::clone(&options.contract),
            board: Arc::clone(&parts.board),
            log: Arc::clone(&parts.log),
            shared: Arc::clone(&parts.shared),
            commit_every: parts.shared.options.commit_every,
            added: Vec::new(),
            open: None,
            owned: BTreeMap::new(),
            committed_at: Instant::now(),
            trouble: None,
            lag: 0,
            oldest_mark: None,
            newest_mark: None,
            ends: BTreeMap::new(),
            identity: None,
        }
    }

    /// A partition is this host's now; the table is to be asked where to go on in it.
    pub(super) fn take_over(&mut self, partition: i32, next: i64) {
        self.owned.insert(partition, Owned::new(next));
        self.table.owns(true);
        self.tell_places();
    }

    pub(super) fn let_go(&mut self, partition: i32) {
        self.owned.remove(&partition);
        self.table.owns(!self.owned.is_empty());
        self.tell_places();
    }

    /// Lets others know how far the table is in each partition.
    fn tell_places(&self) {
        self.table.has(self.owned.iter().map(|(partition, owned)| (*partition, owned.archived)).collect());
    }

    /// Forgets what is not committed: it is read again.
    pub(super) fn close(&mut self) {
        self.open = None;
        for owned in self.owned.values_mut() {
            owned.next = None;
            owned.reader = None;
        }
    }

    /// Whether what the source has passed is to be read again.
    pub(super) fn is_behind(&self) -> bool {
        self.takes() && self.owned.values().any(Owned::is_behind)
    }

    /// Whether it can take rows.
    pub(super) fn takes(&self) -> bool {
        self.open.is_some() && !self.is_resting()
    }

    /// Whether it is time to commit.
    pub(super) fn is_due(&self) -> bool {
        let Some((committer, _)) = &self.open else { return false };
        let failed = self.trouble.as_ref().is_some_and(|trouble| !trouble.is_gap);
        let is_time = failed || committer.is_full() || self.committed_at.elapsed() >= self.commit_every;
        is_time && !self.is_resting()
    }

    pub(super) fn is_in_trouble(&self) -> bool {
        self.trouble.is_some()
    }

    pub(super) fn group_position(&self, partition: i32) -> Option<i64> {
        self.owned.get(&partition).map(|owned| owned.group)
    }

    pub(super) fn owns_nothing(&self) -> bool {
        self.owned.is_empty()
    }

    pub(super) fn owns(&self, partition: i32) -> bool {
        self.owned.contains_key(&partition)
    }

    /// How many snapshots the table has, and the newest, as far as it is open.
    pub(super) fn snapshots(&self) -> Option<(usize, Option<i64>)> {
        let metadata = self.open.as_ref()?.0.table().metadata();
        Some((metadata.snapshots().count(), metadata.current_snapshot_id()))
    }

    fn is_resting(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| Instant::now() < trouble.until)
    }

    /// Commits what was appended.
    pub(super) fn commit(&mut self, asked: &mut Asked<'_>) {
        let Some((committer, _)) = &mut self.open else { return };
        let begun = Instant::now();
        let Some(outcome) = asked.wait(committer.commit()) else { return };
        self.committed_at = Instant::now();
        let labels = self.labels();
        match outcome {
            Ok(Outcome::Fenced) => {
                tracing::warn!(stream = %self.stream, table = %self.table.name, "another host has moved the table on: going on from there");
                counter!("phronis_archive_fenced_total", &labels).increment(1);
                self.close();
            }
            Ok(outcome) => {
                if let Outcome::Committed(committed) = outcome {
                    counter!("phronis_archive_rows_total", &labels).increment(committed.rows);
                    counter!("phronis_archive_files_total", &labels).increment(committed.files as u64);
                    counter!("phronis_archive_bytes_total", &labels).increment(committed.bytes);
                    histogram!("phronis_archive_commit_seconds", &labels).record(begun.elapsed().as_secs_f64());
                }
                self.goes_well();
                for owned in self.owned.values_mut() {
                    owned.archived = owned.next;
                }
                self.tell_places();
                self.look_at_marks();
            }
            Err(error) => self.failed(&error.into()),
        }
    }

    /// Notes what the table has of what the log had: at the newest mark, else at the oldest that it had not reached.
    fn look_at_marks(&mut self) {
        self.look_past_the_source();
        if let Some(mark) = self.newest_mark.take_if(|mark| self.owned.iter().all(|place| mark.is_reached(place))) {
            self.table.has_all_of(mark.at);
            self.oldest_mark = None;
        } else if let Some(mark) =
            self.oldest_mark.take_if(|mark| self.owned.iter().all(|place| mark.is_reached(place)))
        {
            self.table.has_all_of(mark.at);
            self.oldest_mark = self.newest_mark.take();
        }
    }

    /// Looks whether what the log has behind the source's place are records, where both have stood still for a while: they may be
    /// markers of transactions, or the source may be what stands still. A reader of its own tells, once for a place.
    fn look_past_the_source(&mut self) {
        let Some(mark) = &self.oldest_mark else { return };
        for (partition, owned) in &mut self.owned {
            let Some(end) = mark.quiet_at((*partition, owned), &self.ends) else { continue };
            let reader = self.log.reader(&self.table.topic, *partition, Position::Offset(owned.polled));
            match reader.and_then(|mut reader| reader.next(READ, Duration::ZERO)) {
                Ok(None) => owned.nothing = Some((owned.polled, end)),
                // One partition that is not at its end is enough: the table has not all.
                Ok(Some(_)) => return,
                Err(error) => {
                    return tracing::debug!(stream = %self.stream, partition, %error, "the end of a partition cannot be seen");
                }
            }
        }
    }

    /// How far the group may follow.
    pub(super) fn commits(&self, group: &Arc<str>) -> Vec<Commit> {
        let commit = |(partition, owned): (&i32, &Owned)| {
            let next = owned.may_follow()?;
            let (group, topic) = (Arc::clone(group), Arc::clone(&self.table.topic));
            Some(Commit { group, topic, partition: *partition, from: owned.group, next })
        };
        self.owned.iter().filter_map(commit).collect()
    }

    pub(super) fn followed(&mut self, partition: i32, next: i64) {
        if let Some(owned) = self.owned.get_mut(&partition) {
            owned.group = next;
        }
    }

    /// The source cannot go on in a partition: what comes next was deleted.
    pub(super) fn fell_into(&mut self, partition: i32, earliest: i64) {
        if let Some(owned) = self.owned.get_mut(&partition) {
            owned.polled = owned.polled.max(earliest);
        }
    }

    fn failed(&mut self, failure: &Failure) {
        let pause = self.trouble.as_ref().map_or(BACKOFF.0, |trouble| (trouble.pause * 2).min(BACKOFF.1));
        let is_news = self.trouble.as_ref().is_none_or(|trouble| trouble.detail != failure.detail);
        if is_news {
            let Failure { code, detail, .. } = failure;
            tracing::error!(stream = %self.stream, table = %self.table.name, %code, "nothing is archived into the table for now: {detail}");
        }
        let labels = [
            ("stream", self.stream.to_string()),
            ("table", self.table.kind.to_string()),
            ("code", failure.code.to_string()),
        ];
        counter!("phronis_archive_failures_total", &labels).increment(1);
        if failure.is_final {
            self.close();
        }
        self.rests(failure.code, failure.detail.clone(), pause);
    }

    fn rests(&mut self, code: Code, detail: String, pause: Duration) {
        self.note(Some((code, detail.clone())));
        self.trouble = Some(Trouble { detail, until: Instant::now() + pause, pause, is_gap: false });
    }

    /// Nothing of the table is this host's: what an earlier branch left behind about it is not true any more.
    pub(super) fn is_of_others(&self) {
        self.table.owns(false);
        self.note(None);
    }

    /// Lets others know what is wrong, or that nothing is.
    fn note(&self, trouble: Option<(Code, String)>) {
        let words = trouble.as_ref().map(|(code, detail)| format!("{detail} ({code})"));
        self.shared.note(&self.table.name, words);
        self.table.note(trouble);
    }

    fn goes_well(&mut self) {
        if self.owned.values().any(|owned| owned.gap.is_some()) {
            return;
        }
        // An earlier branch may have noted what this one has not met.
        self.note(None);
        if self.trouble.take().is_some() {
            tracing::info!(stream = %self.stream, table = %self.table.name, "the table takes rows again");
        }
    }

    /// Sets the gauges. While nothing is this host's and nobody knows yet whose it is, how much is missing is not known either.
    pub(super) fn measure(&mut self, is_settled: bool) {
        let labels = self.labels();
        let buffered = self.open.as_ref().map(|(committer, _)| committer.buffered()).unwrap_or_default();
        let Buffered { rows, bytes, files, .. } = buffered;
        // A log that is away leaves the gauge as it was.
        let at = Instant::now();
        if let Ok(info) = self.log.topic(&self.table.topic) {
            let behind = |(partition, owned): (&i32, &Owned)| {
                let info = info.partitions.get(usize_of(*partition))?;
                Some(info.latest - owned.archived.unwrap_or(info.earliest).clamp(info.earliest, info.latest))
            };
            self.lag = self.owned.iter().filter_map(behind).sum();
            let end = |partition: &i32| info.partitions.get(usize_of(*partition)).map(|info| info.latest);
            self.ends = self.owned.keys().filter_map(|partition| Some((*partition, end(partition)?))).collect();
            let place = |(partition, owned): (&i32, &Owned)| Some((*partition, (end(partition)?, owned.polled)));
            let mark = Mark { at, places: self.owned.iter().filter_map(place).collect() };
            *if self.oldest_mark.is_none() { &mut self.oldest_mark } else { &mut self.newest_mark } = Some(mark);
        }
        let lag = (is_settled || !self.owned.is_empty()).then_some(self.lag);
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        for (name, value) in [
            ("phronis_archive_buffered_rows", Some(rows as f64)),
            ("phronis_archive_buffered_bytes", Some(bytes as f64)),
            ("phronis_archive_uncommitted_files", Some(files as f64)),
            ("phronis_archive_lag_records", lag.map(|lag| lag as f64)),
        ] {
            if let Some(value) = value {
                gauge!(name, &labels).set(value);
            }
        }
    }

    fn labels(&self) -> [(&'static str, String); 2] {
        [("stream", self.stream.to_string()), ("table", self.table.kind.to_string())]
    }
}

/// What the log had at a moment.
struct Mark {
    at: Instant,
    /// The end of each partition, and how far the source had brought it.
    places: BTreeMap<i32, (i64, i64)>,
}

impl Mark {
    /// Whether all that the log had of a partition is in the table.
    fn is_reached(&self, (partition, owned): (&i32, &Owned)) -> bool {
        // A partition that came after the mark had nothing then.
        self.places.get(partition).is_none_or(|(end, _)| owned.has_all_until(*end))
    }

    /// The end of a partition that is not reached, when neither log nor source brought anything more of it for a while.
    fn quiet_at(&self, (partition, owned): (i32, &Owned), ends: &BTreeMap<i32, i64>) -> Option<i64> {
        let (end, polled) = *self.places.get(&partition)?;
        let is_quiet = owned.polled == polled && ends.get(&partition) == Some(&end) && self.at.elapsed() >= QUIET;
        (is_quiet && polled < end && !owned.has_all_until(end)).then_some(end)
    }
}

/// Why nothing could be done.
struct Failure {
    code: Code,
    detail: String,
    /// What was appended is of no use any more: the table is asked anew.
    is_final: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let is_elsewhere = matches!(error, Error::Moved { .. } | Error::Fenced { .. } | Error::Changed { .. });
        Self { code: error.code(), detail: error.to_string(), is_final: is_elsewhere || !error.is_retriable() }
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        Self { code: error.code(), detail: error.to_string(), is_final: false }
    }
}

fn usize_of(partition: i32) -> usize {
    usize::try_from(partition).unwrap_or(usize::MAX)
}
