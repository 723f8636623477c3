//! A full log and a full disk: refused, never half taken, and going on when there is room.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use phronis_core::records::{NewRecords, RecordsBuilder};
use phronis_log::conformance::{append, commit, fresh, member, numbers};
use phronis_log::embedded::{Log, Options};
use phronis_log::{Error, Log as _, Retention, Start};

use crate::parts::{eventually, info, make, subject};

/// A record of noise that names its number first.
fn noise(number: i64, bytes: usize) -> NewRecords {
    let mut state = number.unsigned_abs().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut value = number.to_le_bytes().to_vec();
    while value.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        value.extend(state.to_le_bytes());
    }
    let mut builder = RecordsBuilder::default();
    builder.push(number, None, Some(&value), &[]);
    builder.finish()
}

/// The numbers of [`noise`] that a topic holds, read from the file.
fn held(log: &Log, topic: &str) -> Vec<i64> {
    let mut reader = log.reader(topic, 0, phronis_log::Position::Earliest).unwrap();
    let mut seen = Vec::new();
    while let Some(records) = reader.next(phronis_log::conformance::ALL, Duration::ZERO).unwrap() {
        let number = |row| i64::from_le_bytes(records.body.value(row).unwrap()[..8].try_into().unwrap());
        seen.extend((0..records.len()).map(number));
    }
    seen
}

/// Appends until it is full; what was taken.
fn fill(log: &Log, topic: &std::sync::Arc<str>, from: i64) -> (i64, Error) {
    let sink = log.sink().unwrap();
    for number in from..from + 10_000 {
        let taken = sink.submit(append(topic, 0, noise(number, 50_000))).and_then(phronis_log::Ticket::wait);
        if let Err(error) = taken {
            return (number, error);
        }
    }
    panic!("it never was full");
}

#[test]
fn a_full_log_refuses_new_records_but_lets_processing_free_it() {
    let folder = tempfile::tempdir().unwrap();
    let housekeeping_every = Duration::from_millis(1);
    let log =
        Log::open(Options { max_bytes: Some(4 << 20), housekeeping_every, ..Options::new(folder.path()) }).unwrap();
    let topic = make(&log, "raw", Retention { bytes: Some(1 << 20), ..Retention::default() });
    let (out, group) = (make(&log, "out", Retention::default()), fresh("group"));
    drop(member(&subject(&log), &group, &[&topic], (0, 1), Start::Earliest));
    let (taken, error) = fill(&log, &topic, 0);
    assert!(matches!(&error, Error::Full { .. }) && error.is_retriable(), "{error}");
    assert!(error.to_string().contains("4194304"), "{error}");
    assert!(matches!(log.sink().unwrap().try_submit(append(&topic, 0, numbers([1]))), Err(Error::Full { .. })));
    let mut delivery = append(&out, 0, numbers([1]));
    delivery.commits.push(commit(&group, &topic, 0, 0, taken));
    log.sink().unwrap().submit(delivery).unwrap().wait().unwrap();
    eventually("there is room again", || {
        log.sink().unwrap().try_submit(append(&topic, 0, noise(taken, 50_000))).is_ok()
    });
    assert!(info(&log, &topic).earliest > 0);
}

/// A small disk, if this process may mount one.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> Option<Self> {
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(at).output();
        mount.is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[test]
fn a_full_disk_takes_nothing_by_halves_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(folder.path()) else {
        eprintln!("skipped: a file system cannot be mounted here");
        return;
    };
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![1; 8 << 20]).unwrap();
    let options = Options { min_free_bytes: 0, hot_tail_bytes: 0, ..Options::new(disk.0.join("log")) };
    let log = Log::open(options.clone()).unwrap();
    let topic = make(&log, "topic", Retention::default());
    let (mut next, mut error) = fill(&log, &topic, 0);
    assert!(matches!(error, Error::Full { .. }), "{error}");
    assert_eq!(held(&log, &topic), (0..next).collect::<Vec<_>>());
    assert_eq!(info(&log, &topic).latest, next);

    std::fs::remove_file(&ballast).unwrap();
    (next, error) = fill(&log, &topic, next);
    assert!(matches!(error, Error::Full { .. }), "{error}");
    assert_eq!(held(&log, &topic), (0..next).collect::<Vec<_>>());
    log.close();
    let log = Log::open(options).unwrap();
    assert_eq!(held(&log, &topic), (0..next).collect::<Vec<_>>(), "nothing else appears after a restart");
}

#[test]
fn the_last_of_the_disk_is_left_free() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(folder.path()) else {
        eprintln!("skipped: a file system cannot be mounted here");
        return;
    };
    let log = Log::open(Options { min_free_bytes: 8 << 20, ..Options::new(disk.0.join("log")) }).unwrap();
    let topic = make(&log, "topic", Retention::default());
    let (_, error) = fill(&log, &topic, 0);
    assert!(matches!(&error, Error::Full { reason } if reason.contains("stay free")), "{error}");
    std::fs::write(disk.0.join("others"), vec![1; 4 << 20]).unwrap();
}
