//! Splicing: the result is the original plus the columns, byte for byte where it can be.

use arrow_array::{BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::decode::Decoder;
use crate::plugin::FieldType;
use crate::records::{Records, RecordsBuilder};

fn contract(undeclared: &str) -> Arc<Contract> {
    let yaml = format!(
        "apiVersion: v3.1.0\nkind: DataContract\nid: c\nversion: '1'\nschema:\n- name: s\n  customProperties: [{{property: phronis.undeclared, value: {undeclared}}}]\n  properties:\n  - {{name: a, logicalType: number}}\n  - {{name: o, logicalType: object, properties: [{{name: b, logicalType: string}}]}}\n  - {{name: free, logicalType: object}}\n"
    );
    Arc::new(Contract::parse(&yaml, "c").unwrap())
}

fn added(names: &[&str]) -> Vec<Added> {
    names.iter().map(|name| Added { name: (*name).into(), of_type: FieldType::Text }).collect()
}

/// What the gate and the writer make of an event, with the columns `names`.
fn processed(undeclared: &str, payload: &[u8], names: &[&str], columns: &[ArrayRef]) -> String {
    let contract = contract(undeclared);
    let mut records = RecordsBuilder::default();
    records.push(0, None, Some(payload), &[]);
    let records = Records { topic: "t".into(), partition: 0, offsets: vec![0].into(), body: records.finish() };
    let checked = Decoder::new(Arc::clone(&contract)).check(records);
    assert_eq!(checked.rejected, [], "{}", String::from_utf8_lossy(payload));
    let writer = Writer::new(contract, &added(names)).unwrap();
    let mut out = b"before".to_vec();
    writer.batch(columns).unwrap().write(&mut out, payload, checked.events.has_undeclared(0), 0);
    String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned()
}

fn text(value: &str) -> ArrayRef {
    Arc::new(StringArray::from(vec![value]))
}

#[test]
fn columns_are_spliced_behind_the_original_bytes() {
    for (undeclared, payload, expected) in [
        ("keep", r#"{"a":1.50}"#, r#"{"a":1.50,"x":"new"}"#),
        ("keep", "{}", r#"{"x":"new"}"#),
        ("keep", " { } \n", r#" { "x":"new"}"#),
        ("keep", "{\"a\":1e2 } \r\n", "{\"a\":1e2 ,\"x\":\"new\"}"),
        ("keep", r#"{"b":"\u00fc","a":1}"#, r#"{"b":"\u00fc","a":1,"x":"new"}"#),
        ("keep", r#"{"b":"{"}"#, r#"{"b":"{","x":"new"}"#),
        ("keep", r#"{"x":{"old":[1]},"a":1}"#, r#"{"a":1,"x":"new"}"#),
        ("keep", r#"{"\u0078":1}"#, r#"{"x":"new"}"#),
        ("keep", r#"{"x":1,"a":1,"x":2}"#, r#"{"a":1,"x":"new"}"#),
        ("keep", r#"{"o":{"x":1}}"#, r#"{"o":{"x":1},"x":"new"}"#),
        ("drop", r#"{"a": 1.50 }"#, r#"{"a": 1.50 ,"x":"new"}"#),
        ("drop", r#"{"z":1,"a": 1.50,"y":2}"#, r#"{"a":1.50,"x":"new"}"#),
        ("drop", r#"{"z":1}"#, r#"{"x":"new"}"#),
        ("drop", r#"{"o":{"b":"c","q":[1]},"free":{"kept":1}}"#, r#"{"o":{"b":"c"},"free":{"kept":1},"x":"new"}"#),
    ] {
        assert_eq!(
            processed(undeclared, payload.as_bytes(), &["x"], &[text("new")]),
            expected,
            "{undeclared} {payload}"
        );
    }
    assert_eq!(processed("drop", br#"{"z":1,"a":2}"#, &[], &[]), r#"{"a":2}"#);
    assert_eq!(processed("keep", br#" {"z":1} "#, &[], &[]), r#" {"z":1}"#);
}

#[test]
fn each_type_has_its_json() {
    let columns: Vec<ArrayRef> = vec![
        text("a\"\\\n\u{1}ü"),
        Arc::new(Float64Array::from(vec![71.25])),
        Arc::new(Int64Array::from(vec![i64::MIN])),
        Arc::new(BooleanArray::from(vec![true])),
        Arc::new(TimestampMicrosecondArray::from(vec![1_732_276_800_123_456])),
        Arc::new(StringArray::from(vec![None::<&str>])),
        Arc::new(Float64Array::from(vec![f64::NAN])),
    ];
    assert_eq!(
        processed("keep", b"{}", &["s", "n", "i", "t", "when", "none", "nan"], &columns),
        "{\"s\":\"a\\\"\\\\\\n\\u0001ü\",\"n\":71.25,\"i\":-9223372036854775808,\"t\":true,\"when\":\"2024-11-22T12:00:00.123456Z\",\"none\":null,\"nan\":null}"
    );
}

#[test]
fn a_name_that_is_taken_is_refused() {
    for (names, problem) in [
        (&["a"][..], "field of the contract"),
        (&["o"][..], "field of the contract"),
        (&["o.b"][..], "field of the contract"),
        (&["x", "x"][..], "twice"),
        (&["$key"][..], "no leading $"),
    ] {
        let error = Writer::new(contract("keep"), &added(names)).unwrap_err();
        assert!(error.contains(problem), "{error}");
    }
    assert!(Writer::new(contract("keep"), &added(&["x"])).unwrap().batch(&[]).is_err());
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-z{},\"]{0,3}", inner, 0..4)
                .prop_map(|map| map.into_iter().collect::<Value>()),
        ]
    })
}

proptest! {
    #[test]
    fn the_result_parses_to_the_original_plus_the_columns(
        extra in prop::collection::hash_map("[p-z{},\" ]{0,3}", any_json(), 0..4),
        new in any::<String>(), number in any::<f64>(), pretty in any::<bool>(), drops in any::<bool>(),
    ) {
        let mut event = json!({"a": 1, "o": {"b": "c"}});
        for (name, value) in &extra { event[name] = value.clone(); }
        let payload = if pretty { serde_json::to_string_pretty(&event) } else { serde_json::to_string(&event) }.unwrap();
        let columns: [ArrayRef; 2] = [text(&new), Arc::new(Float64Array::from(vec![number]))];
        let out = processed(if drops { "drop" } else { "keep" }, payload.as_bytes(), &["x", "number"], &columns);
        let mut expected = if drops { json!({"a": 1, "o": {"b": "c"}}) } else { event };
        expected["x"] = json!(new);
        expected["number"] = json!(number);
        let parsed: Value = serde_json::from_str(&out).unwrap();
        prop_assert_eq!(parsed.as_object().unwrap().len(), expected.as_object().unwrap().len());
        for (name, value) in expected.as_object().unwrap() {
            if name == "number" && number.is_finite() {
                // serde_json reads doubles to within one unit in the last place; the text itself is exact.
                let written = out.rsplit("\"number\":").next().unwrap().trim_end_matches('}');
                prop_assert_eq!(written.parse(), Ok(number));
            } else {
                prop_assert_eq!(&parsed[name], value);
            }
        }
    }
}
