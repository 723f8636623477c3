//! The suite of all logs on the embedded one, and what it alone promises.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use phronis_core::delivery::Delivery;
use phronis_core::records::RecordsBuilder;
use phronis_log::conformance::{ALL, CASES, append, commit, fresh, member, numbers};
use phronis_log::embedded::{Clock, Durability, Log, Options};
use phronis_log::{Error, Log as _, Position, Retention, Start};

use crate::parts::{all, info, make, put, subject};

/// Every case on a log of its own.
fn check(options: impl Fn(Options) -> Options) {
    for (name, case) in CASES {
        eprintln!("{name}");
        let folder = tempfile::tempdir().unwrap();
        case(&subject(&Log::open(options(Options::new(folder.path()))).unwrap()));
    }
}

#[test]
fn it_does_what_every_log_must() {
    check(|options| options);
}

#[test]
fn it_does_so_from_the_file() {
    check(|options| Options { hot_tail_bytes: 0, ..options });
}

#[test]
fn it_does_so_with_a_hot_tail_that_overflows() {
    check(|options| Options { hot_tail_bytes: 20_000, ..options });
}

#[test]
fn it_does_so_with_weaker_durability() {
    check(|options| Options { durability: Durability::Interval(Duration::from_millis(5)), ..options });
    check(|options| Options { durability: Durability::Os, ..options });
}

#[test]
fn what_was_written_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let group = fresh("group");
    let retention = Retention { age: Some(Duration::from_secs(1 << 30)), bytes: Some(1 << 40), compact: true };
    let log = Log::open(Options::new(folder.path())).unwrap();
    let topic = make(&log, "topic", retention);
    put(&log, &topic, 0..1000);
    drop(member(&subject(&log), &group, &[&topic], (0, 1), Start::Earliest));
    let mut delivery = append(&topic, 0, numbers(1000..1010));
    delivery.commits.push(commit(&group, &topic, 0, 0, 7));
    log.sink().unwrap().submit(delivery).unwrap().wait().unwrap();
    let before = info(&log, &topic);
    log.close();
    let wal = folder.path().join("log.db-wal");
    assert_eq!(wal.metadata().map_or(0, |file| file.len()), 0, "a closed log has nothing in its WAL");

    let log = Log::open(Options::new(folder.path())).unwrap();
    assert_eq!(info(&log, &topic), before);
    assert_eq!(log.committed(&group, &topic).unwrap()[0], Some(7));
    assert_eq!(all(&log, &topic, 0), (0..1010).collect::<Vec<_>>());
    put(&log, &topic, 1010..1011);
    assert_eq!(info(&log, &topic).latest, 1011);
    assert_eq!(log.groups().len(), 1);
    log.forget_group(&group).unwrap();
    assert_eq!((log.groups().len(), log.committed(&group, &topic).unwrap()[0]), (0, None));
}

#[test]
fn a_topic_is_the_same_after_reopening_and_another_in_a_log_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Log::open(Options::new(folder.path())).unwrap();
    let identity = |log: Log| {
        let topic = make(&log, "topic", Retention::default());
        let identity = log.topic_identity(&topic).unwrap();
        log.close();
        identity
    };
    let first = identity(open());
    assert_eq!(identity(open()), first);
    let file = folder.path().join("log.db");
    // A log of a version that knew no identities.
    let db = rusqlite::Connection::open(&file).unwrap();
    db.execute("DELETE FROM meta WHERE name LIKE 'topic-identity/%'", []).unwrap();
    drop(db);
    let second = identity(open());
    assert_ne!(second, first);
    assert_eq!(identity(open()), second);
    std::fs::remove_file(&file).unwrap();
    assert_ne!(identity(open()), second);
}

#[test]
fn closing_writes_what_is_queued_and_ends_what_waits() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::open(Options::new(folder.path())).unwrap();
    let topic = make(&log, "topic", Retention::default());
    let mut reader = log.reader(&topic, 0, Position::Offset(0)).unwrap();
    let waits = std::thread::spawn(move || {
        loop {
            if let Err(error) = reader.next(ALL, Duration::from_secs(3600)) {
                return error;
            }
        }
    });
    let sink = log.sink().unwrap();
    let tickets: Vec<_> = (0..200).map(|n| sink.submit(append(&topic, 0, numbers([n]))).unwrap()).collect();
    drop(log);
    assert!(tickets.into_iter().all(|ticket| ticket.wait().is_ok()));
    assert!(matches!(waits.join().unwrap(), Error::Closed));
    assert!(matches!(sink.submit(Delivery::default()), Err(Error::Closed)));
    let log = Log::open(Options::new(folder.path())).unwrap();
    assert_eq!(all(&log, &topic, 0), (0..200).collect::<Vec<_>>());
}

#[test]
fn a_second_opening_is_refused_and_names_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::open(Options::new(folder.path())).unwrap();
    match Log::open(Options::new(folder.path())).unwrap_err() {
        Error::Locked { holder, .. } => assert!(holder.contains(&format!("pid {}, since 20", std::process::id()))),
        other => panic!("{other}"),
    }
    log.close();
    Log::open(Options::new(folder.path())).unwrap();
}

#[test]
fn a_file_that_is_no_log_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log.db");
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("CREATE TABLE theirs (id INTEGER)").unwrap();
    drop(other);
    let error = Log::open(Options::new(folder.path())).unwrap_err();
    assert!(matches!(&error, Error::Invalid(text) if text.contains("not a log of Phronis")), "{error}");

    std::fs::write(&file, "this is text, and more of it than a header").unwrap();
    assert!(matches!(Log::open(Options::new(folder.path())), Err(Error::Failed { .. })));

    std::fs::remove_file(&file).unwrap();
    Log::open(Options::new(folder.path())).unwrap().close();
    rusqlite::Connection::open(&file).unwrap().execute_batch("UPDATE meta SET value = '99'").unwrap();
    let error = Log::open(Options::new(folder.path())).unwrap_err();
    assert!(matches!(&error, Error::Invalid(text) if text.contains("format 99")), "{error}");
}

#[test]
fn a_delivery_that_is_too_large_is_refused_with_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::open(Options { max_delivery_bytes: 1000, ..Options::new(folder.path()) }).unwrap();
    let topic = make(&log, "topic", Retention::default());
    let mut builder = RecordsBuilder::default();
    builder.push(0, None, Some(&[0; 1001]), &[]);
    let error = log.sink().unwrap().submit(append(&topic, 0, builder.finish())).unwrap_err();
    assert!(matches!(&error, Error::Invalid(text) if text.contains("1001") && text.contains("1000")), "{error}");
}

#[test]
fn too_much_under_way_is_refused_or_waits() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Arc::new(Mutex::new(()));
    // The writer asks for the time before each group: so a test can hold it there.
    let clock = Clock::new({
        let gate = Arc::clone(&gate);
        move || {
            drop(gate.lock().unwrap());
            0
        }
    });
    let options = Options {
        in_flight_bytes: 10_000,
        clock,
        housekeeping_every: Duration::from_secs(3600),
        ..Options::new(folder.path())
    };
    let log = Log::open(options).unwrap();
    let topic = make(&log, "topic", Retention::default());
    let sink = log.sink().unwrap();
    let held = gate.lock().unwrap();
    let mut tickets = Vec::new();
    let full = loop {
        match sink.try_submit(append(&topic, 0, numbers([1]))) {
            Ok(ticket) => tickets.push(ticket),
            Err(error) => break error,
        }
        assert!(tickets.len() < 100, "the bound does not hold");
    };
    assert!(matches!(&full, Error::Full { .. }) && full.is_retriable(), "{full}");
    assert!(tickets.iter_mut().all(|ticket| ticket.try_wait().is_none()), "nothing is durable yet");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| sink.submit(append(&topic, 0, numbers([2]))).unwrap().wait());
        drop(held);
        assert!(waits.join().unwrap().is_ok());
    });
    let taken = i64::try_from(tickets.len()).unwrap();
    assert!(tickets.into_iter().all(|ticket| ticket.wait().is_ok()));
    assert_eq!(info(&log, &topic).latest, taken + 1);
}
