//! What an enricher adds: every type, nulls, drops, failures, names from parameters; and how cases are compared.

#![allow(missing_docs, missing_debug_implementations, reason = "plugins of a test")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's own functions")]

use phronis_sdk::prelude::*;
use phronis_sdk::test::{Harness, Json, json, run_cases};

#[derive(Params)]
struct Names {
    #[param(default = "label")]
    output: String,
}

#[derive(Event)]
struct Reading<'a> {
    value: i64,
    name: Option<&'a str>,
}

#[derive(Added)]
struct More<'a> {
    is_even: bool,
    half: f64,
    double: i64,
    at: Timestamp,
    #[column(name_param = "output")]
    label: String,
    #[column(name = "who")]
    name: Option<&'a str>,
}

#[enricher(name = "more")]
fn more<'r>(reading: Reading<'r>, _names: &Names) -> Result<More<'r>, Reject> {
    let Reading { value, name } = reading;
    match value {
        13 => return Err(Reject::drop("unlucky")),
        ..0 => Err(format!("{value} is below zero"))?,
        _ => {}
    }
    let half = i32::try_from(value).map_or(0.0, f64::from) / 2.0;
    let label = format!("n{value}");
    Ok(More { is_even: value % 2 == 0, half, double: value * 2, at: Timestamp(value), label, name })
}

fn row(value: i64) -> Json {
    json!({"value": value, "name": "n"})
}

#[test]
fn every_type_is_added_and_rows_without_values_are_null() {
    let mut rows: Vec<Json> = (0..20).map(row).collect();
    rows[2]["value"] = Json::Null;
    rows[4]["name"] = Json::Null;
    rows[9]["value"] = json!(-9);
    let answer = Harness::<more>::new(json!({"output": "tag"})).unwrap().run(&rows).unwrap();
    assert_eq!(answer["skipped"], json!([2]));
    assert_eq!(answer["failures"], json!([{"row": 9, "message": "-9 is below zero"}]));
    assert_eq!(answer["drops"], json!([{"row": 13, "reason": "unlucky"}]));
    for (index, added) in answer["added"].as_array().unwrap().iter().enumerate() {
        let expected = match index {
            2 | 9 | 13 => Json::Null,
            _ => json!({
                "is_even": index % 2 == 0, "half": index as f64 / 2.0, "double": index * 2, "at": index,
                "tag": format!("n{index}"), "who": if index == 4 { Json::Null } else { json!("n") },
            }),
        };
        assert_eq!(*added, expected, "row {index}");
    }
}

#[enricher(name = "sieve")]
fn sieve(reading: Reading) -> Result<(), Reject> {
    if reading.value > 1 { Err(Reject::drop("too large")) } else { Ok(()) }
}

#[test]
fn an_enricher_may_add_nothing_and_only_drop() {
    let answer = Harness::<sieve>::new(json!({})).unwrap().run(&[row(1), row(2)]).unwrap();
    assert_eq!(answer["added"], json!([{}, null]));
    assert_eq!(answer["drops"], json!([{"row": 1, "reason": "too large"}]));
}

#[test]
#[should_panic(expected = "added[0].double: expected 5, got 4")]
fn a_case_that_does_not_hold_fails_the_test_and_says_where() {
    run_cases::<more>("tests/cases/wrong");
}

#[test]
#[should_panic(expected = "holds no case")]
fn a_folder_without_cases_fails_the_test() {
    run_cases::<more>("tests/cases/none");
}
