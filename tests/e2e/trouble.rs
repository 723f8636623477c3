//! What the host is for on a bad day, on both logs and with both stores: a plugin that goes bad, an agent that runs away,
//! and a host that is killed in the middle of both.

use anyhow::ensure;
use phronis_tests::checker::{Expect, check_folder, check_kafka};
use phronis_tests::host::{Host, Room};
use phronis_tests::kafka::Broker;
use phronis_tests::load::Producer;
use phronis_tests::plugins::{package, plugin};
use phronis_tests::postgres::Server;
use serde_json::{Value, json};

use crate::judged_by;

const THRESHOLD: &str = "default/sensors/threshold";
const HIGH: f64 = 90.0;
/// The breaker is open for longer than a test waits: a version that is mended closes it at once, or the test fails.
const SETTINGS: &str = "[params]\nhigh = 90.0\n[breaker]\nopen_for = \"1h\"\n";
const LIMIT: &str = include_str!("../../examples/guarded-agent/plugins/default/agents/threshold.toml");
/// Once also on Kafka: what was under way at the kill would come again otherwise, and may be judged by another version then.
const STREAMS: &str = "[streams.sensors]\nexactly_once = true\n[streams.agents.plugins.threshold]\nmay_halt = true\n";

#[test]
fn trouble_is_contained_on_the_embedded_log_with_sqlite() -> anyhow::Result<()> {
    contained(None, None)
}

#[test]
fn trouble_is_contained_on_the_embedded_log_with_postgres() -> anyhow::Result<()> {
    contained(None, Some(&Server::start()?))
}

#[test]
fn trouble_is_contained_on_kafka_with_sqlite() -> anyhow::Result<()> {
    contained(Some(&Broker::start()?), None)
}

#[test]
fn trouble_is_contained_on_kafka_with_postgres() -> anyhow::Result<()> {
    contained(Some(&Broker::start()?), Some(&Server::start()?))
}

fn contained(broker: Option<&Broker>, server: Option<&Server>) -> anyhow::Result<()> {
    let mut config = String::new();
    if let Some(broker) = broker {
        config += &format!("[log]\nkind = \"kafka\"\nbootstrap = \"{}\"\nauto_create = true\n", broker.bootstrap());
    }
    if server.is_some() {
        config += "[store]\nkind = \"postgres\"\nurl_file = \"store.url\"\n";
    }
    let room = Room::with(&(config + STREAMS))?;
    if let Some(server) = server {
        std::fs::write(room.folder().join("store.url"), server.url())?;
    }
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    room.install("default/agents/threshold", &plugin("threshold")?, LIMIT)?;
    let mut producer = Producer::new(11);

    let host = Host::start(&room)?;
    ensure!(producer.post(&host, 500)?);
    breaks(&host, &room, &mut producer)?;
    runs_away(&host)?;
    host.kill()?;
    drop(host);

    let host = Host::start(&room)?;
    let halted = host.get("/v1/agents/runaway-1")?.json;
    ensure!(halted.get("state") == Some(&"halted".into()), "the first answer after the start: {halted}");
    ensure!(breaker(&host)? != "closed", "what was open is open, or being tried, after the start");
    is_mended(&host, &room, &mut producer)?;
    host.drained("sensors")?;
    let expect = || Expect { acknowledged: producer.acknowledged.clone(), ..judged_by("threshold", HIGH) };
    if let Some(broker) = broker {
        // The host counts letters a moment after they are written: that none is left, the topics say.
        host.until("all letters came back, as the topics say", |_| {
            Ok(check_kafka(&broker.bootstrap(), "sensors", expect())?.must_hold().is_ok())
        })?;
    }
    ensure!(host.stop()?.success());

    let report = match broker {
        Some(broker) => check_kafka(&broker.bootstrap(), "sensors", expect())?,
        None => check_folder(&room.log(), "sensors", expect())?,
    };
    println!("{}", report.must_hold()?);
    Ok(())
}

/// A version that crashes is saved over the good one; its breaker opens, and events go on.
fn breaks(host: &Host, room: &Room, producer: &mut Producer) -> anyhow::Result<()> {
    let listener = host.listen("?kind=alert")?;
    room.install(THRESHOLD, &package("phronis-demo-broken", "threshold-broken")?, "")?;
    host.until("the breaker is open", |host| {
        producer.post(host, 50)?;
        Ok(breaker(host)? == "open")
    })?;
    // A person learns it as any other alert.
    while listener.next("alert")?.data.get("rule") != Some(&"breaker-open".into()) {}
    for _ in 0..10 {
        ensure!(producer.post(host, 50)?);
    }
    host.drained("sensors")?;
    host.until("letters wait", |host| Ok(waiting(host)? > 0))
}

fn runs_away(host: &Host) -> anyhow::Result<()> {
    let call = json!({"agent_id": "runaway-1", "status": "active", "event_type": "TOOL_CALL", "metadata": {"calls_in_minute": 501}});
    ensure!(host.post("agents", call.to_string().into_bytes())?.is_taken());
    // It holds before it is written down; only what is written down outlives the host.
    host.until("the agent is halted, and the store has it", |host| {
        let agent = host.get("/v1/agents/runaway-1")?.json;
        Ok(agent.get("state") == Some(&"halted".into()) && agent.get("replicated") == Some(&true.into()))
    })
}

/// The good version is saved again: the breaker closes, and what was not judged is judged.
fn is_mended(host: &Host, room: &Room, producer: &mut Producer) -> anyhow::Result<()> {
    room.install(THRESHOLD, &plugin("threshold")?, "")?;
    host.until("the breaker is closed", |host| {
        producer.post(host, 10)?;
        Ok(breaker(host)? == "closed")
    })?;
    host.until("all letters came back", |host| Ok(waiting(host)? == 0))
}

fn breaker(host: &Host) -> anyhow::Result<String> {
    let answer = host.get(&format!("/v1/breakers/{THRESHOLD}"))?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text);
    Ok(answer.json.get("state").and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// Letters that will come back.
fn waiting(host: &Host) -> anyhow::Result<u64> {
    let answer = host.get("/v1/letter_classes?stream=sensors")?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text);
    let items = answer.json.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(items.iter().filter_map(|class| class.get("waiting").and_then(Value::as_u64)).sum())
}
