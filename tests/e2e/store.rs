//! A host whose store is a real PostgreSQL that comes and goes: events never wait for it.

use std::time::{Duration, Instant};

use phronis_tests::host::{Answer, Host, PATIENCE, Room, run};
use phronis_tests::plugins::plugin;
use phronis_tests::postgres::{PASSWORD, Server};
use phronis_tests::proxy::Proxy;
use serde_json::{Value, json};

use crate::reading;

const ID: &str = "default/sensors/threshold";

/// What is asked of a PostgreSQL that is there is done sooner or later: it may be slow for once.
fn is_done(host: &Host, what: &str, done: impl Fn(&Host) -> anyhow::Result<Answer>) -> anyhow::Result<()> {
    host.until(what, |host| {
        let answer = done(host)?;
        anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, answer.text);
        Ok(true)
    })
}

/// What a command prints that ends well sooner or later.
fn told(room: &Room, args: &[&str]) -> anyhow::Result<String> {
    let until = Instant::now() + PATIENCE;
    loop {
        let (code, told, said) = run(room.command(args)?)?;
        if code == Some(0) {
            return Ok(told);
        }
        anyhow::ensure!(Instant::now() < until, "{args:?} ended with {code:?}: {told}{said}");
    }
}

fn warns_of_the_store(host: &Host) -> anyhow::Result<bool> {
    let answer = host.get("/readyz")?;
    assert_eq!(answer.status, 200, "the host stays ready: {}", answer.text);
    Ok(answer.json.pointer("/warnings/0/name") == Some(&Value::from("store")))
}

#[test]
fn changes_are_in_the_audit_also_those_made_while_the_store_was_away() -> anyhow::Result<()> {
    let server = Server::start()?;
    let room = Room::with("[store]\nkind = \"postgres\"\nurl_file = \"store.url\"\n")?;
    std::fs::write(room.folder().join("store.url"), server.url())?;
    room.install(ID, &plugin("threshold")?, "[params]\nhigh = 50.0\n")?;
    let checked = told(&room, &["check", "--online"])?;
    assert!(checked.contains("store: postgres://phronis@127.0.0.1:"), "{checked}");

    let mut host = Host::start(&room)?;
    host.plugin_is(ID, "active")?;
    host.until("readyz warns of nothing", |host| Ok(!warns_of_the_store(host)?))?;
    let change = |high: f64, reason: &str| {
        let headers =
            [("x-phronis", "1"), ("x-reason", reason), ("x-actor", "ada"), ("content-type", "application/json")];
        let body = json!({ "high": high }).to_string().into_bytes();
        host.ask(reqwest::Method::PUT, &format!("/v1/plugins/{ID}/params"), &headers, body)
    };
    assert_eq!(change(60.0, "too loud")?.status, 200);

    server.kill()?;
    assert_eq!(change(70.0, "still too loud")?.status, 200, "a change does not wait for the store");
    host.until("readyz warns of the store", warns_of_the_store)?;
    let away = host.get("/v1/audit")?;
    assert_eq!((away.status, away.str("/code")), (503, "PH5001"), "{}", away.text);
    assert!(host.post("sensors", reading("S01", 1, 71.0))?.is_taken());
    host.drained("sensors")?;
    let (code, found, said) = run(room.command(&["doctor"])?)?;
    assert!(code == Some(1) && found.contains("PH5001"), "{found}{said}");

    server.launch()?;
    host.until("both changes are in the audit", |host| {
        let items = host.get("/v1/audit?action=plugin")?.json.get("items").and_then(Value::as_array).cloned();
        Ok(items.is_some_and(|items| items.len() == 2))
    })?;
    host.until("readyz warns no more", |host| Ok(!warns_of_the_store(host)?))?;
    let shown = told(&room, &["audit", "--subject", ID, "--since", "1h", "-o", "jsonl"])?;
    let rows: Vec<Value> = shown.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let facts = |row: &Value| (row.pointer("/reason").cloned(), row.pointer("/facts/value/high").cloned());
    let wanted = |reason: &str, high: f64| (Some(Value::from(reason)), Some(Value::from(high)));
    let changes: Vec<_> = rows.iter().map(facts).collect();
    assert_eq!(changes, [wanted("still too loud", 70.0), wanted("too loud", 60.0)], "{rows:?}");
    assert!(rows.iter().all(|row| row.get("actor") == Some(&Value::from("ada"))), "{rows:?}");
    host.end()?;
    assert!(!host.said().contains(PASSWORD), "{}", host.said());
    Ok(())
}

#[test]
fn a_host_starts_without_its_store_and_not_with_a_damaged_one() -> anyhow::Result<()> {
    let server = Server::start()?;
    server.stop()?;
    let room = Room::with("[store]\nkind = \"postgres\"\nurl_file = \"store.url\"\n")?;
    std::fs::write(room.folder().join("store.url"), server.url())?;
    let host = Host::start(&room)?;
    host.until("readyz warns of the store", warns_of_the_store)?;
    assert!(host.post("sensors", reading("S01", 1, 1.0))?.is_taken());
    host.drained("sensors")?;
    server.launch()?;
    host.until("the audit can be read", |host| Ok(host.get("/v1/audit")?.status == 200))?;
    assert!(host.stop()?.success());

    let room = Room::new()?;
    std::fs::write(room.data().join("store.sqlite"), [0x42; 8192])?;
    for command in ["run", "doctor"] {
        let (code, told, said) = run(room.command(&[command])?)?;
        assert_eq!(code, Some(1), "{told}{said}");
        assert!(format!("{told}{said}").contains("PH5004"), "{told}{said}");
    }
    Ok(())
}

#[test]
fn a_halt_holds_while_postgres_is_killed_and_a_reset_waits_for_it() -> anyhow::Result<()> {
    let server = Server::start()?;
    let room = Room::with("[store]\nkind = \"postgres\"\nurl_file = \"store.url\"\n")?;
    std::fs::write(room.folder().join("store.url"), server.url())?;
    let host = Host::start(&room)?;
    let say = |host: &Host, path: &str, reason: &str| {
        let headers = [("x-phronis", "1"), ("x-actor", "ada"), ("content-type", "application/json")];
        host.ask(reqwest::Method::POST, path, &headers, json!({ "reason": reason }).to_string().into_bytes())
    };
    let state = |host: &Host, agent: &str| -> anyhow::Result<String> {
        Ok(host.get(&format!("/v1/agents/{agent}"))?.str("/state").to_owned())
    };
    is_done(&host, "the halt is stored", |host| say(host, "/v1/agents/a1/halt", "before"))?;
    server.kill()?;
    let away = say(&host, "/v1/agents/a2/halt", "while the store is away")?;
    assert_eq!((away.status, away.json.get("replicated")), (202, Some(&json!(false))), "{}", away.text);
    let refused = say(&host, "/v1/agents/a1/reset", "was fine")?;
    assert_eq!(refused.status, 503, "an un-halt is never guessed: {}", refused.text);
    host.kill()?;
    drop(host);

    let host = Host::start(&room)?;
    for agent in ["a1", "a2"] {
        assert_eq!(state(&host, agent)?, "halted", "{agent}, from the first answer on");
    }
    server.launch()?;
    host.until("the halt is written back", |host| {
        Ok(host.get("/v1/agents/a2")?.json.get("replicated") == Some(&json!(true)))
    })?;
    is_done(&host, "it may be reset", |host| say(host, "/v1/agents/a1/reset", "was fine"))?;
    assert_eq!((state(&host, "a1")?, state(&host, "a2")?), ("running".to_owned(), "halted".to_owned()));
    assert!(host.stop()?.success());
    Ok(())
}

#[test]
fn agents_are_halted_although_postgres_is_slow_or_answers_nothing() -> anyhow::Result<()> {
    let server = Server::start()?;
    let proxy = Proxy::start(server.port())?;
    let streams = "[streams.sensors]\n[streams.agents]\non_halted = \"mark\"\npartitions = 1\n";
    let room = Room::with(&format!("[store]\nkind = \"postgres\"\nurl_file = \"store.url\"\n{streams}"))?;
    std::fs::write(room.folder().join("store.url"), server.url_through(proxy.port()))?;
    let host = Host::start(&room)?;
    let say = |host: &Host, path: &str, reason: &str| {
        let headers = [("x-phronis", "1"), ("x-actor", "ada"), ("content-type", "application/json")];
        host.ask(reqwest::Method::POST, path, &headers, json!({ "reason": reason }).to_string().into_bytes())
    };
    let flows = |host: &Host, seq: u64| -> anyhow::Result<()> {
        assert!(host.post("sensors", reading("S01", seq, 1.0))?.is_taken());
        assert!(
            host.post("agents", json!({"agent_id": "a1", "status": "active"}).to_string().into_bytes())?.is_taken()
        );
        host.drained("sensors")?;
        host.drained("agents")
    };
    // Slow: what is asked is answered, and the store has it.
    proxy.latency(Duration::from_millis(10));
    is_done(&host, "the halt is stored", |host| say(host, "/v1/agents/a1/halt", "slow"))?;
    is_done(&host, "the reset is stored", |host| say(host, "/v1/agents/a1/reset", "slow"))?;
    flows(&host, 1)?;

    // Silent, with connections that stand: a halt holds all the same, an un-halt is not guessed, and events go on.
    proxy.heal();
    proxy.black_hole(true);
    let silent = say(&host, "/v1/agents/a1/halt", "silent")?;
    assert_eq!((silent.status, silent.json.get("replicated")), (202, Some(&json!(false))), "{}", silent.text);
    assert_eq!(host.get("/v1/agents/a1")?.str("/state"), "halted");
    assert_eq!(say(&host, "/v1/agents/a1/reset", "silent")?.status, 503);
    flows(&host, 2)?;
    host.kill()?;
    drop(host);
    let host = Host::start(&room)?;
    assert_eq!(host.get("/v1/agents/a1")?.str("/state"), "halted", "from the first answer on");
    flows(&host, 3)?;

    proxy.heal();
    host.until("the halt is written back", |host| {
        Ok(host.get("/v1/agents/a1")?.json.get("replicated") == Some(&json!(true)))
    })?;
    is_done(&host, "it may be reset", |host| say(host, "/v1/agents/a1/reset", "was fine"))?;
    assert!(host.stop()?.success());
    Ok(())
}
