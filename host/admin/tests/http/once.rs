//! Requests that are sent again because their answer was lost: carried out once, answered the same.

use phronis_admin::Role;
use serde_json::{Value, json};

use crate::client::{Answer, send, until};
use crate::host::{Host, key};

const MARK: &str = "X-Phronis: 1";
const REPLAYED: &str = "idempotency-replayed";

fn post(host: &Host, path: &str, headers: &[&str], body: &Value) -> Answer {
    send(host.at, "POST", path, headers, body.to_string().as_bytes())
}

fn get(host: &Host, path: &str) -> Answer {
    send(host.at, "GET", path, &[], b"")
}

#[test]
fn a_halt_and_a_reset_are_carried_out_once_and_answered_the_same() {
    let host = Host::start(|_| {});
    until("it knows who is halted", || get(&host, "/status/nobody").status != 503);
    let halt = |key: &str, body: &Value| post(&host, "/v1/agents/a1/halt", &[MARK, key], body);
    let first = halt("Idempotency-Key: one", &json!({"reason": "loops"}));
    assert_eq!((first.status, first.header(REPLAYED)), (200, None), "{first:?}");
    // Somebody resets it: a halt that was lost on its way back must not halt it again.
    let reset = |key: &str| post(&host, "/v1/agents/a1/reset", &[MARK, key], &json!({"reason": "fixed"}));
    let ended = reset("Idempotency-Key: two");
    assert_eq!(ended.json()["version"], 2, "{ended:?}");
    let again = halt("Idempotency-Key: one", &json!({"reason": "loops"}));
    assert_eq!((again.status, again.header(REPLAYED), again.header("etag")), (200, Some("true"), first.header("etag")));
    assert_eq!((again.json(), reset("Idempotency-Key: two").json()), (first.json(), ended.json()));
    assert_eq!(get(&host, "/status/a1").json()["version"], 2, "nothing was carried out again");

    halt("Idempotency-Key: one", &json!({"reason": "other"})).is_problem(422, "PH4017");
    post(&host, "/v1/agents/a2/halt", &[MARK, "Idempotency-Key: one"], &json!({"reason": "loops"}))
        .is_problem(422, "PH4017");
    halt("Idempotency-Key:  ", &json!({"reason": "loops"})).is_problem(400, "PH4011");
    halt(&format!("Idempotency-Key: {}", "x".repeat(256)), &json!({"reason": "loops"})).is_problem(400, "PH4011");
    assert_eq!(get(&host, "/status/a1").json()["version"], 2, "nothing changed");

    // What was refused was not carried out: it may be put right under the same key.
    halt("Idempotency-Key: three", &json!({})).is_problem(422, "PH4011");
    let right = halt("Idempotency-Key: three", &json!({"reason": "loops again"}));
    assert_eq!((right.status, right.header(REPLAYED), &right.json()["version"]), (200, None, &json!(3)), "{right:?}");
}

#[test]
fn a_redrive_is_begun_once_and_answered_the_same() {
    let host = Host::start(|_| {});
    // Enough that the redrive is still under way when the last request comes, on any machine.
    let bad = b"{\"value\":1}\n".repeat(500);
    send(host.at, "POST", "/ingest", &["Content-Type: application/x-ndjson"], &bad).is_problem(422, "PH4003");
    let classes = || get(&host, "/v1/letter_classes?stream=sensors").json();
    until("all are parked", || classes()["items"][0]["parked"] == 500);
    let redrive = |headers: &[&str], rate: u32| {
        let headers: Vec<&str> =
            [MARK, "Content-Type: application/json"].into_iter().chain(headers.iter().copied()).collect();
        post(
            &host,
            "/v1/redrives",
            &headers,
            &json!({"stream": "sensors", "all": true, "rate": rate, "reason": "again"}),
        )
    };
    let first = redrive(&["Idempotency-Key: r"], 1);
    assert_eq!((first.status, &first.json()["total"]), (202, &json!(500)), "{first:?}");
    let again = redrive(&["Idempotency-Key: r"], 1);
    assert_eq!((again.status, again.header(REPLAYED), again.json()), (202, Some("true"), first.json()));
    redrive(&["Idempotency-Key: r"], 2).is_problem(422, "PH4017");
    redrive(&[], 1).is_problem(409, "PH2401");
    assert_eq!(get(&host, "/v1/redrives?stream=sensors").json()["items"].as_array().unwrap().len(), 1);
}

#[test]
fn a_key_is_its_callers_own_and_opens_nothing() {
    let host = Host::start(|options| {
        options.keys = vec![key("ann", None, Role::Write), key("bob", None, Role::Write)];
    });
    until("it knows who is halted", || get(&host, "/status/nobody").status != 503);
    let halt = |headers: &[&str]| post(&host, "/v1/agents/a1/halt", headers, &json!({"reason": "loops"}));
    assert_eq!(halt(&["X-API-Key: ann", "Idempotency-Key: k"]).json()["actor"], "ann");
    halt(&["Idempotency-Key: k"]).is_problem(401, "PH4005");
    let other = halt(&["X-API-Key: bob", "Idempotency-Key: k"]);
    assert_eq!((other.header(REPLAYED), &other.json()["actor"]), (None, &json!("bob")), "{other:?}");
}
