//! What an operator may set: the schema, the defaults, and what is refused in which words.

#![allow(missing_docs, missing_debug_implementations, reason = "plugins of a test")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's own functions")]

use phronis_sdk::prelude::*;
use phronis_sdk::test::{Harness, Json, json};

/// Which side is bad.
#[derive(Debug, PartialEq, Params)]
enum Side {
    Above,
    NotEqual,
    #[param(name = "under")]
    Below,
}

#[derive(Params)]
struct Zone {
    name: String,
    #[param(default = 1.0)]
    weight: f64,
}

#[derive(Params)]
#[params(validate = check)]
struct Everything {
    #[param(default = 90.0, doc = "°C", min = 0, max = 100)]
    high: f64,
    /// How often.
    #[param(default = 3, min = 1)]
    times: i64,
    #[param(default = true)]
    on: bool,
    #[param(default = "value")]
    field: String,
    low: Option<f64>,
    #[param(default)]
    names: Vec<String>,
    #[param(default)]
    zones: BTreeMap<String, Zone>,
    #[param(default = Side::NotEqual)]
    side: Side,
    #[param(name = "needed-id")]
    id: i64,
}

fn check(params: &Everything) -> Result<(), ParamError> {
    match params.low {
        Some(low) if low > params.high => Err(ParamError::new("low", "must not be above `high`")),
        _ => Ok(()),
    }
}

#[derive(Event)]
struct Reading {
    #[field(path_param = "field")]
    value: f64,
}

#[detector(name = "everything")]
fn show(reading: Reading, p: &Everything, alerts: &mut Alerts) {
    let zones: Vec<_> = p.zones.iter().map(|(key, zone)| format!("{key}:{}:{}", zone.name, zone.weight)).collect();
    let (names, low) = (&p.names, p.low);
    let rest = format!("{names:?} {zones:?} {:?} {}", p.side, p.id);
    alerts.info("seen", format!("{} {} {} {} {low:?} {rest}", reading.value, p.high, p.times, p.on));
}

fn said(params: Json, row: Json) -> Json {
    Harness::<show>::new(params).unwrap().run(&[row]).unwrap()["findings"][0]["message"].clone()
}

fn refusal(params: Json) -> String {
    Harness::<show>::new(params).unwrap_err()
}

#[test]
fn defaults_hold_where_nothing_is_set() {
    assert_eq!(said(json!({"needed-id": 5}), json!({"value": 7})), "7 90 3 true None [] [] NotEqual 5");
}

#[test]
fn what_is_set_holds_and_a_path_may_come_from_a_parameter() {
    let params = json!({
        "high": 50, "times": 1, "on": false, "field": "metadata.temp", "low": 1.5, "names": ["a"],
        "zones": {"z": {"name": "n"}, "a": {"name": "m", "weight": 2}}, "side": "under", "needed-id": 6,
    });
    let expected = r#"7 50 1 false Some(1.5) ["a"] ["a:m:2", "z:n:1"] Below 6"#;
    assert_eq!(said(params, json!({"metadata": {"temp": 7}})), expected);
}

#[test]
fn a_refusal_names_the_parameter_and_says_what_is_wrong() {
    assert_eq!(refusal(json!({})), "parameter `needed-id` is missing");
    assert_eq!(refusal(json!([])), "the parameters must be a map, not a list");
    assert_eq!(refusal(json!({"needed-id": 1.5})), "parameter `needed-id` must be an integer, not a number");
    assert_eq!(refusal(json!({"high": 101, "needed-id": 1})), "parameter `high` must be at most 100, not 101");
    assert_eq!(refusal(json!({"times": 0, "needed-id": 1})), "parameter `times` must be at least 1, not 0");
    assert_eq!(refusal(json!({"high": 1, "low": 2, "needed-id": 1})), "parameter `low` must not be above `high`");
    assert_eq!(refusal(json!({"names": ["a", 1], "needed-id": 1})), "parameter `names.1` must be a text, not a number");
    let zone = json!({"zones": {"z": {"weight": 1}}, "needed-id": 1});
    assert_eq!(refusal(zone), "parameter `zones.z.name` is missing");
    let side = json!({"side": "left", "needed-id": 1});
    assert_eq!(refusal(side), "parameter `side` must be one of above, not_equal, under, not `left`");
    let path = json!({"field": "", "needed-id": 1});
    assert_eq!(refusal(path), "parameter `field` must name a field of the event, it is empty");
}

#[test]
fn the_schema_says_all_of_it() {
    let schema = Harness::<show>::schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["required"], json!(["needed-id"]));
    assert_eq!(schema["additionalProperties"], false);
    let properties = &schema["properties"];
    let high = json!({"type": "number", "description": "°C", "default": 90.0, "minimum": 0, "maximum": 100});
    assert_eq!(properties["high"], high);
    assert_eq!(properties["times"]["description"], "How often.");
    assert_eq!(properties["low"], json!({"anyOf": [{"type": "number"}, {"type": "null"}], "default": null}));
    assert_eq!(properties["names"], json!({"type": "array", "items": {"type": "string"}, "default": []}));
    assert_eq!(properties["zones"]["additionalProperties"]["required"], json!(["name"]));
    let side = json!({"type": "string", "enum": ["above", "not_equal", "under"], "default": "not_equal"});
    assert_eq!(properties["side"], side);
}
