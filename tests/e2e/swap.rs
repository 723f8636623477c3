//! Plugins that come, change and go while the host runs.

use std::collections::BTreeMap;
use std::time::Duration;

use phronis_tests::checker::{Expect, check_folder};
use phronis_tests::host::{Host, Room};
use phronis_tests::load::Producer;
use phronis_tests::plugins::{guest, package, plugin};
use serde_json::Value;

use crate::{above, judged_by, reading};

const ID: &str = "default/sensors/threshold";

/// Every event is above this: one alert an event shows who judged it.
const ALL: f64 = -1e9;

#[test]
fn a_version_is_swapped_under_load_without_a_gap() -> anyhow::Result<()> {
    let (old, new) = (plugin("threshold")?, package("phronis-demo-next", "threshold-next")?);
    let room = Room::new()?;
    room.install(ID, &old, "[params]\nhigh = -1e9\n")?;
    let host = Host::start(&room)?;
    let before = digest(&host.plugin_is(ID, "active")?);
    let mut producer = Producer::new(7);
    // The old version has judged in each partition, however late the worker comes to what follows.
    for _ in 0..5 {
        producer.post(&host, 50)?;
    }
    host.drained("sensors")?;
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let swap = scope.spawn(|| -> anyhow::Result<()> {
            std::thread::sleep(Duration::from_millis(300));
            room.install(ID, &new, "")?;
            host.until("the new version runs", |host| Ok(digest(&host.plugin(ID)?) != before))
        });
        while !swap.is_finished() {
            producer.post(&host, 50)?;
        }
        for _ in 0..20 {
            producer.post(&host, 50)?;
        }
        swap.join().map_err(|_| anyhow::anyhow!("the swap panicked"))?
    })?;
    host.drained("sensors")?;
    let after = digest(&host.plugin_is(ID, "active")?);
    assert!(host.stop()?.success());

    let expect = Expect { acknowledged: producer.acknowledged, ..judged_by("threshold", ALL) };
    let report = check_folder(&room.log(), "sensors", expect)?.must_hold()?;
    assert_eq!(report.alerts.len() as u64, report.delivered, "{report}");
    assert_eq!(report.repeated_alerts, 0, "{report}");
    // In each partition: first only the old one, then only the new one.
    let mut versions: BTreeMap<i32, Vec<&str>> = BTreeMap::new();
    for alert in &report.alerts {
        let seen = versions.entry(alert.partition).or_default();
        if seen.last() != Some(&alert.digest.as_str()) {
            seen.push(&alert.digest);
        }
    }
    for (partition, seen) in versions {
        assert_eq!(seen, [before.as_str(), after.as_str()], "partition {partition}");
    }
    Ok(())
}

#[test]
fn a_version_that_refuses_its_settings_leaves_the_last_good_one_in_charge() -> anyhow::Result<()> {
    let room = Room::new()?;
    room.install(ID, &plugin("threshold")?, "[params]\nhigh = 50.0\n")?;
    let host = Host::start(&room)?;
    let good = digest(&host.plugin_is(ID, "active")?);
    // Loads well, and knows no parameter `high`.
    room.write(&format!("{ID}.wasm"), &std::fs::read(plugin("severity")?)?)?;
    let is_refused = |host: &Host| Ok(host.plugin(ID)?.pointer("/refusal/code") == Some(&Value::from("PH2109")));
    host.until("the new version is refused", is_refused)?;

    // The one that runs can still be changed, and the refusal stays to be seen.
    let put = host.put(&format!("/v1/plugins/{ID}/params"), &serde_json::json!({"high": 60.0}))?;
    assert_eq!(put.status, 200, "{}", put.text);
    assert!(host.stop()?.success());

    let host = Host::start(&room)?;
    host.until("the new version is refused again", is_refused)?;
    let after = host.plugin_is(ID, "outdated")?;
    assert_eq!(digest(&after), good, "{after}");
    assert_eq!(after.pointer("/params/high"), Some(&Value::from(60.0)), "{after}");
    Ok(())
}

#[test]
fn a_plugin_comes_and_goes_while_the_host_runs() -> anyhow::Result<()> {
    let room = Room::new()?;
    let host = Host::start(&room)?;
    let listener = host.listen("")?;
    host.post("sensors", reading("S1", 1, 99.0))?;
    host.drained("sensors")?;

    room.install(ID, &plugin("threshold")?, "[params]\nhigh = 90.0\n")?;
    host.plugin_is(ID, "active")?;
    host.post("sensors", reading("S1", 2, 99.0))?;
    assert_eq!(listener.next("alert")?.data.pointer("/key"), Some(&Value::from("S1")));

    room.delete(&format!("{ID}.wasm"))?;
    host.until("the plugin is gone", |host| Ok(host.get(&format!("/v1/plugins/{ID}"))?.status == 404))?;
    host.post("sensors", reading("S1", 3, 99.0))?;
    host.drained("sensors")?;
    assert!(host.stop()?.success());
    let report = check_folder(&room.log(), "sensors", Expect::default())?.must_hold()?;
    assert_eq!((report.delivered, report.alerts.len()), (3, 1), "{report}");
    Ok(())
}

#[test]
fn a_broken_file_leaves_the_last_good_version_also_after_a_restart() -> anyhow::Result<()> {
    let room = Room::new()?;
    room.install(ID, &plugin("threshold")?, "[params]\nhigh = 90.0\n")?;
    let host = Host::start(&room)?;
    let good = digest(&host.plugin_is(ID, "active")?);
    room.write(&format!("{ID}.wasm"), b"this is no component")?;
    // It is outdated as soon as there is another file, and refused when that was looked at.
    let is_refused = |host: &Host| Ok(refusal(&host.plugin_is(ID, "outdated")?) == "PH2101");
    host.until("the broken file is refused", is_refused)?;
    assert_eq!(digest(&host.plugin(ID)?), good);
    host.post("sensors", reading("S1", 1, 99.0))?;
    host.drained("sensors")?;
    assert!(host.stop()?.success());

    let host = Host::start(&room)?;
    host.until("the broken file is refused again", is_refused)?;
    assert_eq!(digest(&host.plugin(ID)?), good);
    host.post("sensors", reading("S1", 2, 99.0))?;
    host.drained("sensors")?;
    assert!(host.stop()?.success());
    let report = check_folder(&room.log(), "sensors", judged_by("threshold", 90.0))?.must_hold()?;
    assert_eq!(report.verdict.found, 2, "{report}");
    Ok(())
}

/// What is no plugin is refused by name; it has no good version, so events pass it by and are marked.
#[test]
fn what_is_no_plugin_is_refused_and_named() -> anyhow::Result<()> {
    let room = Room::new()?;
    let mut huge = b"\0asm\x0d\0\x01\0".to_vec();
    huge.resize(50 << 20, 0);
    let files: [(&str, Vec<u8>, &str); 5] = [
        ("empty", Vec::new(), "PH2101"),
        ("text", b"#!/bin/sh\nrm -rf /\n".to_vec(), "PH2101"),
        ("core-module", b"\0asm\x01\0\0\0".to_vec(), "PH2101"),
        ("files-and-sockets", std::fs::read(guest("files")?)?, "PH2104"),
        ("huge", huge, "PH2105"),
    ];
    room.install(ID, &plugin("threshold")?, "[params]\nhigh = 90.0\n")?;
    for (name, bytes, _) in &files {
        room.write(&format!("default/sensors/{name}.wasm"), bytes)?;
    }
    let host = Host::start(&room)?;
    for (name, _, code) in &files {
        let status = host.plugin_is(&format!("default/sensors/{name}"), "bypassed")?;
        assert_eq!(refusal(&status), *code, "{status}");
    }
    host.post("sensors", reading("S1", 1, 99.0) + &reading("S1", 2, 9.0))?;
    host.drained("sensors")?;
    assert!(host.stop()?.success());
    let expect = Expect {
        bypassed: files.iter().map(|(name, ..)| (*name).to_owned()).collect(),
        judge: Some(above("threshold", 90.0)),
        ..Expect::default()
    };
    let report = check_folder(&room.log(), "sensors", expect)?.must_hold()?;
    assert_eq!((report.delivered, report.verdict.found), (2, 1), "{report}");
    for (name, ..) in &files {
        assert_eq!(report.detectors.get(*name).map(|detector| detector.bypassed), Some(2), "{report}");
    }
    Ok(())
}

fn digest(status: &Value) -> String {
    status.pointer("/active/digest").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn refusal(status: &Value) -> String {
    status.pointer("/refusal/code").and_then(Value::as_str).unwrap_or_default().to_owned()
}
