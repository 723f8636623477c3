//! An ordered stream on both logs: no event is delivered before an earlier one of its key, wherever the host is killed.

use std::time::Duration;

use anyhow::ensure;
use phronis_tests::checker::{Expect, check_folder, check_kafka};
use phronis_tests::host::{Host, Room};
use phronis_tests::kafka::Broker;
use phronis_tests::plugins::guest;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use crate::reading;

const MOODY: &str = "default/sensors/moody";
/// So many that most of them are well: what waits is far below the bound.
const KEYS: usize = 200;
const STREAM: &str = "[streams.sensors]\nordered = true\npartitions = 2\n\
                      retry = { base = \"50ms\", cap = \"200ms\", attempts = 100000 }\n";

#[test]
fn each_key_stays_in_order_through_kills_on_the_embedded_log() -> anyhow::Result<()> {
    stays_in_order(None, false)
}

#[test]
fn each_key_stays_in_order_through_kills_on_kafka() -> anyhow::Result<()> {
    stays_in_order(Some(&Broker::start()?), false)
}

#[test]
fn each_key_stays_in_order_through_kills_on_kafka_where_once_is_asked() -> anyhow::Result<()> {
    stays_in_order(Some(&Broker::start()?), true)
}

/// Readings of some sensors; the enricher has no answer for those that are negative.
struct Readings {
    chance: StdRng,
    seqs: [u64; KEYS],
}

impl Readings {
    fn body(&mut self) -> String {
        let one = |_| {
            let key = self.chance.random_range(0..KEYS);
            let seq = self.seqs.get_mut(key).map_or(0, |seq| std::mem::replace(seq, *seq + 1));
            let value = if self.chance.random_range(0..200) == 0 { -1.0 } else { 20.0 };
            reading(&format!("S{key}"), seq, value)
        };
        (0..20).map(one).collect()
    }

    /// Posts until the host does not answer.
    fn post(&mut self, host: &Host) {
        while host.post("sensors", self.body()).is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn behave(room: &Room, behaviour: &str) -> anyhow::Result<()> {
    // Each failure is to be seen: no breaker may open.
    room.install(MOODY, &guest("enricher")?, &format!("[params]\nbehaviour = \"{behaviour}\"\n[breaker]\nrows = 0\n"))
}

fn stays_in_order(broker: Option<&Broker>, exactly_once: bool) -> anyhow::Result<()> {
    let seed = std::env::var("PHRONIS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed} (PHRONIS_SEED={seed} runs it again)");
    let mut config = String::new();
    if let Some(broker) = broker {
        config += &format!("[log]\nkind = \"kafka\"\nbootstrap = \"{}\"\nauto_create = true\n", broker.bootstrap());
    }
    let room = Room::with(&format!("{config}{STREAM}exactly_once = {exactly_once}\n"))?;
    behave(&room, "fail-negative")?;
    let mut readings = Readings { chance: StdRng::seed_from_u64(seed), seqs: [0; KEYS] };
    for _ in 0..4 {
        killed_under_load(&room, &mut readings)?;
    }
    let host = Host::start(&room)?;
    // However few were posted in the short lives before.
    host.until("some wait", |host| {
        ensure!(host.post("sensors", readings.body())?.is_taken());
        Ok(waiting(host, "enrich")? > 0 && waiting(host, "order")? > 0)
    })?;
    drop(host);

    // The enricher is well again: all of it comes back, and the host is killed in the middle of that.
    behave(&room, "honest")?;
    killed_under_load(&room, &mut readings)?;
    let host = Host::start(&room)?;
    host.until("nobody waits any more", |host| Ok(waiting(host, "enrich")? + waiting(host, "order")? == 0))?;
    host.drained("sensors")?;
    let expect = || Expect { is_ordered: true, may_repeat: broker.is_some() && !exactly_once, ..Expect::default() };
    if let Some(broker) = broker {
        // The host counts letters a moment after they are written: that none is left, the topics say.
        host.until("all came back, as the topics say", |_| {
            let report = check_kafka(&broker.bootstrap(), "sensors", expect())?;
            Ok(report.delivered == report.received)
        })?;
    }
    ensure!(host.stop()?.success());

    let report = match broker {
        Some(broker) => check_kafka(&broker.bootstrap(), "sensors", expect())?,
        None => check_folder(&room.log(), "sensors", expect())?,
    }
    .must_hold()?;
    println!("{report}");
    ensure!(report.delivered == report.received && report.settled > 0, "{report}");
    Ok(())
}

fn killed_under_load(room: &Room, readings: &mut Readings) -> anyhow::Result<()> {
    let host = Host::start(room)?;
    let life = Duration::from_millis(readings.chance.random_range(300..2000));
    std::thread::scope(|scope| {
        let load = scope.spawn(|| readings.post(&host));
        std::thread::sleep(life);
        let killed = host.kill();
        drop(load.join());
        killed
    })
}

/// Letters of a stage that will come back.
fn waiting(host: &Host, stage: &str) -> anyhow::Result<u64> {
    let answer = host.get("/v1/letter_classes?stream=sensors")?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text);
    let items = answer.json.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    let of_stage =
        |class: &&Value| class.get("class").and_then(Value::as_str).is_some_and(|name| name.starts_with(stage));
    Ok(items.iter().filter(of_stage).filter_map(|class| class.get("waiting").and_then(Value::as_u64)).sum())
}
