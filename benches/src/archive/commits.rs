//! How long a commit takes in a new table and after thousands of commits, with upkeep between.
//!
//! A local folder and SQLite, one row a commit: nothing but the commit itself. Upkeep runs between two commits, as often as a
//! host does it at a commit in ten seconds, and is not in their time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use phronis_archive::{
    Archive, CatalogSettings, Committer, Outcome, Settings, Source, TableSpec, Upkeep, WriteOptions, column,
};
use phronis_pipeline::archive::StorePointers;
use phronis_store::Store;

use crate::kafka::{median, setting};
use crate::report::Report;

/// Commits unless `PHRONIS_BENCH_COMMITS` says otherwise: more snapshots than upkeep leaves, so that more would change nothing.
const COMMITS: u64 = 2000;
/// Commits of the new table whose median is shown.
const WINDOW: usize = 200;
/// Most commits between two runs of upkeep: an hour, at one commit in ten seconds. The last so many are shown: all that lies
/// between two runs, the best and the worst of it.
const UPKEEP_EVERY: usize = 360;

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let commits = setting("PHRONIS_BENCH_COMMITS", COMMITS)?;
    ensure!(commits >= UPKEEP_EVERY as u64, "at least {UPKEEP_EVERY} commits make a median");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (times, keeping, rounds) = runtime.block_on(commit(commits))?;
    let millis = |times: &[Duration]| median(times.iter().map(|time| time.as_secs_f64() * 1000.0).collect());
    let first = millis(times.get(..WINDOW).context("too few")?);
    let last = millis(times.get(times.len() - UPKEEP_EVERY..).context("too few")?);
    let method = format!(
        "one row a commit, local folder with fsync and SQLite; median of the first {WINDOW} and of the last {UPKEEP_EVERY} of {commits} commits, \
         {rounds} rounds of upkeep, {:.1} s in all",
        keeping.as_secs_f64()
    );
    report.add("a commit in a new table, p50", first, "ms", "–", method.clone());
    report.add("a commit after many, p50", last, "ms", "–", method.clone());
    report.add("a commit after many ÷ in a new table", last / first, "×", "≤ 2", method);
    Ok(())
}

/// How long each commit took; how long upkeep took, and how often it ran.
async fn commit(commits: u64) -> Result<(Vec<Duration>, Duration, u32)> {
    let folder = tempfile::tempdir()?;
    let store = Store::open(&phronis_store::Options::Sqlite(folder.path().join("store.sqlite"))).await?;
    let settings = Settings {
        namespace: "phronis".to_owned(),
        catalog: CatalogSettings::Sql { name: "phronis".to_owned() },
        warehouse: format!("file://{}/warehouse", folder.path().display()),
        storage: BTreeMap::new(),
    };
    let archive = Archive::open(&settings, Some(Arc::new(StorePointers(store)))).await?;
    let table = "default_sensors_events";
    let spec = TableSpec {
        name: table.parse()?,
        schema: row(0)?.schema(),
        key: Vec::new(),
        source: Source { topic: "processed".to_owned(), identity: "one".to_owned(), origin: None },
    };
    let mut committer = Committer::open(&archive, spec, &WriteOptions::default()).await?;
    let (mut times, mut keeping, mut rounds, mut since) = (Vec::new(), Duration::ZERO, 0, 0);
    let upkeep = Upkeep::default();
    for number in 1..=commits {
        let offset = number.cast_signed() - 1;
        committer.append(0, offset, offset + 1, row(offset)?).await?;
        let began = Instant::now();
        let outcome = committer.commit().await?;
        times.push(began.elapsed());
        ensure!(matches!(outcome, Outcome::Committed(done) if done.rows == 1), "{outcome:?}");
        since += 1;
        if since == UPKEEP_EVERY || upkeep.is_due(committer.table().metadata().snapshots().count()) {
            let began = Instant::now();
            archive.maintain(table, &upkeep).await?;
            keeping += began.elapsed();
            since = 0;
            rounds += 1;
        }
    }
    let loaded = archive.catalog().load(table).await?.context("no table")?;
    let summary = loaded.metadata().current_snapshot().context("no snapshot")?.summary();
    let rows = summary.additional_properties.get("total-records");
    ensure!(rows == Some(&commits.to_string()), "{rows:?} rows after {commits} commits");
    Ok((times, keeping, rounds))
}

fn row(offset: i64) -> Result<RecordBatch> {
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        (column::PARTITION, Arc::new(Int32Array::from(vec![0])), true),
        (column::OFFSET, Arc::new(Int64Array::from(vec![offset])), true),
        (column::EVENT_TIME, Arc::new(TimestampMicrosecondArray::from(vec![offset]).with_timezone("UTC")), false),
    ];
    Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
}
