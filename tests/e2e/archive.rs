//! The archive from end to end: what others read of it is what the topics hold, each once.

#[path = "archive/ask.rs"]
mod ask;
#[path = "archive/faults.rs"]
mod faults;
#[path = "archive/hosts.rs"]
mod hosts;
#[path = "archive/kafka.rs"]
mod kafka;
#[path = "archive/others.rs"]
mod others;
#[path = "archive/replay.rs"]
mod replay;
#[path = "archive/upkeep.rs"]
mod upkeep;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use phronis_tests::checker::{Archived, Place, Tables, check_archive};
use phronis_tests::host::{Host, Room, run};
use phronis_tests::kafka::Broker;
use phronis_tests::load::{Producer, survive};
use phronis_tests::plugins::plugin;
use phronis_tests::postgres::{self, Server};
use phronis_tests::s3;
use serde_json::Value;

const THRESHOLD: &str = "default/sensors/threshold";
const SETTINGS: &str = "[params]\nhigh = 90.0\n";
const ARCHIVE: &str = "[archive]\nenabled = true\ncommit_every = \"1s\"\nlate_after = \"10s\"\n";

/// For what the archive does sooner or later: it steps back behind events, and rests up to half a minute after a failure.
const LONG: Duration = Duration::from_secs(90);

#[test]
fn what_passed_through_is_archived_once_and_others_read_it() -> anyhow::Result<()> {
    let room = Room::with(ARCHIVE)?;
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    room.install("default/sensors/unit-normaliser", &plugin("unit-normaliser")?, "")?;
    let host = Host::start(&room)?;
    let mut producer = Producer::new(3);
    producer.run(&host, 100, Duration::from_secs(3));
    host.drained("sensors")?;
    // The archive steps back behind the events, and at the end of a host it has some seconds only.
    host.caught_up("sensors")?;
    ensure!(host.stop()?.success());
    let archived = check_archive(Place::Folder(&room.log()), "sensors", &Tables::local(room.data()))?;
    println!("{archived:?}");
    ensure!(archived.rows.get("events").is_some_and(|rows| *rows > 1000), "{archived:?}");
    Ok(())
}

/// A host that is killed again and again commits what it had begun, or begins anew, and never both.
#[test]
fn a_host_that_is_killed_under_load_archives_each_event_once() -> anyhow::Result<()> {
    let room = Room::with(ARCHIVE)?;
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    survive(&room, 17, 6)?;
    let host = Host::start(&room)?;
    host.caught_up("sensors")?;
    println!("{:?}", ends_well(host, &room, &Tables::local(room.data()))?);
    Ok(())
}

/// On Kafka at least once, a kill under load leaves records in the topics twice; the tables have them once.
#[test]
fn what_kafka_holds_twice_is_archived_once() -> anyhow::Result<()> {
    let (broker, server) = (Broker::start()?, Server::start()?);
    // Offsets follow so late that none does before the kill.
    let log = "[log]\nkind = \"kafka\"\nauto_create = true\ncommit_every = \"60s\"\n";
    let log = format!("{log}bootstrap = \"{}\"\n", broker.bootstrap());
    let store = "[store]\nkind = \"postgres\"\nurl_file = \"store.url\"\n";
    let room = Room::with(&format!("{log}{store}{ARCHIVE}[streams.sensors]\n"))?;
    std::fs::write(room.folder().join("store.url"), server.url())?;
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    let bootstrap = broker.bootstrap();
    let tables = Tables { catalog: postgres::catalog(&server, "phronis"), ..Tables::local(room.data()) };
    let mut producer = Producer::new(23);
    for _ in 0..3 {
        let host = Host::start(&room)?;
        host.until("something is delivered", |host| {
            producer.post(host, 100)?;
            Ok(host.stream("sensors")?.pointer("/counts/delivered").and_then(Value::as_u64) > Some(0))
        })?;
        host.kill()?;
    }
    let host = Host::start(&room)?;
    host.drained("sensors")?;
    host.caught_up("sensors")?;
    host.ends_well()?;
    let archived = check_archive(Place::Kafka(&bootstrap), "sensors", &tables)?;
    println!("{:?}, {} records of the topics stand there twice", archived.rows, archived.repeated);
    ensure!(archived.repeated > 0, "no kill left anything twice: this run shows nothing");
    Ok(())
}

#[test]
fn a_new_field_is_a_new_column_and_another_type_is_refused() -> anyhow::Result<()> {
    let config = format!("{ARCHIVE}[streams.sensors]\ncontract = \"sensors.yaml\"\n");
    let room = Room::with(&config)?;
    let contract = include_str!("../../host/app/contracts/sensors.yaml");
    let write = |text: &str| std::fs::write(room.folder().join("sensors.yaml"), text);
    write(contract)?;
    archive_some(&room, 5)?;

    write(&format!("{contract}      - name: pressure\n        logicalType: number\n"))?;
    let (code, told, said) = run(room.command(&["check"])?)?;
    ensure!(code == Some(0) && told.contains("archive: default_sensors_events gets pressure"), "{told}{said}");
    let host = Host::start(&room)?;
    let body = r#"{"sensor_id":"S1","value":1.0,"pressure":7.5,"seq":1000000}"#;
    ensure!(host.post("sensors", body.as_bytes().to_vec())?.is_taken());
    host.drained("sensors")?;
    host.caught_up("sensors")?;
    ensure!(host.stop()?.success());
    let archived = check_archive(Place::Folder(&room.log()), "sensors", &Tables::local(room.data()))?;
    let events = archived.tables.get("events").context("events")?;
    let columns = events.get("columns").and_then(Value::as_array).context("columns")?;
    ensure!(columns.iter().filter(|name| *name == "pressure").count() == 1, "{columns:?}");
    let first = events.get("first_snapshot_rows").and_then(Value::as_u64);
    ensure!(first.is_some_and(|rows| rows > 0), "the first snapshot can still be read: {events}");

    write(&contract.replace(
        "- name: seq\n        description: Running number of the sensor's readings.\n        logicalType: integer",
        "- name: seq\n        logicalType: string",
    ))?;
    let (code, told, said) = run(room.command(&["check"])?)?;
    ensure!(code == Some(1) && said.contains("PH6020") && said.contains("`seq`"), "{code:?} {told}{said}");
    Ok(())
}

/// A room whose tables are in an S3 server, with these settings for it.
fn room_on_s3(settings: &BTreeMap<String, String>, more: &str) -> anyhow::Result<Room> {
    let config = format!("{ARCHIVE}warehouse = \"s3://{}/warehouse\"\nstorage_file = \"s3\"\n{more}", s3::BUCKET);
    let room = Room::with(&config)?;
    std::fs::write(room.folder().join("s3"), s3::storage_file(settings))?;
    Ok(room)
}

/// What others need to read tables that are in an S3 server.
fn tables_on_s3(room: &Room, store: &s3::Server) -> Tables {
    Tables { properties: store.settings().into_iter().collect(), ..Tables::local(room.data()) }
}

/// What a command prints as JSON, which ends well.
fn told(room: &Room, args: &[&str]) -> anyhow::Result<Value> {
    let (code, told, said) = run(room.command(args)?)?;
    ensure!(code == Some(0), "{args:?} ended with {code:?}: {told}{said}");
    serde_json::from_str(&told).with_context(|| format!("{args:?}: {told}{said}"))
}

/// What a command says that ends with this exit code, and prints nothing.
fn refused(room: &Room, args: &[&str], exit: i32) -> anyhow::Result<String> {
    let (code, told, said) = run(room.command(args)?)?;
    ensure!(code == Some(exit) && told.is_empty(), "{args:?} ended with {code:?}: {told}{said}");
    Ok(said)
}

/// The number that a query counts as `n`.
fn count(room: &Room, sql: &str) -> anyhow::Result<u64> {
    let answer = told(room, &["archive", "query", "-o", "json", sql])?;
    answer.pointer("/rows/0/n").and_then(Value::as_u64).with_context(|| format!("{sql}: {answer}"))
}

/// What the host says of a table.
fn table(host: &Host, name: &str) -> anyhow::Result<Value> {
    let answer = host.get(&format!("/v1/archive/tables/{name}"))?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text);
    Ok(answer.json)
}

fn number(of: &Value, key: &str) -> u64 {
    of.get(key).and_then(Value::as_u64).unwrap_or_default()
}

/// Waits until each event that was posted is archived: as an event, or as the letter of one that was refused.
fn archived(host: &Host, posted: u64) -> anyhow::Result<()> {
    host.until_within(LONG, "all is archived", |host| {
        let rows = |name| table(host, name).map(|table| number(&table, "rows"));
        Ok(rows("default_sensors_events")? + rows("default_sensors_letters")? == posted)
    })
}

/// Lets the archive commit events so many times.
fn commits(host: &Host, producer: &mut Producer, times: usize) -> anyhow::Result<()> {
    for _ in 0..times {
        ensure!(producer.post(host, 200)?, "no room");
        archived(host, producer.sent)?;
    }
    Ok(())
}

/// Waits until nothing is wrong with the archive any more.
fn goes_well(host: &Host) -> anyhow::Result<()> {
    host.until_within(LONG, "the archive goes on", |host| {
        Ok(host.get("/readyz")?.json.get("warnings").and_then(Value::as_array).is_some_and(Vec::is_empty))
    })
}

/// Ends a host when it has archived all, and compares that with what it had.
fn ends_well(host: Host, room: &Room, tables: &Tables) -> anyhow::Result<Archived> {
    host.drained("sensors")?;
    host.caught_up("sensors")?;
    host.ends_well()?;
    check_archive(Place::Folder(&room.log()), "sensors", tables)
}

/// Lets a host archive some events.
fn archive_some(room: &Room, seed: u64) -> anyhow::Result<Producer> {
    let host = Host::start(room)?;
    let mut producer = Producer::new(seed);
    ensure!(producer.post(&host, 500)?, "no room");
    host.drained("sensors")?;
    host.caught_up("sensors")?;
    host.ends_well()?;
    Ok(producer)
}
