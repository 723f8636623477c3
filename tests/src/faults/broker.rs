//! Brokers that are killed, frozen, full, or come late.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{is_ready, line, options};
use crate::fleet::{Fleet, Load, Node, Written};
use crate::host::Answer;
use crate::kafka::{self, Broker};
use crate::mount::Mount;

/// The broker is killed under load and comes back.
pub(super) fn is_killed(seed: u64) -> anyhow::Result<String> {
    let broker = Broker::start()?;
    let on = |exactly_once| Fleet::on(&broker.bootstrap(), &broker.bootstrap(), "broker", options(exactly_once));
    let fleets = [on(false)?, on(true)?];
    let [loose, strict] = &fleets;
    let mut nodes = [loose.start("a")?, strict.start("a")?];
    let load = Load { rate: 800, ..Load::new(seed) };
    let writers = [loose.write(load)?, strict.write(load)?];
    let [paced, _] = &writers;
    paced.writes(1500)?;
    broker.kill()?;
    broker.restart()?;
    paced.writes(1500)?;
    let mut told = Vec::new();
    for ((fleet, node), writer) in fleets.iter().zip(&mut nodes).zip(writers) {
        let written = writer.stop()?;
        fleet.drained(&[node])?;
        is_ready(node)?;
        node.stop()?;
        told.push(line(&fleet.judge(&written)?));
    }
    Ok(told.join("; exactly once: "))
}

/// Nobody answers when the host starts.
pub(super) fn comes_late(_: u64) -> anyhow::Result<String> {
    let broker = Broker::start()?;
    let fleet = Fleet::on(&broker.bootstrap(), &broker.bootstrap(), "late", options(false))?;
    broker.stop()?;
    let mut node = fleet.node("a")?;
    node.start_unready(&[])?;
    let host = node.host()?;
    ensure!(host.get("/livez")?.status == 200);
    let text = |check: &Value, name: &str| check.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    host.until("it says why it is not ready", |host| {
        let ready = host.get("/readyz")?;
        ensure!(ready.status == 503, "{}: {}", ready.status, ready.text);
        let mut checks = ready.json.pointer("/checks").and_then(|checks| checks.as_array()).into_iter().flatten();
        let log = checks.find(|check| text(check, "name") == "log").with_context(|| ready.text.clone())?;
        Ok(text(log, "detail").contains("PH3005"))
    })?;
    let answer = host.post(fleet.stream(), event(1))?;
    ensure!(answer.status == 503 && answer.retry_after.is_some(), "{}: {}", answer.status, answer.text);
    // Long enough for several tries.
    std::thread::sleep(Duration::from_secs(5));
    let warnings = warnings(&host.said());
    ensure!(warnings.keys().any(|(_, code)| code == "PH3005"), "{}", host.said());
    ensure!(warnings.values().all(|count| *count <= 2), "the same again and again: {warnings:?}");

    broker.restart()?;
    is_ready(&node)?;
    let host = node.host()?;
    let answer = host.post(fleet.stream(), event(2))?;
    ensure!(answer.status == 202, "{}: {}", answer.status, answer.text);
    fleet.drained(&[&node])?;
    node.stop()?;
    let written = Written { sent: 1, acknowledged: answer.ranges(), ..Written::default() };
    Ok(format!("{} warnings; {}", warnings.len(), line(&fleet.judge(&written)?)))
}

/// How often each warning was said, by its words and its code.
fn warnings(said: &str) -> BTreeMap<(String, String), usize> {
    let mut warnings = BTreeMap::new();
    for line in said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        if text("level") == "WARN" {
            *warnings.entry((text("message"), text("code"))).or_default() += 1;
        }
    }
    warnings
}

/// Hosts are told to end while the broker stands still: they end, in order or hard, and lose nothing.
pub(super) fn is_frozen(seed: u64) -> anyhow::Result<String> {
    let broker = Broker::start()?;
    let on = |exactly_once| Fleet::on(&broker.bootstrap(), &broker.bootstrap(), "frozen", options(exactly_once));
    let fleets = [on(false)?, on(true)?];
    let [loose, strict] = &fleets;
    let mut nodes = [loose.start("a")?, strict.start("a")?];
    let load = Load { rate: 800, ..Load::new(seed) };
    let writers = [loose.write(load)?, strict.write(load)?];
    let [paced, _] = &writers;
    paced.writes(1000)?;
    broker.pause()?;
    let codes: Vec<Option<i32>> = nodes.iter_mut().map(Node::end).collect::<anyhow::Result<_>>()?;
    ensure!(codes.iter().all(|code| matches!(code, Some(0 | 1))), "they ended with {codes:?}");
    broker.resume()?;
    let mut told = Vec::new();
    for ((fleet, node), writer) in fleets.iter().zip(&mut nodes).zip(writers) {
        node.start()?;
        let written = writer.stop()?;
        fleet.drained(&[node])?;
        is_ready(node)?;
        node.stop()?;
        told.push(line(&fleet.judge(&written)?));
    }
    Ok(format!("exit codes {codes:?}; {}", told.join("; exactly once: ")))
}

/// The broker's disk is full.
pub(super) fn is_full(seed: u64) -> anyhow::Result<String> {
    let Some(mount) = Mount::new("192m")? else {
        return Ok("skipped: mounting a small file system needs root".to_owned());
    };
    let settings = [("log.index.size.max.bytes", "65536"), ("log.segment.bytes", "4194304")];
    let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let data = mount.path().join("data");
    let broker = Broker::with(kafka::Options { data: Some(data), settings, ..kafka::Options::default() })?;
    let fleet = Fleet::on(&broker.bootstrap(), &broker.bootstrap(), "full", options(false))?;
    let mut node = fleet.start("a")?;
    let writer = fleet.write(Load::new(seed))?;
    writer.writes(1000)?;
    let ballast = mount.path().join("ballast");
    fill(&ballast)?;
    let mut refused = None;
    node.host()?.until("it says that nothing can be taken", |host| {
        let ready = host.get("/readyz")?;
        let answer = host.post(fleet.stream(), event(0))?;
        let is_refused = is_refused(&answer);
        refused = Some((answer.status, answer.str("/code").to_owned()));
        ensure!(ready.status == 503 && is_refused, "{} {}: {}", ready.text, answer.status, answer.text);
        Ok(true)
    })?;
    ensure!(node.host()?.get("/livez")?.status == 200);

    std::fs::remove_file(&ballast)?;
    // A broker that could not write has ended.
    broker.kill()?;
    broker.restart()?;
    writer.writes(1000)?;
    let written = writer.stop_with_refusals()?;
    fleet.drained(&[&node])?;
    is_ready(&node)?;
    node.stop()?;
    // What was posted or written while the disk was full may stand in raw or not: it was told so.
    let report = crate::checker::check_kafka(fleet.direct(), fleet.stream(), fleet.expect(&written))?.must_hold()?;
    ensure!(report.received >= written.sent, "{} were written, the report is: {report}", written.sent);
    let others = written.refused.len();
    Ok(format!("refused with {refused:?}, and {others} of another producer; {}", line(&report)))
}

/// 503 or 429, with the time to come again.
fn is_refused(answer: &Answer) -> bool {
    matches!(answer.status, 429 | 503) && answer.retry_after.is_some()
}

fn event(seq: u64) -> String {
    format!("{{\"sensor_id\":\"posted {seq}\",\"value\":20.5}}\n")
}

/// Takes all the room that there is.
fn fill(path: &std::path::Path) -> anyhow::Result<()> {
    let mut file = std::fs::File::create(path)?;
    for size in [1 << 20, 4096] {
        // The error is the end of the room.
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    Ok(())
}
