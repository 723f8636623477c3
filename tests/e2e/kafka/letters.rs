//! Letters that come back through Kafka: judged once, also when the host dies while they do.
//! The test moves letters to the retry topic itself, and the stream's own waits are longer than the test.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use phronis_tests::checker::{Expect, check_kafka};
use phronis_tests::fleet::{Fleet, Load, Node, Options};
use phronis_tests::host::PATIENCE;
use phronis_tests::kafka::{Isolation, NewRecord, Record, produce, read_all};
use phronis_tests::plugins::guest;

const EVENTS: u64 = 120;

/// A header of a record; the last of its name is the host's own.
fn header(record: &Record, name: &str) -> String {
    let value = record.headers.iter().rev().find(|(own, _)| own == name).map(|(_, value)| value.as_slice());
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}

/// Moves letters to the retry topic, as they stand.
fn bring_back(fleet: &Fleet, letters: &[Record]) -> anyhow::Result<()> {
    let back = letters.iter().map(|letter| {
        let mut headers = letter.headers.clone();
        headers.push(("phronis-letter-offset".to_owned(), letter.offset.to_string().into_bytes()));
        NewRecord {
            key: letter.key.clone(),
            value: letter.value.clone(),
            headers,
            partition: Some(letter.partition),
            ..NewRecord::default()
        }
    });
    produce(fleet.direct(), &fleet.topics()?.retry, back)?;
    Ok(())
}

fn behave(fleet: &Fleet, node: &Node, behaviour: &str) -> anyhow::Result<()> {
    // Each failure is to be seen: no breaker may open.
    let settings = format!("[params]\nbehaviour = \"{behaviour}\"\n[breaker]\nrows = 0\n");
    node.room().install(&fleet.plugin("moody"), &guest("detector")?, &settings)
}

/// How often each letter was settled as judged.
fn settled(fleet: &Fleet) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut ids = BTreeMap::new();
    for record in read_all(fleet.direct(), &fleet.topics()?.dlq, Isolation::Committed)? {
        if header(&record, "phronis-settled") == "judged" {
            *ids.entry(header(&record, "phronis-id")).or_default() += 1;
        }
    }
    Ok(ids)
}

fn come_back(name: &str, exactly_once: bool) -> anyhow::Result<()> {
    let stream = "retry = { base = \"1h\", cap = \"2h\" }".to_owned();
    let fleet = Fleet::shared(name, Options { stream, exactly_once, ..Options::default() })?;
    let mut node = fleet.node("a")?;
    behave(&fleet, &node, "fail-every-row")?;
    node.start()?;
    let written = fleet.write(Load { most: EVENTS, ..Load::new(7) })?.finish()?;
    fleet.drained(&[&node])?;
    let letters = read_all(fleet.direct(), &fleet.topics()?.dlq, Isolation::Committed)?;
    let letters: Vec<Record> = letters.into_iter().filter(|l| header(l, "phronis-plugin") == "moody").collect();
    // A few events break the contract or have no value to judge.
    ensure!(letters.len() as u64 > written.sent / 2, "{} letters of {} events", letters.len(), written.sent);
    ensure!(letters.iter().all(|letter| !header(letter, "phronis-due-at").is_empty()), "they are to come back");

    behave(&fleet, &node, "honest")?;
    node.host()?.until("the detector is well", |host| {
        Ok(host.plugin(&fleet.plugin("moody"))?.pointer("/params/behaviour").is_some_and(|b| b == "honest"))
    })?;
    let (first, second) = letters.split_at(letters.len() / 2);
    bring_back(&fleet, first)?;
    node.kill()?;
    node.start()?;
    bring_back(&fleet, second)?;
    let until = Instant::now() + PATIENCE;
    while settled(&fleet)?.len() < letters.len() {
        ensure!(Instant::now() < until, "only {} are settled{}", settled(&fleet)?.len(), node.last_words());
        std::thread::sleep(Duration::from_millis(100));
    }
    node.stop()?;

    let repeated = settled(&fleet)?.values().filter(|count| **count > 1).count();
    ensure!(!exactly_once || repeated == 0, "{repeated} letters were settled twice");
    let expect = Expect { may_repeat: !exactly_once, ..Expect::default() };
    let report = check_kafka(fleet.direct(), fleet.stream(), expect)?.must_hold()?;
    let moody = report.detectors.get("moody").copied().context("the detector said something")?;
    ensure!((moody.letters, report.settled) == (0, letters.len() as u64), "{report}");
    ensure!(report.received == written.sent, "{report}");
    Ok(())
}

#[test]
fn letters_come_back_once_by_id_although_the_host_is_killed() -> anyhow::Result<()> {
    come_back("again", false)
}

#[test]
fn letters_come_back_once_where_once_is_asked_although_the_host_is_killed() -> anyhow::Result<()> {
    come_back("again-once", true)
}
