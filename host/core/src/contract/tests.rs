//! Contracts: what is read, and how a wrong one is refused.

use serde_json::json;

use super::*;
use crate::plugin::{self, Added};

const GOOD: &str = "apiVersion: v3.1.0
kind: DataContract
id: sensors-1
version: 1.2.0
status: active
team: {name: people, members: [{username: x}]}
schema:
- name: readings
  physicalType: topic
  description: What sensors say.
  customProperties:
  - {property: phronis.key, value: sensor_id}
  - {property: phronis.agent, value: meta.owner}
  - {property: phronis.eventTime, value: ts}
  - {property: phronis.deduplicate, value: seq}
  - {property: phronis.deduplicateWindow, value: 500}
  - {property: phronis.undeclared, value: drop}
  - {property: phronis.maxBytes, value: 4096}
  - {property: other.tool, value: {any: thing}}
  properties:
  - {name: sensor_id, logicalType: string, required: true, primaryKey: true, primaryKeyPosition: 1, classification: public}
  - {name: value, logicalType: number, required: true, logicalTypeOptions: {minimum: -40, exclusiveMaximum: 125.5}}
  - {name: ts, logicalType: timestamp, logicalTypeOptions: {minimum: '2020-01-01'}}
  - {name: seq, logicalType: integer, unique: true}
  - {name: unit, logicalType: string, customProperties: [{property: phronis.enum, value: [F, C]}]}
  - name: meta
    logicalType: object
    logicalTypeOptions: {required: [owner]}
    properties:
    - {name: owner, logicalType: string}
    - {name: marks, logicalType: array, items: {logicalType: integer}}
";

#[test]
fn a_contract_says_all_that_the_host_needs() {
    let contract = Contract::parse(GOOD, "c.yaml").unwrap();
    assert_eq!((contract.id(), contract.version(), contract.name()), ("sensors-1", "1.2.0", "readings"));
    let fields: Vec<_> = contract.fields().iter().map(|f| (f.path.as_str(), f.of_type, f.required)).collect();
    assert_eq!(
        fields,
        [
            ("sensor_id", FieldType::Text, true),
            ("value", FieldType::Number, true),
            ("ts", FieldType::Timestamp, false),
            ("seq", FieldType::Integer, false),
            ("unit", FieldType::Text, false),
            ("meta.owner", FieldType::Text, true),
            ("meta.marks", FieldType::Numbers, false),
        ]
    );
    assert_eq!((contract.key(), contract.agent(), contract.event_time()), (Some(0), Some(5), Some(2)));
    assert_eq!(contract.deduplicate(), Some(Deduplicate { field: 3, window: 500 }));
    assert_eq!((contract.undeclared(), contract.max_bytes()), (Undeclared::Drop, 4096));
}

#[test]
fn what_is_not_said_has_defaults() {
    let plain = "apiVersion: v3.0.2\nkind: DataContract\nid: x\nversion: '1'\nschema:\n- name: s\n  properties:\n  - {name: a, logicalType: string, unique: true}\n";
    for version in ["v3.0.0", "v3.0.2", "v3.1.0", "v3.2.0", "v3.2.7"] {
        let contract = Contract::parse(&plain.replace("v3.0.2", version), "c").unwrap();
        assert_eq!((contract.key(), contract.agent(), contract.event_time()), (None, None, None));
        assert_eq!((contract.undeclared(), contract.max_bytes()), (Undeclared::Keep, 1 << 20));
        assert_eq!(
            contract.deduplicate(),
            Some(Deduplicate { field: 0, window: 100_000 }),
            "unique means de-duplication"
        );
    }
}

/// Replaces one thing in the good contract; the complaint must name the place and say what is wrong.
fn refused(replace: &str, by: &str, line: u64, path: &str, problem: &str) {
    assert!(GOOD.contains(replace), "{replace}");
    let error = Contract::parse(&GOOD.replacen(replace, by, 1), "c.yaml").expect_err(by);
    assert_eq!((error.line, error.path.as_str()), (line, path), "{error}");
    assert!(error.problem.contains(problem), "{error}");
    assert!(error.to_string().starts_with(&format!("c.yaml:{line}: ")), "{error}");
}

#[test]
fn a_wrong_contract_is_refused_where_it_is_wrong() {
    refused("v3.1.0", "v2.2.2", 1, "apiVersion", "v3.0.0 to v3.2.x");
    refused("DataContract", "DataProduct", 2, "kind", "must be `DataContract`");
    refused("id: sensors-1", "name: x", 1, "", "`id` is missing");
    refused("version: 1.2.0", "version: 1.2", 4, "version", "put it in quotes");
    refused(
        "logicalType: number",
        "logicalType: nubmer",
        22,
        "schema[0].properties[1].logicalType",
        "did you mean `number`?",
    );
    refused(
        "minimum: -40",
        "mimimum: -40",
        22,
        "schema[0].properties[1].logicalTypeOptions.mimimum",
        "did you mean `minimum`?",
    );
    refused(
        "minimum: -40",
        "minimum: cold",
        22,
        "schema[0].properties[1].logicalTypeOptions.minimum",
        "must be a number",
    );
    refused(
        "minimum: -40",
        "minimum: 400",
        22,
        "schema[0].properties[1].logicalTypeOptions",
        "no number is in this range",
    );
    refused(
        "minimum: -40",
        "pattern: x",
        22,
        "schema[0].properties[1].logicalTypeOptions.pattern",
        "is not an option of logicalType number",
    );
    refused(
        "phronis.agent",
        "phronis.agnet",
        13,
        "schema[0].customProperties[1].property",
        "did you mean `phronis.agent`?",
    );
    refused(
        "value: meta.owner",
        "value: meta.ovner",
        13,
        "schema[0].customProperties[1].value",
        "did you mean `meta.owner`?",
    );
    refused("value: sensor_id", "value: meta.marks", 12, "schema[0].customProperties[0].value", "single value");
    refused("value: ts", "value: seq", 14, "schema[0].customProperties[2].value", "timestamp or date");
    refused("value: drop", "value: remove", 17, "schema[0].customProperties[5].value", "keep, drop or refuse");
    refused("value: 4096", "value: 0", 18, "schema[0].customProperties[6].value", "must be 1 to");
    refused(
        "phronis.enum",
        "phronis.emun",
        25,
        "schema[0].properties[4].customProperties[0].property",
        "did you mean `phronis.enum`?",
    );
    refused("[F, C]", "[]", 25, "schema[0].properties[4].customProperties[0].value", "no value at all");
    refused("name: unit", "name: seq", 25, "schema[0].properties[4]", "declared twice");
    refused("name: unit", "name: a.b", 25, "schema[0].properties[4].name", "no dots");
    refused(
        "required: [owner]",
        "required: [owners]",
        28,
        "schema[0].properties[5].logicalTypeOptions.required[0]",
        "did you mean `owner`?",
    );
    refused(
        "items: {logicalType: integer}",
        "items: {logicalType: object}",
        31,
        "schema[0].properties[5].properties[1].items.logicalType",
        "lists hold",
    );
    refused("status: active", "status: [", 7, "", "not YAML");
    refused(
        "status: active",
        "customProperties: [{property: phronis.key, value: x}]",
        5,
        "customProperties[0].property",
        "schema object",
    );
}

#[test]
fn a_rule_that_the_gate_could_not_hold_is_refused() {
    let contract = |options: &str| {
        let yaml = format!(
            "apiVersion: v3.1.0\nkind: DataContract\nid: x\nversion: '1'\nschema:\n- name: s\n  properties:\n  - {{name: a, {options}}}\n"
        );
        Contract::parse(&yaml, "c").map(|_| ()).map_err(|error| error.problem)
    };
    for (options, problem) in [
        ("logicalType: string, logicalTypeOptions: {pattern: '(?=x)'}", "linear time"),
        ("logicalType: array, items: {logicalType: string}, logicalTypeOptions: {uniqueItems: true}", "does not check"),
        ("logicalType: timestamp, logicalTypeOptions: {defaultTimezone: Europe/Berlin}", "UTC"),
        ("logicalType: string, logicalTypeOptions: {format: uuuid}", "did you mean `uuid`?"),
        ("logicalType: integer, logicalTypeOptions: {exclusiveMinimum: true}", "`minimum` beside it"),
    ] {
        let found = contract(options).expect_err(options);
        assert!(found.contains(problem), "{options}: {found}");
    }
    for options in [
        "logicalType: integer, logicalTypeOptions: {minimum: 1, exclusiveMinimum: true, format: i32}",
        "logicalType: time",
        "logicalType: date, logicalTypeOptions: {format: yyyy-MM-dd}",
        "logicalType: string, quality: [{type: library, rule: invalidValues, arguments: {validValues: [1]}, mustBeLessThan: 5}]",
        "logicalType: array, items: {logicalType: string}, logicalTypeOptions: {uniqueItems: false}",
    ] {
        assert_eq!(contract(options), Ok(()), "{options}");
    }
}

#[test]
fn a_plugins_field_is_checked_when_it_is_loaded() {
    let contract = Contract::parse(GOOD, "c.yaml").unwrap();
    let added = [Added { name: "severity".into(), of_type: FieldType::Text }];
    for (path, of_type, expected) in [
        ("value", FieldType::Number, Ok(Source::Field(1))),
        ("seq", FieldType::Number, Ok(Source::Field(3))),
        ("meta.owner", FieldType::Text, Ok(Source::Field(5))),
        ("severity", FieldType::Text, Ok(Source::Added(0))),
        ("$key", FieldType::Text, Ok(Source::Key)),
        ("$event_time", FieldType::Timestamp, Ok(Source::EventTime)),
        ("$offset", FieldType::Integer, Ok(Source::Offset)),
        ("$payload", FieldType::Binary, Ok(Source::Payload)),
        ("$header.trace", FieldType::Text, Ok(Source::Header("trace".into()))),
        ("value", FieldType::Integer, Err("field `value` is number, the plugin reads it as integer")),
        ("vlaue", FieldType::Number, Err("the contract has no field `vlaue`; did you mean `value`?")),
        ("sevrity", FieldType::Text, Err("the contract has no field `sevrity`; did you mean `severity`?")),
        ("meta", FieldType::Text, Err("`meta` is an object; name one of its fields")),
        ("humidity", FieldType::Number, Err("the contract has no field `humidity`")),
    ] {
        let wanted = plugin::Field { path: path.into(), of_type, required: true };
        let found = contract.resolve(&wanted, &added).map(|column| column.source);
        assert_eq!(found, expected.map_err(str::to_owned), "{path}");
    }
    let wanted = plugin::Field { path: "$kye".into(), of_type: FieldType::Text, required: true };
    assert!(contract.resolve(&wanted, &added).unwrap_err().contains("$key, $event_time"));
}

#[test]
fn the_json_schema_says_what_the_gate_does() {
    let schema = Contract::parse(GOOD, "c.yaml").unwrap().json_schema();
    assert_eq!(schema["required"], json!(["sensor_id", "value"]));
    assert_eq!(schema["properties"]["value"], json!({"type": "number", "minimum": -40.0, "exclusiveMaximum": 125.5}));
    assert_eq!(schema["properties"]["unit"], json!({"type": ["string", "null"], "enum": ["C", "F", null]}));
    assert_eq!(schema["properties"]["meta"]["required"], json!(["owner"]));
}
