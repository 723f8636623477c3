//! Upkeep from end to end: rows stay as they are for every reader, and files that nobody needs are gone from where they were.

use anyhow::{Context as _, ensure};
use phronis_tests::checker::{Archived, Tables};
use phronis_tests::host::{Host, Room};
use phronis_tests::load::Producer;
use phronis_tests::plugins::plugin;
use phronis_tests::{rest, s3};
use serde_json::Value;

use super::{ARCHIVE, SETTINGS, THRESHOLD, commits, count, ends_well, number, refused, room_on_s3, tables_on_s3, told};

const EVENTS: &str = "default_sensors_events";

/// Upkeep on command only, of which expiry leaves one snapshot; and a contract of the room's own.
const MORE: &str =
    "[archive.upkeep]\nevery = \"never\"\nkeep_at_least = 1\n[streams.sensors]\ncontract = \"sensors.yaml\"\n";

#[test]
fn upkeep_of_local_tables_changes_no_row() -> anyhow::Result<()> {
    let room = Room::with(&format!("{ARCHIVE}{MORE}"))?;
    looked_after(&room, &Tables::local(room.data()))
}

#[test]
fn upkeep_of_tables_in_an_object_store_changes_no_row() -> anyhow::Result<()> {
    let store = s3::Server::start()?;
    let room = room_on_s3(&store.settings(), MORE)?;
    looked_after(&room, &tables_on_s3(&room, &store))
}

#[test]
fn upkeep_of_tables_of_a_rest_catalog_changes_no_row() -> anyhow::Result<()> {
    let catalog = rest::Server::start()?;
    let rest = format!("warehouse = \"\"\ncatalog = \"rest\"\n[archive.rest]\nuri = \"{}\"\n", catalog.uri());
    let room = Room::with(&format!("{ARCHIVE}{rest}{MORE}"))?;
    looked_after(&room, &Tables { catalog: catalog.uri(), ..Tables::local(room.data()) })
}

/// Archives in small files, joins them beside a host, lets snapshots expire, changes the schema, and does it again.
fn looked_after(room: &Room, tables: &Tables) -> anyhow::Result<()> {
    let contract = include_str!("../../../host/app/contracts/sensors.yaml");
    let write = |text: &str| std::fs::write(room.folder().join("sensors.yaml"), text);
    write(contract)?;
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    let host = Host::start(room)?;
    let mut producer = Producer::new(31);
    commits(&host, &mut producer, 5)?;
    let before = snapshots(room)?;
    let dry = maintained(room, &["--dry-run"])?;
    ensure!(number(&dry, "compacted") >= 5 && snapshots(room)? == before, "a dry run does nothing: {dry}");
    // An append in between disturbs nobody.
    let done = std::thread::scope(|scope| {
        let load = scope.spawn(|| (0..10).try_for_each(|_| producer.post(&host, 50).map(drop)));
        let done = maintained(room, &[]);
        load.join().map_err(|_| anyhow::anyhow!("the load panicked"))?.and(done)
    })?;
    ensure!(number(&done, "compacted") >= 5 && number(&done, "expired") == 0, "{done}");
    let newest = before.first().context("a snapshot")?;
    let then = format!("SELECT count(*) AS n FROM {EVENTS} FOR VERSION AS OF {newest}");
    ensure!(count(room, &then)? > 0, "what was before can still be read");

    let gone = maintained(room, &["--keep-snapshots", "0s"])?;
    ensure!(number(&gone, "expired") >= 5 && number(&gone, "deleted") >= 5, "{gone}");
    let said = refused(room, &["archive", "query", &then], 1)?;
    ensure!(said.contains("PH6065"), "{said}");
    tidy(&ends_well(host, room, tables)?)?;

    write(&format!("{contract}      - name: pressure\n        logicalType: number\n"))?;
    let host = Host::start(room)?;
    let body = r#"{"sensor_id":"S1","value":1.0,"pressure":7.5,"seq":1000000}"#;
    ensure!(host.post("sensors", body.as_bytes().to_vec())?.is_taken());
    host.drained("sensors")?;
    for _ in 0..4 {
        ensure!(producer.post(&host, 100)?, "no room");
        super::archived(&host, producer.sent + 1)?;
    }
    let joined = maintained(room, &[])?;
    ensure!(number(&joined, "compacted") >= 4, "{joined}");
    let gone = maintained(room, &["--keep-snapshots", "0s"])?;
    ensure!(number(&gone, "expired") >= 4 && number(&gone, "deleted") >= 4, "{gone}");
    let pressure = format!("SELECT count(pressure) AS n FROM {EVENTS}");
    ensure!(count(room, &pressure)? == 1, "one event has the new field");
    tidy(&ends_well(host, room, tables)?)
}

/// Upkeep of the events.
fn maintained(room: &Room, more: &[&str]) -> anyhow::Result<Value> {
    let done = told(room, &[&["archive", "maintain", EVENTS, "-o", "json"], more].concat())?;
    done.get(0).cloned().with_context(|| format!("{done}"))
}

/// The ids of the snapshots of the events, the newest first.
fn snapshots(room: &Room) -> anyhow::Result<Vec<String>> {
    let all = told(room, &["archive", "snapshots", EVENTS, "-o", "json"])?;
    let ids = all.as_array().into_iter().flatten().filter_map(|one| one.get("id")?.as_str().map(str::to_owned));
    Ok(ids.collect())
}

/// No data file is there that no snapshot knows.
fn tidy(archived: &Archived) -> anyhow::Result<()> {
    for (name, about) in &archived.tables {
        let (there, known) = (about.get("files_there"), about.get("files_known"));
        ensure!(there.is_some() && there == known, "{name} has {there:?} files, and its snapshots know {known:?}");
    }
    Ok(())
}
