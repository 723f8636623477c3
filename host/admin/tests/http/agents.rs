//! The kill switch as clients meet it: who may halt, what is refused, and what guards hear.

use std::io::{BufRead, BufReader};

use phronis_admin::Role;
use serde_json::{Value, json};

use crate::client::{Answer, connect, send, until};
use crate::host::{Host, key};

const MARK: &str = "X-Phronis: 1";

fn post(host: &Host, path: &str, headers: &[&str], body: &Value) -> Answer {
    send(host.at, "POST", path, headers, body.to_string().as_bytes())
}

fn get(host: &Host, path: &str) -> Answer {
    send(host.at, "GET", path, &[], b"")
}

/// A host that knows who is halted.
fn start(change: impl FnOnce(&mut phronis_admin::Options)) -> Host {
    let host = Host::start(change);
    until("it knows who is halted", || get(&host, "/status/nobody").status != 503);
    host
}

/// Reads events of a guard's stream.
struct Guard(BufReader<std::net::TcpStream>);

impl Guard {
    fn listen(host: &Host, path: &str) -> Self {
        Self::listen_with(host, path, &[])
    }

    fn listen_with(host: &Host, path: &str, headers: &[&str]) -> Self {
        let mut socket = connect(host.at);
        let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", host.at);
        std::io::Write::write_all(&mut socket, request.as_bytes()).unwrap();
        Self(BufReader::new(socket))
    }

    /// The next event of one of these kinds.
    fn next(&mut self, kinds: &[&str]) -> (String, Value) {
        let (mut kind, mut line) = (String::new(), String::new());
        loop {
            line.clear();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream ended");
            if let Some(name) = line.strip_prefix("event: ") {
                kind = name.trim().to_owned();
            }
            if let Some(data) = line.strip_prefix("data: ").filter(|_| kinds.contains(&kind.as_str())) {
                return (kind, serde_json::from_str(data).unwrap());
            }
        }
    }
}

#[test]
fn an_agent_is_halted_and_reset_and_its_history_says_why() {
    let host = start(|_| {});
    let fresh = get(&host, "/v1/agents/a1");
    assert_eq!((fresh.status, fresh.header("etag")), (200, Some("\"0\"")), "{fresh:?}");
    assert_eq!((&fresh.json()["state"], &fresh.json()["version"]), (&json!("running"), &json!(0)));

    let order = json!({"reason": "loops", "actor": "ann", "for": "30m"});
    let halted = post(&host, "/v1/agents/a1/halt", &[MARK], &order);
    assert_eq!((halted.status, halted.header("etag")), (200, Some("\"1\"")), "{halted:?}");
    let said = halted.json();
    assert_eq!(
        (&said["state"], &said["halted_by"], &said["replicated"]),
        (&json!("halted"), &json!("agent"), &json!(true))
    );
    assert_eq!((&said["reason"], &said["actor"], &said["changed"]), (&json!("loops"), &json!("ann"), &json!(true)));
    assert!(said["expires_at"].is_string(), "{said}");
    assert_eq!(get(&host, "/status/a1").json()["state"], "halted");
    assert_eq!(get(&host, "/v1/agents?state=halted").json()["items"][0]["agent"], "a1");

    let late = post(&host, "/v1/agents/a1/reset", &[MARK, "If-Match: \"7\""], &json!({"reason": "fixed"}));
    late.is_problem(412, "PH4016");
    assert_eq!(late.json()["current"]["version"], 1);
    let reset = post(&host, "/v1/agents/a1/reset", &[MARK, "If-Match: \"1\"", "X-Reason: fixed"], &json!({}));
    assert_eq!((reset.status, &reset.json()["state"], &reset.json()["version"]), (200, &json!("running"), &json!(2)));
    let history = get(&host, "/v1/agents/a1/history").json();
    let told: Vec<_> =
        history["items"].as_array().unwrap().iter().map(|item| (&item["state"], &item["reason"])).collect();
    assert_eq!(told, [(&json!("running"), &json!("fixed")), (&json!("halted"), &json!("loops"))], "{history}");
    assert_eq!(get(&host, "/v1/agents?state=halted").json()["items"], json!([]));
    assert_eq!(get(&host, "/v1/agents").json()["items"][0]["state"], "running");

    assert_eq!(post(&host, "/halt", &[MARK], &json!({"agent_id": "a/2 ü", "reason": "r"})).status, 200);
    assert_eq!(get(&host, "/status/a%2F2%20%C3%BC").json()["state"], "halted");
    assert_eq!(post(&host, "/reset", &[MARK], &json!({"agent_id": "a/2 ü", "reason": "r"})).status, 200);
}

#[test]
fn a_whole_tenant_is_halted_and_no_other() {
    let host = start(|_| {});
    assert_eq!(post(&host, "/v1/tenants/acme/halt", &[MARK], &json!({"reason": "leak"})).status, 200);
    let held = get(&host, "/v1/agents/any?tenant=acme").json();
    assert_eq!(
        (&held["state"], &held["halted_by"], &held["reason"]),
        (&json!("halted"), &json!("tenant"), &json!("leak"))
    );
    assert_eq!(get(&host, "/v1/agents/any").json()["state"], "running");
    assert_eq!(get(&host, "/v1/agents?tenant=acme&state=halted").json()["items"][0]["agent"], Value::Null);
    assert_eq!(post(&host, "/v1/tenants/acme/reset", &[MARK], &json!({"reason": "closed"})).status, 200);
    assert_eq!(get(&host, "/v1/agents/any?tenant=acme").json()["state"], "running");
    get(&host, "/v1/agents/any?tenant=nobody").is_problem(404, "PH4004");
}

#[test]
fn what_makes_no_sense_is_refused_and_says_what() {
    let host = start(|_| {});
    let halt = |body: Value| post(&host, "/v1/agents/a1/halt", &[MARK], &body);
    for (body, field) in [
        (json!({}), "reason"),
        (json!({"reason": " "}), "reason"),
        (json!({"reason": "r", "expires_at": "2020-01-01T00:00:00Z"}), "expires_at"),
        (json!({"reason": "r", "for": "0s"}), "for"),
        (json!({"reason": "r", "for": "soon"}), "for"),
    ] {
        let answer = halt(body);
        answer.is_problem(422, "PH4011");
        assert_eq!(answer.json()["problems"][0]["field"], field, "{answer:?}");
    }
    halt(json!({"reason": "r", "untill": 1})).is_problem(400, "PH4011");
    post(&host, "/halt", &[MARK], &json!({"reason": "r"})).is_problem(422, "PH4011");
    post(&host, "/v1/agents/a1/reset", &[MARK], &json!({"reason": "r", "for": "1m"})).is_problem(422, "PH4011");
    assert_eq!(get(&host, "/status/a1").json()["version"], 0, "nothing changed");

    assert_eq!(post(&host, "/v1/agents/billing-7/halt", &[MARK], &json!({"reason": "r"})).status, 200);
    for answer in [
        post(&host, "/v1/agents/biling-7/reset", &[MARK], &json!({"reason": "r"})),
        get(&host, "/v1/agents/biling-7/history"),
    ] {
        answer.is_problem(404, "PH4004");
        assert!(answer.json()["detail"].as_str().unwrap().contains("did you mean `billing-7`?"), "{answer:?}");
    }
    get(&host, "/v1/agents?state=stopped").is_problem(400, "PH4011");
}

#[test]
fn everyone_may_look_and_only_writers_may_halt() {
    let keys = || {
        vec![key("writer", None, Role::Write), key("reader", None, Role::Read), key("acme", Some("acme"), Role::Write)]
    };
    let host = start(|options| options.keys = keys());
    let order = json!({"reason": "r"});
    let halt = |headers: &[&str], path: &str| post(&host, path, headers, &order);
    halt(&[], "/v1/agents/a1/halt").is_problem(401, "PH4005");
    halt(&["X-API-Key: stranger"], "/v1/agents/a1/halt").is_problem(401, "PH4005");
    halt(&["X-API-Key: reader"], "/v1/agents/a1/halt").is_problem(403, "PH4006");
    halt(&["X-API-Key: acme"], "/v1/agents/a1/halt?tenant=default").is_problem(404, "PH4004");
    assert_eq!(get(&host, "/status/a1").json()["version"], 0, "nothing changed");
    let halted = halt(&["X-API-Key: acme"], "/v1/agents/a1/halt");
    assert_eq!(
        (halted.status, &halted.json()["tenant"], &halted.json()["actor"]),
        (200, &json!("acme"), &json!("acme"))
    );
    assert_eq!(get(&host, "/v1/agents/a1?tenant=acme").json()["state"], "halted", "reads are open");
    assert_eq!(halt(&["X-API-Key: writer"], "/v1/agents/a1/reset?tenant=acme").status, 200);

    let open = start(|_| {});
    post(&open, "/v1/agents/a1/halt", &[], &order).is_problem(403, "PH4009");
}

#[test]
fn a_guard_hears_who_is_halted_then_every_change_and_the_beat() {
    let host = start(|_| {});
    assert_eq!(post(&host, "/v1/agents/a1/halt", &[MARK], &json!({"reason": "loops", "actor": "ann"})).status, 200);
    let mut guard = Guard::listen(&host, "/v1/agents/stream?tenant=default");
    let (kind, snapshot) = guard.next(&["snapshot", "change", "beat"]);
    assert_eq!((kind.as_str(), &snapshot["version"]), ("snapshot", &json!(1)), "{snapshot}");
    let halted = &snapshot["halted"][0];
    assert_eq!(
        (&halted["agent"], &halted["state"], &halted["reason"]),
        (&json!("a1"), &json!("halted"), &json!("loops"))
    );
    assert_eq!((&halted["actor"], &halted["version"], &halted["expires_at"]), (&json!("ann"), &json!(1), &Value::Null));
    assert!(halted["at"].is_string() && snapshot["epoch"].is_string());

    assert_eq!(post(&host, "/v1/tenants/default/halt", &[MARK], &json!({"reason": "all"})).status, 200);
    assert_eq!(post(&host, "/v1/agents/a1/reset", &[MARK], &json!({"reason": "fixed"})).status, 200);
    let (_, whole) = guard.next(&["change"]);
    assert_eq!((&whole["version"], &whole["agent"], &whole["state"]), (&json!(2), &Value::Null, &json!("halted")));
    let (_, reset) = guard.next(&["change"]);
    assert_eq!((&reset["version"], &reset["agent"], &reset["state"]), (&json!(3), &json!("a1"), &json!("running")));
    assert_eq!((&reset["reason"], &reset["epoch"]), (&json!("fixed"), &snapshot["epoch"]));
    let (_, beat) = guard.next(&["beat"]);
    assert_eq!((&beat["version"], &beat["epoch"]), (&json!(3), &snapshot["epoch"]));
    assert!(beat["at"].is_string());
    // Of another tenant it hears nothing, and numbers are the tenant's own.
    let (_, other) = Guard::listen(&host, "/v1/agents/stream?tenant=acme").next(&["snapshot"]);
    assert_eq!((&other["version"], &other["halted"]), (&json!(0), &json!([])));
}

#[test]
fn the_words_of_an_alert_are_for_those_who_may_see_its_event() {
    let keys = || vec![key("reader", None, Role::Read), key("acme", Some("acme"), Role::Read)];
    let host = start(|options| options.keys = keys());
    let by_alert = |agent: &str, reason: &str, cause: Option<String>| {
        let word = json!({
            "tenant": "default", "agent": agent, "state": "halted", "version": 1, "reason": reason, "cause": cause,
            "actor": "plugin default/agents/limit", "at": "2026-01-01T00:00:00Z", "is_replicated": false,
        });
        host.say(&format!("agents/default/{agent}"), &word);
    };
    let callers: [(&[&str], bool); 4] = [
        (&[], false),
        (&["X-API-Key: stranger"], false),
        (&["X-API-Key: acme"], false),
        (&["X-API-Key: reader"], true),
    ];
    by_alert("a1", "too-many: card 4711", Some("07".repeat(16)));
    by_alert("a2", "card 4711, says ann", None);
    while get(&host, "/v1/agents/a2/history").status != 200 || get(&host, "/v1/agents/a1/history").status != 200 {
        std::thread::yield_now();
    }
    let mut guards =
        callers.map(|(headers, sees)| (Guard::listen_with(&host, "/v1/agents/stream?tenant=default", headers), sees));
    for (headers, sees) in callers {
        for path in ["/status/a1", "/v1/agents/a1", "/v1/agents/a1/history"] {
            let answer = send(host.at, "GET", &format!("{path}?tenant=default"), headers, b"");
            assert_eq!(answer.status, 200, "{answer:?}");
            let text = answer.text();
            assert_eq!(text.contains("4711"), sees, "{path} {headers:?}: {text}");
            assert_eq!(text.contains("shown with a key"), !sees, "{path} {headers:?}: {text}");
            assert!(text.contains(&"07".repeat(16)) && text.contains("plugin default/agents/limit"), "{text}");
        }
        let all = send(host.at, "GET", "/v1/agents?tenant=default", headers, b"").json();
        let reasons: Vec<_> = all["items"].as_array().unwrap().iter().map(|item| item["reason"].as_str()).collect();
        assert_eq!(reasons[0].is_some_and(|reason| reason.contains("4711")), sees, "{all}");
        assert_eq!(reasons[1], Some("card 4711, says ann"), "a person's words are for all: {all}");
    }
    for (guard, sees) in &mut guards {
        let (_, snapshot) = guard.next(&["snapshot"]);
        let mut halted = snapshot["halted"].as_array().unwrap().iter();
        let alert = halted.find(|halted| halted["agent"] == "a1").unwrap();
        assert_eq!(alert["reason"].as_str().unwrap().contains("4711"), *sees, "{snapshot}");
    }
    by_alert("a3", "too-many: card 4711", Some("08".repeat(16)));
    for (guard, sees) in &mut guards {
        let (_, change) = guard.next(&["change"]);
        assert_eq!((&change["agent"], &change["state"]), (&json!("a3"), &json!("halted")));
        assert_eq!(change["reason"].as_str().unwrap().contains("4711"), *sees, "{change}");
    }
}

#[test]
fn listeners_of_live_events_hear_of_halts() {
    let host = start(|_| {});
    let mut listener = Guard::listen(&host, "/v1/events?kind=agent");
    let mut line = String::new();
    while line != ": listening\n" {
        line.clear();
        assert!(listener.0.read_line(&mut line).unwrap() > 0);
    }
    assert_eq!(post(&host, "/v1/agents/a1/halt", &[MARK], &json!({"reason": "loops"})).status, 200);
    let (_, event) = listener.next(&["agent"]);
    assert_eq!((&event["agent"], &event["state"], &event["reason"]), (&json!("a1"), &json!("halted"), &json!("loops")));
}
