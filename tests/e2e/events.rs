//! Bad events: each becomes a letter byte for byte with its code, and the rest go through.

use phronis_tests::checker::{Expect, check_folder, letters};
use phronis_tests::host::{Host, Room};
use serde_json::Value;

use crate::reading;

const CONTRACT: &str = "\
apiVersion: v3.0.2
kind: DataContract
id: strict
name: strict
version: 1.0.0
status: active
schema:
  - name: strict
    logicalType: object
    customProperties:
      - {property: phronis.key, value: sensor_id}
    properties:
      - {name: sensor_id, logicalType: string, required: true, logicalTypeOptions: {pattern: '^S[0-9]+$', maxLength: 8}}
      - {name: value, logicalType: number, required: true, logicalTypeOptions: {minimum: -50, maximum: 500}}
      - {name: seq, logicalType: integer}
";

const CONFIG: &str = "[streams.sensors]\ncontract = \"strict.yaml\"\n";

#[test]
fn each_bad_event_is_a_letter_with_its_code_and_the_rest_go_through() -> anyhow::Result<()> {
    let deep = format!("{{\"sensor_id\":\"S1\",\"value\":1,\"x\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    let huge = format!("{{\"sensor_id\":\"S1\",\"value\":1,\"x\":\"{}\"}}", "y".repeat((1 << 20) + 1));
    let bad: Vec<(&[u8], &str)> = vec![
        (b"hello", "PH1001"),
        (b"{\"sensor_id\":\"S1\",\"val", "PH1001"),
        (b"{\"sensor_id\":\"S1\",\"value\":NaN}", "PH1001"),
        (b"[1,2]", "PH1001"),
        (b"{\"sensor_id\":\"S1\xff\xfe\",\"value\":1}", "PH1002"),
        (b"{\"sensor_id\":\"S1\"}", "PH1003"),
        (b"{\"sensor_id\":\"S1\",\"value\":null}", "PH1003"),
        (b"{\"sensor_id\":\"S1\",\"value\":\"hot\"}", "PH1004"),
        (b"{\"sensor_id\":7,\"value\":1}", "PH1004"),
        (b"{\"sensor_id\":\"S1\",\"value\":500.1}", "PH1005"),
        (b"{\"sensor_id\":\"S1\",\"value\":-51}", "PH1005"),
        (b"{\"sensor_id\":\"X1\",\"value\":1}", "PH1006"),
        (b"{\"sensor_id\":\"S123456789\",\"value\":1}", "PH1008"),
        (deep.as_bytes(), "PH1009"),
        (b"{\"sensor_id\":\"S1\",\"value\":1,\"value\":2}", "PH1010"),
        (huge.as_bytes(), "PH1011"),
    ];
    let room = Room::with(CONFIG)?;
    std::fs::write(room.folder().join("strict.yaml"), CONTRACT)?;
    let host = Host::start(&room)?;
    let mut body = Vec::new();
    for (seq, (line, _)) in (0..).zip(&bad) {
        body.extend_from_slice(reading("S1", seq, 20.0).as_bytes());
        body.extend_from_slice(line);
        body.push(b'\n');
    }
    let answer = host.post("sensors", body)?;
    assert_eq!(answer.status, 202, "{}", answer.text);
    let count = bad.len();
    assert_eq!((answer.number("/accepted"), answer.number("/refused_count")), (Some(count as i64), Some(count as i64)));
    for (row, (line, code)) in bad.iter().enumerate() {
        let told = |member: &str| answer.json.pointer(&format!("/refused/{row}/{member}")).cloned().unwrap_or_default();
        let shown = String::from_utf8_lossy(line.get(..60).unwrap_or(line)).into_owned();
        assert_eq!((told("index"), told("code")), (Value::from(2 * row + 1), Value::from(*code)), "{shown}");
        assert!(told("reason").as_str().is_some_and(|reason| !reason.is_empty()), "{shown}");
    }
    host.drained("sensors")?;
    assert!(host.stop()?.success());

    let report = check_folder(&room.log(), "sensors", Expect::default())?.must_hold()?;
    assert_eq!((report.delivered, report.gate_letters), (count as u64, count as u64), "{report}");
    let letters = letters(&room.log(), "sensors")?;
    for (line, code) in bad {
        let is_it = letters.iter().any(|letter| letter.value == line && letter.code == code && letter.stage == "gate");
        assert!(is_it, "no letter {code} keeps {}", String::from_utf8_lossy(line.get(..60).unwrap_or(line)));
    }
    Ok(())
}

#[test]
fn a_body_that_cannot_be_split_is_not_taken_and_the_answer_says_so() -> anyhow::Result<()> {
    let room = Room::with("[http]\nlisten = \"127.0.0.1:0\"\nmax_body = \"1MiB\"\n")?;
    let host = Host::start(&room)?;
    let json = [("content-type", "application/json")];
    let path = "/v1/streams/sensors/events";
    for (body, status) in
        [(Vec::new(), 400), (b"[{\"sensor_id\":\"S1\",\"value\":1},".to_vec(), 400), (vec![b'x'; (1 << 20) + 1], 413)]
    {
        let answer = host.ask(reqwest::Method::POST, path, &json, body)?;
        assert_eq!(answer.status, status, "{}", answer.text);
        assert!(answer.str("/code").starts_with("PH4") && answer.text.contains("nothing was taken"), "{}", answer.text);
    }
    let all_bad = host.post("sensors", "no\nway\n")?;
    assert_eq!((all_bad.status, all_bad.str("/code")), (422, "PH4003"), "{}", all_bad.text);
    let unknown = host.post("nowhere", "{}")?;
    assert_eq!((unknown.status, unknown.str("/code")), (404, "PH4004"), "{}", unknown.text);
    host.drained("sensors")?;
    assert!(host.stop()?.success());
    let report = check_folder(&room.log(), "sensors", Expect::default())?.must_hold()?;
    assert_eq!((report.received, report.gate_letters), (2, 2), "{report}");
    Ok(())
}

#[test]
fn a_million_rows_in_one_post_go_through() -> anyhow::Result<()> {
    let room = Room::with("[http]\nlisten = \"127.0.0.1:0\"\nmax_body = \"64MiB\"\n")?;
    let host = Host::start(&room)?;
    let mut body = String::with_capacity(50 << 20);
    for row in 0..1_000_000u32 {
        let (sensor, seq) = (row % 100, row / 100);
        body.push_str(&format!("{{\"sensor_id\":\"S{sensor}\",\"seq\":{seq},\"value\":1}}\n"));
    }
    let answer = host.post("sensors", body)?;
    assert_eq!((answer.status, answer.number("/accepted")), (202, Some(1_000_000)), "{}", answer.text);
    host.drained("sensors")?;
    assert!(host.stop()?.success());
    let report = check_folder(&room.log(), "sensors", Expect::default())?.must_hold()?;
    assert_eq!((report.delivered, report.keys), (1_000_000, 100), "{report}");
    Ok(())
}
