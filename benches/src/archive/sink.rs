//! What stands in the tables: asked of the catalog, and counted in the Parquet files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use phronis_archive::query::{Engine, Limits};
use phronis_archive::{Archive, CatalogSettings, Kind, NAMESPACE, Settings, TableName};
use phronis_core::StreamId;
use phronis_pipeline::archive::StorePointers;
use phronis_store::Store;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::backlog::Due;

/// The tables of one stream.
pub(super) struct Sink {
    runtime: Runtime,
    archive: Archive,
    stream: StreamId,
    spill: TempDir,
}

/// A commit: rows in the table after it, and when it was made, in milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Committed {
    pub(super) rows: u64,
    pub(super) at: i64,
}

impl Sink {
    /// The tables of the host that had this folder, in this warehouse, else in the folder of the host.
    pub(super) fn open(dir: &Path, stream: &str, warehouse: Option<(&str, &BTreeMap<String, String>)>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let data = dir.join("data");
        let local = (format!("file://{}/archive", data.display()), BTreeMap::new());
        let (warehouse, storage) = warehouse.map_or(local, |(place, storage)| (place.to_owned(), storage.clone()));
        let settings = Settings {
            namespace: NAMESPACE.to_owned(),
            catalog: CatalogSettings::Sql { name: "phronis".to_owned() },
            warehouse,
            storage,
        };
        let archive = runtime.block_on(async {
            let store = Store::open(&phronis_store::Options::Sqlite(data.join("store.sqlite"))).await?;
            Ok::<_, anyhow::Error>(Archive::open(&settings, Some(Arc::new(StorePointers(store)))).await?)
        })?;
        Ok(Self { runtime, archive, stream: stream.parse()?, spill: tempfile::tempdir()? })
    }

    fn table(&self, kind: Kind) -> String {
        TableName::new(&self.stream, kind).to_string()
    }

    /// The commits of a table, in their order.
    pub(super) fn commits(&self, kind: Kind) -> Result<Vec<Committed>> {
        let table = self.runtime.block_on(self.archive.catalog().load(&self.table(kind)))?.context("no table")?;
        let mut commits = Vec::new();
        for snapshot in table.metadata().snapshots() {
            let rows = snapshot.summary().additional_properties.get("total-records").context("no total-records")?;
            commits.push(Committed { rows: rows.parse()?, at: snapshot.timestamp_ms() });
        }
        commits.sort_by_key(|commit| (commit.at, commit.rows));
        Ok(commits)
    }

    /// Bytes of the data files of a table.
    pub(super) fn bytes(&self, kind: Kind) -> Result<u64> {
        let table = self.runtime.block_on(self.archive.catalog().load(&self.table(kind)))?.context("no table")?;
        let snapshot = table.metadata().current_snapshot().context("no snapshot")?;
        let bytes = snapshot.summary().additional_properties.get("total-files-size").context("no total-files-size")?;
        Ok(bytes.parse()?)
    }

    /// Reads the tables: each record of raw is one row of events or of letters, and no row is missing or there twice.
    pub(super) fn check(&self, due: &Due) -> Result<()> {
        for (kind, due) in [(Kind::Events, due.events), (Kind::Alerts, due.alerts), (Kind::Letters, due.letters)] {
            if due > 0 {
                let rows = self.origins(kind)?.values().map(|found| found.0).sum::<i64>();
                ensure!(rows == due.cast_signed(), "{} has {rows} rows and not {due}", self.table(kind));
            }
        }
        let letters = if due.letters > 0 { self.origins(Kind::Letters)? } else { BTreeMap::new() };
        let events = self.origins(Kind::Events)?;
        for (partition, records) in (0..).zip(&due.raw) {
            let of = |found: &BTreeMap<i32, (i64, i64, i64)>| found.get(&partition).copied().unwrap_or_default();
            let (events, letters) = (of(&events), of(&letters));
            // As many rows as offsets, none above the last, and the sum of all: then each is there once.
            let found = (events.0 + letters.0, events.1 + letters.1, events.2.max(letters.2) + 1);
            let records = records.cast_signed();
            let wanted = (records, records * (records - 1) / 2, records);
            ensure!(found == wanted, "partition {partition} of raw: count, sum and end are {found:?}, not {wanted:?}");
        }
        Ok(())
    }

    /// By partition of raw: rows, the sum of their offsets, the greatest offset.
    fn origins(&self, kind: Kind) -> Result<BTreeMap<i32, (i64, i64, i64)>> {
        let sql = format!(
            "SELECT phronis_partition, count(*), sum(phronis_offset), max(phronis_offset) FROM \"{}\" GROUP BY 1",
            self.table(kind)
        );
        let engine = Engine::new(self.archive.clone(), Limits::new(self.spill.path().to_owned()))?;
        let mut found = BTreeMap::new();
        self.runtime.block_on(async {
            let mut answer = engine.run(&sql, None).await?;
            while let Some(batch) = answer.next().await.transpose()? {
                let partitions = batch.column(0).as_primitive::<Int32Type>().values();
                let [counts, sums, ends] = [1, 2, 3].map(|at| batch.column(at).as_primitive::<Int64Type>().values());
                let rest = counts.iter().zip(sums).zip(ends).map(|((count, sum), end)| (*count, *sum, *end));
                found.extend(partitions.iter().copied().zip(rest));
            }
            Ok(found)
        })
    }
}
