//! Kills a host between two steps of a commit of the archive, while events come in or while it looks after its tables;
//! what others read must be what the topics hold: from local files, or from an object store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::stage::{Base, Stage, dies};
use crate::archived::whole;
use crate::checker::{Archived, Place, Tables, check_archive};
use crate::host::{Host, Room};
use crate::kafka::Broker;
use crate::load::Producer;
use crate::plugins::plugin;
use crate::s3;

/// Commits as often as may be, so that each step is passed many times.
const ARCHIVE: &str = "[archive]\nenabled = true\ncommit_every = \"1s\"\nlate_after = \"1m\"\n";

/// Commits of three tables that pass before the one that is cut.
const PASSES: u64 = 5;

/// A stage whose stream is archived: beside the log, or in an object store.
struct Site {
    stage: Stage,
    store: Option<Arc<s3::Server>>,
}

impl Site {
    fn new(base: Base, more: &str) -> anyhow::Result<Self> {
        let store = (base == Base::Remote).then(s3::Server::shared).transpose()?;
        let site = Self { stage: Stage::new(base, "sensors", "")?, store };
        if let Some(store) = &site.store {
            std::fs::write(site.stage.room.folder().join("s3"), s3::storage_file(&store.settings()))?;
        }
        site.configure(more)?;
        let (id, settings) = (site.stage.plugin("threshold"), "[params]\nhigh = 90.0\n");
        site.stage.room.install(&id, &plugin("threshold")?, settings)?;
        Ok(site)
    }

    /// Writes the configuration anew, with `more` after what the archive needs.
    fn configure(&self, more: &str) -> anyhow::Result<()> {
        let warehouse = match self.store {
            Some(_) => {
                format!("warehouse = \"s3://{}/swept-{}\"\nstorage_file = \"s3\"\n", s3::BUCKET, self.stage.number)
            }
            None => String::new(),
        };
        self.stage.configure(&format!("{ARCHIVE}{warehouse}{more}"))
    }

    fn table(&self, kind: &str) -> String {
        format!("default_{}_{kind}", self.stage.stream)
    }

    /// Waits until each event that was posted is archived: as an event, or as the letter of one that was refused.
    fn archives(&self, host: &Host, posted: u64) -> anyhow::Result<()> {
        host.until_within(LONG, "all is archived", |host| {
            let rows = |kind: &str| -> anyhow::Result<u64> {
                let answer = host.get(&format!("/v1/archive/tables/{}", self.table(kind)))?;
                Ok(answer.json.get("rows").and_then(Value::as_u64).unwrap_or_default())
            };
            Ok(rows("events")? + rows("letters")? == posted)
        })
    }

    /// Ends the host when it has archived all, and lets others read it.
    fn ends_well(&self, host: Host) -> anyhow::Result<Archived> {
        let Stage { room, stream, .. } = &self.stage;
        let Some(store) = &self.store else {
            host.caught_up(stream)?;
            host.ends_well()?;
            return whole(room, Place::Folder(&room.log()), stream, &Tables::local(room.data()));
        };
        let tables = Tables {
            catalog: self.stage.catalog()?,
            properties: store.settings().into_iter().collect(),
            ..Tables::local(room.data())
        };
        let bootstrap = Broker::shared()?.bootstrap();
        let check = || check_archive(Place::Kafka(&bootstrap), stream, &tables);
        // Offsets do not tell: the last ones of a topic are markers of transactions.
        host.until_within(LONG * 2, "others read all of it", |_| check().map(|_| true))?;
        host.ends_well()?;
        check()
    }
}

pub(super) fn scene(base: Base, place: &str, seed: u64) -> anyhow::Result<String> {
    let site = Site::new(base, "")?;
    let Stage { room, stream, .. } = &site.stage;
    room.install(&site.stage.plugin("unit-normaliser"), &plugin("unit-normaliser")?, "")?;
    let mut producer = Producer::of(seed, stream);
    let nth = 1 + seed % PASSES;
    dies(room, &format!("{place}:{nth}"), |host| {
        producer.run(host, 100, Duration::from_secs(30));
        Ok(())
    })?;
    let host = Host::start(room)?;
    ensure!(producer.post(&host, 100)?, "no room");
    host.drained(stream)?;
    Ok(format!("killed at the {nth}th pass: {:?} rows", site.ends_well(host)?.rows))
}

/// What upkeep leaves behind when it is killed: looks after tables each second, keeps one snapshot, and takes what is a day old for an orphan.
const UPKEEP: &str =
    "[archive.upkeep]\nevery = \"1s\"\nkeep_snapshots = \"1s\"\nkeep_at_least = 1\norphans_after = \"1d\"\n";

/// What [`PLACES`](super::PLACES) calls a step of a commit that upkeep makes.
const OF_UPKEEP: &str = "upkeep-";

/// Commits of events before upkeep: more small files than it leaves alone.
const FILES: usize = 5;

/// Kills a host while it looks after its tables. The steps of a commit are those of upkeep where nothing else is to be committed.
pub(super) fn upkeep(base: Base, place: &str, seed: u64) -> anyhow::Result<String> {
    let site = Site::new(base, &UPKEEP.replace("every = \"1s\"", "every = \"never\""))?;
    let Stage { room, stream, .. } = &site.stage;
    let mut producer = Producer::of(seed, stream);
    let host = Host::start(room)?;
    for _ in 0..FILES {
        ensure!(producer.post(&host, 200)?, "no room");
        site.archives(&host, producer.sent)?;
    }
    host.ends_well()?;
    let orphan = match base {
        Base::Local => Some(orphan(room, &site.table("events"))?),
        // Nobody can make an object older than it is.
        Base::Remote => None,
    };
    site.configure(UPKEEP)?;
    let step = place.strip_prefix(OF_UPKEEP);
    dies(room, step.unwrap_or(place), |_| Ok(()))?;
    let host = Host::start(room)?;
    ensure!(producer.post(&host, 100)?, "no room");
    site.archives(&host, producer.sent)?;
    host.until_within(LONG, "upkeep goes on", |_| Ok(!orphan.as_ref().is_some_and(|orphan| orphan.exists())))?;
    host.until_within(LONG, "small files were joined", |host| {
        let files = host
            .get(&format!("/v1/archive/tables/{}", site.table("events")))?
            .json
            .get("files")
            .and_then(Value::as_u64);
        Ok(files.is_some_and(|files| files < FILES as u64))
    })?;
    Ok(format!("{:?} rows", site.ends_well(host)?.rows))
}

/// For what threads of a low priority do sooner or later.
const LONG: Duration = Duration::from_secs(90);

/// A file that no snapshot knows, which is old enough to be removed.
fn orphan(room: &Room, table: &str) -> anyhow::Result<PathBuf> {
    let tables = std::fs::read_dir(room.data().join("archive/phronis"))?.collect::<Result<Vec<_>, _>>()?;
    let is_events = |found: &&std::fs::DirEntry| found.file_name().to_string_lossy().starts_with(table);
    let table = tables.iter().find(is_events).context("the table of events has a folder")?;
    let path = table.path().join("data/left-behind.parquet");
    let file = std::fs::File::create(&path)?;
    let days_ago = SystemTime::now().checked_sub(Duration::from_secs(2 * 86_400)).context("the clock is right")?;
    file.set_modified(days_ago)?;
    Ok(path)
}
