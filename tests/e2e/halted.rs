//! Events of halted agents: passed, marked, or letters, as their stream wants it; and letters that come back while their agent is halted.

use std::time::Duration;

use anyhow::ensure;
use phronis_core::partition::Topics;
use phronis_log::embedded::{Log, Options};
use phronis_log::{Log as _, PollLimits, Position};
use phronis_tests::checker::{Expect, Report, check_folder, letters};
use phronis_tests::host::{Host, Room};
use phronis_tests::plugins::guest;
use reqwest::Method;
use serde_json::{Value, json};

const CONTRACT: &str = "
apiVersion: v3.1.0
kind: DataContract
id: calls
version: 1.0.0
schema:
- name: calls
  customProperties:
  - {property: phronis.key, value: agent}
  - {property: phronis.agent, value: agent}
  properties:
  - {name: agent, logicalType: string, required: true}
  - {name: value, logicalType: number, required: true}
";

const MOODY: &str = "default/calls/moody";

fn room(policy: &str) -> anyhow::Result<Room> {
    let room = Room::with(&format!(
        "[streams.calls]\ncontract = \"calls.yaml\"\npartitions = 1\non_halted = \"{policy}\"\n\
         retry = {{ base = \"50ms\", cap = \"100ms\", attempts = 100000 }}\n"
    ))?;
    std::fs::write(room.folder().join("calls.yaml"), CONTRACT)?;
    behave(&room, "fail-negative")?;
    Ok(room)
}

fn behave(room: &Room, behaviour: &str) -> anyhow::Result<()> {
    room.install(MOODY, &guest("enricher")?, &format!("[params]\nbehaviour = \"{behaviour}\"\n[breaker]\nrows = 0\n"))
}

fn post(host: &Host, agent: &str, value: f64) -> anyhow::Result<()> {
    ensure!(host.post("calls", json!({"agent": agent, "value": value}).to_string().into_bytes())?.is_taken());
    Ok(())
}

fn say(host: &Host, path: &str, body: &Value) -> anyhow::Result<()> {
    let headers = [("x-phronis", "1"), ("content-type", "application/json"), ("x-actor", "ada")];
    let answer = host.ask(Method::POST, path, &headers, body.to_string().into_bytes())?;
    ensure!((200..300).contains(&answer.status), "{path}: {} {}", answer.status, answer.text);
    Ok(())
}

/// Outstanding letters of a class: waiting and parked.
fn of_class(host: &Host, class: &str) -> anyhow::Result<(u64, u64)> {
    let answer = host.get("/v1/letter_classes?stream=calls")?;
    let items = answer.json.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    let number = |item: &Value, name: &str| item.get(name).and_then(Value::as_u64).unwrap_or_default();
    let of_class = items
        .iter()
        .filter(|item| item.get("class").and_then(Value::as_str).is_some_and(|name| name.starts_with(class)));
    Ok(of_class
        .fold((0, 0), |(waiting, parked), item| (waiting + number(item, "waiting"), parked + number(item, "parked"))))
}

/// Agents of the delivered events, in order, with `!` where an event is marked.
fn delivered(room: &Room) -> anyhow::Result<String> {
    let log = Log::open(Options::new(room.log()))?;
    let mut reader = log.reader(&Topics::of(&"calls".parse()?).processed, 0, Position::Earliest)?;
    let mut told = String::new();
    while let Some(records) = reader.next(PollLimits { records: 1, bytes: 1 }, Duration::ZERO)? {
        told += str::from_utf8(records.body.key(0).unwrap_or_default())?;
        told += if records.body.headers(0).get("phronis-halted").is_some() { "! " } else { " " };
    }
    log.close();
    Ok(told)
}

/// Two agents, of which one is halted between two events.
fn halted_between(policy: &str) -> anyhow::Result<(String, Report)> {
    let room = room(policy)?;
    let host = Host::start(&room)?;
    host.plugin_is(MOODY, "active")?;
    for round in 0..2 {
        for agent in ["a1", "a2"] {
            post(&host, agent, 1.0)?;
        }
        host.drained("calls")?;
        if round == 0 {
            say(&host, "/v1/agents/a1/halt", &json!({ "reason": "looks wrong" }))?;
        }
    }
    // It holds from the first event on that a new host judges.
    host.kill()?;
    drop(host);
    let host = Host::start(&room)?;
    post(&host, "a1", 1.0)?;
    host.drained("calls")?;
    ensure!(host.stop()?.success());
    let report = check_folder(&room.log(), "calls", Expect::default())?.must_hold()?;
    Ok((delivered(&room)?, report))
}

#[test]
fn events_of_a_halted_agent_pass_where_the_stream_says_nothing() -> anyhow::Result<()> {
    let (told, report) = halted_between("pass")?;
    assert_eq!((told.as_str(), report.halt_letters), ("a1 a2 a1 a2 a1 ", 0));
    Ok(())
}

#[test]
fn events_of_a_halted_agent_are_marked() -> anyhow::Result<()> {
    let (told, report) = halted_between("mark")?;
    assert_eq!((told.as_str(), report.halt_letters), ("a1 a2 a1! a2 a1! ", 0));
    Ok(())
}

#[test]
fn events_of_a_halted_agent_become_letters() -> anyhow::Result<()> {
    let (told, report) = halted_between("drop")?;
    assert_eq!((told.as_str(), report.halt_letters), ("a1 a2 a2 ", 2));
    Ok(())
}

#[test]
fn a_letter_that_comes_back_is_treated_as_an_event_of_its_agent() -> anyhow::Result<()> {
    let room = room("drop")?;
    let host = Host::start(&room)?;
    host.plugin_is(MOODY, "active")?;
    post(&host, "a1", -1.0)?;
    post(&host, "a2", -1.0)?;
    host.until("two letters wait", |host| Ok(of_class(host, "enrich")? == (2, 0)))?;
    say(&host, "/v1/agents/a1/halt", &json!({ "reason": "looks wrong" }))?;
    host.until("one is a letter of a halted agent", |host| Ok(of_class(host, "halt")? == (0, 1)))?;
    // Redriven while it is halted, it is one again.
    say(&host, "/v1/redrives", &json!({ "stream": "calls", "all": true, "reason": "try" }))?;
    host.until("the redrive is over", |host| Ok(!host.get("/v1/redrives?stream=calls")?.text.contains("\"running\"")))?;
    host.until("it is parked again", |host| Ok(of_class(host, "halt")? == (0, 1)))?;
    behave(&room, "honest")?;
    host.until("the other went through", |host| Ok(of_class(host, "enrich")? == (0, 0)))?;
    say(&host, "/v1/agents/a1/reset", &json!({ "reason": "was fine" }))?;
    say(&host, "/v1/redrives", &json!({ "stream": "calls", "all": true, "reason": "it was fine" }))?;
    host.until("it went through", |host| Ok(of_class(host, "halt")? == (0, 0)))?;
    host.drained("calls")?;
    ensure!(host.stop()?.success());
    let report = check_folder(&room.log(), "calls", Expect::default())?.must_hold()?;
    assert_eq!((report.delivered, report.halt_letters, report.settled), (2, 0, 2), "{report}");
    assert_eq!(letters(&room.log(), "calls")?, []);
    assert_eq!(delivered(&room)?, "a2 a1 ");
    Ok(())
}
