//! Kills a host between two steps of a commit of the archive, while events come in; what others read must be what the topics hold.

use std::time::Duration;

use anyhow::ensure;

use super::{THRESHOLD, dies};
use crate::checker::{Place, Tables, check_archive};
use crate::host::{Host, Room};
use crate::load::Producer;
use crate::plugins::plugin;

/// Commits as often as may be, so that each step is passed many times.
const CONFIG: &str = "[archive]\nenabled = true\ncommit_every = \"1s\"\nlate_after = \"1m\"\n[streams.sensors]\n";

/// Commits of three tables that pass before the one that is cut.
const PASSES: u64 = 5;

pub(super) fn scene(place: &str, seed: u64) -> anyhow::Result<String> {
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
    ensure!(host.stop()?.success(), "the host did not end well");
    let archived = check_archive(Place::Folder(&room.log()), "sensors", &Tables::local(room.data()))?;
    Ok(format!("killed at the {nth}th pass: {:?} rows", archived.rows))
}
