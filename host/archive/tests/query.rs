//! Queries of real tables, good and hostile.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a test that cannot go on must end, also in its helpers"
)]

#[path = "query/archive.rs"]
mod archive;

use std::sync::Arc;
use std::time::Duration;

use archive::{Filled, all};
use phronis_archive::query::{Engine, Error, Question};
use phronis_core::{Name, code};
use serde_json::{Value, json};

const EVENTS: &str = "default_sensors_events";

/// Between two looks at what the engine's threads do, which have a low priority.
const GLANCE: Duration = Duration::from_millis(10);

async fn ask(engine: &Engine, sql: &str) -> Result<Vec<Value>, Error> {
    all(engine.run(sql, None).await).await
}

async fn refused(engine: &Engine, sql: &str) -> Error {
    match ask(engine, sql).await {
        Err(error) => error,
        Ok(rows) => panic!("{sql}: {} rows", rows.len()),
    }
}

#[tokio::test]
async fn rows_are_found_counted_and_grouped() {
    let filled = Filled::new().await;
    filled.fill(EVENTS, 0..1000).await;
    filled.fill(EVENTS, 1000..1500).await;
    let engine = filled.engine(|_| {});
    for (sql, expected) in [
        ("SELECT count(*) AS n FROM default_sensors_events", json!([{"n": 1500}])),
        ("SELECT count(*) AS n FROM phronis.default_sensors_events WHERE value >= 1400", json!([{"n": 100}])),
        (
            "SELECT phronis_key AS k, sum(value) AS s FROM default_sensors_events GROUP BY 1 ORDER BY 1 LIMIT 1",
            json!([{"k": "k0", "s": 111_750.0}]),
        ),
        (
            "SELECT value FROM default_sensors_events WHERE phronis_event_time BETWEEN '2026-11-22T00:00:05Z' AND \
             '2026-11-22T00:00:06Z' ORDER BY value",
            json!([{"value": 5.0}, {"value": 6.0}]),
        ),
        ("SELECT value FROM default_sensors_events WHERE CAST(value AS INT) = 7", json!([{"value": 7.0}])),
        (
            "SELECT max(v) AS m FROM (SELECT value AS v FROM default_sensors_events WHERE phronis_key = 'k3') x",
            json!([{"m": 1493.0}]),
        ),
        ("WITH w AS (SELECT 1 AS a) SELECT a, a + 1 FROM w", json!([{"a": 1, "w.a + Int64(1)": 2}])),
        ("SHOW TABLES", json!([{"table": "default_sensors_events"}])),
        ("SELECT 1 AS a, 2 AS b, '3' AS c", json!([{"a": 1, "b": 2, "c": "3"}])),
    ] {
        assert_eq!(Value::from(ask(&engine, sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"))), expected, "{sql}");
    }
    let columns = ask(&engine, "DESCRIBE default_sensors_events").await.unwrap();
    assert_eq!(columns.len(), 6);
    let plan = ask(&engine, "EXPLAIN SELECT value FROM default_sensors_events WHERE value > 1400").await.unwrap();
    let plan = plan.iter().map(Value::to_string).collect::<String>();
    assert!(plan.contains("files=1,") && plan.contains("predicate=value > 1400"), "{plan}");
}

#[tokio::test]
async fn a_query_sees_what_was_committed_before_it() {
    let filled = Filled::new().await;
    let engine = filled.engine(|_| {});
    assert_eq!(refused(&engine, "SELECT * FROM default_sensors_events").await.code(), code::QUERY_NO_TABLE);
    for part in 0..3 {
        filled.fill(EVENTS, part * 10..part * 10 + 10).await;
        let rows = ask(&engine, "SELECT count(*) AS n FROM default_sensors_events").await.unwrap();
        assert_eq!(rows, [json!({"n": part * 10 + 10})]);
    }
}

#[tokio::test]
async fn older_states_are_read_by_snapshot_and_by_time() {
    let filled = Filled::new().await;
    filled.fill(EVENTS, 0..10).await;
    let first = filled.archive.catalog().load(EVENTS).await.unwrap().unwrap();
    let first = Arc::clone(first.metadata().current_snapshot().unwrap());
    filled.fill_with(EVENTS, 10..15, true).await;
    let engine = filled.engine(|_| {});
    let count = async |from: &str| ask(&engine, &format!("SELECT count(*) AS n FROM {from}")).await;
    let id = first.snapshot_id();
    assert_eq!(count(EVENTS).await.unwrap(), [json!({"n": 15})]);
    assert_eq!(count(&format!("{EVENTS} FOR VERSION AS OF {id}")).await.unwrap(), [json!({"n": 10})]);
    let at = phronis_core::Time(first.timestamp_ms() * 1000);
    assert_eq!(count(&format!("{EVENTS} FOR TIMESTAMP AS OF '{at}'")).await.unwrap(), [json!({"n": 10})]);
    let both = format!(
        "SELECT n.phronis_offset AS o FROM {EVENTS} n LEFT JOIN {EVENTS} FOR VERSION AS OF {id} o \
         ON n.phronis_offset = o.phronis_offset WHERE o.phronis_offset IS NULL ORDER BY 1 LIMIT 1"
    );
    assert_eq!(ask(&engine, &both).await.unwrap(), [json!({"o": 10})]);
    let sql = format!("SELECT count(*) AS n FROM {EVENTS}");
    let question = Question { sql: &sql, as_of: Some(first.timestamp_ms()), tenant: None };
    let answer = engine.ask(question).await.unwrap();
    assert_eq!(answer.tables()[0].snapshot, Some(id));
    assert_eq!(all(Ok(answer)).await.unwrap(), [json!({"n": 10})]);
    // The column is newer than the snapshot.
    let error = refused(&engine, &format!("SELECT note FROM {EVENTS} FOR VERSION AS OF {id}")).await;
    assert_eq!(error.code(), code::QUERY_NO_COLUMN);
    assert_eq!(
        ask(&engine, &format!("SELECT DISTINCT note FROM {EVENTS} WHERE value < 5")).await.unwrap(),
        [json!({"note": null})]
    );
    let tags = format!("SELECT value, tags FROM {EVENTS} WHERE value IN (1, 12) ORDER BY 1");
    let expected = [json!({"value": 1.0, "tags": null}), json!({"value": 12.0, "tags": ["a"]})];
    assert_eq!(ask(&engine, &tags).await.unwrap(), expected);
    let only = ask(&engine, &format!("SELECT count(tags) AS n, count(*) AS m FROM {EVENTS}")).await.unwrap();
    assert_eq!(only, [json!({"n": 5, "m": 15})]);
    for from in [format!("{EVENTS} FOR VERSION AS OF 42"), format!("{EVENTS} FOR TIMESTAMP AS OF '2020-01-01'")] {
        let error = count(&from).await.unwrap_err();
        assert_eq!(error.code(), code::QUERY_NO_SNAPSHOT, "{error}");
        assert!(error.to_string().contains("its oldest snapshot is of 20"), "{error}");
    }
}

#[tokio::test]
async fn other_tenants_tables_do_not_exist() {
    let filled = Filled::new().await;
    filled.fill("acme_press_events", 0..10).await;
    filled.fill("zeta_press_events", 0..20).await;
    let engine = filled.engine(|_| {});
    let acme: Name = "acme".parse().unwrap();
    let ask = async |sql: &str| all(engine.run(sql, Some(&acme)).await).await;
    assert_eq!(ask("SELECT count(*) AS n FROM acme_press_events").await.unwrap(), [json!({"n": 10})]);
    assert_eq!(ask("SHOW TABLES").await.unwrap(), [json!({"table": "acme_press_events"})]);
    for sql in [
        "SELECT * FROM zeta_press_events",
        "SELECT * FROM phronis.zeta_press_events",
        "SELECT * FROM archive.phronis.zeta_press_events",
        "SELECT * FROM zeta_press_events FOR VERSION AS OF 1",
        "DESCRIBE zeta_press_events",
        "EXPLAIN SELECT * FROM zeta_press_events",
        "SELECT (SELECT count(*) FROM zeta_press_events) FROM acme_press_events",
        "WITH zeta_press_events AS (SELECT * FROM zeta_press_events) SELECT * FROM zeta_press_events",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM \"/etc/passwd\"",
        "SELECT * FROM 'x.parquet'",
    ] {
        let error = ask(sql).await.unwrap_err();
        let known = [code::QUERY_NO_TABLE, code::QUERY_SYNTAX];
        assert!(known.contains(&error.code()), "{sql}: {error}");
        // Not even as a suggestion.
        assert!(!error.to_string().contains("zeta_press_events`?"), "{sql}: {error}");
    }
    let near = engine.run("SELECT * FROM acme_pres_events", Some(&acme)).await.unwrap_err();
    assert!(near.to_string().contains("is `acme_press_events` meant?"), "{near}");
    assert_eq!(
        all(engine.run("SELECT count(*) AS n FROM zeta_press_events", None).await).await.unwrap(),
        [json!({"n": 20})]
    );
}

#[tokio::test]
async fn a_mistake_is_shown_at_its_place_with_what_is_near() {
    let filled = Filled::new().await;
    filled.fill(EVENTS, 0..10).await;
    let engine = filled.engine(|_| {});
    for (sql, code, place, told) in [
        ("SELECT vale FROM default_sensors_events", code::QUERY_NO_COLUMN, Some((1, 8)), "is `value` meant?"),
        ("SELECT x.vale\nFROM default_sensors_events x", code::QUERY_NO_COLUMN, Some((1, 8)), "is `x.value` meant?"),
        (
            "SELECT *\n FROM default_sensor_events",
            code::QUERY_NO_TABLE,
            Some((2, 7)),
            "is `default_sensors_events` meant?",
        ),
        ("SELECT * FORM default_sensors_events", code::QUERY_SYNTAX, Some((1, 10)), "FORM"),
        ("SELECT 1 FROM default_sensors_events WHERE", code::QUERY_SYNTAX, Some((1, 43)), "found the end"),
        ("SELECT value + phronis_event_time FROM default_sensors_events", code::QUERY_INVALID, None, "coerce"),
        ("SELECT nothing(1)", code::QUERY_INVALID, None, "nothing"),
        ("SELECT 1 / 0", code::QUERY_INVALID, None, "ivide by zero"),
        ("SELECT value FROM default_sensors_events a, default_sensors_events b", code::QUERY_INVALID, None, "value"),
    ] {
        let error = refused(&engine, sql).await;
        assert_eq!(error.code(), code, "{sql}: {error}");
        let at = error.at().map(|at| (at.line, at.column));
        assert!(place.is_none() || at == place, "{sql}: {error} at {at:?}");
        assert!(error.to_string().contains(told), "{sql}: {error}");
    }
}

#[tokio::test]
async fn nothing_is_written_read_or_made_beside_the_tables() {
    let filled = Filled::new().await;
    filled.fill(EVENTS, 0..10).await;
    let engine = filled.engine(|_| {});
    let out = filled.folder.path().join("out.csv");
    for sql in [
        "INSERT INTO default_sensors_events SELECT * FROM default_sensors_events".to_owned(),
        "DELETE FROM default_sensors_events".to_owned(),
        "UPDATE default_sensors_events SET value = 0".to_owned(),
        "DROP TABLE default_sensors_events".to_owned(),
        "CREATE VIEW v AS SELECT 1".to_owned(),
        "CREATE TABLE t AS SELECT 1".to_owned(),
        "SELECT * INTO t FROM default_sensors_events".to_owned(),
        format!("COPY default_sensors_events TO '{}'", out.display()),
        format!("COPY (SELECT 1) TO '{}' STORED AS CSV", out.display()),
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'".to_owned(),
        "SET datafusion.catalog.information_schema = true".to_owned(),
        "SELECT 1; SELECT 2".to_owned(),
        "SELECT * FROM read_parquet('/etc/passwd')".to_owned(),
        "SELECT * FROM generate_series(1, 9)".to_owned(),
        "PREPARE p AS SELECT 1".to_owned(),
        "BEGIN".to_owned(),
        "EXPLAIN ANALYZE DELETE FROM default_sensors_events".to_owned(),
    ] {
        let error = refused(&engine, &sql).await;
        assert_eq!(error.code(), code::QUERY_REFUSED, "{sql}: {error}");
    }
    // Functions whose results no memory pool counts are not there.
    for sql in ["SELECT repeat('x', 1000000000)", "SELECT range(1, 1000000000)", "SELECT lpad('x', 2000000000)"] {
        assert_eq!(refused(&engine, sql).await.code(), code::QUERY_INVALID, "{sql}");
    }
    assert!(!out.exists());
    assert_eq!(ask(&engine, "SELECT count(*) AS n FROM default_sensors_events").await.unwrap(), [json!({"n": 10})]);
}

#[tokio::test]
async fn each_limit_stops_a_query_and_says_which() {
    let filled = Filled::new().await;
    filled.fill(EVENTS, 0..1200).await;
    let small = filled.engine(|limits| {
        limits.rows = 1000;
        limits.bytes = 1 << 20;
        limits.memory = 2 << 20;
        limits.spill = 4 << 20;
    });
    let error = refused(&small, "SELECT value FROM default_sensors_events").await;
    assert_eq!(error, Error::TooManyRows { most: 1000 });
    assert_eq!(ask(&small, "SELECT value FROM default_sensors_events LIMIT 1000").await.unwrap().len(), 1000);
    let error = refused(&small, "SELECT value, concat(phronis_topic, phronis_key) FROM default_sensors_events CROSS JOIN (SELECT 1) x ORDER BY 1 LIMIT 1001").await;
    assert_eq!(error.code(), code::QUERY_ROWS);
    let all_pairs = "default_sensors_events a CROSS JOIN default_sensors_events b";
    for sql in [
        format!("SELECT a.value, b.phronis_key FROM {all_pairs} ORDER BY a.value * b.value, b.phronis_key"),
        format!(
            "SELECT a.phronis_offset * 3000 + b.phronis_offset AS n, count(*) FROM {all_pairs} GROUP BY 1 ORDER BY 2 LIMIT 1"
        ),
    ] {
        let error = refused(&small, &sql).await;
        assert_eq!(error.code(), code::QUERY_MEMORY, "{sql}: {error}");
    }
    // What was spilled goes with the query, which ends a moment after its answer.
    let spilled = || std::fs::read_dir(filled.folder.path().join("spill")).unwrap().count();
    let gone = async {
        while spilled() > 0 {
            tokio::time::sleep(GLANCE).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.expect("what was spilled stays");
    let brief = filled.engine(|limits| limits.time = Duration::from_millis(500));
    assert_eq!(refused(&brief, ENDLESS).await.code(), code::QUERY_TIME);
}

#[tokio::test]
async fn an_answer_of_many_bytes_is_stopped() {
    let filled = Filled::new().await;
    filled.fill(EVENTS, 0..3000).await;
    let engine = filled.engine(|limits| limits.bytes = 100_000);
    let error =
        refused(&engine, "SELECT a.phronis_topic FROM default_sensors_events a CROSS JOIN default_sensors_events b")
            .await;
    assert_eq!(error, Error::TooManyBytes { most: 100_000 });
}

#[tokio::test]
async fn a_query_whose_client_leaves_makes_place_for_the_next() {
    let filled = Filled::new().await;
    filled.fill(EVENTS, 0..3000).await;
    let engine = filled.engine(|limits| {
        limits.queries = 1;
        limits.rows = u64::MAX;
        limits.bytes = u64::MAX;
        limits.time = Duration::from_secs(600);
    });
    let endless = "SELECT a.value FROM default_sensors_events a CROSS JOIN default_sensors_events b CROSS JOIN default_sensors_events c";
    let mut answer = engine.run(endless, None).await.unwrap();
    assert!(answer.next().await.unwrap().unwrap().num_rows() > 0);
    assert_eq!(refused(&engine, "SELECT 1").await, Error::Busy { most: 1 });
    drop(answer);
    is_free(&engine).await;
    // Nor does one whose client leaves before the first row.
    let counting = engine.run(ENDLESS, None);
    assert!(tokio::time::timeout(Duration::from_millis(300), counting).await.is_err(), "it has no answer yet");
    is_free(&engine).await;
}

/// Counts pairs that would take days; none of them is a row.
const ENDLESS: &str = "SELECT count(*) FROM default_sensors_events a, default_sensors_events b, default_sensors_events c, \
                       default_sensors_events d WHERE a.value + b.value < -1 - c.value - d.value";

/// Waits until the only place is free.
async fn is_free(engine: &Engine) {
    let freed = async {
        while ask(engine, "SELECT 1").await.is_err() {
            tokio::time::sleep(GLANCE).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), freed).await.expect("the place was not freed");
}

#[tokio::test]
async fn a_join_that_would_take_for_ever_is_stopped_and_frees_its_place() {
    let filled = Filled::new().await;
    filled.fill(EVENTS, 0..3000).await;
    let engine = filled.engine(|limits| {
        limits.queries = 1;
        limits.time = Duration::from_millis(500);
    });
    let all = "default_sensors_events a, default_sensors_events b, default_sensors_events c, default_sensors_events d";
    for sql in [
        ENDLESS.to_owned(),
        format!("SELECT sum(a.value * b.value - c.value) AS s FROM {all}"),
        // All of one key, and no pair meets the rest of the condition.
        "SELECT count(*) FROM default_sensors_events k JOIN (SELECT a.phronis_topic AS t, a.value + b.value + c.value AS v \
         FROM default_sensors_events a, default_sensors_events b, default_sensors_events c) p \
         ON p.t = k.phronis_topic AND p.v + k.value < -1"
            .to_owned(),
    ] {
        let error = refused(&engine, &sql).await;
        assert_eq!(error.code(), code::QUERY_TIME, "{sql}: {error}");
        is_free(&engine).await;
    }
}

#[tokio::test]
async fn joins_of_every_kind_find_all_rows() {
    let filled = Filled::new().await;
    filled.fill(EVENTS, 0..3000).await;
    let engine = filled.engine(|_| {});
    let t = "default_sensors_events";
    for (sql, expected) in [
        (format!("{t} a JOIN {t} b ON a.phronis_offset = b.phronis_offset"), 3000),
        (format!("{t} a LEFT JOIN {t} b ON b.value = a.value + 1"), 3000),
        (format!("{t} a FULL JOIN {t} b ON b.value = a.value + 1"), 3001),
        (format!("{t} a JOIN {t} b ON a.phronis_key = b.phronis_key AND a.value = b.value + 10"), 2990),
        (format!("{t} a JOIN {t} b ON a.value > b.value + 2990"), 45),
        (format!("{t} a LEFT JOIN {t} b ON a.value > b.value + 2990"), 45 + 2991),
        (format!("{t} a RIGHT JOIN {t} b ON a.value > b.value + 2990"), 45 + 2991),
        (format!("{t} a WHERE EXISTS (SELECT 1 FROM {t} b WHERE b.phronis_key = a.phronis_key)"), 3000),
        (format!("{t} a WHERE a.value NOT IN (SELECT value + 1 FROM {t})"), 1),
        (format!("(SELECT value FROM {t} LIMIT 70) a CROSS JOIN {t} b WHERE a.value + b.value >= 0"), 210_000),
    ] {
        let found = ask(&engine, &format!("SELECT count(*) AS n FROM {sql}")).await;
        assert_eq!(found.unwrap_or_else(|error| panic!("{sql}: {error}")), [json!({"n": expected})], "{sql}");
    }
}

#[tokio::test]
async fn a_limit_opens_no_more_files_than_it_needs() {
    let filled = Filled::new().await;
    for part in 0..3 {
        filled.fill(EVENTS, part * 100..part * 100 + 100).await;
    }
    let engine = filled.engine(|_| {});
    for (limit, files) in [(5, 1), (100, 1), (101, 2), (1000, 3)] {
        let sql = format!("SELECT value FROM default_sensors_events LIMIT {limit}");
        let plan = ask(&engine, &format!("EXPLAIN {sql}")).await.unwrap();
        let plan = plan.iter().map(Value::to_string).collect::<String>();
        assert!(plan.contains(&format!("files={files},")), "{sql}: {plan}");
        assert_eq!(ask(&engine, &sql).await.unwrap().len(), limit.min(300), "{sql}");
    }
    // A condition leaves fewer rows of each file.
    let some =
        ask(&engine, "SELECT value FROM default_sensors_events WHERE phronis_key = 'k7' LIMIT 25").await.unwrap();
    assert_eq!(some.len(), 25);
    let count = "SELECT count(*) AS n FROM (SELECT value FROM default_sensors_events LIMIT 150) x";
    assert_eq!(ask(&engine, count).await.unwrap(), [json!({"n": 150})]);
}

#[tokio::test]
async fn wide_rows_come_few_at_a_time() {
    let filled = Filled::new().await;
    filled.fill_wide(EVENTS, 100, 256 << 10).await;
    let engine = filled.engine(|_| {});
    // Also where a filter puts batches together again.
    for sql in
        ["SELECT note FROM default_sensors_events", "SELECT note FROM default_sensors_events WHERE length(note) > 9"]
    {
        let (mut rows, mut largest) = (0, 0);
        let mut answer = engine.run(sql, None).await.unwrap();
        while let Some(batch) = answer.next().await {
            let batch = batch.unwrap().num_rows();
            (rows, largest) = (rows + batch, largest.max(batch));
        }
        assert_eq!(rows, 100);
        assert!(largest <= 64, "{sql}: {largest} rows of 256 KiB at once");
    }
}

#[tokio::test]
async fn what_is_nested_deep_is_worked_out_or_refused_and_never_the_end_of_the_host() {
    let filled = Filled::new().await;
    filled.fill(EVENTS, 0..10).await;
    let engine = filled.engine(|_| {});
    let sum = |terms: usize| vec!["1"; terms].join("+");
    assert_eq!(ask(&engine, &format!("SELECT {} AS n", sum(900))).await.unwrap(), [json!({"n": 900})]);
    let ors = vec!["value = 3"; 300].join(" OR ");
    let found = ask(&engine, &format!("SELECT value FROM default_sensors_events WHERE {ors}")).await.unwrap();
    assert_eq!(found, [json!({"value": 3.0})]);
    for sql in [
        format!("SELECT * FROM default_sensors_events FOR TIMESTAMP AS OF {}", sum(30_000)),
        format!("SELECT {} AS n", sum(30_000)),
    ] {
        assert_eq!(refused(&engine, &sql).await.code(), code::QUERY_SYNTAX);
    }
    let as_of = format!("SELECT * FROM default_sensors_events FOR TIMESTAMP AS OF {}", sum(900));
    assert_eq!(refused(&engine, &as_of).await.code(), code::QUERY_INVALID);
}
