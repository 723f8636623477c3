//! What an author's event struct sees of a batch: every type, nulls, paths, row failures.

#![allow(missing_docs, missing_debug_implementations, reason = "plugins of a test")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's own functions")]

use phronis_sdk::prelude::*;
use phronis_sdk::test::{Harness, Json, json};
use phronis_sdk::{Batch, Column, Detector, Field, FieldType, Judgement, Plugin, Values};

#[derive(Event)]
struct All<'e> {
    flag: bool,
    count: i64,
    value: f64,
    text: &'e str,
    at: Timestamp,
    raw: &'e [u8],
    tags: Texts<'e>,
    waves: &'e [f64],
    #[field(path = "metadata.temp")]
    temp: Option<f64>,
    #[field(path = "$key")]
    key: Option<&'e str>,
}

#[detector(name = "all", version = "7")]
fn show(all: All<'_>, alerts: &mut Alerts) {
    let All { flag, count, value, text, at, raw, tags, waves, temp, key } = all;
    let tags: Vec<_> = tags.iter().collect();
    let seen = format!("{flag} {count} {value} {text} {} {raw:?} {tags:?} {waves:?} {temp:?} {key:?}", at.micros());
    alerts.info("seen", seen);
}

fn row(number: i64) -> Json {
    json!({
        "flag": number % 2 == 0, "count": number, "value": 0.5, "text": format!("t{number}"), "at": number * 1_000_000,
        "raw": "ab", "tags": ["x", "", "yz"], "waves": [1.0, 2.5], "metadata": {"temp": 20.5}, "$key": "k",
    })
}

#[test]
fn every_type_reads_what_was_written() {
    let answer = Harness::<show>::new(json!({})).unwrap().run(&[row(0), row(1)]).unwrap();
    let message = |index: usize| answer["findings"][index]["message"].as_str().unwrap().to_owned();
    let rest = r#"[97, 98] ["x", "", "yz"] [1.0, 2.5] Some(20.5) Some("k")"#;
    assert_eq!(message(0), format!("true 0 0.5 t0 0 {rest}"));
    assert_eq!(message(1), format!("false 1 0.5 t1 1000000 {rest}"));
}

#[test]
fn an_option_shows_a_null_and_anything_else_skips_the_row() {
    // More than 8 rows, so that validity has more than one byte.
    let mut rows: Vec<Json> = (0..20).map(row).collect();
    rows[3]["metadata"]["temp"] = Json::Null;
    rows[9]["text"] = Json::Null;
    rows[17]["$key"] = Json::Null;
    rows[17]["metadata"] = Json::Null;
    let answer = Harness::<show>::new(json!({})).unwrap().run(&rows).unwrap();
    let findings = answer["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 19);
    assert_eq!(answer["skipped"], json!([9]));
    let ends_with = |row: usize, end: &str| {
        let found = findings.iter().find(|found| found["row"] == row).unwrap();
        assert!(found["message"].as_str().unwrap().ends_with(end), "{found}");
    };
    ends_with(3, r#"None Some("k")"#);
    ends_with(4, r#"Some(20.5) Some("k")"#);
    ends_with(17, "None None");
}

#[test]
fn a_detector_says_which_fields_it_reads() {
    let harness = Harness::<show>::new(json!({})).unwrap();
    let said: Vec<_> = harness.fields().iter().map(|f| (f.path.as_str(), f.of_type, f.required)).collect();
    assert_eq!(said[0], ("flag", FieldType::Boolean, true));
    assert_eq!(said[5], ("raw", FieldType::Binary, true));
    assert_eq!(said[6], ("tags", FieldType::Texts, true));
    assert_eq!(said[8], ("metadata.temp", FieldType::Number, false));
    assert_eq!(said[9], ("$key", FieldType::Text, false));
    assert_eq!((show::NAME, show::VERSION), ("all", "7"));
}

#[derive(Event)]
struct Value {
    value: f64,
}

#[detector(name = "picky")]
fn picky(event: Value, alerts: &mut Alerts) -> Result<(), String> {
    alerts.critical("first", "said before the failure").attribute("value", event.value).halt();
    if event.value < 0.0 {
        return Err(format!("{} is below zero", event.value));
    }
    alerts.warning("second", "said after");
    Ok(())
}

#[test]
fn a_row_failure_takes_back_what_the_row_said() {
    let rows = [json!({"value": 1}), json!({"value": -1}), json!({"value": 2})];
    let answer = Harness::<picky>::new(json!({})).unwrap().run(&rows).unwrap();
    let rows: Vec<_> = answer["findings"].as_array().unwrap().iter().map(|f| f["row"].as_u64().unwrap()).collect();
    assert_eq!(rows, [0, 0, 2, 2]);
    assert_eq!(answer["failures"], json!([{"row": 1, "message": "-1 is below zero"}]));
    let first = &answer["findings"][0];
    assert_eq!((&first["halt"], &first["attributes"]), (&json!(true), &json!({"value": "1"})));
}

#[detector(name = "twice")]
fn twice(_event: Value, alerts: &mut Alerts) {
    alerts.info("same", "one");
    alerts.info("same", "two");
}

#[detector(name = "shouting")]
fn shouting(_event: Value, alerts: &mut Alerts) {
    alerts.info("Too Hot", "no name");
}

#[test]
fn the_harness_refuses_what_the_host_refuses() {
    let rows = [json!({"value": 1})];
    let problem = Harness::<twice>::new(json!({})).unwrap().run(&rows).unwrap_err();
    assert_eq!(problem, "rule `same` has two findings in row 0");
    let problem = Harness::<shouting>::new(json!({})).unwrap().run(&rows).unwrap_err();
    assert_eq!(problem, "rule `Too Hot` is not 1 to 63 of the characters a-z, 0-9 and -");
    let problem = Harness::<twice>::new(json!({})).unwrap().run(&[json!({"value": "1"})]).unwrap_err();
    assert!(problem.contains("field `value` must be"), "{problem}");
}

/// A plugin that wants the columns themselves.
struct Sum(f64);

impl Plugin for Sum {
    const NAME: &'static str = "sum";
    const VERSION: &'static str = "1";
    type Params = ();
    type Role = phronis_sdk::Detects;

    fn fields(_params: &()) -> Result<Vec<Field>, ParamError> {
        Ok(vec![Field { path: "value".to_owned(), of_type: FieldType::Number, required: true }])
    }

    fn configure(_params: ()) -> Result<Self, ParamError> {
        Ok(Self(0.0))
    }
}

impl Detector for Sum {
    fn detect(&mut self, batch: &Batch) -> Result<Judgement, String> {
        let [Column { values: Values::Number(values), .. }] = batch.columns.as_slice() else {
            return Err("one column of numbers is needed".to_owned());
        };
        self.0 += values.iter().sum::<f64>();
        if self.0 > 10.0 {
            Err(format!("the sum is {}", self.0))
        } else {
            Ok(Judgement { findings: vec![], failures: vec![] })
        }
    }
}

phronis_sdk::export_detector!(Sum);

#[test]
fn a_plugin_without_macros_gets_whole_columns() {
    let mut harness = Harness::<Sum>::new(json!({})).unwrap();
    assert_eq!(harness.run(&[json!({"value": 4}), json!({"value": 5})]).unwrap()["findings"], json!([]));
    assert_eq!(harness.run(&[json!({"value": 2})]).unwrap_err(), "the sum is 11");
}

#[test]
fn columns_that_do_not_fit_fail_the_batch_in_words() {
    let mut plugin = <show as Plugin>::configure(()).unwrap();
    let empty = Batch { partition: 0, rows: 1, watermark: 0, columns: vec![] };
    assert_eq!(plugin.detect(&empty).unwrap_err(), "10 columns are declared, the host sent 0");
    let mut plugin = <picky as Plugin>::configure(()).unwrap();
    let short = Column { validity: None, values: Values::Number(vec![1.0]) };
    let short = Batch { partition: 0, rows: 2, watermark: 0, columns: vec![short] };
    assert!(plugin.detect(&short).unwrap_err().contains("another number of rows"));
}
