//! What a start makes of what the last one left, and a process that really dies.

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
