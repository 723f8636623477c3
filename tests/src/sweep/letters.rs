//! Letters on their way back, given up and edited, while the host is killed.

use anyhow::Context as _;
use serde_json::{Value, json};

use super::stage::{Base, Stage, dies, order};
use crate::checker::{Expect, judged_by};
use crate::host::Host;
use crate::load::Producer;
use crate::plugins::{guest, package, plugin};

const SETTINGS: &str = "[params]\nhigh = 90.0\n[breaker]\nopen_for = \"1s\"\n";

/// Letters come back soon, and however often a slow machine needs.
const RETRY: &str = "retry = { base = \"100ms\", cap = \"1s\", attempts = 100000 }";

/// Letters of a broken version come back to the good one, and the host is killed on the way.
pub(super) fn returned(base: Base, place: &str, seed: u64) -> anyhow::Result<String> {
    let (stage, mut producer) = set(base, seed)?;
    let id = stage.plugin("threshold");
    let host = Host::start(&stage.room)?;
    host.until("it takes events", |host| producer.post(host, 200))?;
    stage.room.install(&id, &package("phronis-demo-broken", "threshold-broken")?, "")?;
    host.until("letters wait", |host| {
        producer.post(host, 50)?;
        Ok(stage.letters(host, "waiting")? > 0)
    })?;
    host.drained(&stage.stream)?;
    host.stop()?;
    stage.room.install(&id, &plugin("threshold")?, "")?;
    dies(&stage.room, place, |_| Ok(()))?;
    let rests = |host: &Host, producer: &mut Producer| {
        // A breaker that was open closes by what comes in.
        producer.post(host, 10)?;
        Ok(stage.letters(host, "count")? > 0 && stage.letters(host, "waiting")? == 0)
    };
    let host = Host::start(&stage.room)?;
    stage.ends(host, &mut producer, rests, judged, |report| report.detectors.values().all(|one| one.letters == 0))
}

/// What [`PLACES`](super::PLACES) calls a step of a letter's last attempt.
const LAST: &str = "last-";

/// A letter fails for the last time, and the host is killed around that: it is parked, once.
pub(super) fn exhausted(base: Base, place: &str, seed: u64) -> anyhow::Result<String> {
    let stage = Stage::new(base, "sensors", "retry = { base = \"100ms\", cap = \"200ms\", attempts = 3 }")?;
    let (id, settings) = (stage.plugin("moody"), "[params]\nbehaviour = \"fail-every-row\"\n[breaker]\nrows = 0\n");
    stage.room.install(&id, &guest("detector")?, settings)?;
    let event = json!({ "sensor_id": "S1", "seq": seed % 1000, "value": 20.0 }).to_string();
    // The second attempt comes back once, and the third one, which is the last, is the second that does.
    let step = place.strip_prefix(LAST).context("a step of the last attempt")?;
    dies(&stage.room, &format!("{step}:2"), |host| {
        host.plugin_is(&id, "active")?;
        host.until("the event is taken", |host| {
            Ok(host.is_gone() || host.post(&stage.stream, event.clone())?.is_taken())
        })
    })?;
    let rests = |host: &Host, _: &mut Producer| {
        let page = host.get(&format!("/v1/letters?stream={}", stage.stream))?;
        let letters = page.json.get("items").and_then(Value::as_array).context("letters")?;
        let is_last = |letter: &Value| letter.get("attempt") == Some(&3.into());
        let is_parked = |letter: &Value| letter.get("state") == Some(&"parked".into());
        Ok(!letters.is_empty() && letters.iter().all(|letter| is_last(letter) && is_parked(letter)))
    };
    let expect = |_: &Producer| Expect { detectors: ["moody".to_owned()].into(), ..Expect::default() };
    let host = Host::start(&stage.room)?;
    stage.ends(host, &mut Producer::of(seed, &stage.stream), rests, expect, |report| {
        report.delivered > 0 && report.detectors.get("moody").is_some_and(|moody| moody.letters == report.delivered)
    })
}

/// All letters of the gate are tried again, and the host is killed on the way.
pub(super) fn redrive(base: Base, place: &str, seed: u64) -> anyhow::Result<String> {
    let (stage, mut producer, parked) = parked(base, seed)?;
    dies(&stage.room, place, |host| {
        let all = json!({ "stream": stage.stream, "all": true, "rate": 100, "reason": "again" });
        order(host, "/v1/redrives", &all)
    })?;
    let host = Host::start(&stage.room)?;
    host.until("it takes events", |host| producer.post(host, 100))?;
    // They break the contract as before: each is parked again, none is lost.
    let rests = |host: &Host, _: &mut Producer| {
        let jobs = host.get(&format!("/v1/redrives?stream={}", stage.stream))?;
        let jobs = jobs.json.get("items").and_then(Value::as_array).context("redrives")?;
        let is_done = !jobs.is_empty() && jobs.iter().all(|job| job.get("state") == Some(&"done".into()));
        Ok(is_done && stage.letters(host, "parked")? >= parked)
    };
    stage.ends(host, &mut producer, rests, judged, |_| true)
}

/// All letters are given up, and the host is killed on the way.
pub(super) fn discard(base: Base, place: &str, seed: u64) -> anyhow::Result<String> {
    let (stage, mut producer, parked) = parked(base, seed)?;
    let all = json!({ "stream": stage.stream, "all": true, "reason": "test data" });
    dies(&stage.room, place, |host| order(host, "/v1/discards", &all))?;
    let rests = |host: &Host, _: &mut Producer| {
        stage.give_up(host, "gate/", "parked")?;
        Ok(stage.letters(host, "count")? >= parked && stage.letters(host, "parked")? == 0)
    };
    let host = Host::start(&stage.room)?;
    stage.ends(host, &mut producer, rests, judged, |_| true)
}

/// A letter is edited, and the host is killed on the way: its event may be there twice, and is not lost.
pub(super) fn edit(base: Base, place: &str, seed: u64) -> anyhow::Result<String> {
    let (stage, mut producer, parked) = parked(base, seed)?;
    let copy = json!({ "sensor_id": "S1", "value": 20.0 });
    let mut path = String::new();
    dies(&stage.room, place, |host| {
        host.until("a letter is there", |host| {
            let page = host.get(&format!("/v1/letters?stream={}&limit=1", stage.stream))?;
            let found = page.str("/items/0/place");
            path = format!("/v1/letters/{}/{found}/edit", stage.stream);
            Ok(!found.is_empty())
        })?;
        order(host, &path, &copy)
    })?;
    let host = Host::start(&stage.room)?;
    // On one machine both are one write. On Kafka the letter is still there, and whoever was not answered edits it again.
    let copies = match base {
        Base::Local => 1,
        Base::Remote => {
            order(&host, &path, &copy)?;
            2
        }
    };
    let posted = (producer.answered + copies)..=(producer.sent + copies);
    let rests = |host: &Host, _: &mut Producer| Ok(stage.letters(host, "parked")? == parked - 1);
    stage.ends(host, &mut producer, rests, judged, |report| posted.contains(&report.received))
}

fn judged(producer: &Producer) -> Expect<'static> {
    Expect { acknowledged: producer.acknowledged.clone(), ..judged_by("threshold", 90.0) }
}

fn set(base: Base, seed: u64) -> anyhow::Result<(Stage, Producer)> {
    let stage = Stage::new(base, "sensors", RETRY)?;
    stage.room.install(&stage.plugin("threshold"), &plugin("threshold")?, SETTINGS)?;
    let producer = Producer::of(seed, &stage.stream);
    Ok((stage, producer))
}

/// A stage whose host ended with letters of the gate, and how many.
fn parked(base: Base, seed: u64) -> anyhow::Result<(Stage, Producer, u64)> {
    let (stage, mut producer) = set(base, seed)?;
    let host = Host::start(&stage.room)?;
    for _ in 0..10 {
        host.until("it takes events", |host| producer.post(host, 500))?;
    }
    host.drained(&stage.stream)?;
    let mut parked = 0;
    host.until("letters are parked", |host| {
        let stream = host.stream(&stage.stream)?;
        let gate = stream.pointer("/counts/gate_letters").and_then(Value::as_u64).unwrap_or_default();
        parked = stage.letters(host, "parked")?;
        Ok(gate > 0 && parked == gate)
    })?;
    host.stop()?;
    Ok((stage, producer, parked))
}
