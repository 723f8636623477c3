//! What the embedded log deletes, and what it must not.

use std::time::Duration;

use phronis_core::delivery::Delivery;
use phronis_core::records::{NewRecords, RecordsBuilder};
use phronis_log::conformance::{ALL, append, commit, fresh, member};
use phronis_log::{Error, Log as _, Position, Retention, Start};

use crate::parts::{Hands, all, busy, eventually, info, make, put, subject};

const TEN_SECONDS: Retention = Retention { age: Some(Duration::from_secs(10)), bytes: None, compact: false };

#[test]
fn old_records_go_and_a_reader_that_they_overtake_is_told() {
    let (folder, hands) = (tempfile::tempdir().unwrap(), Hands::default());
    let log = busy(folder.path(), &hands);
    let (topic, kept) = (make(&log, "old", TEN_SECONDS), make(&log, "kept", Retention::default()));
    hands.set(100);
    put(&log, &topic, 0..10);
    put(&log, &kept, 0..10);
    let mut slow = log.reader(&topic, 0, Position::Earliest).unwrap();
    hands.set(105);
    put(&log, &topic, 10..20);
    hands.set(111);
    eventually("the older batch is deleted", || info(&log, &topic).earliest == 10);
    assert_eq!(all(&log, &topic, 0), (10..20).collect::<Vec<_>>());
    match slow.next(ALL, Duration::ZERO).unwrap_err() {
        Error::OutOfRange { offset: 0, earliest: 10, latest: 20, .. } => {}
        other => panic!("{other}"),
    }
    hands.set(1000);
    eventually("all is deleted", || info(&log, &topic).earliest == 20);
    assert_eq!((info(&log, &topic).latest, info(&log, &topic).bytes), (20, Some(0)));
    assert_eq!(all(&log, &kept, 0).len(), 10);
    drop(log);
    let log = busy(folder.path(), &hands);
    put(&log, &topic, 20..21);
    assert_eq!(info(&log, &topic).latest, 21, "offsets go on after everything was deleted");
}

#[test]
fn what_a_group_has_not_committed_stays() {
    let (folder, hands) = (tempfile::tempdir().unwrap(), Hands::default());
    let log = busy(folder.path(), &hands);
    // Housekeeping goes by name: when it was at the second, it was at the first.
    let (held, free) = (make(&log, "a-held", TEN_SECONDS), make(&log, "b-free", TEN_SECONDS));
    let group = fresh("group");
    hands.set(100);
    for from in [0, 10, 20] {
        put(&log, &held, from..from + 10);
        put(&log, &free, from..from + 10);
    }
    drop(member(&subject(&log), &group, &[&held], (0, 1), Start::Earliest));
    hands.set(1000);
    eventually("the topic without a group is empty", || info(&log, &free).earliest == 30);
    assert_eq!(all(&log, &held, 0), (0..30).collect::<Vec<_>>());
    let step = |from, next| {
        let commits = vec![commit(&group, &held, 0, from, next)];
        log.sink().unwrap().submit(Delivery { appends: Vec::new(), commits }).unwrap().wait().unwrap();
    };
    step(0, 15);
    eventually("the whole batches before the commit are gone", || info(&log, &held).earliest == 10);
    assert_eq!(all(&log, &held, 0), (10..30).collect::<Vec<_>>());
    log.forget_group(&group).unwrap();
    eventually("a forgotten group holds nothing", || info(&log, &held).earliest == 30);
}

#[test]
fn a_partition_keeps_about_as_many_bytes_as_it_may() {
    let (folder, hands) = (tempfile::tempdir().unwrap(), Hands::default());
    let log = busy(folder.path(), &hands);
    let topic = make(&log, "bytes", Retention { bytes: Some(20_000), ..Retention::default() });
    for from in (0..4000).step_by(100) {
        put(&log, &topic, from..from + 100);
    }
    eventually("it is below its bound", || info(&log, &topic).bytes <= Some(20_000));
    let info = info(&log, &topic);
    assert!(info.earliest > 0 && info.bytes > Some(15_000), "{info:?}");
    assert_eq!(all(&log, &topic, 0), (info.earliest..4000).collect::<Vec<_>>());
}

#[test]
fn a_clock_that_is_set_back_makes_nothing_younger_or_older() {
    let (folder, hands) = (tempfile::tempdir().unwrap(), Hands::default());
    let log = busy(folder.path(), &hands);
    let topic = make(&log, "a-topic", TEN_SECONDS);
    let probe = make(&log, "b-probe", Retention { age: Some(Duration::from_millis(500)), ..Retention::default() });
    hands.set(1000);
    put(&log, &topic, 0..10);
    hands.set(500);
    put(&log, &topic, 10..20);
    put(&log, &probe, 0..1);
    drop(log);
    // Also what was written before a restart is not forgotten.
    let log = busy(folder.path(), &hands);
    put(&log, &topic, 20..30);
    hands.set(1001);
    eventually("the probe is deleted", || info(&log, &probe).earliest == 1);
    assert_eq!(all(&log, &topic, 0), (0..30).collect::<Vec<_>>());
    hands.set(1011);
    eventually("all is deleted when it is old", || info(&log, &topic).earliest == 30);
}

/// Records of (key, value).
fn keyed<'a>(records: impl IntoIterator<Item = (Option<&'a str>, Option<String>)>) -> NewRecords {
    let mut builder = RecordsBuilder::default();
    for (key, value) in records {
        builder.push(0, key.map(str::as_bytes), value.as_deref().map(str::as_bytes), &[]);
    }
    builder.finish()
}

#[test]
fn compaction_leaves_the_last_record_of_a_key_at_its_offset() {
    let (folder, hands) = (tempfile::tempdir().unwrap(), Hands::default());
    let log = busy(folder.path(), &hands);
    let topic = make(&log, "compact", Retention { compact: true, ..Retention::default() });
    let sink = log.sink().unwrap();
    let put = |records| sink.submit(append(&topic, 0, records)).unwrap().wait().unwrap();
    put(keyed([(None, Some("no key".to_owned())), (Some("gone"), Some("x".to_owned()))]));
    for round in 0..40 {
        let keys = ["a", "b", "c"].iter().cycle().take(30);
        put(keyed(keys.enumerate().map(|(row, key)| (Some(*key), Some((round * 30 + row).to_string())))));
    }
    put(keyed([(Some("gone"), None)]));
    let left = || {
        let mut reader = log.reader(&topic, 0, Position::Earliest).unwrap();
        let mut left = Vec::new();
        while let Some(records) = reader.next(ALL, Duration::ZERO).unwrap() {
            for row in 0..records.len() {
                let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
                let (key, value) = (text(records.body.key(row)), text(records.body.value(row)));
                left.push((records.offsets.value(row), key, value));
            }
        }
        left
    };
    let entry = |offset: i64, key: Option<&str>, value: Option<&str>| {
        (offset, key.map(str::to_owned), value.map(str::to_owned))
    };
    let expected = [
        entry(0, None, Some("no key")),
        entry(1199, Some("a"), Some("1197")),
        entry(1200, Some("b"), Some("1198")),
        entry(1201, Some("c"), Some("1199")),
        entry(1202, Some("gone"), None),
    ];
    // A pass that began before the last append is repeated when enough has come.
    eventually("the first thousand are compacted", || left().len() < 300);
    for _ in 0..1000 {
        put(keyed([(Some("d"), Some("d".to_owned()))]));
    }
    eventually("only the last of each key is left", || {
        left().iter().filter(|(_, key, _)| key.as_deref() != Some("d")).eq(&expected)
    });
    let inside = log.reader(&topic, 0, Position::Offset(600)).unwrap().next(ALL, Duration::ZERO).unwrap().unwrap();
    assert_eq!(inside.offsets.value(0), 1199, "an offset in a gap is read from where the gap ends");
    hands.set(25 * 3600);
    for _ in 0..2000 {
        put(keyed([(Some("e"), Some("e".to_owned()))]));
    }
    eventually("a tombstone goes after a day", || !left().iter().any(|(_, key, _)| key.as_deref() == Some("gone")));
}
