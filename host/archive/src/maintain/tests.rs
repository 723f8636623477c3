//! Upkeep of real tables: rows stay the same, files and snapshots do not, whoever commits or reads meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use futures::TryStreamExt as _;
use phronis_tests::s3;
use tempfile::TempDir;

use super::*;
use crate::catalog::tests::{open, sql};
use crate::testing::{Row, batch, put_ahead, rows, spec};
use crate::{Committer, Settings, WriteOptions, read_back};

const DAY: i64 = 86_400_000_000;

fn cut(sizes: &[u64]) -> Vec<Vec<u64>> {
    runs(sizes.to_vec(), |size| *size, |run| run.iter().sum::<u64>() >= 100, 4)
}

#[test]
fn what_is_like_in_size_is_joined() {
    assert_eq!(cut(&[3, 1, 2, 2]), [[1, 2, 2, 3]]);
    assert!(cut(&[1, 2, 3]).is_empty(), "too few");
    assert!(cut(&[]).is_empty());
}

#[test]
fn a_large_one_is_not_rewritten_for_small_ones() {
    assert_eq!(cut(&[1, 1, 1, 1, 90]), [[1, 1, 1, 1]]);
    assert_eq!(cut(&[1, 1, 1, 1, 8]), [[1, 1, 1, 1, 8]]);
}

#[test]
fn a_full_run_ends() {
    assert_eq!(cut(&[60, 60, 60, 60]), [[60, 60], [60, 60]]);
}

/// Keeps nothing that is not needed.
fn eager() -> Upkeep {
    Upkeep {
        min_files: 2,
        max_manifests: 2,
        keep_for: Duration::ZERO,
        keep_at_least: 1,
        keep_at_most: 1,
        orphans_after: Duration::ZERO,
        ..Upkeep::default()
    }
}

/// A writer of its own rows.
struct Writer {
    committer: Committer,
    written: Vec<Row>,
    next: i64,
}

impl Writer {
    async fn open(archive: &Archive) -> Self {
        let committer = Committer::open(archive, spec(&[]), &WriteOptions::default()).await.unwrap();
        let next = committer.resume(0).unwrap_or(0);
        Self { committer, written: Vec::new(), next }
    }

    /// One commit with rows of two days.
    async fn commit(&mut self) {
        let row = |number: i64| Row {
            partition: 0,
            offset: Some(self.next + number),
            time: (20_000 + number % 2) * DAY + (self.next + number) % 97,
            rule: format!("rule-{number}"),
            number: 0.5,
        };
        let rows: Vec<Row> = (0..10).map(row).collect();
        self.committer.append(0, self.next, self.next + 10, batch(&rows)).await.unwrap();
        self.committer.commit().await.unwrap();
        self.next += 10;
        self.written.extend(rows);
    }

    fn sorted(&self) -> Vec<Row> {
        let mut rows = self.written.clone();
        rows.sort_by(|one, other| one.partial_cmp(other).unwrap());
        rows
    }
}

fn local() -> (TempDir, Settings) {
    let folder = tempfile::tempdir().unwrap();
    let warehouse = format!("file://{}/warehouse", folder.path().display());
    (folder, sql(warehouse, BTreeMap::new()))
}

async fn table(archive: &Archive) -> Table {
    archive.loaded("acme_sensors_events").await.unwrap()
}

async fn content(archive: &Archive) -> Vec<Row> {
    rows(&read_back(&table(archive).await).await.unwrap())
}

fn total(table: &Table, key: &str) -> usize {
    table.metadata().current_snapshot().unwrap().summary().additional_properties[key].parse().unwrap()
}

/// Paths of a kind that are in storage.
async fn stored(archive: &Archive, suffix: &str) -> Vec<String> {
    let table = table(archive).await;
    let properties = archive.settings().storage.clone();
    let files = crate::storage::list(table.metadata().location(), &properties).await.unwrap();
    let files: Vec<_> = files.try_collect().await.unwrap();
    files.into_iter().map(|file| file.path).filter(|path| path.ends_with(suffix)).collect()
}

/// Upkeep until there is nothing more to do.
async fn settle(archive: &Archive) {
    for _ in 0..6 {
        let report = archive.maintain("acme_sensors_events", &eager()).await.unwrap();
        assert_eq!(report.skipped, [""; 0]);
        let Plan { expire, delete, orphans, merge, compact, .. } = report.plan;
        if expire.is_empty() && delete.is_empty() && orphans.is_empty() && merge.is_empty() && compact.is_empty() {
            return;
        }
    }
    panic!("upkeep finds something to do each time");
}

/// Small commits, upkeep until there is nothing more to do, and what is left.
async fn suite(archive: &Archive) {
    let name = "acme_sensors_events";
    let mut writer = Writer::open(archive).await;
    for _ in 0..12 {
        writer.commit().await;
    }
    let before = table(archive).await;
    assert_eq!(total(&before, "total-data-files"), 24);
    let progress = before.metadata().properties()["phronis.progress"].clone();

    let plan = archive.plan_upkeep(name, &eager()).await.unwrap();
    assert_eq!(archive.plan_upkeep(name, &eager()).await.unwrap(), plan, "a dry run changes nothing");
    assert_eq!((plan.expire.len(), plan.merge.len(), plan.compact.len()), (11, 1, 2), "{plan:?}");
    assert_eq!(plan.delete.len(), 11, "manifest lists: every file is still alive");
    let report = archive.maintain(name, &eager()).await.unwrap();
    assert_eq!(report.plan, plan, "what is done is what a dry run shows");
    assert_eq!((report.expired, report.deleted, report.merged, report.compacted), (11, 11, 12, 24));
    assert_eq!(report.skipped, [""; 0]);

    let after = table(archive).await;
    assert_eq!(total(&after, "total-data-files"), 2);
    assert_eq!(total(&after, "total-records"), 120);
    assert_eq!(after.metadata().properties()["phronis.progress"], progress);
    assert_eq!(content(archive).await, writer.sorted());
    assert_eq!(stored(archive, ".parquet").await.len(), 26, "snapshots before still need the small files");

    // The writer goes on where it was, and no file stays that no snapshot needs.
    writer.commit().await;
    let report = archive.maintain(name, &eager()).await.unwrap();
    assert!(report.expired >= 3 && report.deleted >= 24, "{report:?}");
    settle(archive).await;
    assert_eq!(content(archive).await, writer.sorted());
    let left = table(archive).await;
    assert_eq!(left.metadata().snapshots().count(), 1);
    assert_eq!(stored(archive, ".parquet").await.len(), total(&left, "total-data-files"));
    let lists = stored(archive, ".avro").await;
    assert_eq!(lists.iter().filter(|path| path.contains("/snap-")).count(), 1, "{lists:?}");
    let reopened = Writer::open(archive).await;
    assert_eq!(reopened.next, writer.next, "the table still says where to go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn upkeep_leaves_the_rows_and_no_more_files_than_they_need() {
    let (folder, settings) = local();
    suite(&open(&folder, &settings).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upkeep_on_s3_leaves_the_rows_and_no_more_files_than_they_need() {
    let server = s3::Server::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let settings = sql(format!("s3://{}/warehouse", s3::BUCKET), server.settings());
    suite(&open(&folder, &settings).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_and_others_who_do_upkeep_lose_nothing() {
    let (folder, settings) = local();
    let (one, other) = (open(&folder, &settings).await, open(&folder, &settings).await);
    let mut writer = Writer::open(&one).await;
    for _ in 0..6 {
        writer.commit().await;
    }
    // No orphans are looked for while others write: that is what their safe age is for.
    let upkeep = Upkeep { orphans_after: Duration::from_secs(3600), ..eager() };
    let commits = async {
        for _ in 0..30 {
            writer.commit().await;
        }
    };
    let keeping = async |archive: &Archive| {
        for _ in 0..6 {
            archive.maintain("acme_sensors_events", &upkeep).await.unwrap();
        }
    };
    tokio::join!(commits, keeping(&one), keeping(&other));
    assert_eq!(content(&other).await, writer.sorted());
    assert_eq!(total(&table(&one).await, "total-records"), 360);
}

/// Two look after a table at once: what one has read of is gone when the other looks.
#[tokio::test]
async fn what_others_removed_meanwhile_is_read_again_from_the_newest_state() {
    let (folder, settings) = local();
    let (one, other) = (open(&folder, &settings).await, open(&folder, &settings).await);
    let mut writer = Writer::open(&one).await;
    for _ in 0..4 {
        writer.commit().await;
    }
    let mut tries = 0;
    let reach = newest(&one, "acme_sensors_events", async |base: &Table| {
        tries += 1;
        if tries == 1 {
            writer.commit().await;
            other.maintain("acme_sensors_events", &eager()).await.unwrap();
        }
        reach::of(base).await
    });
    reach.await.unwrap();
    assert_eq!(tries, 2);
    // What fails in a table that nobody moves is told at once.
    let mut tries = 0;
    let failing = newest(&one, "acme_sensors_events", async |_: &Table| {
        tries += 1;
        Err::<(), _>(Error::Rows("wrong".to_owned()))
    });
    assert!(matches!(failing.await, Err(Error::Rows(_))));
    assert_eq!(tries, 1);
}

/// Without a snapshot, iceberg dates a change by the clock, and refuses one that is long before the last.
#[tokio::test]
async fn a_table_that_is_ahead_of_the_clock_is_looked_after() {
    let (folder, settings) = local();
    let archive = open(&folder, &settings).await;
    let mut writer = Writer::open(&archive).await;
    for _ in 0..6 {
        writer.commit().await;
    }
    put_ahead(&archive, "acme_sensors_events", Duration::from_secs(3600)).await;
    writer.commit().await;
    let report = archive.maintain("acme_sensors_events", &eager()).await.unwrap();
    assert_eq!((report.expired, report.compacted), (7, 14), "{report:?}");
    assert!(report.merged > 0 && report.skipped.is_empty(), "{report:?}");
    assert_eq!(content(&archive).await, writer.sorted());
    let times: Vec<i64> = table(&archive).await.metadata().history().iter().map(|entry| entry.timestamp_ms()).collect();
    assert!(times.is_sorted_by(|one, next| one < next), "{times:?}");
}

/// The time of storage is that of its files, whatever the clock of this host says.
async fn tells_time(archive: &Archive) {
    let base = table(archive).await;
    let (files, place) = (base.file_io(), base.metadata().location());
    let properties = archive.settings().storage.clone();
    let put = async |name: &str| {
        let file = files.new_output(format!("{place}/data/{name}.parquet")).unwrap();
        file.write(bytes::Bytes::from_static(b"x")).await.unwrap();
    };
    put("before").await;
    let now = crate::storage::now_ms(files, place, &properties).await.unwrap();
    put("after").await;
    let listed: Vec<_> = crate::storage::list(place, &properties).await.unwrap().try_collect().await.unwrap();
    let of = |name: &str| listed.iter().find(|file| file.path.ends_with(name)).unwrap().changed_ms;
    assert!(of("before.parquet") <= now && now <= of("after.parquet"), "{now} {listed:?}");
    assert!(listed.iter().all(|file| !file.path.contains("/clock-")), "{listed:?}");
}

#[tokio::test]
async fn the_age_of_local_files_is_told_by_what_dates_them() {
    let (folder, settings) = local();
    let archive = open(&folder, &settings).await;
    Writer::open(&archive).await.commit().await;
    tells_time(&archive).await;
    let warehouse = folder.path().join("warehouse/phronis");
    let table = std::fs::read_dir(warehouse).unwrap().next().unwrap().unwrap().path();
    let mut left: Vec<_> = std::fs::read_dir(table).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["data", "metadata"], "the folder of the clock is gone");
}

#[tokio::test]
async fn the_age_of_files_in_an_object_store_is_told_by_what_dates_them() {
    let server = s3::Server::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let settings = sql(format!("s3://{}/warehouse", s3::BUCKET), server.settings());
    let archive = open(&folder, &settings).await;
    Writer::open(&archive).await.commit().await;
    tells_time(&archive).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_go_when_they_are_old_and_never_before() {
    let (folder, settings) = local();
    let archive = open(&folder, &settings).await;
    let mut writer = Writer::open(&archive).await;
    writer.commit().await;
    let location = table(&archive).await.metadata().location().to_owned();
    let stray = format!("{}/data/stray.parquet", location.strip_prefix("file://").unwrap());
    std::fs::write(&stray, b"left by a crash").unwrap();
    let young = Upkeep { orphans_after: Duration::from_secs(3600), ..Upkeep::default() };
    assert_eq!(archive.maintain("acme_sensors_events", &young).await.unwrap().orphans, 0);
    assert!(Path::new(&stray).exists());
    let old = Upkeep { orphans_after: Duration::ZERO, ..Upkeep::default() };
    let plan = archive.plan_upkeep("acme_sensors_events", &old).await.unwrap();
    assert_eq!(plan.orphans, [Orphan { path: format!("file://{stray}"), bytes: 15 }]);
    assert_eq!(archive.maintain("acme_sensors_events", &old).await.unwrap().orphans, 1);
    assert!(!Path::new(&stray).exists());
    assert_eq!(content(&archive).await, writer.sorted());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tag_names_stays() {
    use iceberg::spec::{SnapshotReference, SnapshotRetention};
    let (folder, settings) = local();
    let archive = open(&folder, &settings).await;
    let mut writer = Writer::open(&archive).await;
    writer.commit().await;
    let base = table(&archive).await;
    let tagged = base.metadata().current_snapshot_id().unwrap();
    let reference = SnapshotReference::new(tagged, SnapshotRetention::Tag { max_ref_age_ms: None });
    let tag = TableUpdate::SetSnapshotRef { ref_name: "audit".to_owned(), reference };
    commit_metadata(&archive, &base, vec![tag]).await.unwrap();
    for _ in 0..5 {
        writer.commit().await;
    }
    for _ in 0..3 {
        archive.maintain("acme_sensors_events", &eager()).await.unwrap();
    }
    let now = table(&archive).await;
    let kept = now.metadata().snapshot_by_id(tagged).unwrap();
    let list = now.manifest_list_reader(kept).load().await.unwrap();
    let entries = crate::snapshot::load_manifest(&now, &list.entries()[0]).await.unwrap();
    for entry in entries.alive() {
        assert!(now.file_io().exists(entry.file_path()).await.unwrap(), "{}", entry.file_path());
    }
    assert_eq!(content(&archive).await, writer.sorted());
}

#[tokio::test(flavor = "multi_thread")]
async fn pyiceberg_reads_what_upkeep_left() {
    let (folder, settings) = local();
    let archive = open(&folder, &settings).await;
    let mut writer = Writer::open(&archive).await;
    for _ in 0..5 {
        writer.commit().await;
    }
    archive.maintain("acme_sensors_events", &eager()).await.unwrap();
    writer.commit().await;
    archive.maintain("acme_sensors_events", &eager()).await.unwrap();
    let script = "\
import sys
from pyiceberg.catalog.sql import SqlCatalog
catalog = SqlCatalog('phronis', uri='sqlite:///' + sys.argv[1], warehouse='file:///nowhere')
table = catalog.load_table('phronis.acme_sensors_events')
rows = table.scan().to_arrow()
print(len(rows), sum(rows['phronis_offset'].to_pylist()), [n[-1] for n in catalog.list_tables('phronis')][0])
";
    let output = Command::new(s3::python().join("bin/python"))
        .args(["-c", script])
        .arg(folder.path().join("store.sqlite"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.trim(), "60 1770 acme_sensors_events", "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn no_more_is_rewritten_at_once_than_memory_bears() {
    let (folder, settings) = local();
    let archive = open(&folder, &settings).await;
    let mut writer = Writer::open(&archive).await;
    for _ in 0..6 {
        writer.commit().await;
    }
    // The first size that bears more than one file bears two.
    let mut max_bytes = 1;
    let report = loop {
        let upkeep = Upkeep { max_bytes, max_manifests: 100, keep_at_most: 100, keep_at_least: 100, ..eager() };
        let report = archive.maintain("acme_sensors_events", &upkeep).await.unwrap();
        if report.compacted > 0 {
            break report;
        }
        assert_eq!(report.skipped.len(), 2, "{report:?}");
        max_bytes *= 2;
    };
    assert_eq!(report.compacted, 4, "two files of each day: {report:?}");
    assert_eq!(content(&archive).await, writer.sorted());
}
