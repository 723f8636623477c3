//! Topics that are deleted, grow, forget, or refuse.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Value, json};

use super::{is_late, is_ready, is_told, line, options};
use crate::fleet::{Fleet, HIGH, Load, Node, Options, Written};
use crate::host::Host;
use crate::kafka::{self, Admin, Broker, Isolation, produce, read_all};

/// A topic of outputs is deleted while the host runs, and made again. The broker makes topics that are asked for, as brokers
/// do unless told otherwise: the host must not ask.
pub(super) fn is_deleted(seed: u64) -> anyhow::Result<String> {
    let settings = vec![("auto.create.topics.enable".to_owned(), "true".to_owned())];
    let broker = Broker::with(kafka::Options { settings, ..kafka::Options::default() })?;
    let fleet = Fleet::on(&broker.bootstrap(), &broker.bootstrap(), "deleted", eager(4))?;
    let mut node = fleet.start("a")?;
    let topics = fleet.topics()?;
    Admin::new(fleet.direct())?.delete(&topics.processed)?;
    let written = fleet.write(Load { most: 3000, ..Load::new(seed) })?.finish()?;
    is_told(&node, &fleet, &[&topics.processed])?;
    is_late(&node, &fleet)?;
    ensure!(fleet.lag()? > 0, "offsets moved on without an output");
    fleet.create_topics(&[])?;
    fleet.drained(&[&node])?;
    is_ready(&node)?;
    node.stop()?;
    Ok(line(&fleet.judge(&written)?))
}

/// The topic that events come in by is deleted before there were any, and made again.
pub(super) fn raw_is_deleted(seed: u64) -> anyhow::Result<String> {
    let fleet = Fleet::shared("no-raw", eager(4))?;
    let mut node = fleet.start("a")?;
    node.host()?.until("it has all partitions", |_| Ok(node.owned().len() == 4))?;
    Admin::new(fleet.direct())?.delete(&fleet.topics()?.raw)?;
    patiently(&node, "it says so", |host| Ok(host.said().contains("there is no topic")))?;
    fleet.create_topics(&[])?;
    let written = fleet.write(Load { most: 2000, ..Load::new(seed) })?.finish()?;
    fleet.drained(&[&node])?;
    is_ready(&node)?;
    node.stop()?;
    Ok(line(&fleet.judge(&written)?))
}

/// The topic of live settings is deleted, and made again: what was in force stays, and can be changed afterwards.
pub(super) fn settings_are_deleted(_: u64) -> anyhow::Result<String> {
    let broker = Broker::start()?;
    let fleet = Fleet::on(&broker.bootstrap(), &broker.bootstrap(), "no-settings", eager(1))?;
    let mut node = fleet.start("a")?;
    let id = fleet.plugin("threshold");
    let high = |host: &Host| Ok::<_, anyhow::Error>(host.plugin(&id)?.pointer("/params/high").and_then(Value::as_f64));
    let set = |host: &Host, wanted: f64| {
        host.until("the limit is taken and in force", |host| {
            let put = host.put(&format!("/v1/plugins/{id}/params"), &json!({ "high": wanted }))?;
            ensure!(put.status == 200, "{}: {}", put.status, put.text);
            Ok(high(host)? == Some(wanted))
        })
    };
    set(node.host()?, 60.0)?;
    Admin::new(fleet.direct())?.delete("phronis.config")?;
    patiently(&node, "it says so", |host| Ok(host.said().contains("live settings cannot be read")))?;
    fleet.create_topics(&[])?;
    patiently(&node, "it reads again", |host| Ok(host.said().contains("live settings can be read again")))?;
    ensure!(high(node.host()?)? == Some(60.0), "the last settings stay in force");
    set(node.host()?, 70.0)?;
    is_ready(&node)?;
    node.stop()?;
    Ok("60 stayed in force, then 70".to_owned())
}

/// The topic on which hosts hear of each other is deleted, and made again: who was halted stands there again, and halts are heard.
pub(super) fn control_is_deleted(_: u64) -> anyhow::Result<String> {
    const TOPIC: &str = "phronis.control";
    let broker = Broker::start()?;
    let fleet = Fleet::on(&broker.bootstrap(), &broker.bootstrap(), "no-control", eager(2))?;
    let mut nodes = [fleet.start("a")?, fleet.start("b")?];
    let [a, b] = &nodes;
    let halt = |node: &Node, agent: &str| {
        let body = json!({ "reason": "test" }).to_string().into_bytes();
        let headers = [("content-type", "application/json"), ("x-phronis", "1"), ("x-actor", "test")];
        let answer = node.host()?.ask(Method::POST, &format!("/v1/agents/{agent}/halt"), &headers, body)?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text);
        Ok(())
    };
    let is_halted = |host: &Host, agent: &str| Ok(host.get(&format!("/v1/agents/{agent}"))?.str("/state") == "halted");
    halt(a, "first")?;
    b.host()?.until("the other host hears of it", |host| is_halted(host, "first"))?;
    Admin::new(fleet.direct())?.delete(TOPIC)?;
    for node in [a, b] {
        patiently(node, "it says so", |host| Ok(host.said().contains("what other hosts run cannot be read")))?;
    }
    fleet.create_topics(&[])?;
    for node in [a, b] {
        patiently(node, "it reads again", |host| Ok(host.said().contains("phronis.control was made anew")))?;
    }
    halt(a, "second")?;
    patiently(b, "the other host hears of the next one", |host| is_halted(host, "second"))?;
    ensure!(is_halted(b.host()?, "first")?, "the first one is halted no more");
    patiently(b, "both stand in the new topic", |_| {
        let records = read_all(fleet.direct(), TOPIC, Isolation::Committed)?;
        let stands = |agent: &str| {
            records.iter().filter_map(|record| record.key.as_deref()).any(|key| key.ends_with(agent.as_bytes()))
        };
        Ok(stands("first") && stands("second"))
    })?;
    for node in &mut nodes {
        is_ready(node)?;
        node.stop()?;
    }
    Ok("two agents are halted on both hosts".to_owned())
}

/// A client of Kafka believes that a topic is gone only after a while.
fn patiently(node: &Node, what: &str, mut holds: impl FnMut(&Host) -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let host = node.host()?;
    host.until(what, &mut holds).or_else(|_| host.until(what, &mut holds))
}

/// Raw gets partitions that the outputs do not have.
pub(super) fn grows(seed: u64) -> anyhow::Result<String> {
    let mut fleet = Fleet::shared("grown", eager(2))?;
    let mut node = fleet.start("a")?;
    let first = fleet.write(Load { most: 1000, ..Load::new(seed) })?.finish()?;
    let topics = fleet.topics()?;
    Admin::new(fleet.direct())?.add_partitions(&topics.raw, 4)?;
    // Other keys: those of before may have moved, and their order with them.
    let second = fleet.write(Load { most: 2000, name: 'M', ..Load::new(seed) })?.finish()?;
    is_told(&node, &fleet, &["has no partition", "phronis topics"])?;
    // The old partitions go on.
    let are_done = || Ok::<_, anyhow::Error>(fleet.places()?.iter().all(|at| at.partition > 1 || at.lag() == 0));
    node.host()?.until("the old partitions are done", |_| are_done())?;
    ensure!(fleet.lag()? > 0, "partitions without outputs were committed");
    fleet.repartition(4)?;
    fleet.create_topics(&["--add-partitions"])?;
    fleet.drained(&[&node])?;
    is_ready(&node)?;
    node.stop()?;
    Ok(line(&fleet.judge(&first.and(second))?))
}

/// Records are deleted before they were judged.
pub(super) fn forgets(seed: u64) -> anyhow::Result<String> {
    /// Records of partition 0 that nobody will ever judge.
    const GONE: i64 = 50;
    let fleet = Fleet::shared("gone", eager(4))?;
    let mut node = fleet.start("a")?;
    node.stop()?;
    let written = fleet.write(Load { most: 3000, ..Load::new(seed) })?.finish()?;
    Admin::new(fleet.direct())?.delete_records(&fleet.topics()?.raw, 0, GONE)?;

    node.start_unready(&[])?;
    is_told(&node, &fleet, &["partition 0 stopped", "50 records are gone", "PH3002"])?;
    let places = |wanted: &dyn Fn(i32, i64) -> bool| {
        let places = fleet.places()?;
        ensure!(places.iter().all(|place| wanted(place.partition, place.lag())), "{places:?}");
        Ok(true)
    };
    node.host()?.until("the other partitions are done", |_| places(&|partition, lag| partition == 0 || lag == 0))?;
    std::thread::sleep(Duration::from_secs(2));
    let stopped = *fleet.places()?.first().context("a partition")?;
    ensure!(stopped.committed.is_none_or(|at| at == 0), "records were skipped: {stopped:?}");

    node.stop()?;
    fleet.reset(0, GONE)?;
    node.start()?;
    fleet.drained(&[&node])?;
    node.stop()?;
    let acknowledged = written.acknowledged.iter().filter(|(partition, ..)| *partition != 0).copied().collect();
    let sent = written.sent - u64::try_from(GONE)?;
    let left = Written { sent, acknowledged, ..Written::default() };
    Ok(line(&fleet.judge(&left)?))
}

/// The topic of processed events takes less than raw does.
pub(super) fn refuses_large_events(seed: u64) -> anyhow::Result<String> {
    /// What the topics take at most; many small records in one batch are more than that.
    const MOST: usize = 8000;
    let bootstrap = Broker::shared()?.bootstrap();
    let log = format!("max_record_bytes = \"{MOST}B\"\n");
    let fleet = Fleet::shared("large", Options { log, ..options(false) })?;
    let topics = fleet.topics()?;
    for topic in [&topics.raw, &topics.dlq, &topics.retry] {
        Admin::new(&bootstrap)?.alter(topic, &[("max.message.bytes", "1000000")])?;
    }
    let mut node = fleet.start("a")?;
    let written = fleet.write(Load { most: 2000, ..Load::new(seed) })?.finish()?;
    let mut chance = StdRng::seed_from_u64(seed);
    let mut large = |at: u32| {
        // Text that does not compress: Kafka's limit holds for what is compressed.
        let note: String = (0..2 * MOST).map(|_| char::from(chance.random_range(b'!'..b'z').max(b'#'))).collect();
        let value = if at.is_multiple_of(2) { HIGH + 5.0 } else { HIGH - 5.0 };
        let event = json!({"sensor_id": format!("L{at}"), "seq": 1, "value": value, "note": note});
        (format!("L{at}"), event.to_string())
    };
    let count = produce(&bootstrap, &topics.raw, (0..4).map(&mut large))?;
    let more = fleet.write(Load { most: 1000, name: 'M', ..Load::new(seed) })?.finish()?;
    fleet.drained(&[&node])?;
    is_ready(&node)?;
    node.stop()?;
    let mut all = written.and(more);
    all.sent += count;
    let report = fleet.judge(&all)?;
    ensure!((report.deliver_letters, report.letters_with("PH3006")) == (count, count), "{report}");
    Ok(line(&report))
}

/// What follows from events goes to topics that take less than the configuration says: each record fits, and so must each batch.
pub(super) fn takes_small_batches(seed: u64) -> anyhow::Result<String> {
    let admin = Admin::new(&Broker::shared()?.bootstrap())?;
    let mut told = Vec::new();
    for exactly_once in [false, true] {
        let fleet = Fleet::shared("small", options(exactly_once))?;
        let topics = fleet.topics()?;
        for topic in [&topics.processed, &topics.alerts, &topics.dlq, &topics.retry, &topics.state] {
            admin.alter(topic, &[("max.message.bytes", "6000")])?;
        }
        // All of it is there when the host begins, so that batches are as large as they get.
        let written = fleet.write(Load { most: 5000, rate: 0, ..Load::new(seed) })?.finish()?;
        let mut node = fleet.start("a")?;
        fleet.drained(&[&node])?;
        is_ready(&node)?;
        node.stop()?;
        told.push(line(&fleet.judge(&written)?));
    }
    Ok(told.join("; exactly once: "))
}

/// A host that sees changed topics soon.
fn eager(partitions: i32) -> Options {
    let mut options = Options { partitions, ..options(false) };
    options.properties.push(("topic.metadata.refresh.interval.ms", "1000".to_owned()));
    options
}
