//! Records that kill the whole process: found by how it dies, and set aside as letters.
//!
//! Such a record never writes its own letter: the host dies before. What tells is where it starts again.
//! For each partition a small file says at which offset this host began; it is written when the partition is taken over
//! and removed when it is let go in order, so nothing of this costs a batch anything.
//! A second start at the same offset means that the first ended near there: then the first batches run in small parts,
//! each marked in the file, synced, before it runs, and unmarked when it was judged. A start that finds a mark runs the marked
//! records one by one, each alone in the whole process ([`TURNS`]).
//!
//! **What convicts a record**: the host died [`DEATHS`] times in a row while this one record was marked, and nothing else was
//! judged. A host that is killed from outside looks the same once, and costs some speed at the next start; to lose a record
//! to the letters it would have to be killed so often within the moment in which that one record is judged.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use phronis_core::code;
use phronis_core::decode::Rejection;
use phronis_core::delivery::Delivery;
use phronis_core::letter::{Kind, Offsets, Returned};
use phronis_core::records::Records;
use serde::{Deserialize, Serialize};

use super::Worker;
use super::lane::{Input, Lane};
use crate::clock::now_us;
use crate::stage::again::{Parked, own};
use crate::stage::course::Course;
use crate::stage::{Judged, Times, deliver, enrich};
use crate::status::StreamCounts;
use crate::{Error, Result};

/// Records that run under one mark, at first: some parts a batch, so that a start after any kill costs next to nothing.
const PART: usize = 1024;

/// The same among suspects, as long as there are more.
const FINE_PART: usize = 64;

/// Most batches that run in parts after a start. Each start at the same offset adds one, so that the record is reached
/// even where commits trail behind what was judged.
const MOST_BATCHES: u32 = 16;

/// Deaths while a record ran alone that convict it.
const DEATHS: u32 = 3;

/// Whoever judges holds this shared; a record that runs alone is alone in the process.
static TURNS: RwLock<()> = RwLock::new(());

/// A turn among others: hold it while something is judged.
pub(super) fn turn() -> RwLockReadGuard<'static, ()> {
    TURNS.read().unwrap_or_else(PoisonError::into_inner)
}

/// A record at which the host died while it ran alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Suspect {
    offset: i64,
    /// How often in a row.
    deaths: u32,
}

/// What stands in a partition's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Start {
    /// Where the host began.
    offset: i64,
    /// How often in a row it began there.
    starts: u32,
    /// Records that were running.
    mark: Option<(i64, i64)>,
    /// What earlier deaths tell.
    #[serde(default)]
    suspect: Option<Suspect>,
}

/// What a start may do, by what the last one left behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Care {
    starts: u32,
    /// Batches that run in parts.
    batches: u32,
    /// Records that run one by one.
    suspects: Range<i64>,
    /// One of which more is known.
    suspect: Option<Suspect>,
}

/// How a part runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// With others beside it.
    Together,
    /// Alone in the process.
    Alone,
    /// Not at all: it is guilty.
    Never,
}

impl Care {
    /// What to make of a start at `next`.
    fn of(last: Option<&Start>, next: i64) -> Self {
        let mark = last.and_then(|last| last.mark).filter(|(_, to)| *to > next);
        let before = last.and_then(|last| last.suspect).filter(|suspect| suspect.offset >= next);
        let is_same = last.is_some_and(|last| last.offset == next) || mark.is_some() || before.is_some();
        let starts = if is_same { last.map_or(1, |last| last.starts.saturating_add(1)) } else { 1 };
        let (suspects, suspect) = match mark {
            Some((offset, to)) if to - offset == 1 => {
                let deaths = before.filter(|before| before.offset == offset).map_or(0, |before| before.deaths);
                (0..0, Some(Suspect { offset, deaths: deaths.saturating_add(1) }))
            }
            Some((from, to)) => (from..to, before),
            None => (0..0, before),
        };
        Self { starts, batches: (starts - 1).min(MOST_BATCHES), suspects, suspect }
    }

    /// Whether a batch that begins at this offset runs in parts.
    fn is_needed(&self, first: i64) -> bool {
        self.batches > 0 || self.suspects.end > first || self.suspect.is_some_and(|suspect| suspect.offset >= first)
    }

    /// How many of these records run under one mark, and how.
    fn part(&self, offsets: &[i64]) -> (usize, How) {
        let Some(first) = offsets.first() else { return (0, How::Together) };
        match self.suspect.filter(|suspect| suspect.offset == *first) {
            Some(guilty) if guilty.deaths >= DEATHS => return (1, How::Never),
            Some(_) => return (1, How::Alone),
            None if self.suspects.contains(first) && !self.are_many() => return (1, How::Alone),
            None => {}
        }
        let of_suspect = |offset: &i64| self.suspect.is_some_and(|suspect| suspect.offset == *offset);
        let is_among = self.suspects.contains(first);
        let alike = |offset: &i64| !of_suspect(offset) && self.suspects.contains(offset) == is_among;
        let most = if is_among { FINE_PART } else { PART };
        let plain = offsets.iter().take(most).take_while(|offset| alike(offset)).count();
        match plain.max(1) {
            // A mark of one record says that it ran alone.
            1 => (1, How::Alone),
            plain => (plain, How::Together),
        }
    }

    /// Whether the suspects are too many to run one by one.
    fn are_many(&self) -> bool {
        usize::try_from(self.suspects.end - self.suspects.start).is_ok_and(|suspects| suspects > FINE_PART)
    }

    /// These went through.
    fn passed(&mut self, next: i64) {
        self.suspect = self.suspect.filter(|suspect| suspect.offset >= next);
        if self.suspects.end <= next {
            self.suspects = 0..0;
        }
    }
}

/// The partitions' files.
#[derive(Debug)]
pub(super) struct Watch {
    folder: Option<PathBuf>,
    lanes: HashMap<Lane, (Care, File)>,
}

impl Watch {
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, lanes: HashMap::new() }
    }

    fn path(&self, lane: Lane) -> Option<PathBuf> {
        let what = if lane.input == Input::Retry { "retry" } else { "raw" };
        Some(self.folder.as_ref()?.join(format!("{what}-{}.json", lane.partition)))
    }

    /// A partition is taken over at this offset.
    pub(super) fn take_over(&mut self, lane: Lane, next: i64) {
        let Some(path) = self.path(lane) else { return };
        let last: Option<Start> = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let care = Care::of(last.as_ref(), next);
        if care.batches > 0 {
            tracing::warn!(
                ?lane,
                offset = next,
                starts = care.starts,
                "started at the same offset as the last time: the next records run in small parts, to find one that makes the host crash"
            );
        }
        let opened = || -> io::Result<File> {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut file = File::options().write(true).create(true).truncate(false).open(&path)?;
            let mark = (!care.suspects.is_empty()).then_some((care.suspects.start, care.suspects.end));
            save(&mut file, &Start { offset: next, starts: care.starts, mark, suspect: care.suspect })?;
            file.sync_data()?;
            Ok(file)
        };
        match opened() {
            Ok(file) => {
                self.lanes.insert(lane, (care, file));
            }
            // The stream goes on without: it is no worse off than without this file.
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "where the host starts cannot be noted: a record that makes it crash will not be found");
            }
        }
    }

    /// A partition is let go in order.
    pub(super) fn let_go(&mut self, lane: Lane) {
        if let (Some(_), Some(path)) = (self.lanes.remove(&lane), self.path(lane))
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::debug!(path = %path.display(), %error, "a note of a start is left behind");
        }
    }

    /// All of them.
    pub(super) fn let_all_go(&mut self) {
        let lanes: Vec<Lane> = self.lanes.keys().copied().collect();
        lanes.into_iter().for_each(|lane| self.let_go(lane));
    }

    fn care(&self, lane: Lane) -> Option<&Care> {
        self.lanes.get(&lane).map(|(care, _)| care)
    }

    /// Says, before they run, which records do.
    fn mark(&mut self, lane: Lane, from: i64, to: i64) {
        let Some((care, file)) = self.lanes.get_mut(&lane) else { return };
        let start = Start { offset: from, starts: care.starts, mark: Some((from, to)), suspect: care.suspect };
        if let Err(error) = save(file, &start).and_then(|()| file.sync_data()) {
            tracing::warn!(?lane, %error, "the records that run cannot be noted");
        }
    }

    /// Nothing runs now, and what stands before `next` went through. Only the end of the machine would lose this word.
    fn unmark(&mut self, lane: Lane, next: i64) {
        let Some((care, file)) = self.lanes.get_mut(&lane) else { return };
        care.passed(next);
        let left = care.suspects.start.max(next)..care.suspects.end;
        let mark = (left.end - left.start > 1).then_some((left.start, left.end));
        if let Err(error) = save(file, &Start { offset: next, starts: care.starts, mark, suspect: care.suspect }) {
            tracing::warn!(?lane, %error, "that the records went through cannot be noted");
        }
    }

    /// A batch ran to its end.
    fn passed(&mut self, lane: Lane, next: i64) {
        if let Some((care, _)) = self.lanes.get_mut(&lane) {
            care.batches = care.batches.saturating_sub(1);
        }
        self.unmark(lane, next);
    }
}

/// Writes in place: what is half written after a crash is not read, and counts as nothing known.
fn save(file: &mut File, start: &Start) -> io::Result<()> {
    let json = serde_json::to_vec(start)?;
    file.rewind()?;
    file.write_all(&json)?;
    file.set_len(json.len() as u64)
}

impl Worker {
    /// Whether a batch must run in parts.
    pub(super) fn is_careful(&self, lane: Lane, records: &Records) -> bool {
        let first = records.offsets.values().first().copied().unwrap_or(i64::MAX);
        self.watch.care(lane).is_some_and(|care| care.is_needed(first))
    }

    /// Runs a batch in parts, each marked before it runs.
    pub(super) fn carefully(&mut self, lane: Lane, records: &Records) -> Result<()> {
        let mut from = 0;
        while from < records.len() {
            let offsets = records.offsets.values().get(from..).unwrap_or_default();
            let (rows, how) = self.watch.care(lane).map_or((offsets.len(), How::Together), |care| care.part(offsets));
            let part = records.slice(from, rows.max(1));
            from += part.len();
            let (Some(first), Some(next)) = (offsets.first().copied(), part.next_offset()) else { break };
            if how == How::Never {
                self.quarantine(lane, &part)?;
            } else if !self.marked(lane, &part, (first, next), how)? {
                return Ok(());
            }
            self.settle()?;
        }
        if let Some(next) = records.next_offset() {
            self.watch.passed(lane, next);
        }
        Ok(())
    }

    /// Runs records while a mark says so; false when their partition stands still before the end of them.
    fn marked(&mut self, lane: Lane, part: &Records, (first, next): (i64, i64), how: How) -> Result<bool> {
        let alone = (how == How::Alone).then(|| TURNS.write().unwrap_or_else(PoisonError::into_inner));
        let among_others = alone.is_none().then(turn);
        self.watch.mark(lane, first, next);
        let outcome = match lane.input {
            Input::Raw => self.batch(part),
            Input::Retry => self.again(part).map(|()| true),
        };
        // Whoever dies from here on, while it waits for the log, died of something else.
        self.watch.unmark(lane, if matches!(outcome, Ok(true)) { next } else { first });
        drop((alone, among_others));
        outcome
    }

    /// One record that does not run any more becomes a letter.
    fn quarantine(&mut self, lane: Lane, record: &Records) -> Result<()> {
        let offset = record.offsets.values().first().copied().unwrap_or(-1);
        let message = format!("the host died {DEATHS} times while this record ran alone");
        tracing::error!(stream = %self.stream.options.id, ?lane, offset, code = %code::QUARANTINED, "{message}: it is not run any more, and waits as a letter");
        self.goes_on(lane)?;
        let next = record.next_offset().unwrap_or(offset + 1);
        let (delivery, tally) = match lane.input {
            Input::Raw => self.refused(record, message)?,
            Input::Retry => {
                let headers = record.body.headers(0);
                let mut delivery = Delivery::default();
                if let Some(returned) = Returned::read(headers) {
                    let is_range = Kind::of(headers) == Kind::Range;
                    let offsets = record.body.value(0).filter(|_| is_range).and_then(Offsets::parse);
                    let (code, record) = (code::QUARANTINED, own(record, 0, headers));
                    let parked = self.park(&[Parked { returned, code, message, offsets, record }]);
                    delivery.appends.push(self.dlq(lane, parked));
                }
                (delivery, StreamCounts::default())
            }
        };
        self.submit(lane, delivery, next, tally, (0, 0))
    }

    /// A record of raw as a letter of the gate, without a look at what is in it.
    fn refused(&mut self, record: &Records, message: String) -> Result<(Delivery, StreamCounts)> {
        let mut checked = self.decoder.check(record.slice(0, 0));
        checked.records = record.clone();
        checked.rejected.push(Rejection { row: 0, code: code::QUARANTINED, field: None, message });
        let now = now_us();
        let mut judged = Judged::new(checked, i64::MIN, Times { polled: now, checked: now, judged: now });
        for enricher in &self.crew.enrichers {
            enrich::pass_by(&mut judged, enricher);
        }
        let delivered =
            deliver::deliver(&judged, &self.stream, &self.crew.lineup, &self.crew.writer, &Course::default());
        delivered.map_err(|failure| Error::Host(failure.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use phronis_core::contract::Contract;
    use phronis_core::delivery::Append;
    use phronis_core::letter::{Letter, Stage};
    use phronis_core::partition::Topics;
    use phronis_core::records::RecordsBuilder;
    use phronis_log::{Log as _, PollLimits, Position, Retention, TopicSpec, embedded};

    use super::*;
    use crate::plugins::{Board, Lineup};
    use crate::stream::{Options, Stream};

    fn start(offset: i64, starts: u32, mark: Option<(i64, i64)>, suspect: Option<Suspect>) -> Start {
        Start { offset, starts, mark, suspect }
    }

    fn suspect(offset: i64, deaths: u32) -> Option<Suspect> {
        Some(Suspect { offset, deaths })
    }

    #[test]
    fn a_start_is_careful_where_the_last_one_ended_at_the_same_offset() {
        for (last, next, starts, batches, suspects, expected) in [
            (None, 5, 1, 0, 0..0, None),
            (Some(start(4, 3, None, None)), 5, 1, 0, 0..0, None),
            (Some(start(5, 1, None, None)), 5, 2, 1, 0..0, None),
            (Some(start(5, 2, None, None)), 5, 3, 2, 0..0, None),
            (Some(start(5, 99, None, None)), 5, 100, 16, 0..0, None),
            // It died in a part; commits may trail behind.
            (Some(start(64, 2, Some((64, 128)), None)), 64, 3, 2, 64..128, None),
            (Some(start(64, 2, Some((64, 128)), None)), 20, 3, 2, 64..128, None),
            // It died while one record ran alone: once more, or at another one.
            (Some(start(70, 3, Some((70, 71)), None)), 70, 4, 3, 0..0, suspect(70, 1)),
            (Some(start(70, 4, Some((70, 71)), suspect(70, 1))), 70, 5, 4, 0..0, suspect(70, 2)),
            (Some(start(69, 4, Some((69, 70)), suspect(70, 2))), 69, 5, 4, 0..0, suspect(69, 1)),
            // It died elsewhere: what is known of the suspect stays.
            (Some(start(64, 4, Some((64, 70)), suspect(70, 2))), 64, 5, 4, 64..70, suspect(70, 2)),
            (Some(start(64, 4, None, suspect(70, 2))), 66, 5, 4, 0..0, suspect(70, 2)),
            // What was marked went through after all.
            (Some(start(70, 3, Some((70, 71)), suspect(70, 2))), 71, 1, 0, 0..0, None),
        ] {
            let care = Care { starts, batches, suspects, suspect: expected };
            assert_eq!(Care::of(last.as_ref(), next), care, "{last:?} then {next}");
        }
        let older: Start = serde_json::from_str(r#"{"offset":5,"starts":1,"mark":null}"#).unwrap();
        assert_eq!(older, start(5, 1, None, None), "what an older host wrote");
    }

    #[test]
    fn parts_end_where_suspects_begin_and_only_many_deaths_convict() {
        let mut care = Care { starts: 3, batches: 1, suspects: 10..12, suspect: suspect(20, DEATHS) };
        let offsets: Vec<i64> = (0..200).collect();
        let (mut at, mut parts) = (0, Vec::new());
        while at < offsets.len() {
            let (rows, how) = care.part(&offsets[at..]);
            parts.push((at, rows, how));
            at += rows;
        }
        use How::{Alone, Never, Together};
        let expected =
            [(0, 10, Together), (10, 1, Alone), (11, 1, Alone), (12, 8, Together), (20, 1, Never), (21, 179, Together)];
        assert_eq!(parts[..6], expected);
        let many = Care { suspects: 100..1_100, ..Care::default() };
        let offsets_from = |from: i64| (from..5_000).collect::<Vec<_>>();
        assert_eq!(many.part(&offsets_from(90)), (10, Together));
        assert_eq!(many.part(&offsets_from(100)), (FINE_PART, Together));
        assert_eq!(many.part(&offsets_from(1_090)), (10, Together));
        assert_eq!(many.part(&offsets_from(1_100)), (PART, Together));
        assert_eq!(care.part(&[300]), (1, Alone), "a mark of one record is always of one alone");
        assert!(!Care::default().is_needed(0) && care.is_needed(500));
        care.batches = 0;
        assert!(care.is_needed(20) && !care.is_needed(21));
        care.suspect = suspect(20, DEATHS - 1);
        assert_eq!(care.part(&offsets[20..]), (1, Alone));
        care.passed(21);
        assert_eq!(care.suspect, None);
    }

    const POISON: i64 = 77;

    fn stream(folder: &Path) -> Stream {
        let contract = "{apiVersion: v3.1.0, kind: DataContract, id: c, version: '1', schema: [{name: s, properties: [{name: n, logicalType: integer, required: true}]}]}";
        let mut options = Options::new("sensors".parse().unwrap(), Arc::new(Contract::parse(contract, "c").unwrap()));
        options.partitions = 1;
        Stream::new(options, Arc::default()).noting_starts_in(&folder.join("starts"))
    }

    /// The host that the test below kills; nothing without it.
    #[test]
    fn the_process_that_dies() {
        let Some(folder) = std::env::var_os("PHRONIS_TEST_POISON_FOLDER").map(PathBuf::from) else { return };
        let log = embedded::Log::open(embedded::Options::new(folder.join("log"))).unwrap();
        let stream = Arc::new(stream(&folder));
        let board = Arc::new(Board::new([stream.options.id.clone()]));
        board.publish_lineup(&stream.options.id, Lineup { is_ready: true, ..Lineup::default() });
        let should_stop = Arc::new(AtomicBool::new(false));
        let (stop, group, raw) =
            (Arc::clone(&should_stop), Arc::clone(&stream.group), Arc::clone(&stream.options.topics.raw));
        let asked = log.clone();
        std::thread::spawn(move || {
            while asked.committed(&group, &raw).unwrap() != [Some(300)] {
                std::thread::sleep(Duration::from_millis(2));
            }
            stop.store(true, Ordering::Relaxed);
        });
        Worker::new(stream, board, Arc::new(log.clone()), 0, should_stop).unwrap().run().unwrap();
        log.close();
    }

    fn read(log: &embedded::Log, topic: &str) -> Vec<Records> {
        let mut reader = log.reader(topic, 0, Position::Earliest).unwrap();
        let mut all = Vec::new();
        while let Some(records) = reader.next(PollLimits { records: 1, bytes: 1 }, Duration::ZERO).unwrap() {
            all.push(records);
        }
        all
    }

    /// A log with 300 records.
    fn filled() -> (tempfile::TempDir, Topics) {
        let folder = tempfile::tempdir().unwrap();
        let topics = Topics::of(&"sensors".parse().unwrap());
        let log = embedded::Log::open(embedded::Options::new(folder.path().join("log"))).unwrap();
        for name in topics.all() {
            let retention = Retention::default();
            log.create_topic(&TopicSpec { name: Arc::clone(name), partitions: 1, retention }).unwrap();
        }
        let mut records = RecordsBuilder::default();
        (0..300).for_each(|n| records.push(n, None, Some(format!("{{\"n\":{n}}}").as_bytes()), &[]));
        let append = Append { topic: Arc::clone(&topics.raw), partition: 0, records: records.finish() };
        let delivery = Delivery { appends: vec![append], commits: Vec::new() };
        log.sink().unwrap().submit(delivery).unwrap().wait().unwrap();
        log.close();
        (folder, topics)
    }

    /// Starts the host until it ends in order; the answer is how often it was killed, at the record, as often as `most`.
    fn run(folder: &Path, most: u32) -> u32 {
        let name = "worker::poison::tests::the_process_that_dies";
        let mut deaths = 0;
        loop {
            let mut host = Command::new(std::env::current_exe().unwrap());
            host.args(["--exact", name]).env("PHRONIS_TEST_POISON_FOLDER", folder);
            if deaths < most {
                host.env("PHRONIS_FAIL_AT", format!("record-0-{POISON}"));
            }
            if host.output().unwrap().status.success() {
                return deaths;
            }
            deaths += 1;
            assert!(deaths < 20, "the record is not found");
        }
    }

    #[test]
    fn a_record_that_kills_the_process_is_found_and_set_aside_and_nothing_else_is_lost() {
        let (folder, topics) = filled();
        let deaths = run(folder.path(), u32::MAX);
        assert_eq!(deaths, 3 + DEATHS, "in the batch, in a part of it, in a part of that, and alone");
        let log = embedded::Log::open(embedded::Options::new(folder.path().join("log"))).unwrap();
        let letters = read(&log, &topics.dlq);
        let letter = Letter::read(letters[0].body.headers(0)).unwrap();
        assert_eq!((letters.len(), letter.stage, letter.code), (1, Stage::Gate, code::QUARANTINED));
        assert_eq!((letter.origin.offset, letter.due_at), (POISON, None));
        assert_eq!(letters[0].body.value(0), Some(&br#"{"n":77}"#[..]));
        let delivered: Vec<i64> = read(&log, &topics.processed).iter().map(|r| r.body.timestamps.values()[0]).collect();
        assert_eq!(delivered, (0..300).filter(|n| *n != POISON).collect::<Vec<_>>());
        log.close();
        let left = fs::read_dir(folder.path().join("starts"))
            .map_or(0, |stream| stream.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap()).count());
        assert_eq!(left, 0, "a host that ends in order leaves no note");
    }

    #[test]
    fn a_host_that_is_killed_from_outside_loses_no_record_to_the_letters_even_at_the_worst_moments() {
        // Each death falls on the same record: in the batch, in its parts, and while it runs alone.
        for deaths in 1..3 + DEATHS {
            let (folder, topics) = filled();
            assert_eq!(run(folder.path(), deaths), deaths);
            let log = embedded::Log::open(embedded::Options::new(folder.path().join("log"))).unwrap();
            assert_eq!(read(&log, &topics.dlq).len(), 0, "{deaths} deaths convict nobody");
            assert_eq!(read(&log, &topics.processed).len(), 300);
            log.close();
        }
    }
}
