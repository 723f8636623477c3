//! What people do about letters, as clients meet it: a reason is needed, and nobody undoes what he has not seen.

use serde_json::{Value, json};

use crate::client::{Answer, send};
use crate::host::Host;

const MARK: &str = "X-Phronis: 1";
const JSON: &str = "Content-Type: application/json";
const GOOD: &[u8] = br#"{"sensor_id":"S01","value":1}"#;

fn get(host: &Host, path: &str) -> Answer {
    send(host.at, "GET", path, &[], b"")
}

fn post(host: &Host, path: &str, body: &Value) -> Answer {
    send(host.at, "POST", path, &[MARK, JSON], body.to_string().as_bytes())
}

/// A host with so many letters of the gate, and the place of one.
fn parked(count: usize) -> (Host, String) {
    let host = Host::start(|_| {});
    let bad = b"{\"value\":1}\n".repeat(count);
    send(host.at, "POST", "/ingest", &["Content-Type: application/x-ndjson"], &bad).is_problem(422, "PH4003");
    while get(&host, "/v1/letter_classes?stream=sensors").json()["items"][0]["parked"] != count {
        std::thread::yield_now();
    }
    let place =
        get(&host, "/v1/letters?stream=sensors&limit=1").json()["items"][0]["place"].as_str().unwrap().to_owned();
    (host, place)
}

#[test]
fn nobody_decides_about_letters_without_a_reason() {
    let (host, place) = parked(100);
    let edit = format!("/v1/letters/sensors/{place}/edit");
    let all = json!({"stream": "sensors", "all": true, "rate": 1});
    let blank = json!({"stream": "sensors", "all": true, "reason": " "});
    for refused in [
        post(&host, "/v1/redrives", &all),
        post(&host, "/v1/redrives", &blank),
        post(&host, "/v1/discards", &blank),
        send(host.at, "POST", &edit, &[MARK], GOOD),
        send(host.at, "POST", &edit, &[MARK, "X-Reason:  "], GOOD),
    ] {
        refused.is_problem(400, "PH4011");
        assert_eq!(refused.json()["problems"][0]["field"], "reason");
    }
    assert_eq!(get(&host, "/v1/redrives").json()["items"], json!([]), "nothing was begun");

    let headers = [MARK, JSON, "X-Reason: the contract is wider now"];
    let begun = send(host.at, "POST", "/v1/redrives", &headers, all.to_string().as_bytes());
    assert_eq!((begun.status, begun.header("etag")), (202, Some("\"1\"")), "{begun:?}");
    let path = format!("/v1/redrives/{}", begun.json()["id"].as_str().unwrap());
    assert_eq!(get(&host, &path).header("etag"), Some("\"1\""));
    let cancel = |headers: &[&str]| send(host.at, "DELETE", &path, headers, b"");
    cancel(&[MARK]).is_problem(400, "PH4011");
    let late = cancel(&[MARK, "X-Reason: wrong", "If-Match: \"2\""]);
    late.is_problem(412, "PH4016");
    assert_eq!(late.json()["current"], 1);
    let cancelled = cancel(&[MARK, "X-Reason: wrong", "If-Match: \"1\""]);
    assert_eq!((cancelled.status, cancelled.header("etag")), (200, Some("\"2\"")), "{cancelled:?}");
    assert_eq!(cancelled.json()["state"], "cancelled");
    cancel(&[MARK, "X-Reason: wrong", "If-Match: \"1\""]).is_problem(412, "PH4016");
    assert_eq!(cancel(&[MARK, "X-Reason: wrong"]).json()["state"], "cancelled", "it stays as it is");
}

#[test]
fn a_letter_is_edited_once_and_as_it_was_seen() {
    let (host, place) = parked(1);
    let path = format!("/v1/letters/sensors/{place}");
    let shown = get(&host, &path);
    assert_eq!((shown.status, shown.header("etag")), (200, Some("\"1\"")), "{shown:?}");
    assert_eq!(shown.json()["letter"]["edited"], Value::Null);
    // The host has just begun, and may still read what became of its letters.
    let edit = |matched: &str| loop {
        let headers = [MARK, "X-Reason: it lacks its sensor", matched];
        let answer = send(host.at, "POST", &format!("{path}/edit"), &headers, GOOD);
        if answer.status != 503 {
            break answer;
        }
    };
    edit("If-Match: \"2\"").is_problem(412, "PH4016");
    let edited = edit("If-Match: \"1\"");
    assert_eq!(edited.status, 202, "{edited:?}");
    assert_eq!(
        (&edited.json()["letter"], &edited.json()["is_given_up"], &edited.json()["detail"]),
        (&json!(place), &json!(true), &Value::Null)
    );
    let shown = get(&host, &path);
    assert_eq!((shown.header("etag"), &shown.json()["letter"]["state"]), (Some("\"2\""), &Value::Null));
    edit("If-Match: \"1\"").is_problem(412, "PH4016");
    edit("If-Match: *").is_problem(409, "PH2403");
    send(host.at, "POST", "/v1/letters/sensors/0-99999/edit", &[MARK, "X-Reason: x"], GOOD).is_problem(404, "PH4004");
    assert_eq!(host.count("phronis.raw.events"), 2, "the event, and one copy");
}
