//! Several hosts: what they know of each other, and what is changed on one and holds on all.

use std::time::Instant;

use anyhow::ensure;
use phronis_tests::fleet::{Fleet, HIGH, Load, Node, Options, Written};
use phronis_tests::host::{Host, PATIENCE, run};
use phronis_tests::kafka::{Broker, produce};
use phronis_tests::plugins::{package, plugin};
use serde_json::{Value, json};

use crate::reading;

#[test]
fn a_second_host_with_the_same_name_is_refused_and_told_who_has_it() -> anyhow::Result<()> {
    let fleet = Fleet::shared("twins", Options::default())?;
    let mut first = fleet.start("a")?;
    let second = fleet.node("a")?;
    let (code, _, said) = run(second.room().command(&["run"])?)?;
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("PH0106") && said.contains(&first.host()?.pid().to_string()), "{said}");
    assert_eq!(first.host()?.get("/readyz")?.status, 200, "the first one works on");
    first.stop()?;
    let mut second = second;
    second.start()?;
    second.stop()
}

#[test]
fn a_host_that_was_frozen_until_another_took_its_name_ends() -> anyhow::Result<()> {
    let fleet = Fleet::shared("replaced", Options::default())?;
    let mut first = fleet.start("a")?;
    let mut second = fleet.node("a")?;
    first.host()?.pause()?;
    second.start_unready(&[])?;
    // The name is free when its host was not heard of for a while, and then the group has to miss its members.
    let is_ready = |host: &Host| Ok(host.get("/readyz")?.status == 200);
    let host = second.host()?;
    host.until("it has the name", is_ready).or_else(|_| host.until("it has the name", is_ready))?;
    first.host()?.resume()?;
    let (code, said) = first.ends()?;
    assert!(code == Some(5) && said.contains("PH0106"), "{code:?} {said}");
    second.host()?.until("the one that has the name goes on", is_ready)?;
    second.stop()
}

#[test]
fn a_host_that_keeps_its_place_comes_back_without_a_rebalance() -> anyhow::Result<()> {
    let log = "leave_on_stop = false\n".to_owned();
    let properties = vec![("session.timeout.ms", "120000".to_owned()), ("heartbeat.interval.ms", "500".to_owned())];
    let fleet = Fleet::shared("restarted", Options { log, properties, ..Options::default() })?;
    let (mut a, mut b) = (fleet.start("a")?, fleet.start("b")?);
    let moves = |node: &Node| ["taken over", "handed over"].map(|what| node.said().matches(what).count());
    // Where each has as many as the other, nothing moves by itself.
    b.host()?.until("each has two partitions", |_| Ok((a.owned().len(), b.owned().len()) == (2, 2)))?;
    assert!(a.owned().is_disjoint(&b.owned()), "{:?} {:?}", a.owned(), b.owned());
    let before = moves(&b);
    a.stop()?;
    a.start()?;
    let written = fleet.write(Load { most: 2000, ..Load::new(7) })?.finish()?;
    fleet.drained(&[&a, &b])?;
    a.stop()?;
    assert_eq!(moves(&b), before, "{}", b.last_words());
    b.stop()?;
    fleet.judge(&written)?;
    Ok(())
}

#[test]
fn hosts_that_run_different_versions_say_so_until_they_agree() -> anyhow::Result<()> {
    let fleet = Fleet::shared("versions", Options::default())?;
    let (mut a, mut b) = (fleet.start("a")?, fleet.start("b")?);
    let id = fleet.plugin("threshold");
    let consistent = |nodes: [&Node; 2], wanted: bool| -> anyhow::Result<()> {
        for node in nodes {
            node.host()?.until(&format!("is_consistent is {wanted}"), |host| {
                let status = host.plugin(&id)?;
                let hosts = status.get("hosts").and_then(Value::as_array).map_or(0, Vec::len);
                ensure!(hosts == 2 && status.get("is_consistent") == Some(&wanted.into()), "{status}");
                Ok(true)
            })?;
        }
        Ok(())
    };
    consistent([&a, &b], true)?;
    // Both listen before anything differs: how long that takes to be told is the host's to say, not this machine's.
    let (listener, alerts) = (a.host()?.listen("")?, a.host()?.listen("")?);
    b.room().install(&id, &package("phronis-demo-next", "threshold-next")?, "")?;
    consistent([&a, &b], false)?;
    let told = |change: &str| -> anyhow::Result<Value> {
        loop {
            let event = listener.next("plugin")?.data;
            if event.get("change") == Some(&change.into()) {
                return Ok(event);
            }
        }
    };
    let event = told("versions-differ")?;
    assert_eq!(event.get("plugin"), Some(&Value::from(id.clone())), "{event}");
    let alert = loop {
        let alert = alerts.next("alert")?.data;
        if alert.get("rule") == Some(&"versions-differ".into()) {
            break alert;
        }
    };
    assert_eq!(
        alert.pointer("/attributes/hosts").and_then(Value::as_object).map(serde_json::Map::len),
        Some(2),
        "{alert}"
    );
    b.room().install(&id, &plugin("threshold")?, "")?;
    consistent([&a, &b], true)?;
    told("versions-agree")?;
    a.stop()?;
    b.stop()
}

#[test]
fn a_threshold_that_is_changed_once_holds_on_all_hosts() -> anyhow::Result<()> {
    let fleet = Fleet::shared("settings", Options::default())?;
    let (mut a, mut b) = (fleet.start("a")?, fleet.start("b")?);
    let id = fleet.plugin("threshold");
    let put = a.host()?.put(&format!("/v1/plugins/{id}/params"), &json!({"high": 60.0}))?;
    let begun = Instant::now();
    assert_eq!(put.status, 200, "{}", put.text);
    both_have(&[&a, &b], &id, 60.0)?;
    println!("a PUT was in force on both hosts after {:?}", begun.elapsed());

    let bootstrap = Broker::shared()?.bootstrap();
    let write = |value: Value| produce(&bootstrap, "phronis.config", [(format!("plugins/{id}"), value.to_string())]);
    write(json!({"params": {"high": 70.0}, "source": "test"}))?;
    let begun = Instant::now();
    both_have(&[&a, &b], &id, 70.0)?;
    println!("a record was in force on both hosts after {:?}", begun.elapsed());

    write(json!({"params": {"high": "hot"}, "source": "test"}))?;
    let is_refused = |host: &Host| {
        let status = host.plugin(&id)?;
        let code = status.pointer("/refusal/code").and_then(Value::as_str).unwrap_or_default();
        ensure!(code == "PH2109" && high(&status) == Some(70.0), "{status}");
        Ok(true)
    };
    for node in [&a, &b] {
        node.host()?.until("the bad value is refused", is_refused)?;
    }
    b.stop()?;
    b.start()?;
    b.host()?.until("the bad value is refused again, and the last good one holds", is_refused)?;
    a.stop()?;
    b.stop()
}

#[test]
fn roles_split_a_host_over_processes() -> anyhow::Result<()> {
    let fleet = Fleet::shared("roles", Options::default())?;
    let (mut worker, mut front) = (fleet.node("worker")?, fleet.node("front")?);
    worker.start_unready(&["--role", "process"])?;
    front.start_unready(&["--role", "alert,serve"])?;
    for node in [&worker, &front] {
        node.host()?.until("it is ready", |host| Ok(host.get("/readyz")?.status == 200))?;
    }
    let listener = front.host()?.listen("")?;
    let refused = worker.host()?.post(fleet.stream(), reading("S1", 1, 10.0))?;
    assert_eq!(refused.status, 404, "{}", refused.text);
    let taken = front.host()?.post(fleet.stream(), reading("S1", 1, HIGH + 1.0) + &reading("S1", 2, 10.0))?;
    assert_eq!(taken.status, 202, "{}", taken.text);
    assert_eq!(listener.next("alert")?.data.pointer("/key"), Some(&Value::from("S1")));
    fleet.drained(&[&worker, &front])?;
    front.stop()?;
    worker.stop()?;
    fleet.judge(&Written { sent: 2, acknowledged: taken.ranges(), ..Written::default() })?;
    Ok(())
}

fn both_have(nodes: &[&Node], id: &str, wanted: f64) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        let values = nodes.iter().map(|node| Ok(high(&node.host()?.plugin(id)?)));
        let values: Vec<Option<f64>> = values.collect::<anyhow::Result<_>>()?;
        if values.iter().all(|value| *value == Some(wanted)) {
            return Ok(());
        }
        ensure!(Instant::now() < until, "the hosts have {values:?}, not {wanted}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn high(status: &Value) -> Option<f64> {
    status.pointer("/params/high").and_then(Value::as_f64)
}
