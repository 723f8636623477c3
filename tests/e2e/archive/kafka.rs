//! What only Kafka does to an archive: topics that are deleted and made anew, records that retention takes before they are archived.

use std::collections::BTreeMap;

use anyhow::ensure;
use phronis_core::StreamId;
use phronis_core::partition::Topics;
use phronis_tests::host::{Host, Room};
use phronis_tests::kafka::{Admin, Broker, Isolation, read_all};
use phronis_tests::load::Producer;

use super::{ARCHIVE, count, number, table};

/// A room on the broker that tests share, with one stream.
fn room(broker: &Broker, stream: &str) -> anyhow::Result<Room> {
    let room = Room::with(&config(broker, stream, ARCHIVE))?;
    let contract = include_str!("../../../host/app/contracts/sensors.yaml");
    std::fs::write(room.folder().join("sensors.yaml"), contract)?;
    Ok(room)
}

fn config(broker: &Broker, stream: &str, archive: &str) -> String {
    let log = format!("[log]\nkind = \"kafka\"\nbootstrap = \"{}\"\nauto_create = true\n", broker.bootstrap());
    format!("{log}{archive}[streams.{stream}]\ncontract = \"sensors.yaml\"\n")
}

/// Posts events, all of which are good, and waits until they are judged.
fn post(host: &Host, stream: &str, events: u64) -> anyhow::Result<()> {
    let (events, _) = Producer::new(events).body(usize::try_from(events)?);
    let good = events.iter().filter(|event| serde_json::from_slice::<serde_json::Value>(&event.bytes).is_ok());
    let body: Vec<u8> = good.flat_map(|event| event.bytes.iter().chain(b"\n").copied()).collect();
    let answer = host.post(stream, body)?;
    ensure!(answer.is_taken(), "{}: {}", answer.status, answer.text);
    host.drained(stream)
}

/// Waits until the table has what stands in the topic from its beginning.
fn archived(host: &Host, stream: &str, least: u64) -> anyhow::Result<u64> {
    let name = format!("default_{stream}_events");
    let rows = |host: &Host| table(host, &name).map(|table| number(&table, "rows"));
    host.until("all is archived", |host| Ok(rows(host)? >= least))?;
    rows(host)
}

#[test]
fn a_kafka_topic_made_anew_is_noticed() -> anyhow::Result<()> {
    let broker = Broker::shared()?;
    let (room, stream) = (room(broker, "remade")?, "remade");
    let host = Host::start(&room)?;
    post(&host, stream, 300)?;
    archived(&host, stream, 200)?;
    host.ends_well()?;
    let rows = "SELECT count(*) AS n FROM default_remade_events";
    let before = count(&room, rows)?;

    let admin = Admin::new(&broker.bootstrap())?;
    for topic in admin.topics()?.keys().filter(|topic| topic.contains(".remade.")) {
        admin.delete(topic)?;
    }
    let host = Host::start(&room)?;
    post(&host, stream, 500)?;
    host.until("it is told", |host| {
        let answer = host.get("/readyz")?;
        Ok(answer.status == 200 && answer.text.contains("PH6021"))
    })?;
    host.ends_well()?;
    ensure!(count(&room, rows)? == before, "nothing of the other topic is in the table");
    Ok(())
}

#[test]
fn records_that_kafka_deleted_unarchived_stop_their_table_unless_told_otherwise() -> anyhow::Result<()> {
    let broker = Broker::shared()?;
    let (room, stream) = (room(broker, "forgotten")?, "forgotten");
    let host = Host::start(&room)?;
    post(&host, stream, 300)?;
    archived(&host, stream, 200)?;
    host.ends_well()?;
    let rows = "SELECT count(*) AS n FROM default_forgotten_events";
    let before = count(&room, rows)?;

    // Without an archive nobody waits for it.
    room.configure(&config(broker, stream, ""))?;
    let host = Host::start(&room)?;
    post(&host, stream, 500)?;
    host.ends_well()?;
    let id: StreamId = stream.parse()?;
    let admin = Admin::new(&broker.bootstrap())?;
    let processed = Topics::of(&id).processed;
    let mut ends: BTreeMap<i32, i64> = BTreeMap::new();
    for record in read_all(&broker.bootstrap(), &processed, Isolation::Committed)? {
        ends.insert(record.partition, record.offset + 1);
    }
    for (partition, end) in ends {
        admin.delete_records(&processed, partition, end)?;
    }

    room.configure(&config(broker, stream, ARCHIVE))?;
    let host = Host::start(&room)?;
    host.until("it is told", |host| {
        let answer = host.get("/readyz")?;
        Ok(answer.status == 200 && answer.text.contains("PH6041") && answer.text.contains("on_gap"))
    })?;
    post(&host, stream, 100)?;
    host.ends_well()?;
    ensure!(count(&room, rows)? == before, "the table waits for who decides");

    room.configure(&config(broker, stream, &format!("{ARCHIVE}on_gap = \"skip\"\n")))?;
    let host = Host::start(&room)?;
    let now = archived(&host, stream, before + 80)?;
    super::goes_well(&host)?;
    let metrics = host.get("/metrics")?.text;
    let gap =
        metrics.lines().find(|line| line.starts_with("phronis_archive_gap_records_total") && line.contains("events"));
    let gap = gap.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_default();
    ensure!(gap >= 400.0, "{gap} records were deleted unarchived");
    ensure!(now <= before + 100, "{now} rows and {before} before");
    host.ends_well()?;
    Ok(())
}
