//! Workers of an ordered stream on the embedded log: what waits, what lets it go, what stands still, and what a new worker knows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use phronis_core::contract::Contract;
use phronis_core::letter::index::Discard;
use phronis_core::letter::{Returned, Stage, index};
use phronis_core::records::{HeadersBuilder, RecordsBuilder};
use phronis_log::{Log as _, Retention, TopicSpec, embedded};

use super::*;
use crate::plugins::{Board, Lineup};
use crate::retry::discard_append;
use crate::status::StreamState;
use crate::stream::{Options, Stream};

const CONTRACT: &str = "{apiVersion: v3.1.0, kind: DataContract, id: c, version: '1', schema: [{name: s, properties: [{name: n, logicalType: integer, required: true}]}]}";
const GOOD: &str = r#"{"n":1}"#;
const BAD: &str = "{}";
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    log: embedded::Log,
    stream: Arc<Stream>,
    _folder: tempfile::TempDir,
}

/// A worker that runs until it is dropped.
struct Running {
    should_stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.should_stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

impl World {
    fn new(bounds: Bounds, change: impl FnOnce(&mut Options)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = Options::new("sensors".parse().unwrap(), Arc::new(Contract::parse(CONTRACT, "c").unwrap()));
        (options.partitions, options.ordered) = (1, Some(bounds));
        change(&mut options);
        let log = embedded::Log::open(embedded::Options::new(folder.path().join("log"))).unwrap();
        for name in options.topics.all() {
            let retention = Retention::default();
            log.create_topic(&TopicSpec { name: Arc::clone(name), partitions: 1, retention }).unwrap();
        }
        Self { log, stream: Arc::new(Stream::new(options, Arc::default())), _folder: folder }
    }

    fn run(&self) -> Running {
        let board = Arc::new(Board::new([self.stream.options.id.clone()]));
        board.publish_lineup(&self.stream.options.id, Lineup { is_ready: true, ..Lineup::default() });
        let should_stop = Arc::new(AtomicBool::new(false));
        let (stream, log, stop) = (Arc::clone(&self.stream), Arc::new(self.log.clone()), Arc::clone(&should_stop));
        let thread = std::thread::spawn(move || Worker::new(stream, board, log, 0, stop).unwrap().run());
        Running { should_stop, thread: Some(thread) }
    }

    fn append(&self, append: Append) {
        let delivery = Delivery { appends: vec![append], commits: Vec::new() };
        self.log.sink().unwrap().submit(delivery).unwrap().wait().unwrap();
    }

    fn post(&self, records: &[(&str, &str)]) {
        let mut body = RecordsBuilder::default();
        for (key, value) in records {
            body.push(7, Some(key.as_bytes()).filter(|key| !key.is_empty()), Some(value.as_bytes()), &[]);
        }
        let topic = Arc::clone(&self.stream.options.topics.raw);
        self.append(Append { topic, partition: 0, records: body.finish() });
    }

    /// Brings a letter back, as a redrive does; with a good event in it, as if the contract had changed.
    fn redrive(&self, at: i64, value: &str) {
        let dlq = self.read(&self.stream.options.topics.dlq);
        let letter = &dlq[usize::try_from(at).unwrap()];
        let (mut headers, mut body) = (HeadersBuilder::default(), RecordsBuilder::default());
        Returned::write(letter.body.headers(0), at, Some("r-1"), &mut headers);
        body.push(7, letter.body.key(0), Some(value.as_bytes()), headers.as_bytes());
        let topic = Arc::clone(&self.stream.options.topics.retry);
        self.append(Append { topic, partition: 0, records: body.finish() });
    }

    fn discard(&self, at: i64) {
        let discard = Discard { offsets: vec![(at, at + 1)], ..Discard::default() };
        self.append(discard_append(&self.stream.options.topics.dlq, 0, "d", &discard));
    }

    fn read(&self, topic: &str) -> Vec<Records> {
        let mut reader = self.log.reader(topic, 0, Position::Earliest).unwrap();
        let mut all = Vec::new();
        while let Some(records) = reader.next(PollLimits { records: 1, bytes: 1 }, Duration::ZERO).unwrap() {
            all.push(records);
        }
        all
    }

    /// Offsets in raw of what was delivered, in the order of `processed`.
    fn delivered(&self) -> Vec<i64> {
        let number = |records: &Records| {
            let origin = records.body.headers(0).last("phronis-origin-offset").unwrap();
            str::from_utf8(origin).unwrap().parse().unwrap()
        };
        self.read(&self.stream.options.topics.processed).iter().map(number).collect()
    }

    /// The last attempt of each letter that is not settled: offset in raw, stage, attempt, place.
    fn letters(&self) -> Vec<(i64, Stage, u32, i64)> {
        let mut index = index::Partition::default();
        let mut all = Vec::new();
        for records in self.read(&self.stream.options.topics.dlq) {
            let (headers, at) = (records.body.headers(0), records.offsets.values()[0]);
            index.take_dlq(at, &index::Entry::read(headers, records.body.value(0), 0));
            all.extend(Letter::read(headers).map(|letter| (letter.origin.offset, letter.stage, letter.attempt, at)));
        }
        all.retain(|(.., at)| index.state(*at).is_some());
        all.sort_unstable_by_key(|letter| letter.0);
        all
    }

    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(
                Instant::now() < until,
                "{what}: {:?} {:?} {:?}",
                self.delivered(),
                self.letters(),
                self.stream.condition()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn later_events_of_a_key_wait_and_go_in_order_when_the_first_is_redriven() {
    let world = World::new(Bounds::default(), |_| {});
    world.post(&[("a", GOOD), ("a", BAD), ("b", GOOD), ("a", GOOD), ("a", BAD), ("", BAD), ("", GOOD)]);
    let running = world.run();
    world.until("others go on", || world.delivered() == [0, 2, 6] && world.letters().len() == 4);
    let stages: Vec<_> =
        world.letters().iter().map(|(offset, stage, attempt, _)| (*offset, *stage, *attempt)).collect();
    assert_eq!(stages, [(1, Stage::Gate, 1), (3, Stage::Order, 0), (4, Stage::Gate, 1), (5, Stage::Gate, 1)]);
    // A new worker knows the same.
    drop(running);
    let running = world.run();
    world.post(&[("a", GOOD), ("b", GOOD)]);
    world.until("b goes on", || world.delivered() == [0, 2, 6, 8] && world.letters().len() == 5);
    // The wrong one first: it waits for its turn, and has not been tried.
    let place = |offset| world.letters().iter().find(|letter| letter.0 == offset).map(|letter| letter.3).unwrap();
    world.redrive(place(4), GOOD);
    world.until("it waits", || {
        world.letters().iter().any(|letter| (letter.0, letter.1, letter.2) == (4, Stage::Order, 1))
    });
    assert_eq!(world.delivered(), [0, 2, 6, 8]);
    // The first fails again: all others wait on. Then it is mended.
    world.redrive(place(1), BAD);
    world.until("it failed again", || world.letters().iter().any(|letter| (letter.0, letter.2) == (1, 2)));
    world.redrive(place(1), GOOD);
    world.until("all went, in order", || world.delivered() == [0, 2, 6, 8, 1, 3, 4, 7]);
    world.post(&[("a", GOOD)]);
    world.until("nothing holds it back", || world.delivered() == [0, 2, 6, 8, 1, 3, 4, 7, 9]);
    drop(running);
    assert_eq!(world.letters().iter().map(|letter| letter.0).collect::<Vec<_>>(), [5], "no key, no order");
}

#[test]
fn what_is_too_large_holds_its_key_back_in_the_same_batch() {
    let world = World::new(Bounds::default(), |_| {});
    let large = format!(r#"{{"n":1,"text":"{}"}}"#, "x".repeat(4_000));
    world.post(&[("a", GOOD)]);
    let running = world.run();
    world.until("the limits are learnt", || world.delivered() == [0]);
    let topics = &world.stream.options.topics;
    let too_large = LogError::TooLarge { topic: topics.processed.to_string(), bytes: 4_000, most: 3_000 };
    world.stream.limits.learn_from(&too_large, &world.log, topics);
    world.post(&[("a", &large), ("a", GOOD), ("b", GOOD)]);
    world.until("a waits", || world.delivered() == [0, 3] && world.letters().len() == 2);
    let stages: Vec<_> = world.letters().iter().map(|letter| (letter.0, letter.1)).collect();
    assert_eq!(stages, [(1, Stage::Deliver), (2, Stage::Order)]);
    world.discard(world.letters()[0].3);
    world.until("it goes", || world.delivered() == [0, 3, 2]);
    drop(running);
}

#[test]
fn without_room_the_partition_stands_still_and_goes_on_when_there_is_some() {
    let world = World::new(Bounds { letters: 4, bytes: 1 << 20 }, |_| {});
    world.post(&[("a", BAD), ("b", BAD)]);
    world.post(&[("a", GOOD); 4]);
    world.post(&[("c", GOOD), ("b", GOOD), ("c", GOOD)]);
    let running = world.run();
    world.until("it stands", || world.stream.condition().0 == StreamState::Blocked);
    assert!(world.stream.condition().1.unwrap().contains("PH2306"));
    assert_eq!((world.delivered(), world.letters().len()), (vec![6], 6));
    // Still so after a restart, and nothing is lost.
    drop(running);
    let running = world.run();
    world.until("it stands again", || world.stream.condition().0 == StreamState::Blocked);
    assert_eq!((world.delivered(), world.letters().len()), (vec![6], 6));
    // Its own key is free: it goes on, though the room is as small as before.
    world.discard(world.letters()[1].3);
    world.until("b and c went", || world.delivered() == [6, 7, 8]);
    assert_eq!(world.stream.condition(), (StreamState::Running, None));
    world.post(&[("b", BAD), ("b", GOOD)]);
    world.until("it stands again", || world.stream.condition().0 == StreamState::Blocked);
    world.redrive(world.letters()[0].3, GOOD);
    world.until("all went", || world.delivered() == [6, 7, 8, 0, 2, 3, 4, 5] && world.letters().len() == 2);
    assert_eq!(world.stream.condition(), (StreamState::Running, None));
    drop(running);
}

#[test]
fn a_letter_that_was_given_up_on_its_way_back_is_not_delivered() {
    let world = World::new(Bounds::default(), |_| {});
    world.post(&[("a", BAD), ("a", GOOD)]);
    let running = world.run();
    world.until("one waits", || world.letters().len() == 2);
    drop(running);
    let first = world.letters()[0].3;
    world.redrive(first, GOOD);
    world.discard(first);
    let running = world.run();
    world.until("the other goes", || world.delivered() == [1]);
    world.post(&[("a", GOOD)]);
    world.until("and the next", || world.delivered() == [1, 2]);
    drop(running);
    assert_eq!((world.delivered(), world.letters()), (vec![1, 2], vec![]));
}
