//! Replays over real tables with a real guest: what is counted, that nothing changes it, and what is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use phronis_archive::{Archive, CatalogSettings, Committer, Settings, Source, TableSpec, WriteOptions};
use phronis_core::plugin::Limits;
use phronis_core::{PluginId, code};
use phronis_engine::Engine;
use phronis_pipeline::archive::StorePointers;
use phronis_pipeline::replay::{Against, Error, Events, Report, Trial};
use phronis_store::Store;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::room;

/// Microseconds of 2026-11-20T00:00:00Z, and of a day.
const BEGIN: i64 = 1_795_132_800_000_000;
const DAY: i64 = 86_400_000_000;

const EVENTS: &str = "default_sensors_events";

struct Place {
    folder: TempDir,
    archive: Archive,
}

/// An event: partition, offset, event time, value.
type Row = (i32, i64, i64, Option<f64>);

impl Place {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let store = phronis_store::Options::Sqlite(folder.path().join("store.sqlite"));
        let store = Store::open(&store).await.unwrap();
        let settings = Settings {
            namespace: "phronis".to_owned(),
            catalog: CatalogSettings::Sql { name: "phronis".to_owned() },
            warehouse: format!("file://{}", folder.path().join("warehouse").display()),
            storage: BTreeMap::new(),
        };
        let archive = Archive::open(&settings, Some(Arc::new(StorePointers(store)))).await.unwrap();
        Self { folder, archive }
    }

    async fn commit(&self, table: &str, rows: RecordBatch) {
        let spec = TableSpec {
            name: table.parse().unwrap(),
            schema: rows.schema(),
            key: Vec::new(),
            source: Source { topic: "t".to_owned(), identity: "one".to_owned(), origin: None },
        };
        let mut committer = Committer::open(&self.archive, spec, &WriteOptions::default()).await.unwrap();
        let from = committer.resume(0).unwrap_or(0);
        let next = from + i64::try_from(rows.num_rows()).unwrap();
        committer.append(0, from, next, rows).await.unwrap();
        committer.commit().await.unwrap();
    }

    async fn events(&self, rows: &[Row]) {
        let mut columns = system(&rows.iter().map(|row| (row.0, row.1, row.2)).collect::<Vec<_>>());
        columns.push(("value", Arc::new(rows.iter().map(|row| row.3).collect::<Float64Array>()), true));
        self.commit(EVENTS, RecordBatch::try_from_iter_with_nullable(columns).unwrap()).await;
    }

    async fn alerts(&self, plugin: &str, rows: &[(i32, i64, i64)]) {
        let mut columns = system(rows);
        let texts = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text; rows.len()])) };
        columns.extend([
            ("phronis_plugins", texts(&format!("{plugin}@1.0.0#abc")), true),
            ("plugin", texts(plugin), true),
            ("rule", texts("high"), true),
            ("severity", texts("warning"), true),
            ("message", texts("was high"), true),
        ]);
        self.commit("default_sensors_alerts", RecordBatch::try_from_iter_with_nullable(columns).unwrap()).await;
    }

    fn engine(&self) -> Engine {
        room::engine(&self.folder.path().join("cache"))
    }

    async fn trial(&self, engine: &Engine, params: Value) -> Result<Trial, Error> {
        let events = Events::of(self.archive.clone(), room::sensors()).await?;
        let component = engine.load(&room::guest("detector.wasm")).unwrap();
        let id = PluginId { stream: room::sensors(), name: "hot".parse().unwrap() };
        let columns = events.columns()?;
        Trial::new(component, id, &params, Limits::default(), &columns)
    }

    async fn replay(&self, params: Value, against: Option<&str>, days: std::ops::Range<i64>) -> Result<Report, Error> {
        let engine = self.engine();
        let new = self.trial(&engine, params).await?;
        let events = Events::of(self.archive.clone(), room::sensors()).await?;
        let against = match against {
            Some("guest") => Some(Against::Plugin(Box::new(self.trial(&engine, json!({"high": 50.0})).await?))),
            Some(name) => Some(Against::Alerts { plugin: name.to_owned(), version: None }),
            None => None,
        };
        events.replay(new, against, BEGIN + days.start * DAY..BEGIN + days.end * DAY).await
    }
}

fn system(rows: &[(i32, i64, i64)]) -> Vec<(&'static str, ArrayRef, bool)> {
    let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.2)).with_timezone("UTC");
    let keys = rows.iter().map(|row| (row.1 % 5 != 0).then(|| format!("k{}", row.1 % 5)));
    vec![
        ("phronis_topic", Arc::new(StringArray::from(vec!["t"; rows.len()])), true),
        ("phronis_partition", Arc::new(rows.iter().map(|row| row.0).collect::<Int32Array>()), false),
        ("phronis_offset", Arc::new(rows.iter().map(|row| Some(row.1)).collect::<Int64Array>()), true),
        ("phronis_event_time", Arc::new(times), false),
        ("phronis_key", Arc::new(keys.collect::<StringArray>()), true),
    ]
}

/// Three days, two partitions, values 0..100 in turn; times jump back and forth; a value in 50 is null.
fn rows(offsets: std::ops::Range<i64>) -> Vec<Row> {
    let one = |offset: i64, partition: i32| {
        let jitter = (offset * 7919) % 1000 * 1_000_000;
        let at = BEGIN + offset * DAY / 1000 + jitter;
        let value = (offset % 50 != 7).then_some((offset % 100) as f64);
        (partition, offset, at, value)
    };
    offsets.flat_map(|offset| [one(offset, 0), one(offset, 1)]).collect()
}

async fn three_days() -> Place {
    let place = Place::new().await;
    place.events(&rows(0..1200)).await;
    place.events(&rows(1200..2100)).await;
    place.events(&rows(2100..3000)).await;
    place
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_counts_what_the_detector_finds_by_day_rule_and_key() {
    let place = three_days().await;
    let result = place.replay(json!({"high": 89.5}), None, 0..3).await.unwrap().result;
    let expected: Vec<Row> =
        rows(0..3000).into_iter().filter(|row| (BEGIN..BEGIN + 3 * DAY).contains(&row.2)).collect();
    let hot = |row: &&Row| row.3.is_some_and(|value| value > 89.5);
    assert_eq!(result.events, expected.len() as u64);
    assert_eq!(result.alerts.new, expected.iter().filter(hot).count() as u64);
    let nulls = expected.iter().filter(|row| row.3.is_none()).count() as u64;
    assert_eq!((result.plugin.skipped, result.plugin.judged), (nulls, result.events - nulls));
    for (day, nth) in result.days.iter().zip(0..) {
        let of_day = |row: &&Row| (row.2 - BEGIN).div_euclid(DAY) == nth;
        let rows: Vec<&Row> = expected.iter().filter(of_day).collect();
        assert_eq!((day.events, day.alerts.new), (rows.len() as u64, rows.iter().filter(|r| hot(r)).count() as u64));
    }
    assert_eq!(
        result.days.iter().map(|day| day.day.as_str()).collect::<Vec<_>>(),
        ["2026-11-20", "2026-11-21", "2026-11-22"]
    );
    let of_keys: u64 = result.top_keys.iter().map(|key| key.new).sum();
    assert_eq!(of_keys, result.alerts.new);
    assert!(result.top_keys.is_sorted_by(|a, b| a.new >= b.new));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_range_gives_the_same_bytes_whatever_happens_beside_it() {
    let place = three_days().await;
    let read = async || {
        let report = place.replay(json!({"high": 70.0}), Some("guest"), 0..2).await.unwrap();
        serde_json::to_vec(&report.result).unwrap()
    };
    let first = read().await;
    assert_eq!(first, read().await);
    let text = String::from_utf8(first.clone()).unwrap();
    assert!(text.contains("\"snapshot\":\"") && text.contains("\"only_old\":[{"), "{text}");
    // Another layout of the same rows is another snapshot with the same findings.
    let other = Place::new().await;
    let mut all = rows(0..3000);
    all.reverse();
    other.events(&all).await;
    let findings = async |place: &Place| {
        let mut result = place.replay(json!({"high": 70.0}), Some("guest"), 0..2).await.unwrap().result;
        result.snapshot = None;
        result
    };
    assert_eq!(findings(&place).await, findings(&other).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_found_then_is_compared_with_what_would_be_found() {
    let place = three_days().await;
    let hot: Vec<(i32, i64, i64)> = rows(0..3000)
        .into_iter()
        .filter(|row| row.3.is_some_and(|v| v > 94.5))
        .map(|row| (row.0, row.1, row.2))
        .collect();
    let in_range = hot.iter().filter(|row| (BEGIN..BEGIN + 3 * DAY).contains(&row.2)).count() as u64;
    place.alerts("hot", &hot).await;
    place.alerts("other", &hot[..10]).await;
    // An alert about an event that is not archived.
    place.alerts("hot", &[(7, 1, BEGIN + 5)]).await;
    // One about its open breaker, and so about no event.
    place.alerts("hot", &[(0, -1, BEGIN + 5)]).await;
    let result = place.replay(json!({"high": 89.5}), Some("hot"), 0..3).await.unwrap().result;
    let alerts = result.alerts;
    assert_eq!((alerts.old, alerts.both, alerts.only_old, alerts.unmatched), (in_range, in_range, 0, 1));
    assert_eq!(alerts.only_new, alerts.new - in_range);
    let against = serde_json::to_value(&result.against).unwrap();
    assert_eq!((&against["from"], &against["versions"][0]["version"]), (&json!("archive"), &json!("hot@1.0.0#abc")));
    assert_eq!(against["versions"][0]["alerts"], json!(in_range + alerts.unmatched));
    let stricter = place.replay(json!({"high": 97.5}), Some("hot"), 0..3).await.unwrap().result.alerts;
    assert_eq!((stricter.only_new, stricter.only_old), (0, in_range - stricter.new));
    let unknown = place.replay(json!({}), Some("cold"), 0..3).await.unwrap_err();
    assert_eq!(unknown.code(), code::REPLAY_AGAINST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_plugin_fails_at_is_told_and_so_is_what_was_not_run() {
    let place = three_days().await;
    let params = json!({"behaviour": "trap", "mark": 33.0, "high": 89.5});
    let result = place.replay(params, None, 0..3).await.unwrap().result;
    // Looking for guilty events has its budget here as in a worker.
    let codes: Vec<&str> = result.plugin.failed.iter().map(|failed| failed.code.as_str()).collect();
    assert_eq!(codes, ["PH2003", "PH2007"]);
    let failed: u64 = result.plugin.failed.iter().map(|failed| failed.events).sum();
    assert_eq!(result.plugin.judged + result.plugin.skipped + failed, result.events);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_archive_lacks_is_refused_before_anything_runs() {
    let place = Place::new().await;
    assert_eq!(place.replay(json!({}), None, 0..1).await.unwrap_err().code(), code::QUERY_NO_TABLE);
    place.events(&rows(0..10)).await;
    let error = place.replay(json!({"behaviour": "three-columns"}), None, 0..1).await.unwrap_err();
    assert_eq!(error.code(), code::REPLAY_FIELD, "{error}");
    assert!(error.to_string().contains("`count`"), "{error}");
    let error = place.replay(json!({"hihg": 1.0}), None, 0..1).await.unwrap_err();
    assert_eq!(error.code(), code::PARAMS_REFUSED, "{error}");
    let nothing = place.replay(json!({}), None, 100..101).await.unwrap().result;
    assert_eq!((nothing.events, nothing.days.len()), (0, 0));
}
