//! Kills a host between two steps of a commit of the archive, while events come in or while it looks after its tables;
//! what others read must be what the topics hold.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::stage::{Base, dies};
use crate::archived::whole;
use crate::checker::{Place, Tables};
use crate::host::{Host, Room};
use crate::load::Producer;
use crate::plugins::plugin;

const THRESHOLD: &str = "default/sensors/threshold";

/// Commits as often as may be, so that each step is passed many times.
const CONFIG: &str = "[archive]\nenabled = true\ncommit_every = \"1s\"\nlate_after = \"1m\"\n[streams.sensors]\n";

/// Commits of three tables that pass before the one that is cut.
const PASSES: u64 = 5;

pub(super) fn scene(_: Base, place: &str, seed: u64) -> anyhow::Result<String> {
    let room = Room::with(CONFIG)?;
    room.install(THRESHOLD, &plugin("threshold")?, "[params]\nhigh = 90.0\n")?;
    room.install("default/sensors/unit-normaliser", &plugin("unit-normaliser")?, "")?;
    let mut producer = Producer::new(seed);
    let nth = 1 + seed % PASSES;
    dies(&room, &format!("{place}:{nth}"), |host| {
        producer.run(host, 100, Duration::from_secs(30));
        Ok(())
    })?;
    let host = Host::start(&room)?;
    ensure!(producer.post(&host, 100)?, "no room");
    host.drained("sensors")?;
    host.caught_up("sensors")?;
    ensure!(host.stop()?.success(), "the host did not end well");
    let archived = whole(&room, Place::Folder(&room.log()), "sensors", &Tables::local(room.data()))?;
    Ok(format!("killed at the {nth}th pass: {:?} rows", archived.rows))
}

/// What upkeep leaves behind when it is killed: looks after tables each second, keeps one snapshot, and takes what is a day old for an orphan.
const UPKEEP: &str =
    "[archive.upkeep]\nevery = \"1s\"\nkeep_snapshots = \"1s\"\nkeep_at_least = 1\norphans_after = \"1d\"\n";

/// What [`PLACES`](super::PLACES) calls a step of a commit that upkeep makes.
const OF_UPKEEP: &str = "upkeep-";

/// Commits of events before upkeep: more small files than it leaves alone.
const FILES: usize = 5;

/// Kills a host while it looks after its tables. The steps of a commit are those of upkeep where nothing else is to be committed.
pub(super) fn upkeep(_: Base, place: &str, seed: u64) -> anyhow::Result<String> {
    let never = UPKEEP.replace("every = \"1s\"", "every = \"never\"");
    let config = |upkeep: &str| CONFIG.replace("[streams", &format!("{upkeep}[streams"));
    let room = Room::with(&config(&never))?;
    room.install(THRESHOLD, &plugin("threshold")?, "[params]\nhigh = 90.0\n")?;
    let mut producer = Producer::new(seed);
    let host = Host::start(&room)?;
    for _ in 0..FILES {
        ensure!(producer.post(&host, 200)?, "no room");
        archived(&host, producer.sent)?;
    }
    ensure!(host.stop()?.success(), "the host did not end well");
    let orphan = orphan(&room)?;
    room.configure(&config(UPKEEP))?;
    let step = place.strip_prefix(OF_UPKEEP);
    dies(&room, step.unwrap_or(place), |_| Ok(()))?;
    let host = Host::start(&room)?;
    ensure!(producer.post(&host, 100)?, "no room");
    archived(&host, producer.sent)?;
    host.until_within(LONG, "upkeep goes on", |_| Ok(!orphan.exists()))?;
    host.until_within(LONG, "small files were joined", |host| {
        let files = host.get(&format!("/v1/archive/tables/{EVENTS}"))?.json.get("files").and_then(Value::as_u64);
        Ok(files.is_some_and(|files| files < FILES as u64))
    })?;
    host.caught_up("sensors")?;
    ensure!(host.stop()?.success(), "the host did not end well");
    let archived = whole(&room, Place::Folder(&room.log()), "sensors", &Tables::local(room.data()))?;
    Ok(format!("{:?} rows", archived.rows))
}

const EVENTS: &str = "default_sensors_events";

/// For what threads of a low priority do sooner or later.
const LONG: Duration = Duration::from_secs(90);

/// Waits until each event that was posted is archived: as an event, or as the letter of one that was refused.
fn archived(host: &Host, posted: u64) -> anyhow::Result<()> {
    host.until_within(LONG, "all is archived", |host| {
        let rows = |name: &str| -> anyhow::Result<u64> {
            let answer = host.get(&format!("/v1/archive/tables/{name}"))?;
            Ok(answer.json.get("rows").and_then(Value::as_u64).unwrap_or_default())
        };
        Ok(rows(EVENTS)? + rows("default_sensors_letters")? == posted)
    })
}

/// A file that no snapshot knows, which is old enough to be removed.
fn orphan(room: &Room) -> anyhow::Result<PathBuf> {
    let tables = std::fs::read_dir(room.data().join("archive/phronis"))?.collect::<Result<Vec<_>, _>>()?;
    let is_events = |table: &&std::fs::DirEntry| table.file_name().to_string_lossy().starts_with(EVENTS);
    let table = tables.iter().find(is_events).context("the table of events has a folder")?;
    let path = table.path().join("data/left-behind.parquet");
    let file = std::fs::File::create(&path)?;
    let days_ago = SystemTime::now().checked_sub(Duration::from_secs(2 * 86_400)).context("the clock is right")?;
    file.set_modified(days_ago)?;
    Ok(path)
}
