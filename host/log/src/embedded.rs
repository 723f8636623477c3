//! The embedded log: one SQLite file in a folder, for one process.
//!
//! A row of the file is a batch of records; one thread writes and groups what is queued into synced transactions,
//! so that appending outputs and moving an input's offset is one of them. Readers have connections of their own,
//! and find what was just appended in memory.
//! Not for several processes: a second one is refused by a lock. That is what Kafka is for.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use phronis_core::delivery::{Append, Delivery};
use phronis_core::records::TopicName;

use crate::{
    Error, Follower, Member, Position, Reader, Result, Sink, Start, Subscription, Ticket, TopicInfo, TopicSettings,
    TopicSpec,
};

mod catalog;
mod codec;
mod compaction;
mod cursor;
mod db;
mod keeper;
mod lock;
mod mover;
mod queue;
mod registry;
mod room;
mod source;
mod writer;

use catalog::{Catalog, Partition};
use cursor::{Cursor, Disk};
use queue::{Job, Queue, Work};
use source::Browser;
use writer::Writer;

/// How the embedded log works.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its folder; made if it is not there.
    pub folder: PathBuf,
    /// When a delivery counts as durable.
    pub durability: Durability,
    /// Most bytes of the file in use; the WAL (up to some 100 MiB) comes on top.
    /// Deliveries that also move an offset get an eighth more, so that processing can go on and free what retention holds back.
    pub max_bytes: Option<u64>,
    /// Bytes of the disk that the log leaves free. Deliveries that also move an offset may use half of them.
    pub min_free_bytes: u64,
    /// Most bytes of keys, values and headers in one delivery.
    pub max_delivery_bytes: usize,
    /// Bytes handed over and not yet durable, beyond which [`Sink::submit`] waits.
    pub in_flight_bytes: usize,
    /// Bytes of recent records that are kept in memory, over all partitions.
    pub hot_tail_bytes: usize,
    /// How often retention and compaction look for work.
    pub housekeeping_every: Duration,
    /// What the time is: for append times and retention.
    pub clock: Clock,
}

impl Options {
    /// The defaults for a log in this folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            durability: Durability::Commit,
            max_bytes: None,
            min_free_bytes: 256 << 20,
            max_delivery_bytes: 64 << 20,
            in_flight_bytes: 64 << 20,
            hot_tail_bytes: 32 << 20,
            housekeeping_every: Duration::from_secs(1),
            clock: Clock::default(),
        }
    }
}

/// When a delivery counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When it is synced: it survives a power cut.
    Commit,
    /// When it is written: it survives the death of the process. A power cut loses what was not synced, which happens this often.
    Interval(Duration),
    /// When it is written; the operating system decides when it syncs.
    Os,
}

/// Tells the time, in milliseconds since 1970.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl Clock {
    /// A clock of one's own.
    pub fn new(now_ms: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now_ms))
    }

    fn now_ms(&self) -> i64 {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(|| {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Where a group stands in a partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupPosition {
    /// The group.
    pub group: Arc<str>,
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: i32,
    /// The next offset to read.
    pub committed: i64,
}

/// The embedded log. Clones are the same log.
///
/// It is closed by [`Log::close`] or when the last clone is dropped, also while sinks, sources and readers are still there:
/// theirs are then errors ([`Error::Closed`]).
#[derive(Debug, Clone)]
pub struct Log(Arc<Open>);

impl Log {
    /// Opens the log of a folder, or makes it.
    ///
    /// # Errors
    /// [`Error::Locked`] while another process has it open, [`Error::Invalid`] for a file that is not ours or of another format.
    pub fn open(options: Options) -> Result<Self> {
        std::fs::create_dir_all(&options.folder).map_err(|source| Error::Failed {
            doing: format!("making the folder {}", options.folder.display()),
            source: Arc::new(source),
        })?;
        let lock = lock::Lock::take(&options.folder, options.clock.now_ms())?;
        let db = db::open_writer(&options.folder, options.durability)?;
        let catalog = registry::load(&db)?;
        let newest_ms = registry::newest_ms(&db)?;
        let shared =
            Arc::new(Shared { queue: Queue::new(options.in_flight_bytes), room: Mutex::default(), catalog, options });
        let writer = Writer::new(db, Arc::clone(&shared), newest_ms);
        let thread = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|source| Error::Failed { doing: "starting the writer".to_owned(), source: Arc::new(source) })?;
        Ok(Self(Arc::new(Open { shared, state: Mutex::new(Some((thread, lock))) })))
    }

    /// Writes what is queued, empties the WAL, and releases the folder. Does nothing the second time.
    pub fn close(&self) {
        self.0.close();
    }

    /// Where all registered groups stand, by group, topic and partition.
    pub fn groups(&self) -> Vec<GroupPosition> {
        registry::groups(&self.0.shared.catalog)
    }

    /// Unregisters a group, so that it does not hold back retention any more.
    ///
    /// # Errors
    /// When the change cannot be written.
    pub fn forget_group(&self, group: &str) -> Result<()> {
        let group: Arc<str> = group.into();
        self.0.shared.call(move |writer| registry::forget(writer, &group))
    }
}

impl crate::Log for Log {
    fn create_topic(&self, topic: &TopicSpec) -> Result<()> {
        crate::topic::check(topic)?;
        let topic = topic.clone();
        self.0.shared.call(move |writer| registry::create(writer, &topic))
    }

    fn topics(&self) -> Result<Vec<TopicInfo>> {
        self.0.shared.open()?;
        let info = |topic: Arc<catalog::Topic>| TopicInfo {
            name: Arc::clone(&topic.name),
            partitions: topic.partitions.iter().map(|partition| partition.info()).collect(),
        };
        Ok(self.0.shared.catalog.all().into_iter().map(info).collect())
    }

    fn topic_identity(&self, topic: &str) -> Result<String> {
        self.0.shared.open()?;
        Ok(self.0.shared.catalog.topic(topic)?.identity.clone())
    }

    fn describe_topic(&self, topic: &str) -> Result<TopicSettings> {
        self.0.shared.open()?;
        let topic = self.0.shared.catalog.topic(topic)?;
        Ok(TopicSettings {
            partitions: i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX),
            replication: None,
            retention: *catalog::lock(&topic.retention),
            max_record_bytes: u64::try_from(self.0.shared.options.max_delivery_bytes).unwrap_or(u64::MAX),
            ahead: None,
        })
    }

    fn join(&self, subscription: &Subscription) -> Result<Member> {
        let mine = registry::mine(&self.0.shared.catalog, subscription)?;
        let (group, start) = (Arc::clone(&subscription.group), subscription.start);
        let topics: Vec<_> = subscription.topics.iter().chain(&subscription.beside).cloned().collect();
        self.0.shared.call(move |writer| registry::register(writer, &group, &topics, start))?;
        let shared = &self.0.shared;
        let stands = |partition: Arc<Partition>| {
            let position = shared.catalog.committed(&subscription.group, &partition).unwrap_or_default();
            (partition, position)
        };
        let mine = mine.into_iter().map(stands).collect();
        let source = source::Member::new(Arc::clone(shared), Arc::clone(&subscription.group), mine);
        Ok(Member { source: Box::new(source), sink: self.sink()? })
    }

    fn sink(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Entry(Arc::clone(&self.0.shared))))
    }

    fn delivers_whole(&self) -> bool {
        true
    }

    fn reader(&self, topic: &str, partition: i32, from: Position) -> Result<Box<dyn Reader>> {
        let shared = &self.0.shared;
        shared.open()?;
        let partition = Arc::clone(shared.catalog.topic(topic)?.partition(partition)?);
        let info = partition.info();
        let mut disk = Disk::default();
        let position = match from {
            Position::Earliest => info.earliest,
            Position::Latest => info.latest,
            Position::Offset(offset) if (info.earliest..=info.latest).contains(&offset) => offset,
            Position::Offset(offset) => return Err(partition.out_of_range(offset)),
            Position::Timestamp(at) => disk.offset_at(&shared.options.folder, &partition, at)?,
        };
        Ok(Box::new(Browser::new(Arc::clone(shared), Cursor::new(partition, position), disk)))
    }

    fn follow(&self, topics: &[TopicName], from: Start) -> Result<Box<dyn Follower>> {
        let shared = &self.0.shared;
        shared.open()?;
        let mut cursors = Vec::new();
        for topic in topics {
            for partition in &shared.catalog.topic(topic)?.partitions {
                let info = partition.info();
                let position = if from == Start::Earliest { info.earliest } else { info.latest };
                cursors.push(Cursor::new(Arc::clone(partition), position));
            }
        }
        Ok(Box::new(source::Turns::new(Arc::clone(shared), cursors)))
    }

    fn committed(&self, group: &str, topic: &str) -> Result<Vec<Option<i64>>> {
        let topic = self.0.shared.catalog.topic(topic)?;
        Ok(topic.partitions.iter().map(|partition| self.0.shared.catalog.committed(group, partition)).collect())
    }
}

/// What clones of a log hold together.
#[derive(Debug)]
struct Open {
    shared: Arc<Shared>,
    state: Mutex<Option<(JoinHandle<()>, lock::Lock)>>,
}

impl Open {
    fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((thread, lock)) = state.take() else { return };
        self.shared.queue.close();
        if thread.join().is_err() {
            tracing::error!("the log's writer panicked; what it had not answered is not written");
        }
        drop(lock);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.close();
    }
}

/// What the writer, sinks, sources and readers share.
struct Shared {
    options: Options,
    catalog: Catalog,
    queue: Queue,
    room: Mutex<room::Room>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("folder", &self.options.folder).finish_non_exhaustive()
    }
}

impl Shared {
    /// An error once the log is closed.
    fn open(&self) -> Result<()> {
        if self.queue.is_closed() { Err(Error::Closed) } else { Ok(()) }
    }

    /// Has the writer do something, after all that is queued, and waits for it.
    fn call<T: Send + 'static>(&self, work: impl FnOnce(&mut Writer) -> Result<T> + Send + 'static) -> Result<T> {
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        self.queue.push(Job::Call(Box::new(move |writer| {
            answer.send(work(writer)).ok();
        })))?;
        answered.recv().unwrap_or(Err(Error::Closed))
    }

    /// Resolves and encodes a delivery, on the thread that submits it.
    fn prepare(&self, delivery: Delivery) -> Result<(Work, Ticket)> {
        let bytes: usize = delivery.appends.iter().map(|append| append.records.bytes()).sum();
        if bytes > self.options.max_delivery_bytes {
            return Err(Error::Invalid(format!(
                "a delivery of {bytes} bytes is larger than the {} that the log takes at once: split it",
                self.options.max_delivery_bytes
            )));
        }
        self.check_room(!delivery.appends.is_empty(), !delivery.commits.is_empty())?;
        let mut memory = 0;
        let mut appends = Vec::with_capacity(delivery.appends.len());
        for Append { topic, partition, records } in delivery.appends {
            let partition = Arc::clone(self.catalog.topic(&topic)?.partition(partition)?);
            let rows = codec::encode_rows(&records)
                .map_err(|error| Error::Invalid(format!("records for {topic} are not well-formed: {error}")))?;
            memory += rows.iter().map(|row| codec::memory(&row.records) + row.blob.len()).sum::<usize>();
            appends.push((partition, rows));
        }
        let mut commits = Vec::with_capacity(delivery.commits.len());
        for commit in delivery.commits {
            let partition = Arc::clone(self.catalog.topic(&commit.topic)?.partition(commit.partition)?);
            commits.push((partition, commit));
        }
        let (answer, ticket) = Ticket::new();
        Ok((Work { appends, commits, memory, answer }, ticket))
    }

    /// Wakes everyone who waits for records.
    fn ring_all(&self) {
        for topic in self.catalog.all() {
            for partition in &topic.partitions {
                partition.ring();
            }
        }
    }
}

/// The way in.
#[derive(Debug)]
struct Entry(Arc<Shared>);

impl Sink for Entry {
    fn submit(&self, delivery: Delivery) -> Result<Ticket> {
        self.0.open()?;
        let (work, ticket) = self.0.prepare(delivery)?;
        self.0.queue.push(Job::Deliver(work))?;
        Ok(ticket)
    }

    fn try_submit(&self, delivery: Delivery) -> Result<Ticket> {
        self.0.open()?;
        // Before the work of encoding, which would be for nothing under overload.
        let bytes = delivery.appends.iter().map(|append| append.records.bytes()).sum();
        self.0.queue.has_room(bytes)?;
        let (work, ticket) = self.0.prepare(delivery)?;
        self.0.queue.try_push(Job::Deliver(work))?;
        Ok(ticket)
    }
}
