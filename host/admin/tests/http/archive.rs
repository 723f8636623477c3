//! The archive over HTTP: queries in three formats, their limits, whose tables there are, and clients that leave.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use phronis_admin::{Options, Role};
use phronis_archive::{Archive, Committer, Source, TableSpec, WriteOptions};
use phronis_pipeline::archive::StorePointers;
use serde_json::{Value, json};

use crate::client::{Answer, HANGS, connect, send};
use crate::host::{self, Host, key};

/// A host with an archive of two tenants.
struct Archived {
    host: Host,
    _runtime: tokio::runtime::Runtime,
}

impl Archived {
    fn start(change: impl FnOnce(&mut Options)) -> Self {
        let host = Host::start_archived(change);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let pointers = StorePointers(host.store());
            let archive =
                Archive::open(&host::archive_settings(host.folder()), Some(Arc::new(pointers))).await.unwrap();
            fill(&archive, "default_sensors_events", 3000).await;
            fill(&archive, "acme_press_events", 20).await;
        });
        host.until_archive_answers();
        Self { host, _runtime: runtime }
    }

    fn ask(&self, body: &Value, headers: &[&str]) -> Answer {
        send(self.host.at, "POST", "/v1/query", headers, body.to_string().as_bytes())
    }

    fn sql(&self, sql: &str) -> Answer {
        self.ask(&json!({ "sql": sql }), &[])
    }

    /// Waits until there is a place for a query.
    fn has_a_place(&self) {
        let until = Instant::now() + HANGS;
        while self.sql("SELECT 1").status != 200 {
            assert!(Instant::now() < until, "the place was not freed");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

async fn fill(archive: &Archive, table: &str, count: i64) {
    let length = usize::try_from(count).unwrap();
    let times = TimestampMicrosecondArray::from_iter_values((0..count).map(|n| n * 1_000_000)).with_timezone("UTC");
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("phronis_partition", Arc::new(Int32Array::from(vec![0; length])), false),
        ("phronis_offset", Arc::new(Int64Array::from_iter_values(0..count)), true),
        ("phronis_event_time", Arc::new(times), false),
        ("value", Arc::new(Float64Array::from_iter_values((0..count).map(|n| n as f64))), true),
    ];
    let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let spec = TableSpec {
        name: table.parse().unwrap(),
        schema: rows.schema(),
        key: Vec::new(),
        source: Source { topic: "t".to_owned(), identity: "one".to_owned(), origin: None },
    };
    let mut committer = Committer::open(archive, spec, &WriteOptions::default()).await.unwrap();
    committer.append(0, 0, count, rows).await.unwrap();
    committer.commit().await.unwrap();
}

#[test]
fn an_answer_comes_in_the_format_that_was_asked_for() {
    let archived = Archived::start(|_| {});
    let sql = "SELECT value, phronis_event_time AS at FROM default_sensors_events WHERE value < 2 ORDER BY value";
    let answer = archived.sql(sql);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let document = answer.json();
    assert_eq!(
        document["rows"],
        json!([{"value": 0.0, "at": "1970-01-01T00:00:00Z"}, {"value": 1.0, "at": "1970-01-01T00:00:01Z"}])
    );
    assert_eq!((&document["row_count"], &document["columns"][1]["type"]), (&json!(2), &json!("timestamptz")));
    assert_eq!(document["tables"][0]["table"], "default_sensors_events");
    let csv = archived.ask(&json!({ "sql": sql }), &["Accept: text/csv"]);
    assert_eq!(csv.text(), "value,at\n0.0,1970-01-01T00:00:00Z\n1.0,1970-01-01T00:00:01Z\n");
    let lines = archived.ask(&json!({ "sql": sql, "format": "ndjson" }), &[]);
    assert_eq!(lines.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(lines.text().lines().count(), 2);
    let before = archived.ask(&json!({ "sql": sql, "as_of": "1999-01-01" }), &[]);
    assert_eq!((before.status, before.json()["code"].clone()), (400, json!("PH6065")));
}

#[test]
fn what_is_wrong_with_a_query_is_a_problem_with_a_place() {
    let archived = Archived::start(|options| options.query.rows = 2000);
    for (sql, status, code) in [
        ("SELECT FROM", 400, "PH6060"),
        ("DROP TABLE default_sensors_events", 403, "PH6061"),
        ("SELECT 1; SELECT 2", 403, "PH6061"),
        ("SELECT * FROM nothing", 404, "PH6062"),
        ("SELECT vale FROM default_sensors_events", 400, "PH6063"),
        ("SELECT 1 / 0", 400, "PH6064"),
        ("SELECT * FROM default_sensors_events FOR VERSION AS OF 1", 400, "PH6065"),
    ] {
        let answer = archived.sql(sql);
        assert_eq!((answer.status, answer.json()["code"].clone()), (status, json!(code)), "{sql}: {}", answer.text());
    }
    let problem = archived.sql("SELECT value,\n  vale FROM default_sensors_events").json();
    assert_eq!((&problem["line"], &problem["column"]), (&json!(2), &json!(3)), "{problem}");
    assert_eq!(problem["excerpt"], "  vale FROM default_sensors_events\n  ^");
    // Rows were on their way already: the answer says at its end that it broke off.
    let broken = archived.sql("SELECT value FROM default_sensors_events").json();
    assert_eq!((&broken["row_count"], &broken["problem"]["code"]), (&json!(2000), &json!("PH6066")));
    for body in [&b"SELECT 1"[..], b"{}", b"{\"sql\": \"SELECT 1\", \"format\": \"xml\"}", b"{\"sql\": 1}"] {
        assert_eq!(send(archived.host.at, "POST", "/v1/query", &[], body).status, 400);
    }
}

/// Counts pairs that would take days; none of them is a row.
const ENDLESS: &str = "SELECT count(*) FROM default_sensors_events a, default_sensors_events b, default_sensors_events c, \
                       default_sensors_events d WHERE a.value + b.value < -1 - c.value - d.value";

#[test]
fn a_query_that_takes_too_long_is_stopped_and_makes_place_for_the_next() {
    let archived = Archived::start(|options| {
        options.query.queries = 1;
        options.query.time = Duration::from_secs(2);
    });
    let answer = archived.sql(ENDLESS);
    assert_eq!((answer.status, answer.json()["code"].clone()), (422, json!("PH6069")), "{}", answer.text());
    archived.has_a_place();
}

#[test]
fn what_is_nested_too_deep_is_refused_and_the_host_goes_on() {
    let archived = Archived::start(|_| {});
    let sum = vec!["1"; 30_000].join("+");
    for sql in [
        format!("SELECT * FROM default_sensors_events FOR TIMESTAMP AS OF {sum}"),
        format!("SELECT * FROM default_sensors_events WHERE value = {sum}"),
    ] {
        let answer = archived.sql(&sql);
        assert_eq!((answer.status, answer.json()["code"].clone()), (400, json!("PH6060")), "{}", answer.text());
    }
    archived.has_a_place();
}

#[test]
fn a_key_opens_its_tenants_tables_and_the_role_read_is_enough() {
    let archived = Archived::start(|options| {
        options.keys = vec![key("all", None, Role::Read), key("acme", Some("acme"), Role::Read)];
    });
    let count = |table: &str, key: &str| {
        let sql = format!("SELECT count(*) AS n FROM {table}");
        let answer = archived.ask(&json!({ "sql": sql }), &[&format!("X-API-Key: {key}")]);
        (answer.status, answer.json()["rows"][0]["n"].as_i64())
    };
    assert_eq!(count("acme_press_events", "acme"), (200, Some(20)));
    assert_eq!(count("default_sensors_events", "acme").0, 404);
    assert_eq!(count("default_sensors_events", "all"), (200, Some(3000)));
    assert_eq!(archived.sql("SELECT 1").status, 401);
    let get = |path: &str, key: &str| send(archived.host.at, "GET", path, &[&format!("X-API-Key: {key}")], b"");
    let names = |key: &str| -> Vec<String> {
        let items = get("/v1/archive/tables", key).json()["items"].as_array().cloned().unwrap();
        items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("all"), ["acme_press_events", "default_sensors_events"]);
    assert_eq!(names("acme"), ["acme_press_events"]);
    assert_eq!(get("/v1/archive/tables/default_sensors_events", "acme").status, 404);
    let table = get("/v1/archive/tables/acme_press_events", "acme").json();
    assert_eq!((&table["rows"], &table["files"], &table["kind"]), (&json!(20), &json!(1), &json!("events")));
    assert_eq!(table["columns"][3], json!({"name": "value", "type": "double", "required": false}));
    assert!(table["progress"].is_object(), "{table}");
    let snapshots = get("/v1/archive/tables/acme_press_events/snapshots", "acme").json();
    assert_eq!(snapshots["items"][0]["id"], table["snapshot"]);
    assert_eq!((&snapshots["items"][0]["added_rows"], &snapshots["items"][0]["current"]), (&json!(20), &json!(true)));
}

#[test]
fn a_client_that_leaves_makes_place_for_the_next() {
    let archived = Archived::start(|options| {
        options.query.queries = 1;
        (options.query.rows, options.query.bytes) = (u64::MAX, u64::MAX);
        options.query.time = Duration::from_secs(600);
    });
    let endless = json!({ "sql": "SELECT a.value FROM default_sensors_events a, default_sensors_events b, default_sensors_events c" });
    let (at, body) = (archived.host.at, endless.to_string());
    let mut client = connect(at);
    write!(client, "POST /v1/query HTTP/1.1\r\nHost: {at}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut some = [0; 1000];
    client.read_exact(&mut some).unwrap();
    let busy = archived.sql("SELECT 1");
    assert_eq!((busy.status, busy.header("retry-after")), (429, Some("1")));
    drop(client);
    archived.has_a_place();
    // Nor does one hold it that leaves before its answer begins.
    let body = json!({ "sql": ENDLESS }).to_string();
    let begin = || {
        let mut client = connect(at);
        write!(client, "POST /v1/query HTTP/1.1\r\nHost: {at}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            .unwrap();
        client.set_nonblocking(true).unwrap();
        client
    };
    let (mut client, until) = (begin(), Instant::now() + HANGS);
    while archived.sql("SELECT 1").status != 429 {
        assert!(Instant::now() < until, "the query does not begin");
        // It was sent away, because a short one had the place.
        if client.peek(&mut some).is_ok() {
            client = begin();
        }
    }
    drop(client);
    archived.has_a_place();
}

#[test]
fn a_host_without_an_archive_says_so() {
    let host = Host::start(|_| {});
    let answer = send(host.at, "POST", "/v1/query", &[], br#"{"sql": "SELECT 1"}"#);
    assert_eq!((answer.status, answer.json()["code"].clone()), (503, json!("PH6072")));
    assert_eq!(send(host.at, "GET", "/v1/archive/tables", &[], b"").status, 503);
}
