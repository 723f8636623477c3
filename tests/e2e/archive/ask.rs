//! What is archived, asked from the command line and over HTTP, with a host that runs and without.

use anyhow::{Context as _, ensure};
use phronis_tests::checker::{Place, Tables, check_archive};
use phronis_tests::host::{Answer, Host, Room, run};
use phronis_tests::load::Producer;
use phronis_tests::plugins::plugin;
use reqwest::Method;
use serde_json::{Value, json};

use super::{ARCHIVE, SETTINGS, THRESHOLD, commits, count, number, refused, told};

const EVENTS: &str = "default_sensors_events";

#[test]
fn the_archive_answers_the_same_with_and_without_a_host() -> anyhow::Result<()> {
    let room = Room::with(&format!("{ARCHIVE}[streams.sensors]\n"))?;
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    ensure!(told(&room, &["archive", "tables", "-o", "json"])? == json!([]), "nothing was archived yet");
    let host = Host::start(&room)?;
    let mut producer = Producer::new(21);
    commits(&host, &mut producer, 2)?;
    let beside = looked(&room)?;
    let answer = query(&host, "", &format!("SELECT count(*) AS n FROM {EVENTS}"))?;
    ensure!(answer.number("/rows/0/n") == i64::try_from(beside).ok(), "{}", answer.text);
    ensure!(host.stop()?.success());
    ensure!(looked(&room)? == beside, "the host had archived all when it was asked");

    formats(&room)?;
    refusals(&room)?;
    limits(&room)
}

/// Looks at the table of events in each way that there is; how many rows it has.
fn looked(room: &Room) -> anyhow::Result<u64> {
    let tables = told(room, &["archive", "tables", "-o", "json"])?;
    let names: Vec<&str> =
        tables.as_array().into_iter().flatten().filter_map(|table| table.get("name")?.as_str()).collect();
    ensure!(names == ["default_sensors_alerts", EVENTS, "default_sensors_letters"], "{tables}");
    let rows = tables.get(1).map(|table| number(table, "rows")).unwrap_or_default();
    let snapshots = told(room, &["archive", "snapshots", EVENTS, "-o", "json"])?;
    let first = snapshots.as_array().and_then(|all| all.last()).context("a snapshot")?;
    let text = |key| first.get(key).and_then(Value::as_str).unwrap_or_default();
    let (id, at, then) = (text("id"), text("at"), number(first, "rows"));
    ensure!(then > 0 && then < rows, "the first snapshot has {then} of {rows} rows");
    let all = format!("SELECT count(*) AS n FROM {EVENTS}");
    for (sql, expected) in [
        (all.clone(), rows),
        (format!("{all} FOR VERSION AS OF {id}"), then),
        (format!("{all} FOR TIMESTAMP AS OF '{at}'"), then),
        (format!("SELECT count(*) AS n FROM (SELECT DISTINCT phronis_partition, phronis_offset FROM {EVENTS})"), rows),
        (
            format!(
                "SELECT count(*) AS n FROM {EVENTS} now JOIN {EVENTS} FOR VERSION AS OF {id} was \
                  ON now.phronis_partition = was.phronis_partition AND now.phronis_offset = was.phronis_offset"
            ),
            then,
        ),
    ] {
        let counted = count(room, &sql)?;
        ensure!(counted == expected, "{sql}: {counted} and not {expected}");
    }
    let answer = told(room, &["archive", "query", "-o", "json", "--as-of", at, &all])?;
    ensure!(answer.pointer("/rows/0/n").and_then(Value::as_u64) == Some(then), "{answer}");
    ensure!(answer.pointer("/tables/0/snapshot").and_then(Value::as_str) == Some(id), "{answer}");
    Ok(rows)
}

/// What is printed for people and for programs.
fn formats(room: &Room) -> anyhow::Result<()> {
    let printed = |args: &[&str]| -> anyhow::Result<Vec<String>> {
        let (code, told, said) = run(room.command(args)?)?;
        ensure!(code == Some(0), "{args:?} ended with {code:?}: {told}{said}");
        Ok(told.lines().map(str::to_owned).collect())
    };
    let sql = format!("SELECT sensor_id, seq FROM {EVENTS} ORDER BY sensor_id, seq LIMIT 3");
    let of = |format| printed(&["archive", "query", "-o", format, &sql]);
    let (table, csv, lines) = (of("table")?, of("csv")?, of("jsonl")?);
    ensure!(csv.len() == 4 && csv.first().is_some_and(|head| head == "sensor_id,seq"), "{csv:?}");
    ensure!(lines.len() == 3 && table.len() == 4, "{lines:?} {table:?}");
    ensure!(table.first().is_some_and(|head| head.split_whitespace().eq(["sensor_id", "seq"])), "{table:?}");
    for (row, line) in csv.iter().skip(1).zip(&lines) {
        let line: Value = serde_json::from_str(line)?;
        let sensor = line.get("sensor_id").and_then(Value::as_str).unwrap_or_default();
        let told = format!("{sensor},{}", line.get("seq").unwrap_or(&Value::Null));
        ensure!(*row == told, "{row} and {line}");
    }
    let head = |args: &[&str]| printed(args).map(|lines| lines.into_iter().next().unwrap_or_default());
    ensure!(head(&["archive", "tables"])?.starts_with("TABLE"), "a head");
    ensure!(head(&["archive", "snapshots", EVENTS, "-n", "1"])?.starts_with("SNAPSHOT"), "a head");
    let shown = printed(&["archive", "query", "-o", "csv", "SHOW TABLES"])?;
    ensure!(shown.len() == 4, "{shown:?}");
    let described = printed(&["archive", "query", "-o", "csv", &format!("DESCRIBE {EVENTS}")])?;
    ensure!(described.iter().any(|line| line.starts_with("phronis_event_time,")), "{described:?}");
    Ok(())
}

/// What has no answer says why, and where.
fn refusals(room: &Room) -> anyhow::Result<()> {
    for (sql, exit, code, words) in [
        ("SELECT *\nFORM default_sensors_events", 2, "PH6060", "line 2, column"),
        ("SELECT count(* FROM default_sensors_events", 2, "PH6060", "line 1, column"),
        ("INSERT INTO default_sensors_events VALUES (1)", 5, "PH6061", "queries only read"),
        ("DELETE FROM default_sensors_events", 5, "PH6061", "queries only read"),
        ("DROP TABLE default_sensors_events", 5, "PH6061", "queries only read"),
        ("CREATE TABLE mine AS SELECT 1", 5, "PH6061", "queries only read"),
        ("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'", 5, "PH6061", "queries only read"),
        ("COPY default_sensors_events TO '/tmp/stolen.csv'", 5, "PH6061", "queries only read"),
        ("SET datafusion.execution.batch_size = 1", 5, "PH6061", "queries only read"),
        ("SELECT 1; DROP TABLE default_sensors_events", 5, "PH6061", "several statements"),
        ("SELECT * FROM default_sensors_event", 2, "PH6062", "is `default_sensors_events` meant?"),
        ("SELECT * FROM '/etc/passwd'", 2, "PH6062", "/etc/passwd"),
        ("SELECT valeu FROM default_sensors_events", 2, "PH6063", "is `value` meant?"),
        ("SELECT value + sensor_id > now() FROM default_sensors_events", 2, "PH6064", ""),
        ("SELECT * FROM default_sensors_events FOR VERSION AS OF 1", 1, "PH6065", ""),
        ("SELECT * FROM default_sensors_events FOR TIMESTAMP AS OF '2001-01-01'", 1, "PH6065", ""),
    ] {
        let said = refused(room, &["archive", "query", sql], exit).with_context(|| sql.to_owned())?;
        ensure!(said.contains(code) && said.contains(words), "{sql}: {said}");
        ensure!(exit != 2 || !words.starts_with("line") || said.contains('^'), "a mark is under the place: {said}");
    }
    for (args, exit, words) in [
        (["archive", "snapshots", "default_others_events"], 5, "there is no table"),
        (["archive", "snapshots", "nonsense"], 2, "nonsense"),
        (["archive", "maintain", "default_others_events"], 5, "there is no table"),
    ] {
        let said = refused(room, &args, exit)?;
        ensure!(said.contains(words), "{args:?}: {said}");
    }
    let without = Room::new()?;
    let said = refused(&without, &["archive", "tables"], 5)?;
    ensure!(said.contains("no archive") && said.contains("enabled = true"), "{said}");
    Ok(())
}

/// A query that wants too much is ended with what to do.
fn limits(room: &Room) -> anyhow::Result<()> {
    let product = format!("FROM {EVENTS} a, {EVENTS} b, {EVENTS} c");
    for (args, code) in [
        (["--max-rows", "5", &format!("SELECT * FROM {EVENTS}")], "PH6066"),
        (["--memory", "1MiB", &format!("SELECT DISTINCT a.value + b.value + c.seq {product}")], "PH6068"),
        (
            [
                "--timeout",
                "1s",
                &format!("SELECT count(*) {product}, {EVENTS} d WHERE a.value + b.value < -c.value - d.value"),
            ],
            "PH6069",
        ),
    ] {
        let (exit, _, said) = run(room.command(&["archive", "query", "-o", "csv", args[0], args[1], args[2]])?)?;
        ensure!(exit == Some(1) && said.contains(code), "{args:?} ended with {exit:?}: {said}");
    }
    Ok(())
}

/// Asks the host in SQL.
fn query(host: &Host, key: &str, sql: &str) -> anyhow::Result<Answer> {
    ask(host, Method::POST, "/v1/query", key, json!({ "sql": sql }).to_string())
}

fn ask(host: &Host, method: Method, path: &str, key: &str, body: impl Into<Vec<u8>>) -> anyhow::Result<Answer> {
    let all = [("content-type", "application/json"), ("x-phronis", "1"), ("x-api-key", key)];
    let headers = if key.is_empty() { &all[..2] } else { &all[..] };
    host.ask(method, path, headers, body.into())
}

const ACME: &str = "the-key-of-acme-alone";
const OPS: &str = "the-key-of-operations";

#[test]
fn a_tenant_asks_its_own_tables_and_no_others() -> anyhow::Result<()> {
    let room = Room::with(&format!(
        "{ARCHIVE}[tenants.acme]\n[tenants.beta]\n[streams.\"acme.hot-press\"]\ncontract = \"sensors.yaml\"\n\
         [streams.\"beta.sensors\"]\ncontract = \"sensors.yaml\"\n[http]\nlisten = \"127.0.0.1:0\"\n\
         [[http.keys]]\nname = \"acme\"\ntenant = \"acme\"\nrole = \"read\"\nkey_file = \"acme.key\"\n\
         [[http.keys]]\nname = \"ops\"\nrole = \"admin\"\nkey_file = \"ops.key\"\n"
    ))?;
    for (file, text) in [
        ("acme.key", ACME),
        ("ops.key", OPS),
        ("sensors.yaml", include_str!("../../../host/app/contracts/sensors.yaml")),
    ] {
        std::fs::write(room.folder().join(file), text)?;
    }
    let host = Host::start(&room)?;
    for stream in ["acme.hot-press", "beta.sensors"] {
        let (_, body) = Producer::new(22).body(300);
        let answer = host.ask(
            Method::POST,
            &format!("/v1/streams/{stream}/events"),
            &[("content-type", "application/x-ndjson"), ("x-api-key", OPS)],
            body,
        )?;
        ensure!(answer.is_taken(), "{}: {}", answer.status, answer.text);
    }
    let mine = "SELECT count(*) AS n FROM \"acme_hot-press_events\"";
    let theirs = "SELECT count(*) AS n FROM beta_sensors_events";
    host.until("all of both is archived", |host| {
        let rows = |sql: &str| query(host, OPS, sql).map(|answer| answer.number("/rows/0/n").unwrap_or_default());
        let all = |sql: &str| Ok::<_, anyhow::Error>(rows(sql)? + rows(&sql.replace("_events", "_letters"))?);
        Ok(all(mine)? == 300 && all(theirs)? == 300)
    })?;
    theirs_do_not_exist(&host, mine, theirs)?;
    answers(&host, mine)?;
    ensure!(host.stop()?.success());
    for stream in ["acme.hot-press", "beta.sensors"] {
        check_archive(Place::Folder(&room.log()), stream, &Tables::local(room.data()))?;
    }
    Ok(())
}

fn theirs_do_not_exist(host: &Host, mine: &str, theirs: &str) -> anyhow::Result<()> {
    ensure!(query(host, ACME, mine)?.status == 200, "its own");
    for sql in [
        theirs.to_owned(),
        theirs.replace("beta_", "phronis.beta_"),
        theirs.replace("beta_", "\"phronis\".\"beta_").replace("events", "events\""),
        format!("{mine} WHERE EXISTS ({theirs})"),
        format!("WITH t AS ({theirs}) SELECT * FROM t"),
        theirs.replace("_events", "_event"),
        format!("{theirs} FOR VERSION AS OF 1"),
        "DESCRIBE beta_sensors_events".to_owned(),
        "SELECT * FROM information_schema.tables".to_owned(),
    ] {
        let answer = query(host, ACME, &sql)?;
        ensure!(answer.status == 404 && answer.str("/code") == "PH6062", "{sql}: {}: {}", answer.status, answer.text);
        ensure!(!answer.text.contains("is `beta"), "{sql} tells of others: {}", answer.text);
    }
    let shown = query(host, ACME, "SHOW TABLES")?;
    ensure!(shown.number("/row_count") == Some(3) && !shown.text.contains("beta"), "{}", shown.text);
    let get = |path: &str, key| ask(host, Method::GET, path, key, "");
    let (own, all) = (get("/v1/archive/tables", ACME)?, get("/v1/archive/tables", OPS)?);
    ensure!(!own.text.contains("beta_") && own.text.contains("acme_hot-press_letters"), "{}", own.text);
    ensure!(all.text.contains("beta_sensors_events") && all.text.contains("acme_hot-press_events"), "{}", all.text);
    for (path, key, status) in [
        ("/v1/archive/tables/acme_hot-press_events", ACME, 200),
        ("/v1/archive/tables/acme_hot-press_events/snapshots", ACME, 200),
        ("/v1/archive/tables/beta_sensors_events", ACME, 404),
        ("/v1/archive/tables/beta_sensors_events/snapshots", ACME, 404),
        ("/v1/archive/tables/beta_sensors_events/snapshots", OPS, 200),
        ("/v1/archive/tables", "", 401),
    ] {
        let answer = get(path, key)?;
        ensure!(answer.status == status, "{path}: {}: {}", answer.status, answer.text);
    }
    ensure!(query(host, "", mine)?.status == 401, "without a key");
    Ok(())
}

/// What a client is told that asks wrongly.
fn answers(host: &Host, mine: &str) -> anyhow::Result<()> {
    let wrong = query(host, ACME, "SELECT 1,\n FROM")?;
    ensure!((wrong.status, wrong.str("/code")) == (400, "PH6060"), "{}", wrong.text);
    ensure!(wrong.number("/line") == Some(2) && wrong.number("/column").is_some(), "{}", wrong.text);
    ensure!(wrong.str("/excerpt").contains('^'), "{}", wrong.text);
    let writes = query(host, ACME, "DROP TABLE \"acme_hot-press_events\"")?;
    ensure!((writes.status, writes.str("/code")) == (403, "PH6061"), "{}", writes.text);
    let early = json!({ "sql": mine, "as_of": "2001-01-01" });
    let early = ask(host, Method::POST, "/v1/query", ACME, early.to_string())?;
    ensure!(early.str("/code") == "PH6065" && early.status >= 400, "{}: {}", early.status, early.text);
    let csv = ask(host, Method::POST, "/v1/query", ACME, json!({ "sql": mine, "format": "csv" }).to_string())?;
    ensure!(csv.status == 200 && csv.text.starts_with("n\n"), "{}", csv.text);
    Ok(())
}
