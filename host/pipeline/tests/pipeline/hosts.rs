//! Several hosts on one log: they hear of each other, compare what they run, and no two have one node id.

use std::process::Command;
use std::time::Duration;

use phronis_core::time::Time;
use phronis_pipeline::{Error, Handle};
use serde_json::{Value, json};

use crate::room::{PLUGIN, Room, block, eventually, is_ready, plugin};

fn names(handle: &Handle) -> Vec<String> {
    handle.hosts().into_iter().map(|host| host.node_id).collect()
}

/// What a host says about itself on `phronis.control`.
fn word(incarnation: &str, hostname: &str, pid: u32) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let at = Time(i64::try_from(now.as_micros()).unwrap());
    json!({
        "node_id": "a", "incarnation": incarnation, "pid": pid, "hostname": hostname, "started_at": at, "at": at,
        "listen": null, "roles": ["process"], "version": "0.1.0", "plugins": [],
    })
    .to_string()
}

#[test]
fn hosts_hear_of_each_other_and_of_the_end() {
    let room = Room::new();
    let a = room.start(room.options("a"));
    let b = room.start(room.options("b"));
    eventually("both know both", || [&a, &b].iter().all(|host| names(&host.handle()) == ["a", "b"]));
    let own: Vec<bool> = b.handle().hosts().iter().map(|host| host.is_this).collect();
    assert_eq!(own, [false, true]);
    b.stop();
    eventually("b is gone", || names(&a.handle()) == ["a"]);
    a.stop();
    assert_eq!(room.values("phronis.control").last().unwrap(), &None, "a tombstone ends it");
}

#[test]
fn versions_that_differ_are_told_and_so_is_their_agreement() {
    let room = Room::new();
    room.drop_plugin("a", "1.2.3");
    room.drop_plugin("b", "1.2.4");
    let (a, b) = (room.start(room.options("a")), room.start(room.options("b")));
    let mut live = a.handle().live();
    let id = PLUGIN.parse().unwrap();
    let spread = || a.handle().spread(&id);
    eventually("both run their version", || {
        spread().hosts.iter().filter_map(|running| running.version.clone()).collect::<Vec<_>>() == ["1.2.3", "1.2.4"]
    });
    assert!(!spread().is_consistent);
    let mut heard = |what: &str| {
        let mut facts = Value::Null;
        eventually(what, || {
            let Ok(event) = live.try_recv() else { return false };
            facts = serde_json::from_slice(&event.json).unwrap();
            facts["change"] == what
        });
        facts
    };
    let facts = heard("versions-differ");
    let digest = |handle: &Handle| json!(plugin(handle).unwrap().active.unwrap().digest);
    assert_eq!(facts["hosts"], json!({"a": digest(&a.handle()), "b": digest(&b.handle())}));
    room.drop_plugin("b", "1.2.3");
    heard("versions-agree");
    assert!(spread().is_consistent);
    a.stop();
    b.stop();
}

#[test]
fn a_live_hosts_node_id_is_refused() {
    let room = Room::new();
    // The topics are made.
    room.start(room.options("other")).stop();
    room.append("phronis.control", "hosts/a", Some(&word("1", "elsewhere", 7)));
    let started = room.try_start(room.options("a"));
    let host = started.unwrap();
    let told: Vec<String> = host.handle().checks().into_iter().map(|check| check.detail).collect();
    assert!(told.iter().all(|detail| detail.contains("pid 7 on elsewhere")), "{told:?}");
    // A sign of life.
    room.append("phronis.control", "hosts/a", Some(&word("1", "elsewhere", 7)));
    let fatal = block(async { tokio::time::timeout(Duration::from_secs(60), host.handle().fatal()).await }).unwrap();
    assert!(matches!(&fatal, Error::NodeIdTaken { node_id, .. } if node_id == "a"), "{fatal}");
    assert_eq!(fatal.code().unwrap().to_string(), "PH0106");
    host.stop();
    let last = room.values("phronis.control").pop().unwrap().unwrap();
    assert!(last.contains("elsewhere"), "the holder's word still stands: {last}");
}

#[test]
fn the_node_id_of_a_dead_neighbour_is_taken_over_at_once() {
    let room = Room::new();
    room.start(room.options("other")).stop();
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut child = Command::new("true").spawn().unwrap();
    let stat = format!("/proc/{}/stat", child.id());
    eventually("the child has ended", || std::fs::read_to_string(&stat).unwrap().contains(") Z"));
    let take_over = |incarnation: &str, pid: u32| {
        room.append("phronis.control", "hosts/a", Some(&word(incarnation, &hostname, pid)));
        let host = room.start(room.options("a"));
        let handle = host.handle();
        assert!(handle.checks().iter().any(|check| check.name == "log" && check.is_ok), "nothing was waited for");
        eventually("the host works", || is_ready(&handle));
        host.stop();
    };
    take_over("1", child.id());
    child.wait().unwrap();
    take_over("2", child.id());
}
