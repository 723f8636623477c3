//! Two hosts with one PostgreSQL on one Kafka: a redrive that each does its part of, and a halt that both know.

use anyhow::ensure;
use phronis_tests::fleet::{Fleet, Load, Node, Options};
use phronis_tests::host::{Answer, Host};
use phronis_tests::postgres::Server;
use reqwest::Method;
use serde_json::{Value, json};

fn say(host: &Host, path: &str, body: &Value) -> anyhow::Result<Answer> {
    let headers = [("x-phronis", "1"), ("content-type", "application/json"), ("x-actor", "ada")];
    host.ask(Method::POST, path, &headers, body.to_string().into_bytes())
}

fn parked(node: &Node, stream: &str) -> anyhow::Result<u64> {
    let classes = node.host()?.get(&format!("/v1/letter_classes?stream={stream}"))?;
    let items = classes.json.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(items.iter().filter_map(|class| class.get("parked").and_then(Value::as_u64)).sum())
}

#[test]
fn two_hosts_share_a_redrive_and_a_halt_and_one_of_them_may_die() -> anyhow::Result<()> {
    let (server, folder) = (Server::start()?, tempfile::tempdir()?);
    let url_file = folder.path().join("store.url");
    std::fs::write(&url_file, server.url())?;
    let stream = format!("[store]\nkind = \"postgres\"\nurl_file = \"{}\"\n", url_file.display());
    let fleet = Fleet::shared("shared", Options { stream, ..Options::default() })?;
    let (mut a, mut b) = (fleet.start("a")?, fleet.start("b")?);
    let written = fleet.write(Load { most: 4_000, ..Load::new(3) })?.finish()?;
    fleet.drained(&[&a, &b])?;
    a.host()?.until("all letters are known", |host| {
        let delivered: u64 =
            [&a, &b].iter().map(|node| counted(node, fleet.stream(), "gate_letters")).sum::<anyhow::Result<u64>>()?;
        ensure!(host.get("/readyz")?.status == 200);
        Ok(delivered > 0 && parked(&a, fleet.stream())? == delivered && parked(&b, fleet.stream())? == delivered)
    })?;
    let letters = parked(&a, fleet.stream())?;

    let order = json!({ "stream": fleet.stream(), "all": true, "rate": 5, "reason": "again" });
    let job = say(a.host()?, "/v1/redrives", &order)?;
    ensure!(job.status == 202, "{} {}", job.status, job.text);
    let path = format!("/v1/redrives/{}", job.str("/id"));
    let second = say(b.host()?, "/v1/redrives", &order)?;
    ensure!((second.status, second.str("/code")) == (409, "PH2401"), "one at a time, whoever asks: {}", second.text);
    b.host()?.until("it is under way", |host| Ok(host.get(&path)?.number("/moved") > Some(0)))?;

    let halt = say(a.host()?, "/v1/agents/a1/halt", &json!({ "reason": "looks wrong" }))?;
    ensure!(halt.status == 200, "{}", halt.text);
    b.host()?.until("the other host knows", |host| Ok(host.get("/v1/agents/a1")?.str("/state") == "halted"))?;

    // The host that was asked dies: the other one takes its partitions, and does the rest.
    a.kill()?;
    b.host()?
        .until("the redrive ends", |host| Ok(host.get(&path)?.str("/state") == "done"))
        .or_else(|_| b.host()?.until("the redrive ends", |host| Ok(host.get(&path)?.str("/state") == "done")))?;
    // They break the contract as before: each is parked again, none is lost.
    b.host()?.until("all are parked again", |_| Ok(parked(&b, fleet.stream())? >= letters))?;
    ensure!(b.host()?.get("/v1/agents/a1")?.str("/state") == "halted");
    ensure!(say(b.host()?, "/v1/agents/a1/reset", &json!({ "reason": "was fine" }))?.status == 200);
    a.start()?;
    ensure!(a.host()?.get("/v1/agents/a1")?.str("/state") == "running", "what was reset elsewhere is reset");
    fleet.drained(&[&a, &b])?;
    a.stop()?;
    b.stop()?;
    fleet.judge(&written)?;
    Ok(())
}

fn counted(node: &Node, stream: &str, count: &str) -> anyhow::Result<u64> {
    Ok(node.host()?.stream(stream)?.pointer(&format!("/counts/{count}")).and_then(Value::as_u64).unwrap_or_default())
}
