//! The archive branch: what stands in `processed`, `alerts` and `dlq` becomes rows of Iceberg tables, each exactly once.
//!
//! One thread a stream, a member of a consumer group of its own. The tables say where to go on, not the group: records before that are
//! passed over, what the group has passed over already is read again from the log. The group's offsets follow a commit,
//! so that the log keeps what is not archived yet, where a log does so.
//!
//! Nothing here is on the way of an event. Storage that is away holds up this branch alone: it keeps its place in the group,
//! tries again, and tells that it is late; the log has everything meanwhile.

mod ask;
mod known;
mod lane;
mod late;
mod options;
mod owned;
mod pointers;
mod rows;
mod table;
mod upkeep;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow_schema::SchemaRef;
use phronis_core::delivery::{Commit, Delivery};
use phronis_core::records::Records;
use phronis_core::{Contract, code};
use phronis_log::{Error as LogError, Log, Member, PollLimits, Polled, Result, Sink, Source, Start, Subscription};

use self::ask::Asked;
pub(crate) use self::ask::Shared;
use self::lane::Lane;
use self::late::Teller;
pub use self::options::Options;
pub use self::pointers::StorePointers;
use self::rows::EventRows;
use self::table::Table;
use self::upkeep::Schedule;
use crate::lasting::{BACKOFF, keep_going};
use crate::plugins::Board;
use crate::stream::Stream;
use crate::whole::settled;

/// Bounds of one read: some milliseconds of decoding. Most events are under 128 bytes, so that their number decides;
/// of alerts and letters a mebibyte is two thousand, and more at once would only hold memory.
const READ: PollLimits = PollLimits { records: 8192, bytes: 1 << 20 };

/// With room for nothing, a member only keeps its place.
const NOTHING: PollLimits = PollLimits { records: 0, bytes: 0 };

/// Longest wait of a poll: how soon the thread notices that it should stop or commit.
const WAIT: Duration = Duration::from_millis(100);

/// A read that brings less than this is followed by a rest: larger reads cost the live path less, and nobody waits for a row.
const SMALL: (usize, Duration) = (512, Duration::from_millis(10));

/// How long the branch goes on reading when the host ends.
const LAST_READS: Duration = Duration::from_secs(5);

/// How often it is measured where the branch stands.
const MEASURE_EVERY: Duration = Duration::from_secs(2);

/// After so long a member knows which partitions it has, or that others have them all.
const SETTLED: Duration = Duration::from_secs(30);

/// What the branch of one stream is made of.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) stream: Arc<Stream>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) board: Arc<Board>,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) node_id: String,
    pub(crate) should_stop: Arc<AtomicBool>,
}

/// The columns of the events of a contract, as long as no enricher adds any.
pub fn schema(contract: &Contract) -> SchemaRef {
    EventRows::new(contract, "".into(), &[]).schema()
}

/// Archives a stream until told to stop, and tells when it is late.
pub(crate) fn keep(parts: &Parts) {
    let tables = Table::all(parts).map(Arc::new);
    std::thread::scope(|threads| {
        threads.spawn(|| Teller::new(parts, &tables).keep(&parts.should_stop));
        let run = || Branch::join(parts, &tables).and_then(Branch::run);
        keep_going(
            BACKOFF,
            &parts.should_stop,
            || run().map_err(|error| format!("{error} ({})", error.code())),
            |detail| {
                let stream = &parts.stream.options.id;
                tracing::warn!(%stream, %detail, "nothing is archived for now, trying again");
            },
        );
    });
}

struct Branch<'a> {
    parts: &'a Parts,
    group: Arc<str>,
    source: Box<dyn Source>,
    sink: Box<dyn Sink>,
    lanes: Vec<Lane>,
    /// What the group said while something else was under way.
    news: VecDeque<Polled>,
    upkeep: Schedule,
    /// When it joined the group, or last lost a partition: others have what it does not get thereafter.
    divided_at: Instant,
    measured_at: Instant,
}

impl<'a> Branch<'a> {
    fn join(parts: &'a Parts, tables: &[Arc<Table>]) -> Result<Self> {
        let options = &parts.stream.options;
        let topics = &options.topics;
        let group: Arc<str> = format!("phronis.{}.{}.archive", options.id.tenant, options.id.stream).into();
        let Member { source, sink } = parts.log.join(&Subscription {
            group: Arc::clone(&group),
            topics: vec![Arc::clone(&topics.processed)],
            beside: vec![Arc::clone(&topics.alerts), Arc::clone(&topics.dlq)],
            member: 0,
            members: 1,
            start: Start::Earliest,
            exactly_once: false,
        })?;
        let lanes = tables.iter().map(|table| Lane::new(parts, table)).collect();
        Ok(Self {
            parts,
            group,
            source,
            sink,
            lanes,
            news: VecDeque::new(),
            upkeep: Schedule::new(&parts.shared),
            divided_at: Instant::now(),
            measured_at: Instant::now(),
        })
    }

    fn run(mut self) -> Result<()> {
        while !self.parts.should_stop.load(Ordering::Relaxed) {
            self.step()?;
        }
        self.end()
    }

    /// What the workers left at their end is archived too, if there is time.
    fn end(mut self) -> Result<()> {
        let until = Instant::now() + LAST_READS;
        while Instant::now() < until && self.lanes.iter().all(|lane| lane.takes() || lane.owns_nothing()) {
            let was_idle = self.step()?;
            if was_idle && !self.lanes.iter().any(Lane::is_behind) {
                break;
            }
        }
        self.commit(true);
        Ok(())
    }

    /// One turn; whether nothing came.
    fn step(&mut self) -> Result<bool> {
        let is_busy = self.lanes.iter().any(Lane::is_behind);
        let limits = if is_busy || !self.lanes.iter().any(Lane::takes) { NOTHING } else { READ };
        let polled = match self.news.pop_front() {
            Some(polled) => Ok(polled),
            None => self.source.poll(limits, if is_busy { Duration::ZERO } else { WAIT }),
        };
        let is_idle = matches!(polled, Ok(Polled::Idle));
        match polled {
            Ok(polled) => self.take(polled)?,
            Err(LogError::OutOfRange { topic, partition, earliest, .. }) => self.gap(&topic, partition, earliest)?,
            Err(error) => return Err(error),
        }
        for index in 0..self.lanes.len() {
            self.look_after(index)?;
        }
        if self.lanes.iter().any(Lane::is_due) {
            self.commit(false);
        }
        if self.measured_at.elapsed() >= MEASURE_EVERY {
            self.measured_at = Instant::now();
            let is_settled = self.divided_at.elapsed() >= SETTLED;
            self.lanes.iter_mut().for_each(|lane| lane.measure(is_settled));
            if is_settled {
                self.lanes.iter().filter(|lane| lane.owns_nothing()).for_each(Lane::is_of_others);
            }
            self.upkeep.look(&self.lanes);
        }
        Ok(is_idle)
    }

    fn take(&mut self, polled: Polled) -> Result<()> {
        match polled {
            Polled::Assigned(partitions) => {
                tracing::info!(stream = %self.parts.stream.options.id, ?partitions, "archiving partitions");
                // The tables say where to go on, and others may have written to them.
                self.commit(true);
                for (topic, partition, next) in partitions {
                    self.lane(&topic).into_iter().for_each(|lane| lane.take_over(partition, next));
                }
                self.lanes.iter_mut().for_each(Lane::close);
            }
            Polled::Revoked(partitions) => {
                self.divided_at = Instant::now();
                self.commit(true);
                for (topic, partition) in partitions {
                    self.lane(&topic).into_iter().for_each(|lane| lane.let_go(partition));
                }
                // What could not be committed is the next owner's to read.
                self.lanes.iter_mut().filter(|lane| lane.is_in_trouble()).for_each(Lane::close);
            }
            Polled::Lost(partitions) => {
                self.divided_at = Instant::now();
                for (topic, partition) in partitions {
                    self.lane(&topic).into_iter().for_each(|lane| lane.let_go(partition));
                }
                self.lanes.iter_mut().for_each(Lane::close);
            }
            Polled::Records(records) => {
                let is_small = records.len() < SMALL.0;
                self.read(records);
                if is_small && !self.lanes.iter().any(Lane::is_behind) {
                    std::thread::sleep(SMALL.1);
                }
            }
            Polled::Idle => {}
        }
        Ok(())
    }

    fn lane(&mut self, topic: &str) -> Option<&mut Lane> {
        self.lanes.iter_mut().find(|lane| &*lane.table.topic == topic)
    }

    fn read(&mut self, records: Records) {
        let Self { parts, lanes, source, news, .. } = self;
        let Some(lane) = lanes.iter_mut().find(|lane| lane.table.topic == records.topic) else { return };
        let mut asked = Asked { shared: &parts.shared, source: source.as_mut(), news, should_stop: &parts.should_stop };
        lane.take(records, &mut asked);
    }

    /// Opens what is closed, and reads what was missed.
    fn look_after(&mut self, index: usize) -> Result<()> {
        let Self { parts, lanes, source, news, .. } = self;
        let Some(lane) = lanes.get_mut(index) else { return Ok(()) };
        let mut asked = Asked { shared: &parts.shared, source: source.as_mut(), news, should_stop: &parts.should_stop };
        lane.open(&mut asked);
        lane.catch_up(&mut asked)
    }

    /// Commits what the lanes have, all of it or what is due, and lets the group follow.
    fn commit(&mut self, all: bool) {
        let Self { parts, lanes, source, news, .. } = self;
        let mut asked = Asked { shared: &parts.shared, source: source.as_mut(), news, should_stop: &parts.should_stop };
        for lane in lanes.iter_mut().filter(|lane| all || lane.is_due()) {
            lane.commit(&mut asked);
        }
        self.follow();
    }

    /// Lets the group's offsets follow the tables. Only lag and retention depend on them.
    fn follow(&mut self) {
        let commits: Vec<_> = self.lanes.iter().flat_map(|lane| lane.commits(&self.group)).collect();
        if commits.is_empty() {
            return;
        }
        let delivery = Delivery { appends: Vec::new(), commits: commits.clone() };
        let told = self.sink.submit(delivery).and_then(|ticket| settled(ticket, &AtomicBool::new(false)));
        match told {
            Ok(_) => {
                for commit in commits {
                    self.lane(&commit.topic).into_iter().for_each(|lane| lane.followed(commit.partition, commit.next));
                }
            }
            Err(error) => {
                tracing::debug!(stream = %self.parts.stream.options.id, %error, "the offsets of the archive branch were not taken");
            }
        }
    }

    /// Records were deleted that the group had not passed.
    fn gap(&mut self, topic: &str, partition: i32, earliest: i64) -> Result<()> {
        let skips = self.parts.shared.options.skips_gaps;
        let stream = self.parts.stream.options.id.clone();
        let group = Arc::clone(&self.group);
        let identity = self.parts.log.topic_identity(topic)?;
        let Some(lane) = self.lane(topic) else { return Ok(()) };
        let from = lane.group_position(partition);
        let opened = lane.identity.clone();
        if from.is_some_and(|from| from >= earliest) && opened.is_some_and(|opened| opened != identity) {
            return Err(LogError::Invalid(format!(
                "{topic}/{partition} ends before where it was read: it was made anew"
            )));
        }
        tracing::error!(
            %stream, topic, partition, from, earliest, code = %code::ARCHIVE_GAP,
            "the log deleted records that were not archived yet"
        );
        lane.fell_into(partition, earliest);
        if skips && let Some(from) = from.filter(|from| *from < earliest) {
            let commit = Commit { group, topic: Arc::clone(&lane.table.topic), partition, from, next: earliest };
            let delivery = Delivery { appends: Vec::new(), commits: vec![commit] };
            let ticket = self.sink.submit(delivery)?;
            settled(ticket, &self.parts.should_stop)?;
            self.lane(topic).into_iter().for_each(|lane| lane.followed(partition, earliest));
            self.source.rewind(topic, partition)?;
        }
        Ok(())
    }
}
