//! Where a host is killed: on one machine with all that is its own, or on Kafka with PostgreSQL and S3, as several share them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use phronis_core::partition::Topics;
use reqwest::Method;
use serde_json::{Value, json};

use crate::checker::{Expect, Report, check_folder, check_kafka};
use crate::host::{Host, PATIENCE, Room};
use crate::kafka::{Admin, Broker};
use crate::load::Producer;
use crate::plugins::root;
use crate::postgres::{self, Server};

/// What a host stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The embedded log and SQLite.
    Local,
    /// Kafka, exactly once, and PostgreSQL; the archive's files are in an object store.
    Remote,
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "on the embedded log with SQLite",
            Self::Remote => "on Kafka with PostgreSQL",
        })
    }
}

/// Hosts that follow each other, at most, until all that was under way is done.
const TURNS: u64 = 8;

/// A room for hosts that are killed, with one stream.
pub(super) struct Stage {
    pub(super) room: Room,
    /// The stream; on a broker that others use too, its name is no other's.
    pub(super) stream: String,
    /// No other stage of this process has it.
    pub(super) number: u32,
    base: Base,
    contract: String,
    settings: String,
    server: Option<Arc<Server>>,
}

impl Stage {
    /// `settings` are those of the stream.
    pub(super) fn new(base: Base, contract: &str, settings: &str) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let (stream, server) = match base {
            Base::Local => (contract.to_owned(), None),
            Base::Remote => (format!("swept-{number}"), Some(Server::shared()?)),
        };
        let (contract, settings) = (contract.to_owned(), settings.to_owned());
        let stage = Self { room: Room::new()?, stream, number, base, contract, settings, server };
        stage.configure("")?;
        Ok(stage)
    }

    /// Writes the configuration of the room anew, with these tables at its end.
    pub(super) fn configure(&self, tables: &str) -> anyhow::Result<()> {
        self.furnish(&self.room, "a", tables)
    }

    /// The database of the host's catalog as SQLAlchemy names it, where that is PostgreSQL.
    pub(super) fn catalog(&self) -> anyhow::Result<String> {
        let server = self.server.as_ref().context("a store that others share")?;
        Ok(postgres::catalog(server, &format!("swept_{}", self.number)))
    }

    /// A room for a second host beside the first, where there may be two.
    pub(super) fn neighbour(&self) -> anyhow::Result<Option<Room>> {
        if self.base == Base::Local {
            return Ok(None);
        }
        let room = Room::new()?;
        self.furnish(&room, "b", "")?;
        Ok(Some(room))
    }

    fn furnish(&self, room: &Room, node: &str, tables: &str) -> anyhow::Result<()> {
        let Self { stream, number, settings, .. } = self;
        let Some(server) = &self.server else {
            return room.configure(&format!("[streams.{stream}]\n{settings}\n{tables}"));
        };
        std::fs::write(room.folder().join("store.url"), server.url())?;
        let contract = root().join(format!("host/app/contracts/{}.yaml", self.contract));
        // Once: what was under way at the kill would come again otherwise, and the checker could not tell it from a fault.
        room.configure(&format!(
            "[log]\nkind = \"kafka\"\nbootstrap = \"{}\"\nauto_create = true\nnode_id = \"{stream}-{node}\"\n\
             [store]\nkind = \"postgres\"\nurl_file = \"store.url\"\nschema = \"swept_{number}\"\n\
             [streams.{stream}]\ncontract = \"{}\"\npartitions = 2\nexactly_once = true\n{settings}\n{tables}",
            Broker::shared()?.bootstrap(),
            contract.display(),
        ))
    }

    /// The id of a plugin of the stream.
    pub(super) fn plugin(&self, name: &str) -> String {
        format!("default/{}/{name}", self.stream)
    }

    /// The sum of a number over all classes of letters: `count`, `waiting` or `parked`.
    pub(super) fn letters(&self, host: &Host, number: &str) -> anyhow::Result<u64> {
        let classes = self.classes(host)?;
        Ok(classes.iter().filter_map(|class| class.get(number).and_then(Value::as_u64)).sum())
    }

    fn classes(&self, host: &Host) -> anyhow::Result<Vec<Value>> {
        let answer = host.get(&format!("/v1/letter_classes?stream={}", self.stream))?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text);
        answer.json.get("items").and_then(Value::as_array).cloned().context("classes")
    }

    /// Gives up the letters of a step that are `waiting` or `parked`; whether there were any.
    pub(super) fn give_up(&self, host: &Host, step: &str, state: &str) -> anyhow::Result<bool> {
        let mut any = false;
        for class in self.classes(host)? {
            let name = class.get("class").and_then(Value::as_str).unwrap_or_default();
            if name.starts_with(step) && class.get(state).and_then(Value::as_u64) > Some(0) {
                let what = json!({ "stream": self.stream, "class": name, "reason": "test data" });
                ask(host, "/v1/discards", &what)?;
                any = true;
            }
        }
        Ok(any)
    }

    /// Lets a host go on until it rests and all is whole, and ends it. What is in the topics then, the checker says.
    ///
    /// A letter that was moved and is not judged yet is counted nowhere. On Kafka the topics are read while the host runs.
    /// Nobody else reads the embedded log meanwhile: what was under way at the end of a host, the next one does.
    pub(super) fn ends(
        &self,
        mut host: Host,
        producer: &mut Producer,
        rests: impl Fn(&Host, &mut Producer) -> anyhow::Result<bool>,
        expect: impl Fn(&Producer) -> Expect<'static>,
        is_whole: impl Fn(&Report) -> bool,
    ) -> anyhow::Result<String> {
        let look = |producer: &Producer| {
            let report = self.report(expect(producer))?.must_hold()?;
            ensure!(is_whole(&report), "something is still under way\n{report}");
            Ok(report.to_string().lines().next().unwrap_or_default().to_owned())
        };
        let mut turn = 1;
        loop {
            host.until("all is done", |host| {
                if !rests(host, producer)? {
                    return Ok(false);
                }
                host.drained(&self.stream)?;
                Ok(self.base == Base::Local || look(producer).map(|_| true)?)
            })?;
            host.ends_well()?;
            let told = look(producer);
            if told.is_ok() || turn == TURNS {
                return told;
            }
            host = Host::start(&self.room)?;
            let begun = Instant::now();
            host.until("it had some time", |_| Ok(begun.elapsed().as_secs() >= turn))?;
            turn += 1;
        }
    }

    fn report(&self, expect: Expect<'_>) -> anyhow::Result<Report> {
        match self.base {
            Base::Local => check_folder(&self.room.log(), &self.stream, expect),
            Base::Remote => check_kafka(&Broker::shared()?.bootstrap(), &self.stream, expect),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let Some(topics) = self.stream.parse().ok().filter(|_| self.base == Base::Remote).as_ref().map(Topics::of)
        else {
            return;
        };
        // What cannot be deleted goes with the broker.
        let Ok(admin) = Broker::shared().and_then(|broker| Admin::new(&broker.bootstrap())) else { return };
        for topic in [topics.raw, topics.processed, topics.alerts, topics.dlq, topics.retry, topics.state] {
            drop(admin.delete(&topic));
        }
    }
}

/// Waits until a request about letters or agents is taken, or the host is gone.
pub(super) fn order(host: &Host, path: &str, body: &Value) -> anyhow::Result<()> {
    host.until(&format!("{path} is taken"), |host| Ok(host.is_gone() || ask(host, path, body).map(|()| true)?))
}

/// Asks for something once.
fn ask(host: &Host, path: &str, body: &Value) -> anyhow::Result<()> {
    let headers =
        [("content-type", "application/json"), ("x-phronis", "1"), ("x-actor", "test"), ("x-reason", "the sweep")];
    let answer = host.ask(Method::POST, path, &headers, body.to_string().into_bytes())?;
    ensure!((200..300).contains(&answer.status), "{path}: {}: {}", answer.status, answer.text);
    Ok(())
}

/// Starts a host that is killed at a place, and waits until it was.
pub(super) fn dies(room: &Room, place: &str, then: impl FnOnce(&Host) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let host = match Host::start_with(room, &[("PHRONIS_FAIL_AT", place)]) {
        // It was gone before it answered anything.
        Err(error) if error.to_string().contains("PHRONIS_FAIL_AT") => return Ok(()),
        started => started?,
    };
    // It may be gone before it was ever ready.
    let asked = host
        .until("it is ready", |host| Ok(host.is_gone() || host.get("/readyz")?.status == 200))
        .and_then(|()| if host.is_gone() { Ok(()) } else { then(&host) });
    let until = Instant::now() + PATIENCE;
    while !host.is_gone() {
        if Instant::now() > until {
            asked?;
            bail!("the host never came to {place}: {}", host.said());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    ensure!(host.said().contains("PHRONIS_FAIL_AT"), "it ended by itself: {}", host.said());
    Ok(())
}
