//! Two hosts that archive the same events into the same tables, as when a folder was copied and both copies are started.

use std::path::Path;

use anyhow::ensure;
use phronis_tests::checker::{Place, Tables, check_archive};
use phronis_tests::host::{Host, Room};
use phronis_tests::load::Producer;
use phronis_tests::plugins::plugin;
use phronis_tests::rest;

use super::{LONG, SETTINGS, THRESHOLD, ends_well};

/// Each holds rows of the same records. Who commits later finds that the table has moved, and goes on from there.
#[test]
fn two_hosts_on_one_table_fence_each_other() -> anyhow::Result<()> {
    let catalog = rest::Server::start()?;
    let archive = |commit_every: &str, late_after: &str| {
        format!(
            "[archive]\nenabled = true\ncommit_every = \"{commit_every}\"\nlate_after = \"{late_after}\"\n\
             warehouse = \"\"\ncatalog = \"rest\"\n[archive.rest]\nuri = \"{}\"\n",
            catalog.uri()
        )
    };
    // What both have is there before any of them archives.
    let slow_room = Room::new()?;
    slow_room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    let host = Host::start(&slow_room)?;
    let mut producer = Producer::new(61);
    ensure!(producer.post(&host, 500)?, "no room");
    host.drained("sensors")?;
    host.ends_well()?;
    slow_room.configure(&archive("10m", "1h"))?;
    let quick_room = Room::with(&archive("1s", "10s"))?;
    copy(&slow_room.log(), &quick_room.log())?;

    let mut slow = Host::start(&slow_room)?;
    slow.until_within(LONG, "it holds what it read", |host| {
        let metrics = host.get("/metrics")?.text;
        let held =
            metrics.lines().find(|line| line.starts_with("phronis_archive_buffered_rows") && line.contains("events"));
        Ok(held.is_some_and(|line| !line.ends_with(" 0")))
    })?;
    let quick = Host::start(&quick_room)?;
    quick.caught_up("sensors")?;
    quick.ends_well()?;
    ensure!(slow.end()?.success(), "the host did not end well: {}", slow.said());
    let said = slow.said();
    ensure!(said.contains("another host has moved the table on"), "it was not fenced: {said}");
    let tables = Tables { catalog: catalog.uri(), ..Tables::local(slow_room.data()) };
    let before = check_archive(Place::Folder(&slow_room.log()), "sensors", &tables)?;

    // The one that was too late goes on from where the table stands.
    slow_room.configure(&archive("1s", "10s"))?;
    let host = Host::start(&slow_room)?;
    ensure!(producer.post(&host, 500)?, "no room");
    let after = ends_well(host, &slow_room, &tables)?;
    ensure!(after.rows.get("events") > before.rows.get("events"), "{before:?} and then {after:?}");
    Ok(())
}

/// Copies the files of a folder.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
