//! Rows of records that the host wrote, and of records that others did.

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use phronis_core::alert::{self, Alert};
use phronis_core::letter::{Letter, Offsets, Origin, Outcome, Plugin, Range, Settlement, Stage};
use phronis_core::plugin::{Added, FieldType, Severity};
use phronis_core::processed::{ADDED, ORIGIN_OFFSET, PLUGINS};
use phronis_core::records::{Headers, HeadersBuilder, Records, RecordsBuilder};
use phronis_core::{Contract, Id, Time, code};
use serde_json::Map;

use super::*;

const CONTRACT: &str = "apiVersion: v3.1.0\nkind: DataContract\nid: c\nversion: '1'\nschema:\n- name: s\n  properties:\n  - {name: n, logicalType: integer, required: true}\n  - {name: metadata, logicalType: object, properties: [{name: temp, logicalType: number}]}\n";

const NOW: i64 = 1_732_276_800_000_000;

fn records(rows: &[(Option<&str>, &str, HeadersBuilder)]) -> Records {
    let mut builder = RecordsBuilder::default();
    for (key, value, headers) in rows {
        builder.push(5, key.map(str::as_bytes), Some(value.as_bytes()), headers.as_bytes());
    }
    let offsets: Vec<i64> = (100..).take(rows.len()).collect();
    Records { topic: "phronis.processed".into(), partition: 2, offsets: offsets.into(), body: builder.finish() }
}

fn headers(pairs: &[(&str, &str)]) -> HeadersBuilder {
    let mut headers = HeadersBuilder::default();
    for (name, value) in pairs {
        headers.push(name, value.as_bytes());
    }
    headers
}

fn text<'a>(rows: &'a RecordBatch, name: &str, row: usize) -> Option<&'a str> {
    let column = rows.column_by_name(name).unwrap();
    let (texts, row) = match column.as_dictionary_opt::<Int32Type>() {
        Some(repeated) => (repeated.values().as_string::<i32>(), repeated.key(row)?),
        None => (column.as_string::<i32>(), row),
    };
    arrow_array::Array::is_valid(texts, row).then(|| texts.value(row))
}

fn number(rows: &RecordBatch, name: &str, row: usize) -> Option<i64> {
    let column = rows.column_by_name(name).unwrap().as_primitive::<Int64Type>();
    arrow_array::Array::is_valid(column, row).then(|| column.value(row))
}

fn time(rows: &RecordBatch, name: &str, row: usize) -> i64 {
    rows.column_by_name(name).unwrap().as_primitive::<TimestampMicrosecondType>().value(row)
}

fn events(added: &[Added]) -> EventRows {
    EventRows::new(&Contract::parse(CONTRACT, "c").unwrap(), "raw".into(), added)
}

#[test]
fn an_event_is_a_row_with_its_place_in_raw_and_all_its_columns() {
    let added = [Added { name: "level".into(), of_type: FieldType::Text }];
    let first = headers(&[("app", "x"), (ORIGIN_OFFSET, "7"), (PLUGINS, "hot@1#ab"), (ADDED, "level:text")]);
    let batch = records(&[
        (Some("S1"), r#"{"n":1,"metadata":{"temp":2.5},"level":"ok"}"#, first),
        (None, r#"{"n":2,"level":null}"#, headers(&[(ORIGIN_OFFSET, "8")])),
    ]);
    let mut rows = events(&added);
    assert!(rows.unknown(&batch).is_empty());
    let made = rows.make(batch, NOW).unwrap();
    assert_eq!((made.foreign, made.undecoded, made.rows.num_rows()), (0, 0, 2));
    let rows = &made.rows;
    assert_eq!((text(rows, "phronis_topic", 0), number(rows, "phronis_offset", 1)), (Some("raw"), Some(8)));
    assert_eq!((text(rows, "phronis_key", 0), text(rows, "phronis_key", 1)), (Some("S1"), None));
    assert_eq!(
        (text(rows, "phronis_plugins", 0), text(rows, "phronis_plugins", 1)),
        (Some("hot@1#ab"), Some("hot@1#ab"))
    );
    assert_eq!((time(rows, "phronis_event_time", 0), time(rows, "phronis_ingest_time", 0)), (5_000, NOW));
    assert_eq!((number(rows, "n", 1), text(rows, "level", 0)), (Some(2), Some("ok")));
    let temperature = rows.column_by_name("metadata.temp").unwrap().as_primitive::<Float64Type>();
    assert!((temperature.value(0) - 2.5).abs() < f64::EPSILON);
}

#[test]
fn what_is_unreadable_or_somebody_elses_is_kept_and_counted() {
    let batch = records(&[
        (None, r#"{"n":"seven"}"#, headers(&[(ORIGIN_OFFSET, "7")])),
        (None, r#"{"n":3}"#, headers(&[])),
        (None, "not json", headers(&[(ORIGIN_OFFSET, "-1")])),
        (None, r#"{"n":4}"#, headers(&[(ORIGIN_OFFSET, "9")])),
    ]);
    let made = events(&[]).make(batch, NOW).unwrap();
    assert_eq!((made.foreign, made.undecoded), (2, 2));
    let rows = &made.rows;
    let undecoded = rows.column_by_name("phronis_undecoded").unwrap().as_binary::<i32>();
    assert_eq!((undecoded.value(0), undecoded.value(2)), (&br#"{"n":"seven"}"#[..], &b"not json"[..]));
    assert_eq!(arrow_array::Array::null_count(undecoded), 2);
    let places: Vec<_> = (0..4).map(|row| number(rows, "phronis_offset", row)).collect();
    assert_eq!(places, [Some(7), None, None, Some(9)], "without an origin a row is never taken for another");
    let values: Vec<_> = (0..4).map(|row| number(rows, "n", row)).collect();
    assert_eq!(values, [None, Some(3), None, Some(4)]);
    assert_eq!(text(rows, "phronis_topic", 1), Some("phronis.processed"));
}

#[test]
fn a_producers_headers_are_not_taken_for_ours() {
    let batch = records(&[
        (
            None,
            r#"{"n":1}"#,
            headers(&[(PLUGINS, "evil@1#0"), (ADDED, "evil:text"), (ORIGIN_OFFSET, "99"), (ORIGIN_OFFSET, "1")]),
        ),
        (None, r#"{"n":2}"#, headers(&[(ORIGIN_OFFSET, "2"), (PLUGINS, "good@1#1"), (ADDED, "new:number,level:text")])),
    ]);
    let mut rows = events(&[Added { name: "level".into(), of_type: FieldType::Text }]);
    assert_eq!(rows.unknown(&batch), [Added { name: "new".into(), of_type: FieldType::Number }]);
    let made = rows.make(batch, NOW).unwrap().rows;
    assert_eq!((text(&made, "phronis_plugins", 0), number(&made, "phronis_offset", 0)), (None, Some(1)));
    assert_eq!(text(&made, "phronis_plugins", 1), Some("good@1#1"));
}

#[test]
fn an_alert_is_a_row() {
    let at = Time(NOW);
    let alert = Alert {
        id: Id([7; 16]),
        tenant: "default".parse().unwrap(),
        stream: "sensors".parse().unwrap(),
        plugin: alert::Plugin { name: "hot".parse().unwrap(), version: "1".into(), digest: "0123456789abcdef".into() },
        rule: "too-hot".into(),
        severity: Severity::Warning,
        message: "hot".into(),
        agent: Some("a".into()),
        key: Some("S1".into()),
        attributes: Map::from_iter([("limit".to_owned(), "90".into())]),
        event: Map::new(),
        origin: alert::RecordOrigin { topic: "raw".into(), partition: 1, offset: 42, timestamp: Time(1) },
        event_time: at,
        detected_at: at,
        halt: true,
        stages: alert::Stages { received: at, checked: at, judged: at, delivered: at },
    };
    let mut json = Vec::new();
    alert.write_json(&mut json);
    let json = String::from_utf8(json).unwrap();
    let made =
        AlertRows::new().make(&records(&[(None, &json, headers(&[])), (None, "{}", headers(&[]))]), NOW).unwrap();
    assert_eq!((made.foreign, made.rows.num_rows()), (1, 2));
    let rows = &made.rows;
    assert_eq!((text(rows, "phronis_id", 0), number(rows, "phronis_offset", 0)), (Some(&*"07".repeat(16)), Some(42)));
    assert_eq!(text(rows, "phronis_plugins", 0), Some("hot@1#0123456789ab"));
    assert_eq!((text(rows, "severity", 0), text(rows, "attributes", 0)), (Some("warning"), Some(r#"{"limit":"90"}"#)));
    assert_eq!((text(rows, "rule", 1), number(rows, "phronis_offset", 1)), (None, None));
    assert!(rows.column_by_name("halt").unwrap().as_boolean().value(0));
}

#[test]
fn all_that_stands_in_a_dlq_topic_is_a_row() {
    let origin = Origin { topic: "raw".into(), partition: 3, offset: 11, timestamp: 9 };
    let plugin = Plugin { name: "hot".parse().unwrap(), version: "1.0".into(), digest: "ab12".into() };
    let stream = "sensors".parse().unwrap();
    let letter = Letter {
        due_at: Some(Time(5)),
        ..Letter::new(&stream, Stage::Gate, None, origin.clone(), code::NOT_JSON, "no", Headers::default(), Time(77))
    };
    let (mut first, mut ended, mut many) = <(HeadersBuilder, HeadersBuilder, HeadersBuilder)>::default();
    letter.write(headers(&[("own", "1")]).headers(), &mut first);
    Settlement::of(&letter, 100, Outcome::Delivered, Some("r1".into())).write(&mut ended);
    let offsets = Offsets::of([11, 12, 20]).unwrap();
    let range = Range::new(&stream, Stage::Detect, plugin, origin, offsets, "waits", Time(78));
    range.write(&mut many);
    let json = String::from_utf8(range.offsets.to_json()).unwrap();
    let batch = records(&[
        (Some("k"), "{", first),
        (None, "", ended),
        (None, &json, many),
        (None, "{}", headers(&[("phronis-discard", "d1")])),
        (None, "what?", headers(&[("x", "y")])),
    ]);
    let made = LetterRows::new().make(&batch, NOW).unwrap();
    assert_eq!((made.foreign, made.undecoded), (1, 1));
    let rows = &made.rows;
    let kinds: Vec<_> = (0..5).map(|row| text(rows, "kind", row).unwrap()).collect();
    assert_eq!(kinds, ["letter", "settlement", "range", "discard", "unknown"]);
    assert_eq!(text(rows, "phronis_id", 0), text(rows, "phronis_id", 1));
    assert_eq!((number(rows, "previous", 0), number(rows, "previous", 1)), (None, Some(100)));
    assert_eq!((number(rows, "records", 2), number(rows, "letter_offset", 2)), (Some(3), Some(102)));
    assert_eq!((text(rows, "outcome", 1), text(rows, "redrive", 1)), (Some("delivered"), Some("r1")));
    assert_eq!((text(rows, "code", 0), text(rows, "headers", 0)), (Some("PH1001"), Some(r#"[["own","1"]]"#)));
    assert_eq!((time(rows, "first_failed_at", 0), time(rows, "due_at", 0)), (77, 5));
    assert_eq!((number(rows, "phronis_offset", 0), number(rows, "phronis_offset", 3)), (Some(11), None));
    assert_eq!(rows.column_by_name("value").unwrap().as_binary::<i32>().value(0), b"{");
}
