//! Kills a host between each two steps that are not one, and lets it start again: parked, retried, redriven, discarded,
//! kept in order, halted, archived.
//!
//! A place is where `PHRONIS_FAIL_AT` kills; what is left must be whole, whatever the place.

mod archive;

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::checker::{Expect, Report, check_folder, judged_by};
use crate::host::{Host, PATIENCE, Room};
use crate::load::Producer;
use crate::plugins::{guest, package, plugin};

const THRESHOLD: &str = "default/sensors/threshold";
const SETTINGS: &str = "[params]\nhigh = 90.0\n[breaker]\nopen_for = \"1s\"\n";
const CONFIG: &str = "[streams.sensors]\nretry = { base = \"100ms\", cap = \"1s\", attempts = 8 }\n\
                      [streams.agents]\n[streams.agents.plugins.threshold]\nmay_halt = true\n";
const LIMIT: &str = "[params]\nfield = \"metadata.calls_in_minute\"\nhigh = 500\nhalt = true\n";

/// What is under way when the host is killed.
type Scene = fn(&str, u64) -> anyhow::Result<String>;

/// Each place, and what leads there.
pub const PLACES: &[(&str, Scene)] = &[
    ("letters-due", letters),
    ("letters-moved", letters),
    ("letters-judged", letters),
    ("letters-answered", letters),
    ("redrive-stepped", redrive),
    ("redrive-noted", redrive),
    ("discard-written", discard),
    ("order-due", ordered),
    ("order-moved", ordered),
    ("halt-begun", halt),
    ("halt-stored", halt),
    ("halt-told", halt),
    ("archive-file-written", archive::scene),
    ("archive-files-written", archive::scene),
    ("archive-manifest-written", archive::scene),
    ("archive-list-written", archive::scene),
    ("archive-metadata-written", archive::scene),
    ("archive-swapped", archive::scene),
    ("archive-committed", archive::scene),
    ("archive-expired", archive::upkeep),
    ("archive-orphans-found", archive::upkeep),
    ("upkeep-archive-file-written", archive::upkeep),
    ("upkeep-archive-files-written", archive::upkeep),
    ("upkeep-archive-manifest-written", archive::upkeep),
    ("upkeep-archive-list-written", archive::upkeep),
    ("upkeep-archive-metadata-written", archive::upkeep),
    ("upkeep-archive-swapped", archive::upkeep),
    ("upkeep-archive-committed", archive::upkeep),
];

/// Kills at one place, with a seed of the environment's or a random one.
///
/// # Errors
/// When something does not hold; with the seed that runs it again.
pub fn run(place: &str) -> anyhow::Result<()> {
    let seed = std::env::var("PHRONIS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed} (PHRONIS_SEED={seed} runs it again)");
    let (_, scene) = PLACES.iter().find(|(name, _)| *name == place).context("a place")?;
    println!("{}", scene(place, seed).with_context(|| format!("killed at {place}, seed {seed}"))?);
    Ok(())
}

/// Letters of a broken version come back to the good one, and the host is killed on the way.
fn letters(place: &str, seed: u64) -> anyhow::Result<String> {
    let (room, mut producer) = (room()?, Producer::new(seed));
    let host = Host::start(&room)?;
    ensure!(producer.post(&host, 200)?, "no room");
    room.install(THRESHOLD, &package("phronis-demo-broken", "threshold-broken")?, "")?;
    host.until("letters wait", |host| {
        producer.post(host, 50)?;
        Ok(outstanding(host, "waiting")? > 0)
    })?;
    host.drained("sensors")?;
    host.stop()?;
    room.install(THRESHOLD, &plugin("threshold")?, "")?;
    dies(&room, place, |_| Ok(()))?;
    let host = Host::start(&room)?;
    host.until("the letters came back", |host| {
        producer.post(host, 10)?;
        Ok(outstanding(host, "waiting")? == 0)
    })?;
    told(&check(&room, host, &producer)?)
}

/// All letters of the gate are tried again, and the host is killed on the way.
fn redrive(place: &str, seed: u64) -> anyhow::Result<String> {
    let (room, mut producer, parked) = parked(seed)?;
    dies(&room, place, |host| {
        order(host, "/v1/redrives", &json!({ "stream": "sensors", "all": true, "rate": 100, "reason": "again" }))
    })?;
    let host = Host::start(&room)?;
    ensure!(producer.post(&host, 100)?, "no room");
    host.until("no redrive runs", |host| {
        let jobs = host.get("/v1/redrives?stream=sensors")?;
        let items = jobs.json.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(items.iter().all(|job| job.get("state") == Some(&"done".into())))
    })?;
    // They break the contract as before: each is parked again, none is lost.
    host.until("all are parked again", |host| Ok(outstanding(host, "parked")? >= parked))?;
    told(&check(&room, host, &producer)?)
}

/// All letters are given up, and the host is killed on the way.
fn discard(place: &str, seed: u64) -> anyhow::Result<String> {
    let (room, producer, _) = parked(seed)?;
    let all = json!({ "stream": "sensors", "all": true, "reason": "test data" });
    dies(&room, place, |host| order(host, "/v1/discards", &all))?;
    let host = Host::start(&room)?;
    host.until("none is left", |host| {
        if outstanding(host, "parked")? > 0 {
            order(host, "/v1/discards", &all)?;
        }
        Ok(outstanding(host, "parked")? == 0)
    })?;
    told(&check(&room, host, &producer)?)
}

/// Events wait behind letters of an enricher; these are given up, and the host is killed while the others go on.
fn ordered(place: &str, seed: u64) -> anyhow::Result<String> {
    let retry = "retry = { base = \"1h\", cap = \"2h\" }\n";
    let room = Room::with(&format!("[streams.sensors]\nordered = true\n{retry}"))?;
    let settings = "[params]\nbehaviour = \"fail-negative\"\n[breaker]\nrows = 0\n";
    room.install("default/sensors/moody", &guest("enricher")?, settings)?;
    let host = Host::start(&room)?;
    host.plugin_is("default/sensors/moody", "active")?;
    // Of each third sensor, the first reading stays behind, and all others with it.
    let value = |key: u64, seq: u64| if seq == 0 && key.wrapping_add(seed).is_multiple_of(3) { -1.0 } else { 20.0 };
    for seq in 0..20 {
        let line =
            |key| json!({ "sensor_id": format!("S{key}"), "seq": seq, "value": value(key, seq) }).to_string() + "\n";
        ensure!(host.post("sensors", (0..30).map(line).collect::<String>())?.is_taken());
    }
    host.until("events wait behind others", |host| Ok(outstanding(host, "waiting")? == 200))?;
    host.stop()?;
    dies(&room, place, give_up_failed)?;
    let host = Host::start(&room)?;
    host.until("nobody waits any more", |host| {
        give_up_failed(host)?;
        Ok(outstanding(host, "waiting")? == 0)
    })?;
    host.drained("sensors")?;
    ensure!(host.stop()?.success(), "the host did not end well");
    let report = check_folder(&room.log(), "sensors", Expect::default())?.must_hold()?;
    ensure!((report.delivered, report.order_letters) == (590, 0), "{report}");
    told(&report)
}

/// Gives up the letters of the enricher.
fn give_up_failed(host: &Host) -> anyhow::Result<()> {
    let answer = host.get("/v1/letter_classes?stream=sensors")?;
    let items = answer.json.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    let waits = |item: &&Value| item.get("waiting").and_then(Value::as_u64) > Some(0);
    for class in items.iter().filter(waits).filter_map(|item| item.get("class")?.as_str()) {
        if class.starts_with("enrich/") {
            order(host, "/v1/discards", &json!({ "stream": "sensors", "class": class, "reason": "test data" }))?;
        }
    }
    Ok(())
}

/// An alert halts an agent, and the host is killed on the way.
fn halt(place: &str, seed: u64) -> anyhow::Result<String> {
    let room = room()?;
    room.install("default/agents/threshold", &plugin("threshold")?, LIMIT)?;
    let agent = format!("runaway-{seed}");
    let call = json!({ "agent_id": agent, "status": "active", "metadata": { "calls_in_minute": 501 } }).to_string();
    dies(&room, place, |host| {
        // The answer may come after the end.
        drop(host.post("agents", call.clone().into_bytes()));
        Ok(())
    })?;
    let host = Host::start(&room)?;
    host.until("the agent is halted", |host| Ok(agent_state(host, &agent)? == "halted"))?;
    host.kill()?;
    drop(host);
    let host = Host::start(&room)?;
    ensure!(agent_state(&host, &agent)? == "halted", "it is halted from the first answer on");
    Ok(format!("{agent} is halted"))
}

fn room() -> anyhow::Result<Room> {
    let room = Room::with(CONFIG)?;
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    Ok(room)
}

/// A room whose host ended with letters of the gate, and how many.
fn parked(seed: u64) -> anyhow::Result<(Room, Producer, u64)> {
    let (room, mut producer) = (room()?, Producer::new(seed));
    let host = Host::start(&room)?;
    for _ in 0..10 {
        ensure!(producer.post(&host, 500)?, "no room");
    }
    host.drained("sensors")?;
    host.until("letters are parked", |host| {
        let letters = host.stream("sensors")?;
        let gate = letters.pointer("/counts/gate_letters").and_then(Value::as_u64).unwrap_or_default();
        Ok(gate > 0 && outstanding(host, "parked")? == gate)
    })?;
    let parked = outstanding(&host, "parked")?;
    host.stop()?;
    Ok((room, producer, parked))
}

/// Starts a host that is killed at a place, and waits until it was.
fn dies(room: &Room, place: &str, then: impl FnOnce(&Host) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let host = match Host::start_with(room, &[("PHRONIS_FAIL_AT", place)]) {
        // It was gone before it answered anything.
        Err(error) if error.to_string().contains("PHRONIS_FAIL_AT") => return Ok(()),
        started => started?,
    };
    // It may be gone before it was ever ready.
    let asked = host
        .until("it is ready", |host| Ok(host.is_gone() || host.get("/readyz")?.status == 200))
        .and_then(|()| if host.is_gone() { Ok(()) } else { then(&host) });
    let until = Instant::now() + PATIENCE;
    while !host.is_gone() {
        if Instant::now() > until {
            asked?;
            bail!("the host never came to {place}: {}", host.said());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    ensure!(host.said().contains("PHRONIS_FAIL_AT"), "it ended by itself: {}", host.said());
    Ok(())
}

fn order(host: &Host, path: &str, body: &Value) -> anyhow::Result<()> {
    let headers = [("content-type", "application/json"), ("x-phronis", "1"), ("x-actor", "test")];
    let answer = host.ask(Method::POST, path, &headers, body.to_string().into_bytes())?;
    ensure!((200..300).contains(&answer.status), "{path}: {}: {}", answer.status, answer.text);
    Ok(())
}

fn outstanding(host: &Host, state: &str) -> anyhow::Result<u64> {
    let answer = host.get("/v1/letter_classes?stream=sensors")?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text);
    let items = answer.json.get("items").and_then(Value::as_array).context("classes")?;
    Ok(items.iter().filter_map(|class| class.get(state).and_then(Value::as_u64)).sum())
}

fn agent_state(host: &Host, agent: &str) -> anyhow::Result<String> {
    Ok(host.get(&format!("/v1/agents/{agent}"))?.str("/state").to_owned())
}

fn check(room: &Room, host: Host, producer: &Producer) -> anyhow::Result<Report> {
    host.drained("sensors")?;
    ensure!(host.stop()?.success(), "the host did not end well");
    let expect = Expect { acknowledged: producer.acknowledged.clone(), ..judged_by("threshold", 90.0) };
    check_folder(&room.log(), "sensors", expect)?.must_hold()
}

fn told(report: &Report) -> anyhow::Result<String> {
    Ok(report.to_string().lines().next().unwrap_or_default().to_owned())
}
