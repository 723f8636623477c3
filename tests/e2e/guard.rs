//! The kill switch from end to end: an agent that calls tools too often is halted by an alert, and its guard, in a process
//! of its own, refuses the next call.

use std::process::{Command, Stdio};

use anyhow::Context as _;
use phronis_sdk::guard::{Guard, Options};
use phronis_tests::host::{Host, PATIENCE, Room};
use phronis_tests::kafka::Broker;
use phronis_tests::plugins::{plugin, root};
use phronis_tests::postgres::Server;
use reqwest::Method;
use serde_json::Value;

const CONFIG: &str = "[streams.agents]\n[streams.agents.plugins.threshold]\nmay_halt = true\n";
const SETTINGS: &str = include_str!("../../examples/guarded-agent/plugins/default/agents/threshold.toml");

fn halting_host() -> anyhow::Result<(Room, Host)> {
    let room = Room::with(CONFIG)?;
    let host = halting(&room)?;
    Ok((room, host))
}

fn halting(room: &Room) -> anyhow::Result<Host> {
    room.install("default/agents/threshold", &plugin("threshold")?, SETTINGS)?;
    let host = Host::start(room)?;
    host.plugin_is("default/agents/threshold", "active")?;
    Ok(host)
}

fn say(host: &Host, path: &str, body: &'static str) -> anyhow::Result<u16> {
    let headers = [("x-phronis", "1"), ("content-type", "application/json")];
    Ok(host.ask(Method::POST, path, &headers, body.into())?.status)
}

/// A guard that waits for the host's first word for as long as it takes: nothing runs before.
fn guard(host: &Host, post_events: bool) -> anyhow::Result<Guard> {
    Ok(Guard::connect(Options { patience: PATIENCE, post_events, ..Options::new(host.base()) })?)
}

#[test]
fn a_python_agent_that_runs_away_is_stopped_before_its_next_call() -> anyhow::Result<()> {
    let (_room, host) = halting_host()?;
    runs_away(&host)
}

#[test]
fn a_python_agent_that_runs_away_is_stopped_on_kafka_and_postgres_too() -> anyhow::Result<()> {
    let (broker, store) = (Broker::start()?, Server::start()?);
    let log = format!("[log]\nkind = \"kafka\"\nbootstrap = \"{}\"\nauto_create = true\n", broker.bootstrap());
    let room = Room::with(&format!("{log}[store]\nkind = \"postgres\"\nurl_file = \"store.url\"\n{CONFIG}"))?;
    std::fs::write(room.folder().join("store.url"), store.url())?;
    let host = halting(&room)?;
    runs_away(&host)?;
    assert!(host.stop()?.success());
    Ok(())
}

/// An agent in another process calls tools until it is refused.
fn runs_away(host: &Host) -> anyhow::Result<()> {
    let agent = Command::new("python3")
        .arg(root().join("examples/guarded-agent/agent.py"))
        // At most for two minutes; until then no call's event is dropped because the host was busy.
        .args(["--url", host.base(), "--agent", "runaway-1", "--rate", "250", "--most", "30000", "--patience", "60"])
        .env("PYTHONPATH", root().join("sdk/python"))
        .stdin(Stdio::null())
        .output()
        .context("python3")?;
    let (told, said) = (String::from_utf8_lossy(&agent.stdout), String::from_utf8_lossy(&agent.stderr));
    assert_eq!(agent.status.code(), Some(0), "it was never stopped: {told}{said}");
    let end: Value = serde_json::from_str(told.trim())?;
    let of = |name: &str| end.get(name).cloned().unwrap_or_default();
    assert!(of("calls").as_u64().is_some_and(|calls| calls > 500), "nobody is halted before 500 calls: {end}");
    assert_eq!(of("agent"), "runaway-1");
    assert!(of("reason").as_str().is_some_and(|reason| reason.contains("calls_in_minute")), "{end}");

    // Whoever comes later, in another language, is told the same; another agent is not concerned.
    let guard = guard(host, true)?;
    let halted = guard.check("runaway-1").err().context("it may call")?;
    assert_eq!(of("actor").as_str(), halted.actor.as_deref());
    assert_eq!(guard.call("quiet-1", "search", || 7)?, 7);

    // Its calls are in the stream as the contract wants them, none refused.
    assert!(guard.flush(PATIENCE));
    let calls = of("calls").as_i64().unwrap_or_default() + 1;
    host.until("all calls are delivered", |host| {
        let stream = host.get("/v1/streams/agents")?;
        anyhow::ensure!(stream.number("/counts/gate_letters") == Some(0), "{}", stream.text);
        Ok(stream.number("/counts/delivered") >= Some(calls))
    })?;
    Ok(())
}

#[test]
fn a_person_halts_and_resets_and_guards_follow() -> anyhow::Result<()> {
    let (_room, host) = halting_host()?;
    let guard = guard(&host, false)?;
    assert!(guard.check("a1").is_ok());
    for (path, body, is_halted) in [
        ("/v1/agents/a1/halt", r#"{"reason":"looks wrong","actor":"ada"}"#, true),
        ("/v1/agents/a1/reset", r#"{"reason":"was fine","actor":"ada"}"#, false),
        ("/halt", r#"{"agent_id":"a1","reason":"again"}"#, true),
        ("/reset", r#"{"agent_id":"a1","reason":"fine again"}"#, false),
        ("/v1/tenants/default/halt", r#"{"reason":"all of them"}"#, true),
        ("/v1/tenants/default/reset", r#"{"reason":"all fine"}"#, false),
    ] {
        // A store that is slow for once has it a moment later.
        host.until(path, |host| Ok(say(host, path, body)? == 200))?;
        host.until("the guard knows", |_| Ok(guard.check("a1").is_err() == is_halted))?;
    }
    host.until("the guard listens", |_| Ok(guard.state().is_connected))?;
    Ok(())
}
