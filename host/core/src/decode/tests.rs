//! The gate, case by case: what goes in, what comes out, and that nothing else changes.

use arrow_array::Array as _;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::json::write::Cells;
use crate::records::RecordsBuilder;

const HEAD: &str = "apiVersion: v3.1.0\nkind: DataContract\nid: c\nversion: '1'\nschema:\n- name: events\n";

const SENSORS: &str = "
  customProperties:
  - {property: phronis.key, value: sensor_id}
  - {property: phronis.eventTime, value: ts}
  - {property: phronis.maxBytes, value: 2000}
  properties:
  - {name: sensor_id, logicalType: string, required: true, logicalTypeOptions: {minLength: 1, maxLength: 5, pattern: '^[A-Zü]'}}
  - {name: value, logicalType: number, required: true, logicalTypeOptions: {minimum: -50, exclusiveMaximum: 150}}
  - name: unit
    logicalType: string
    quality: [{type: library, metric: invalidValues, arguments: {validValues: [C, F]}, mustBe: 0}]
  - {name: ts, logicalType: timestamp}
  - {name: seq, logicalType: integer, logicalTypeOptions: {minimum: 0, multipleOf: 1}}
  - {name: ok, logicalType: boolean}
  - {name: tags, logicalType: array, items: {logicalType: string}, logicalTypeOptions: {maxItems: 2}}
  - {name: samples, logicalType: array, items: {logicalType: number}}
  - {name: extra, logicalType: object}
  - name: meta
    logicalType: object
    properties:
    - {name: temp, logicalType: number, required: true}
    - {name: room, logicalType: object, properties: [{name: no, logicalType: integer}]}
";

fn contract(body: &str) -> Arc<Contract> {
    Arc::new(Contract::parse(&format!("{HEAD}{body}"), "test.yaml").unwrap())
}

fn records<T: AsRef<[u8]>>(values: &[T]) -> Records {
    let mut builder = RecordsBuilder::default();
    for value in values {
        builder.push(1_000, Some(b"record-key"), Some(value.as_ref()), &[]);
    }
    let body = builder.finish();
    Records { topic: "t".into(), partition: 0, offsets: (0..body.len() as i64).collect::<Vec<_>>().into(), body }
}

/// All events as the columns have them, by path.
fn seen(checked: &Checked) -> Vec<Value> {
    let fields = checked.events.contract().fields();
    (0..checked.events.len())
        .map(|row| {
            let entry = |(field, column): (&crate::contract::Field, &arrow_array::ArrayRef)| {
                assert_eq!(column.len(), checked.events.len(), "{}", field.path);
                let mut json = Vec::new();
                Cells::of(column).write(&mut json, row);
                (field.path.clone(), serde_json::from_slice::<Value>(&json).unwrap())
            };
            let all = fields.iter().zip(&checked.events.columns).map(entry);
            Value::Object(all.filter(|(_, value)| !value.is_null()).collect())
        })
        .collect()
}

/// Checks one value between two good ones: those must come out whatever it is.
fn check(body: &str, value: impl AsRef<[u8]>) -> Result<Value, (Code, Option<String>, String)> {
    let good = br#"{"sensor_id":"A1","value":1,"meta":{"temp":2,"room":{"no":3}},"tags":["x","y"],"samples":[1,2.5]}"#;
    let mut decoder = Decoder::new(contract(body));
    let checked = decoder.check(records(&[good, value.as_ref(), good]));
    let mut events = seen(&checked);
    assert_eq!(events.first(), events.last(), "the neighbours are unharmed");
    assert_eq!(events.len() + checked.rejected.len(), 3, "every record is an event or a rejection");
    match checked.rejected.as_slice() {
        [] => Ok(events.remove(1)),
        [one] => {
            assert_eq!((one.row, &checked.events.rows), (1, &vec![0, 2]));
            assert!(one.message.len() <= MESSAGE_BYTES);
            Err((one.code, one.field.clone(), one.message.clone()))
        }
        many => panic!("{many:?}"),
    }
}

#[test]
fn good_events_come_out_typed() {
    for (value, expected) in [
        (r#"{"sensor_id":"S1","value":98}"#, json!({"sensor_id": "S1", "value": 98.0})),
        (
            r#" { "value" : -1.5e1 , "sensor_id" : "Sü" , "unit":null,"seq":98.0,"ok":true } "#,
            json!({"sensor_id": "Sü", "value": -15.0, "seq": 98, "ok": true}),
        ),
        (
            r#"{"sensor_id":"\u0041\ud83d\ude00\n","va\u006cue":0.1,"ts":1732276800123,"x":[{"y":[1,null,"}"]}]}"#,
            json!({"sensor_id": "A😀\n", "value": 0.1, "ts": "2024-11-22T12:00:00.123000Z"}),
        ),
        (
            r#"{"sensor_id":"S1","value":1,"ts":"2024-11-22T13:00:00+01:00","tags":[],"samples":[-0.5,1e2],"extra":{"a":[1, 2]}}"#,
            json!({"sensor_id": "S1", "value": 1.0, "ts": "2024-11-22T12:00:00.000000Z", "tags": [], "samples": [-0.5, 100.0], "extra": "{\"a\":[1, 2]}"}),
        ),
        (
            r#"{"sensor_id":"S1","value":1,"meta":{"room":{"no":-7},"temp":3}}"#,
            json!({"sensor_id": "S1", "value": 1.0, "meta.temp": 3.0, "meta.room.no": -7}),
        ),
        (r#"{"sensor_id":"S1","value":1,"meta":null}"#, json!({"sensor_id": "S1", "value": 1.0})),
        (
            r#"{"sensor_id":"S1","value":1,"seq":9223372036854775807}"#,
            json!({"sensor_id": "S1", "value": 1.0, "seq": i64::MAX}),
        ),
    ] {
        assert_eq!(check(SENSORS, value), Ok(expected), "{value}");
    }
}

#[test]
fn every_code_of_the_gate_has_its_cause() {
    let deep =
        |levels: usize| format!(r#"{{"sensor_id":"S","value":1,"x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    let text = |value: &str| value.as_bytes().to_vec();
    for (value, code, field) in [
        (text(""), code::EMPTY_VALUE, None),
        (text(" \n"), code::EMPTY_VALUE, None),
        (b"{\"sensor_id\":\"\xff\",\"value\":1}".to_vec(), code::NOT_UTF8, None),
        (text("not json"), code::NOT_JSON, None),
        (text("42"), code::NOT_JSON, None),
        (text("[]"), code::NOT_JSON, None),
        (text("null"), code::NOT_JSON, None),
        (text("\u{feff}{}"), code::NOT_JSON, None),
        (text(r#"{"sensor_id":"S","value":1"#), code::NOT_JSON, None),
        (text(r#"{"sensor_id":"S","val"#), code::NOT_JSON, None),
        (text(r#"{"sensor_id":"S","value":1}}"#), code::NOT_JSON, None),
        (text(r#"{"sensor_id":"S","value":1} {}"#), code::NOT_JSON, None),
        (text(r#"{"sensor_id":"S","value":NaN}"#), code::NOT_JSON, None),
        (text(r#"{"sensor_id":"S","value":-Infinity}"#), code::NOT_JSON, None),
        (text(r#"{"sensor_id":"S","value":01}"#), code::NOT_JSON, None),
        (text(r#"{"sensor_id":"S","value":1.}"#), code::NOT_JSON, None),
        (text(r#"{"sensor_id":"S","value":+1}"#), code::NOT_JSON, None),
        (text(r#"{"sensor_id":"S","value":1,}"#), code::NOT_JSON, None),
        (text("{\"sensor_id\":\"a\tb\",\"value\":1}"), code::NOT_JSON, None),
        (text(r#"{"sensor_id":"\ud800","value":1}"#), code::NOT_JSON, None),
        (text(r#"{"sensor_id":"\x","value":1}"#), code::NOT_JSON, None),
        (text(r#"{"sensor_id":"S","value":1,"x":tru}"#), code::NOT_JSON, None),
        (text(r#"{"sensor_id":7,"value":"#), code::NOT_JSON, None),
        (text(&deep(64)), code::TOO_DEEP, None),
        (text(&deep(900)), code::TOO_DEEP, None),
        (text(&format!(r#"{{"sensor_id":"S","value":1,"x":"{}"}}"#, "x".repeat(2_000))), code::TOO_LARGE, None),
        (text(r#"{"value":1}"#), code::MISSING_FIELD, Some("sensor_id")),
        (text("{}"), code::MISSING_FIELD, Some("sensor_id")),
        (text(r#"{"sensor_id":null,"value":1}"#), code::MISSING_FIELD, Some("sensor_id")),
        (text(r#"{"sensor_id":"S","value":1,"meta":{}}"#), code::MISSING_FIELD, Some("meta.temp")),
        (text(r#"{"sensor_id":"S","value":"1"}"#), code::WRONG_TYPE, Some("value")),
        (text(r#"{"sensor_id":9,"value":1}"#), code::WRONG_TYPE, Some("sensor_id")),
        (text(r#"{"sensor_id":"S","value":1,"seq":1.5}"#), code::WRONG_TYPE, Some("seq")),
        (text(r#"{"sensor_id":"S","value":1,"seq":9223372036854775808}"#), code::WRONG_TYPE, Some("seq")),
        (text(r#"{"sensor_id":"S","value":1,"ts":"soon"}"#), code::WRONG_TYPE, Some("ts")),
        (text(r#"{"sensor_id":"S","value":1,"ts":true}"#), code::WRONG_TYPE, Some("ts")),
        (text(r#"{"sensor_id":"S","value":1,"ok":1}"#), code::WRONG_TYPE, Some("ok")),
        (text(r#"{"sensor_id":"S","value":1,"meta":[]}"#), code::WRONG_TYPE, Some("meta")),
        (text(r#"{"sensor_id":"S","value":1,"extra":"x"}"#), code::WRONG_TYPE, Some("extra")),
        (text(r#"{"sensor_id":"S","value":1,"tags":["a",1]}"#), code::WRONG_TYPE, Some("tags")),
        (text(r#"{"sensor_id":"S","value":1,"tags":"a"}"#), code::WRONG_TYPE, Some("tags")),
        (text(r#"{"sensor_id":"S","value":1,"samples":[1,null]}"#), code::WRONG_TYPE, Some("samples")),
        (text(r#"{"sensor_id":"S","value":150}"#), code::OUT_OF_RANGE, Some("value")),
        (text(r#"{"sensor_id":"S","value":-50.1}"#), code::OUT_OF_RANGE, Some("value")),
        (text(r#"{"sensor_id":"S","value":1e999}"#), code::OUT_OF_RANGE, Some("value")),
        (text(r#"{"sensor_id":"S","value":1,"seq":-1}"#), code::OUT_OF_RANGE, Some("seq")),
        (text(r#"{"sensor_id":"s","value":1}"#), code::PATTERN_MISMATCH, Some("sensor_id")),
        (text(r#"{"sensor_id":"S","value":1,"unit":"K"}"#), code::NOT_IN_ENUM, Some("unit")),
        (text(r#"{"sensor_id":"","value":1}"#), code::WRONG_LENGTH, Some("sensor_id")),
        (text(r#"{"sensor_id":"SSSSSS","value":1}"#), code::WRONG_LENGTH, Some("sensor_id")),
        (text(r#"{"sensor_id":"S","value":1,"tags":["a","b","c"]}"#), code::WRONG_LENGTH, Some("tags")),
        (text(r#"{"sensor_id":"S","value":1,"value":2}"#), code::DUPLICATE_FIELD, Some("value")),
        (text(r#"{"sensor_id":"S","value":1,"unit":null,"unit":"C"}"#), code::DUPLICATE_FIELD, Some("unit")),
        (text(r#"{"sensor_id":"S","v\u0061lue":1,"value":2}"#), code::DUPLICATE_FIELD, Some("value")),
        (text(r#"{"sensor_id":"S","value":1,"meta":null,"meta":{"temp":1}}"#), code::DUPLICATE_FIELD, Some("meta")),
    ] {
        let shown = String::from_utf8_lossy(&value).into_owned();
        let (found, at, message) = check(SENSORS, &value).expect_err(&shown);
        assert_eq!((found, at.as_deref()), (code, field), "{shown}: {message}");
        assert!(field.is_none_or(|field| message.contains(field)), "{shown}: {message}");
    }
    assert!(check(SENSORS, deep(63)).is_ok());
}

#[test]
fn a_tombstone_is_an_empty_value() {
    let mut builder = RecordsBuilder::default();
    builder.push(1, Some(b"k"), None, &[]);
    let body = builder.finish();
    let records = Records { topic: "t".into(), partition: 0, offsets: vec![5].into(), body };
    let checked = Decoder::new(contract(SENSORS)).check(records);
    assert_eq!(checked.rejected.first().map(|one| one.code), Some(code::EMPTY_VALUE));
}

#[test]
fn undeclared_fields_are_refused_only_where_the_contract_says_so() {
    let refuse = "
  customProperties: [{property: phronis.undeclared, value: refuse}]
  properties:
  - {name: sensor_id, logicalType: string}
  - {name: value, logicalType: number}
  - {name: tags, logicalType: array, items: {logicalType: string}}
  - {name: samples, logicalType: array, items: {logicalType: number}}
  - name: meta
    logicalType: object
    properties: [{name: temp, logicalType: number}, {name: room, logicalType: object, properties: [{name: no, logicalType: integer}]}]
";
    for (value, field) in [(r#"{"x\u001b[2J":1}"#, "x\\u{1b}[2J"), (r#"{"meta":{"temp":1,"y":2}}"#, "meta.y")] {
        let (code, at, message) = check(refuse, value).expect_err(value);
        assert_eq!((code, at.as_deref()), (code::UNDECLARED_FIELD, Some(field)), "{message}");
    }
    let mut decoder = Decoder::new(contract(SENSORS));
    let plain = r#"{"sensor_id":"S","value":1}"#;
    let checked = decoder.check(records(&[plain, r#"{"sensor_id":"S","value":1,"meta":{"temp":1,"y":2}}"#, plain]));
    assert_eq!([0, 1, 2].map(|event| checked.events.has_undeclared(event)), [false, true, false]);
}

#[test]
fn a_record_split_within_a_character_is_not_utf8_though_the_batch_is() {
    let mut decoder = Decoder::new(contract(SENSORS));
    let checked = decoder.check(records(&[&b"{\"sensor_id\":\"A\xc3"[..], &b"\xbc\",\"value\":1}"[..]]));
    assert_eq!(checked.rejected.iter().map(|one| one.code).collect::<Vec<_>>(), [code::NOT_UTF8; 2]);
}

#[test]
fn messages_never_echo_the_value() {
    let (_, _, message) = check(SENSORS, r#"{"sensor_id":"sEcReT","value":1}"#).unwrap_err();
    assert_eq!(message, "field `sensor_id`: expected 1 to 5 characters");
    let (_, _, message) = check(SENSORS, r#"{"sensor_id":"S","value":"hunter2"}"#).unwrap_err();
    assert_eq!(message, "field `value`: expected a number, found a text");
}

#[test]
fn event_times_fall_back_to_the_record() {
    let mut decoder = Decoder::new(contract(SENSORS));
    let checked = decoder.check(records(&[
        r#"{"sensor_id":"S","value":1,"ts":1732276800}"#,
        r#"{"sensor_id":"S","value":1,"ts":null}"#,
    ]));
    assert_eq!(checked.events.event_times.values().as_ref(), [1_732_276_800_000_000, 1_000_000]);
    let ts = checked.events.columns[3].as_primitive::<TimestampMicrosecondType>();
    assert!(ts.is_null(1) && !ts.is_null(0));
}

proptest! {
    /// Any JSON, in any layout, is read as serde_json reads it; and what serde_json does not read is refused.
    #[test]
    fn the_decoder_agrees_with_serde_json(
        text in any::<String>(), number in any::<f64>(), integer in any::<i64>(), list in prop::collection::vec(any::<f64>(), 0..4),
        extra in any::<String>(), pretty in any::<bool>(), cut in any::<prop::sample::Index>(), cuts in any::<bool>(),
        swap in any::<prop::sample::Index>(), byte in any::<u8>(), swaps in prop::bool::weighted(0.3),
    ) {
        const ANY: &str = "
  properties:
  - {name: t, logicalType: string}
  - {name: n, logicalType: number}
  - {name: i, logicalType: integer}
  - {name: l, logicalType: array, items: {logicalType: number}}
";
        let number = if number.is_finite() { number } else { 0.5 };
        let list: Vec<f64> = list.into_iter().map(|n| if n.is_finite() { n } else { 1.0 }).collect();
        let event = json!({"t": text, "n": number, "i": integer, "l": list, (format!("x{extra}")): {"deep": [extra, null, 1e30]}});
        let mut bytes = if pretty { serde_json::to_vec_pretty(&event) } else { serde_json::to_vec(&event) }.unwrap();
        if cuts { bytes.truncate(cut.index(bytes.len())); }
        if swaps && !bytes.is_empty() { let at = swap.index(bytes.len()); bytes[at] = byte; }
        let checked = Decoder::new(contract(ANY)).check(records(&[&bytes]));
        let theirs = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes);
        match (&theirs, checked.rejected.first()) {
            (Ok(theirs), None) => {
                let ours = seen(&checked).remove(0);
                for (path, value) in ours.as_object().unwrap() {
                    match path.as_str() {
                        "n" | "i" => {
                            // serde_json reads doubles to within one unit in the last place.
                            let (ours, theirs) = (value.as_f64().unwrap(), theirs[path].as_f64().unwrap());
                            prop_assert!((ours - theirs).abs() <= ours.abs() * 1e-15, "{ours} {theirs}");
                        }
                        "l" => prop_assert_eq!(value.as_array().unwrap().len(), theirs["l"].as_array().unwrap().len()),
                        _ => prop_assert_eq!(value, &theirs[path]),
                    }
                }
                let columns = &checked.events.columns;
                if !cuts && !swaps {
                    prop_assert_eq!(columns[0].as_string::<i32>().value(0), text);
                    prop_assert_eq!(columns[1].as_primitive::<Float64Type>().value(0).to_bits(), number.to_bits());
                    prop_assert_eq!(columns[2].as_primitive::<Int64Type>().value(0), integer);
                    let items = columns[3].as_list::<i32>().value(0);
                    prop_assert_eq!(items.as_primitive::<Float64Type>().values().as_ref(), list.as_slice());
                }
            }
            (Ok(_), Some(rejection)) => {
                prop_assert!(![code::NOT_JSON, code::NOT_UTF8, code::EMPTY_VALUE].contains(&rejection.code), "{:?} {}", rejection, String::from_utf8_lossy(&bytes));
                prop_assert!(cuts || swaps);
            }
            (Err(_), None) => {
                // serde_json has its own limit for numbers that no double holds; the gate skips undeclared ones.
                prop_assert!(false, "{}", String::from_utf8_lossy(&bytes));
            }
            (Err(_), Some(_)) => {}
        }
    }
}
