//! Kafka → Iceberg: the events of the Kafka benchmark, judged by a host, then archived by another from the topics.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tempfile::TempDir;

use super::ARCHIVE;
use super::backlog::Due;
use super::throughput::{Run, rounds, tell};
use crate::host::{Host, install};
use crate::kafka::broker::Broker;
use crate::kafka::input::{self, Event};
use crate::kafka::setting;
use crate::kafka::topics::Topics;
use crate::report::Report;
use crate::repository;

const PREFIX: &str = "arc";
const PARTITIONS: i32 = 4;
const EVENTS: u64 = 3_000_000;
/// How long the events may take through the host that judges them.
const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let events = EVENTS.min(setting("PHRONIS_BENCH_EVENTS", EVENTS)?);
    let broker = Broker::start()?;
    let topics = Topics::new(&broker.bootstrap)?;
    let raw = format!("{PREFIX}.raw");
    topics.create(&raw, PARTITIONS, &[])?;
    input::load(&broker.bootstrap, &raw, events)?;
    let mut due = Due::default();
    for event in (0..events).map(Event::new) {
        due.letters += u64::from(event.is_malformed);
        due.events += u64::from(!event.is_malformed);
        due.alerts += u64::from(event.is_hot() && !event.is_malformed);
    }
    for partition in 0..PARTITIONS {
        due.raw.push(u64::try_from(topics.end(&raw, partition)?)?);
    }
    let mut round = 0;
    let figures = rounds("Kafka → local table", || {
        round += 1;
        // A stream of its own, and so groups of its own.
        let stream = format!("arc-{round}");
        topics.renew_outputs(PREFIX, PARTITIONS)?;
        let settings = settings(&broker, &stream);
        let dir = judged(&topics, &stream, &settings, &due)?;
        let settings = format!("{settings}{ARCHIVE}");
        Run { stream: &stream, settings: &settings, warehouse: None, due: &due }.measure(dir)
    })?;
    let method = format!(
        "{} events of 74 bytes, {} alerts and {} letters in 4 partitions of a broker on the same cores, fsync, a commit in 10 s",
        due.events, due.alerts, due.letters
    );
    tell(report, "Kafka → local table", "–", &figures, &method);
    Ok(())
}

fn settings(broker: &Broker, stream: &str) -> String {
    let names = ["raw", "processed", "dlq", "alerts", "state"].map(|name| format!("{name} = \"{PREFIX}.{name}\""));
    format!(
        "[log]\nkind = \"kafka\"\nbootstrap = \"{}\"\nauto_create = true\nprofile = \"throughput\"\n\
         [streams.{stream}]\ncontract = \"{}\"\npartitions = {PARTITIONS}\nworkers = 2\ntopics = {{ {} }}\n",
        broker.bootstrap,
        repository("benches/w1/contract.yaml").display(),
        names.join(", "),
    )
}

/// Lets a host judge all events, and returns its folder when the topics have everything.
fn judged(topics: &Topics, stream: &str, settings: &str, due: &Due) -> Result<TempDir> {
    let host = Host::start_with(stream, settings, |folder| {
        install("threshold", folder)?;
        Ok(std::fs::write(folder.join("threshold.toml"), "[params]\nhigh = 99\n")?)
    })?;
    let wanted = [due.events, due.letters, due.alerts].map(|count| count.cast_signed());
    let deadline = Instant::now() + PATIENCE;
    let names = ["processed", "dlq", "alerts"].map(|name| format!("{PREFIX}.{name}"));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    loop {
        let ends = topics.ends(&names, PARTITIONS)?;
        if ends == wanted {
            return Ok(host.stop()?.dir);
        }
        ensure!(Instant::now() < deadline, "the topics hold {ends:?} and not {wanted:?}: {}", host.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}
