//! Others have their hands in: tables that someone else changes, a topic that is another one, times that nobody expects.

use std::process::Command;

use anyhow::{Context as _, ensure};
use phronis_tests::checker::Tables;
use phronis_tests::host::{Host, Room};
use phronis_tests::load::Producer;
use phronis_tests::plugins::{plugin, root};
use phronis_tests::s3::python;
use serde_json::{Value, json};

use super::{ARCHIVE, SETTINGS, THRESHOLD, archived, commits, count, ends_well, goes_well, told};

const EVENTS: &str = "default_sensors_events";

/// Changes the table of events with pyiceberg.
fn change(tables: &Tables, work: &str) -> anyhow::Result<()> {
    let mut command = Command::new(python().join("bin/python"));
    command.arg(root().join("tests/archive/change.py")).args([&tables.catalog, &tables.namespace, EVENTS, work]);
    command.args(tables.properties.iter().map(|(name, value)| format!("{name}={value}")));
    let output = command.output().context("starting python: scripts/bootstrap.sh makes its folder")?;
    ensure!(output.status.success(), "{work}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn a_table_that_someone_else_changes_goes_on_or_says_what_to_bring_back() -> anyhow::Result<()> {
    let room = Room::with(ARCHIVE)?;
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    let tables = Tables::local(room.data());
    let host = Host::start(&room)?;
    let mut producer = Producer::new(51);
    commits(&host, &mut producer, 1)?;
    // What is nobody's column stays, and is null.
    change(&tables, "add-column")?;
    commits(&host, &mut producer, 2)?;
    ensure!(
        count(&room, &format!("SELECT count(*) AS n FROM {EVENTS} WHERE note IS NULL"))? > 0,
        "the column is there"
    );
    // What is ours has to be there.
    for (work, back, words) in [
        ("drop-column", "former-schema", "column `unit` was dropped or renamed"),
        ("rename-column", "former-schema", "column `unit` was dropped or renamed"),
        ("add-partition", "drop-partition", "the table is partitioned by"),
    ] {
        change(&tables, work)?;
        ensure!(producer.post(&host, 200)?, "no room");
        host.until(&format!("it says that {work} was done"), |host| {
            let answer = host.get("/readyz")?;
            Ok(answer.status == 200 && answer.text.contains("PH6020") && answer.text.contains(words))
        })?;
        host.drained("sensors")?;
        change(&tables, back)?;
        goes_well(&host)?;
        archived(&host, producer.sent)?;
    }
    println!("{:?}", ends_well(host, &room, &tables)?.rows);
    Ok(())
}

/// A table that someone else drops is not made anew behind their back; the next start makes it, from what the log has.
#[test]
fn a_table_that_someone_else_drops_is_missed_and_made_anew_by_the_next_start() -> anyhow::Result<()> {
    let room = Room::with(ARCHIVE)?;
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    let tables = Tables::local(room.data());
    let host = Host::start(&room)?;
    let mut producer = Producer::new(57);
    commits(&host, &mut producer, 1)?;
    change(&tables, "drop-table")?;
    ensure!(producer.post(&host, 200)?, "no room");
    host.until("it says that the table is gone", |host| {
        let answer = host.get("/readyz")?;
        Ok(answer.status == 200 && answer.text.contains("PH6023"))
    })?;
    host.ends_well()?;
    let host = Host::start(&room)?;
    goes_well(&host)?;
    archived(&host, producer.sent)?;
    println!("{:?}", ends_well(host, &room, &tables)?.rows);
    Ok(())
}

/// Rows that someone else deletes stay deleted: the archive knows what it had, and compaction brings nothing back.
#[test]
fn rows_that_someone_else_deletes_stay_deleted() -> anyhow::Result<()> {
    let room = Room::with(&format!("{ARCHIVE}[archive.upkeep]\nevery = \"never\"\n"))?;
    let host = Host::start(&room)?;
    let mut producer = Producer::new(54);
    commits(&host, &mut producer, 1)?;
    let all = format!("SELECT count(*) AS n FROM {EVENTS}");
    let deleted = count(&room, &all)?;
    change(&Tables::local(room.data()), "delete-rows")?;
    ensure!(deleted > 0 && count(&room, &all)? == 0, "they are gone");
    for _ in 0..4 {
        ensure!(producer.post(&host, 200)?, "no room");
        archived(&host, producer.sent - deleted)?;
    }
    let came = count(&room, &all)?;
    host.kill()?;
    drop(host);
    told(&room, &["archive", "maintain", "-o", "json"])?;
    let host = Host::start(&room)?;
    ensure!(producer.post(&host, 200)?, "no room");
    archived(&host, producer.sent - deleted)?;
    ensure!(count(&room, &all)? > came, "new ones came");
    host.ends_well()?;
    Ok(())
}

/// The log was deleted and begins anew: what comes is not taken for what was there, nor passed over.
#[test]
fn a_topic_made_anew_is_noticed() -> anyhow::Result<()> {
    let room = Room::with(ARCHIVE)?;
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    let tables = Tables::local(room.data());
    let host = Host::start(&room)?;
    let mut producer = Producer::new(52);
    commits(&host, &mut producer, 1)?;
    let before = ends_well(host, &room, &tables)?;
    std::fs::remove_dir_all(room.log())?;

    let host = Host::start(&room)?;
    let mut producer = Producer::new(53);
    ensure!(producer.post(&host, 300)?, "no room");
    host.drained("sensors")?;
    host.until("it is told", |host| {
        let answer = host.get("/readyz")?;
        Ok(answer.status == 200 && answer.text.contains("PH6021") && answer.text.contains(EVENTS))
    })?;
    host.ends_well()?;
    let rows = count(&room, &format!("SELECT count(*) AS n FROM {EVENTS}"))?;
    ensure!(before.rows.get("events") == Some(&rows), "{rows} rows are there, and {before:?} were");

    // The way out that the message says: other tables, and what the new topic holds is in them from its beginning.
    room.configure(&format!("{ARCHIVE}namespace = \"again\"\n"))?;
    let host = Host::start(&room)?;
    archived(&host, producer.sent)?;
    let tables = Tables { namespace: "again".to_owned(), ..tables };
    println!("{:?}", ends_well(host, &room, &tables)?.rows);
    Ok(())
}

/// A column of an enricher keeps its type: one that would change it is not loaded, and what comes meanwhile is archived without it.
#[test]
fn an_enricher_that_changes_the_type_of_a_column_is_not_loaded() -> anyhow::Result<()> {
    let room = Room::with(ARCHIVE)?;
    let (first, second) = ("default/sensors/unit-normaliser", "default/sensors/severity");
    room.install(first, &plugin("unit-normaliser")?, "")?;
    let host = Host::start(&room)?;
    host.plugin_is(first, "active")?;
    let mut producer = Producer::new(58);
    commits(&host, &mut producer, 1)?;
    room.delete(&format!("{first}.wasm"))?;
    host.until("it is gone", |host| Ok(host.plugin(first).is_err()))?;
    host.ends_well()?;

    // A text by the name of what is a number in the table.
    room.install(
        second,
        &plugin("severity")?,
        "[params]\nwarning = 80.0\ncritical = 90.0\noutput = \"value_normal\"\n",
    )?;
    let host = Host::start(&room)?;
    let refusal = |host: &Host, key: &str| -> anyhow::Result<String> {
        let plugin = host.plugin(second)?;
        Ok(plugin.pointer(&format!("/refusal/{key}")).and_then(Value::as_str).unwrap_or_default().to_owned())
    };
    host.until("it is refused", |host| Ok(refusal(host, "code")? == "PH6042"))?;
    let why = refusal(&host, "message")?;
    ensure!(why.contains("`value_normal` is archived as") && why.contains("another name"), "{why}");
    commits(&host, &mut producer, 1)?;
    // Under another name it is a column more.
    room.write(&format!("{second}.toml"), b"[params]\nwarning = 80.0\ncritical = 90.0\noutput = \"grade\"\n")?;
    host.plugin_is(second, "active")?;
    commits(&host, &mut producer, 1)?;
    let graded = format!("SELECT count(*) AS n FROM {EVENTS} WHERE grade IS NOT NULL");
    ensure!(count(&room, &graded)? > 0, "no event has the new column");
    println!("{:?}", ends_well(host, &room, &Tables::local(room.data()))?.rows);
    Ok(())
}

/// Hours are for others what days are.
#[test]
fn tables_that_are_divided_by_hours_are_read_by_others() -> anyhow::Result<()> {
    let room = Room::with(&format!("{ARCHIVE}partition_by = \"hour\"\n[archive.upkeep]\nevery = \"never\"\n"))?;
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    let tables = Tables::local(room.data());
    let host = Host::start(&room)?;
    let mut posted = 0;
    // Each time some of every second hour of a day, and of the last before 1970.
    for round in 0_u64..5 {
        let hour = |hour: i64| if hour == 24 { -1 } else { 1_767_225_600_000 + hour * 3_600_000 };
        let event = |number: i64| {
            let (seq, value) = (round * 100 + number.unsigned_abs(), if number % 10 == 0 { 95.0 } else { 20.0 });
            json!({"sensor_id": "S1", "value": value, "seq": seq, "ts": hour(number % 13 * 2)}).to_string() + "\n"
        };
        ensure!(host.post("sensors", (0..100).map(event).collect::<String>())?.is_taken());
        posted += 100;
        archived(&host, posted)?;
    }
    let midday = "phronis_event_time >= '2026-01-01T12:00:00Z' AND phronis_event_time < '2026-01-01T13:00:00Z'";
    let found = format!("SELECT count(*) AS n FROM {EVENTS} WHERE {midday}");
    let before = count(&room, &found)?;
    ensure!(before > 0, "nothing of the hour is found");
    host.kill()?;
    drop(host);
    let joined = told(&room, &["archive", "maintain", EVENTS, "-o", "json"])?;
    ensure!(joined.pointer("/0/compacted").and_then(Value::as_u64) >= Some(13 * 5), "{joined}");
    ensure!(count(&room, &found)? == before, "an hour has other rows than before");
    let archived = ends_well(Host::start(&room)?, &room, &tables)?;
    let events = archived.tables.get("events").context("events")?;
    let told = |key: &str| events.get(key).cloned().unwrap_or_default();
    ensure!(told("partition").as_str().is_some_and(|spec| spec.contains("hour")), "{events}");
    ensure!(told("files").as_u64() == Some(13), "one file an hour: {events}");
    Ok(())
}

/// Events of long ago and of times to come have days of their own, for every reader.
#[test]
fn event_times_far_in_the_past_and_the_future_are_archived() -> anyhow::Result<()> {
    let room = Room::with(ARCHIVE)?;
    let host = Host::start(&room)?;
    let times: Vec<Value> = vec![
        json!("0001-01-01T00:00:00Z"),
        json!("1582-10-10T12:00:00Z"),
        json!("1969-12-31T23:59:59.999999Z"),
        json!("1970-01-01T00:00:00Z"),
        json!("2026-01-01T00:00:00+14:00"),
        json!("9999-12-31T23:59:59.999Z"),
        json!(-62_135_596_800_000_i64),
        json!(253_402_300_799_999_i64),
        json!(0),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(1e300),
    ];
    let line =
        |(seq, ts): (usize, &Value)| json!({"sensor_id": "S1", "value": 1.0, "seq": seq, "ts": ts}).to_string() + "\n";
    ensure!(host.post("sensors", times.iter().enumerate().map(line).collect::<String>())?.is_taken());
    archived(&host, times.len() as u64)?;
    println!(
        "{:?}",
        told(
            &room,
            &["archive", "query", "-o", "json", &format!("SELECT seq, phronis_event_time FROM {EVENTS} ORDER BY 2")]
        )?
    );
    let archived = ends_well(host, &room, &Tables::local(room.data()))?;
    ensure!(archived.rows.get("events").is_some_and(|rows| *rows >= 9), "{:?}", archived.rows);
    Ok(())
}
