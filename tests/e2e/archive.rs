//! The archive from end to end: what others read of it is what the topics hold, each once.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use phronis_tests::checker::{Place, Tables, check_archive};
use phronis_tests::host::{Host, Room, run};
use phronis_tests::kafka::Broker;
use phronis_tests::load::{Producer, survive};
use phronis_tests::mount::Mount;
use phronis_tests::plugins::plugin;
use phronis_tests::postgres::Server;
use phronis_tests::s3;
use serde_json::Value;

const THRESHOLD: &str = "default/sensors/threshold";
const SETTINGS: &str = "[params]\nhigh = 90.0\n";
const ARCHIVE: &str = "[archive]\nenabled = true\ncommit_every = \"1s\"\nlate_after = \"10s\"\n";

#[test]
fn what_passed_through_is_archived_once_and_others_read_it() -> anyhow::Result<()> {
    let room = Room::with(ARCHIVE)?;
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    room.install("default/sensors/unit-normaliser", &plugin("unit-normaliser")?, "")?;
    let host = Host::start(&room)?;
    let mut producer = Producer::new(3);
    producer.run(&host, 200, Duration::from_secs(3));
    host.drained("sensors")?;
    ensure!(host.stop()?.success());
    // What was not committed is archived by the end of the host.
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
    let archived = check_archive(Place::Folder(&room.log()), "sensors", &Tables::local(room.data()))?;
    println!("{archived:?}");
    Ok(())
}

/// On Kafka at least once, a kill under load leaves records in the topics twice; the tables have them once.
#[test]
fn what_kafka_holds_twice_is_archived_once() -> anyhow::Result<()> {
    let (broker, server) = (Broker::start()?, Server::start()?);
    let log = format!("[log]\nkind = \"kafka\"\nbootstrap = \"{}\"\nauto_create = true\n", broker.bootstrap());
    let store = "[store]\nkind = \"postgres\"\nurl_file = \"store.url\"\n";
    let room = Room::with(&format!("{log}{store}{ARCHIVE}[streams.sensors]\n"))?;
    std::fs::write(room.folder().join("store.url"), server.url())?;
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    let bootstrap = broker.bootstrap();
    let tables = Tables { catalog: catalog_of(&server), ..Tables::local(room.data()) };
    let mut repeated = 0;
    for round in 0..5 {
        survive(&room, 23 + round, 3)?;
        let archived = check_archive(Place::Kafka(&bootstrap), "sensors", &tables)?;
        println!("{:?}, {} records of the topics stand there twice", archived.rows, archived.repeated);
        repeated = archived.repeated;
        if repeated > 0 {
            break;
        }
    }
    ensure!(repeated > 0, "no kill left anything twice: this run shows nothing");
    Ok(())
}

/// The address of the store's schema, as SQLAlchemy wants it.
fn catalog_of(server: &Server) -> String {
    let url = server.url();
    let address = url.trim_start_matches("postgres://").split('?').next().unwrap_or_default().to_owned();
    format!("postgresql+psycopg2://{address}?options=-csearch_path%3Dphronis")
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

/// Lets a host archive some events, to its orderly end.
fn archive_some(room: &Room, seed: u64) -> anyhow::Result<Producer> {
    let host = Host::start(room)?;
    let mut producer = Producer::new(seed);
    ensure!(producer.post(&host, 500)?, "no room");
    host.drained("sensors")?;
    ensure!(host.stop()?.success(), "the host did not end well");
    Ok(producer)
}

/// A full disk under the warehouse: the archive waits and says so, the host goes on, nothing is lost.
#[test]
fn a_full_warehouse_makes_the_archive_late_and_nothing_else() -> anyhow::Result<()> {
    let Some(mount) = Mount::new("24m")? else {
        println!("skipped: mounting a small file system needs root");
        return Ok(());
    };
    let ballast = mount.path().join("ballast");
    let warehouse = mount.path().join("warehouse");
    let config = ARCHIVE.replace("late_after = \"10s\"", "late_after = \"2s\"");
    let room = Room::with(&format!("{config}warehouse = \"file://{}\"\n", warehouse.display()))?;
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    let host = Host::start(&room)?;
    let mut producer = Producer::new(7);
    ensure!(producer.post(&host, 500)?, "no room");
    let listener = host.listen("?kind=alert")?;
    // Writes until nothing fits any more.
    drop(std::fs::write(&ballast, vec![0; 32 << 20]));
    while listener.next("alert")?.data.get("rule") != Some(&"archive-late".into()) {
        ensure!(producer.post(&host, 200)?, "the host takes no events because its archive is full");
    }
    let answer = host.get("/readyz")?;
    ensure!(answer.status == 200 && answer.text.contains("\"archive\""), "{}: {}", answer.status, answer.text);
    std::fs::remove_file(&ballast)?;
    host.until("the archive goes on", |host| {
        Ok(host.get("/readyz")?.json.get("warnings").and_then(Value::as_array).is_some_and(Vec::is_empty))
    })?;
    host.drained("sensors")?;
    ensure!(host.stop()?.success());
    let archived = check_archive(Place::Folder(&room.log()), "sensors", &Tables::local(room.data()))?;
    println!("{archived:?}");
    Ok(())
}

/// The catalog is away: as with storage.
#[test]
fn a_catalog_that_is_away_loses_nothing() -> anyhow::Result<()> {
    let server = Server::start()?;
    let room = Room::with(&format!("[store]\nkind = \"postgres\"\nurl_file = \"store.url\"\n{ARCHIVE}"))?;
    std::fs::write(room.folder().join("store.url"), server.url())?;
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    let host = Host::start(&room)?;
    let mut producer = Producer::new(9);
    for _ in 0..3 {
        producer.run(&host, 100, Duration::from_secs(1));
        server.kill()?;
        producer.run(&host, 100, Duration::from_secs(2));
        host.drained("sensors")?;
        server.launch()?;
    }
    host.until("the archive goes on", |host| {
        Ok(host.get("/readyz")?.json.get("warnings").and_then(Value::as_array).is_some_and(Vec::is_empty))
    })?;
    ensure!(host.stop()?.success());
    let tables = Tables { catalog: catalog_of(&server), ..Tables::local(room.data()) };
    println!("{:?}", check_archive(Place::Folder(&room.log()), "sensors", &tables)?);
    Ok(())
}

/// An S3 server that is killed, paused and slow: the archive waits, and has everything once in the end.
#[test]
fn an_object_store_that_comes_and_goes_loses_nothing() -> anyhow::Result<()> {
    let mut store = s3::Server::start()?;
    let room = Room::with(&format!("{ARCHIVE}warehouse = \"s3://{}/warehouse\"\nstorage_file = \"s3\"\n", s3::BUCKET))?;
    let settings = store.settings();
    let lines: String = settings.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    std::fs::write(room.folder().join("s3"), lines)?;
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    let (code, told, said) = run(room.command(&["check", "--online"])?)?;
    ensure!(code == Some(0) && told.contains("default_sensors_events will be made"), "{told}{said}");
    let host = Host::start(&room)?;
    let mut producer = Producer::new(13);
    producer.run(&host, 100, Duration::from_secs(3));
    store.pause()?;
    producer.run(&host, 100, Duration::from_secs(3));
    store.resume()?;
    producer.run(&host, 100, Duration::from_secs(1));
    store.kill()?;
    producer.run(&host, 100, Duration::from_secs(3));
    host.drained("sensors")?;
    ensure!(host.get("/readyz")?.status == 200, "a host whose object store is away is ready");
    store.restart()?;
    host.until("the archive goes on", |host| {
        Ok(host.get("/readyz")?.json.get("warnings").and_then(Value::as_array).is_some_and(Vec::is_empty))
    })?;
    ensure!(host.stop()?.success());
    let tables = Tables { properties: settings.into_iter().collect(), ..Tables::local(room.data()) };
    println!("{:?}", check_archive(Place::Folder(&room.log()), "sensors", &tables)?);
    Ok(())
}

/// Wrong credentials are told before a host starts, and by one that runs.
#[test]
fn wrong_credentials_are_told() -> anyhow::Result<()> {
    let store = s3::Server::start()?;
    let room = Room::with(&format!("{ARCHIVE}warehouse = \"s3://{}/warehouse\"\nstorage_file = \"s3\"\n", s3::BUCKET))?;
    let mut settings = store.settings();
    settings.insert("s3.secret-access-key".to_owned(), "this-is-wrong".to_owned());
    let lines: String = settings.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    std::fs::write(room.folder().join("s3"), lines)?;
    let (code, told, said) = run(room.command(&["check", "--online"])?)?;
    ensure!(code != Some(0) && said.contains("PH6002"), "{code:?} {told}{said}");
    ensure!(!said.contains("this-is-wrong") && !told.contains("this-is-wrong"), "a secret is told: {told}{said}");
    let host = Host::start(&room)?;
    host.until("it is told", |host| Ok(host.get("/readyz")?.text.contains("PH6002")))?;
    ensure!(!host.said().contains("this-is-wrong"), "a secret is told: {}", host.said());
    ensure!(host.stop()?.success());
    Ok(())
}
