//! What the archive needs is away, slow, full, or fails now and then: it waits, says so, and has everything once in the end.
//! The host goes on meanwhile, and is ready.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::ensure;
use phronis_tests::checker::Tables;
use phronis_tests::flaky::Flaky;
use phronis_tests::host::{Host, Listener, Room, run};
use phronis_tests::load::Producer;
use phronis_tests::mount::Mount;
use phronis_tests::plugins::plugin;
use phronis_tests::postgres::{self, Server};
use phronis_tests::proxy::Proxy;
use phronis_tests::{rest, s3};
use serde_json::Value;

use super::{ARCHIVE, LONG, SETTINGS, THRESHOLD, archived, commits, ends_well, goes_well, room_on_s3, tables_on_s3};

/// Tables of a stream.
const TABLES: usize = 3;

/// A full disk under the warehouse: the archive waits and says so, the host goes on, nothing is lost.
#[test]
fn a_full_warehouse_makes_the_archive_late_and_nothing_else() -> anyhow::Result<()> {
    let Some(mount) = Mount::new("24m")? else {
        println!("skipped: mounting a small file system needs root");
        return Ok(());
    };
    let ballast = mount.path().join("ballast");
    let warehouse = mount.path().join("warehouse");
    let room = Room::with(&format!("{ARCHIVE}warehouse = \"file://{}\"\n", warehouse.display()))?;
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    let host = Host::start(&room)?;
    let mut producer = Producer::new(7);
    ensure!(producer.post(&host, 500)?, "no room");
    let listener = host.listen("?kind=alert&plugin=archive")?;
    // Writes until nothing fits any more.
    drop(std::fs::write(&ballast, vec![0; 32 << 20]));
    told_late(&listener, &host, &mut producer, "PH6004")?;
    std::fs::remove_file(&ballast)?;
    goes_well(&host)?;
    host.drained("sensors")?;
    println!("{:?}", ends_well(host, &room, &Tables::local(room.data()))?);
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
        producer.run(&host, 20, Duration::from_secs(1));
        server.kill()?;
        producer.run(&host, 20, Duration::from_secs(2));
        host.drained("sensors")?;
        server.launch()?;
    }
    goes_well(&host)?;
    let tables = Tables { catalog: postgres::catalog(&server, "phronis"), ..Tables::local(room.data()) };
    println!("{:?}", ends_well(host, &room, &tables)?);
    Ok(())
}

/// Waits for the alert that the archive is late for this reason; the host takes events, stays ready, and says why.
fn told_late(listener: &Listener, host: &Host, producer: &mut Producer, code: &str) -> anyhow::Result<()> {
    // Each table tells once: for another reason, or before it knew why, where this machine is slow.
    for _ in 0..TABLES {
        if is_late(listener)?.as_deref() == Some(code) {
            break;
        }
    }
    ensure!(producer.post(host, 200)?, "the host takes no events because its archive waits");
    host.until("it is told why", |host| {
        let answer = host.get("/readyz")?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text);
        Ok(answer.text.contains(code))
    })
}

/// The code of the next alert that a table is late, if it knows why.
fn is_late(listener: &Listener) -> anyhow::Result<Option<String>> {
    let alert = listener.next("alert")?.data;
    ensure!(alert.get("rule").is_some_and(|rule| rule == "archive-late"), "the alert is another: {alert}");
    Ok(alert.pointer("/attributes/code").and_then(Value::as_str).map(str::to_owned))
}

/// An S3 server that is away when the host starts, then killed and paused: the archive is late, and has everything in the end.
#[test]
fn an_object_store_that_comes_and_goes_loses_nothing() -> anyhow::Result<()> {
    let mut store = s3::Server::start()?;
    let room = room_on_s3(&store.settings(), "")?;
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    let (code, told, said) = run(room.command(&["check", "--online"])?)?;
    ensure!(code == Some(0) && told.contains("default_sensors_events will be made"), "{told}{said}");
    store.kill()?;
    let (code, told, said) = run(room.command(&["check", "--online"])?)?;
    ensure!(code == Some(4) && said.contains("PH6003"), "{code:?} {told}{said}");

    let host = Host::start(&room)?;
    let mut producer = Producer::new(13);
    ensure!(producer.post(&host, 500)?, "no room");
    let listener = host.listen("?kind=alert&plugin=archive")?;
    told_late(&listener, &host, &mut producer, "PH6003")?;
    store.restart()?;
    goes_well(&host)?;
    commits(&host, &mut producer, 1)?;
    host.until_within(LONG, "no table is late any more", |host| {
        Ok(host.said().matches("not late any more").count() >= 3)
    })?;
    // Storage that takes calls and answers none is told of as soon as one that is away.
    let listener = host.listen("?kind=alert&plugin=archive")?;
    store.pause()?;
    producer.run(&host, 20, Duration::from_secs(2));
    is_late(&listener)?;
    store.resume()?;
    producer.run(&host, 20, Duration::from_secs(1));
    store.kill()?;
    producer.run(&host, 20, Duration::from_secs(1));
    host.drained("sensors")?;
    host.until_within(LONG, "it is told again", |host| {
        let answer = host.get("/readyz")?;
        Ok(answer.status == 200 && answer.text.contains("PH6003"))
    })?;
    store.restart()?;
    goes_well(&host)?;
    archived(&host, producer.sent)?;
    println!("{:?}", ends_well(host, &room, &tables_on_s3(&room, &store))?);
    Ok(())
}

/// Every few calls of the object store fail: with an error, with "slow down", or done and never answered.
#[test]
fn an_object_store_that_fails_now_and_then_loses_nothing() -> anyhow::Result<()> {
    let store = s3::Server::start()?;
    let flaky = Flaky::start(store.port())?;
    let mut settings = store.settings();
    settings.insert("s3.endpoint".to_owned(), format!("http://127.0.0.1:{}", flaky.port()));
    let room = room_on_s3(&settings, "")?;
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    let host = Host::start(&room)?;
    let mut producer = Producer::new(14);
    commits(&host, &mut producer, 1)?;
    for every in [7, 5, 3] {
        fails(&flaky, every, 4, &host, &mut producer)?;
    }
    goes_well(&host)?;
    archived(&host, producer.sent)?;
    println!("{} calls failed", flaky.failed());
    println!("{:?}", ends_well(host, &room, &tables_on_s3(&room, &store))?);
    Ok(())
}

/// Lets one of so many calls go wrong, until so many more did.
fn fails(flaky: &Flaky, every: u64, times: u64, host: &Host, producer: &mut Producer) -> anyhow::Result<()> {
    let enough = flaky.failed() + times;
    flaky.fail_every(every);
    // A call that fails makes pauses longer, in which there are no calls.
    host.until_within(LONG, "calls fail", |host| {
        producer.post(host, 20)?;
        Ok(flaky.failed() >= enough)
    })?;
    flaky.fail_every(0);
    Ok(())
}

/// Every answer takes its time: fewer commits, nothing else.
#[test]
fn a_slow_object_store_loses_nothing() -> anyhow::Result<()> {
    let store = s3::Server::start()?;
    let proxy = Proxy::start(store.port())?;
    let mut settings = store.settings();
    settings.insert("s3.endpoint".to_owned(), format!("http://127.0.0.1:{}", proxy.port()));
    let room = room_on_s3(&settings, "")?;
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    let host = Host::start(&room)?;
    let mut producer = Producer::new(15);
    proxy.latency(Duration::from_millis(100));
    producer.run(&host, 20, Duration::from_secs(3));
    proxy.cut();
    producer.run(&host, 20, Duration::from_secs(1));
    ensure!(host.get("/readyz")?.status == 200, "a host whose object store is slow is ready");
    proxy.heal();
    goes_well(&host)?;
    archived(&host, producer.sent)?;
    println!("{:?}", ends_well(host, &room, &tables_on_s3(&room, &store))?);
    Ok(())
}

/// A REST catalog of which every third answer is lost or refused: whether a commit took place is looked up, and nothing is archived twice.
#[test]
fn answers_of_a_rest_catalog_that_are_lost_are_looked_up() -> anyhow::Result<()> {
    let catalog = rest::Server::start()?;
    let flaky = Flaky::start(catalog.port())?;
    let rest =
        format!("warehouse = \"\"\ncatalog = \"rest\"\n[archive.rest]\nuri = \"http://127.0.0.1:{}\"\n", flaky.port());
    let room = Room::with(&format!("{ARCHIVE}{rest}"))?;
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    let host = Host::start(&room)?;
    let mut producer = Producer::new(16);
    commits(&host, &mut producer, 1)?;
    fails(&flaky, 3, 6, &host, &mut producer)?;
    goes_well(&host)?;
    archived(&host, producer.sent)?;
    println!("{} calls failed", flaky.failed());
    let tables = Tables { catalog: catalog.uri(), ..Tables::local(room.data()) };
    println!("{:?}", ends_well(host, &room, &tables)?);
    Ok(())
}

/// Wrong credentials are told before a host starts, and by one that runs.
#[test]
fn wrong_credentials_are_told() -> anyhow::Result<()> {
    let store = s3::Server::start()?;
    let mut settings = store.settings();
    settings.insert("s3.secret-access-key".to_owned(), "this-is-wrong".to_owned());
    let room = room_on_s3(&settings, "")?;
    let (code, told, said) = run(room.command(&["check", "--online"])?)?;
    ensure!(code != Some(0) && said.contains("PH6002"), "{code:?} {told}{said}");
    ensure!(!said.contains("this-is-wrong") && !told.contains("this-is-wrong"), "a secret is told: {told}{said}");
    let host = Host::start(&room)?;
    host.until("it is told", |host| Ok(host.get("/readyz")?.text.contains("PH6002")))?;
    ensure!(!host.said().contains("this-is-wrong"), "a secret is told: {}", host.said());
    ensure!(host.stop()?.success());
    Ok(())
}

/// A catalog that takes no credentials is told like a storage that takes none.
#[test]
fn wrong_credentials_of_the_catalog_are_told() -> anyhow::Result<()> {
    let door = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let uri = format!("http://{}", door.local_addr()?);
    // It ends with the process of the tests.
    std::thread::spawn(move || door.incoming().flatten().for_each(|client| drop(refuse(client))));
    let rest =
        format!("warehouse = \"\"\ncatalog = \"rest\"\n[archive.rest]\nuri = \"{uri}\"\ntoken_file = \"token\"\n");
    let room = Room::with(&format!("{ARCHIVE}{rest}"))?;
    std::fs::write(room.folder().join("token"), "this-is-wrong")?;
    let (code, told, said) = run(room.command(&["check", "--online"])?)?;
    ensure!(code != Some(0) && said.contains("PH6005"), "{code:?} {told}{said}");
    ensure!(!said.contains("this-is-wrong") && !told.contains("this-is-wrong"), "a secret is told: {told}{said}");
    let host = Host::start(&room)?;
    host.until("it is told", |host| Ok(host.get("/readyz")?.text.contains("PH6005")))?;
    ensure!(!host.said().contains("this-is-wrong"), "a secret is told: {}", host.said());
    ensure!(host.stop()?.success());
    Ok(())
}

/// Answers a call as a catalog does that does not know who calls.
fn refuse(mut client: TcpStream) -> std::io::Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut head: Vec<u8> = Vec::new();
    let mut some = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let read = client.read(&mut some)?;
        if read == 0 {
            return Ok(());
        }
        head.extend(some.iter().take(read));
    }
    let body = r#"{"error":{"message":"who is there?","type":"NotAuthorizedException","code":401}}"#;
    write!(
        client,
        "HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Without keys in its settings, the host takes those of its environment.
#[test]
fn credentials_of_the_object_store_may_stand_in_the_environment() -> anyhow::Result<()> {
    let store = s3::Server::start()?;
    let mut settings = store.settings();
    settings.retain(|name, _| !matches!(name.as_str(), "s3.access-key-id" | "s3.secret-access-key"));
    let room = room_on_s3(&settings, "")?;
    room.install(THRESHOLD, &plugin("threshold")?, SETTINGS)?;
    let keys = [("AWS_ACCESS_KEY_ID", s3::KEY), ("AWS_SECRET_ACCESS_KEY", s3::SECRET)];
    let mut check = room.command(&["check", "--online"])?;
    check.envs(keys);
    let (code, told, said) = run(check)?;
    ensure!(code == Some(0) && told.contains("default_sensors_events will be made"), "{code:?} {told}{said}");
    let host = Host::start_with(&room, &keys)?;
    let mut producer = Producer::new(18);
    host.until("it is ready", |host| Ok(host.get("/readyz")?.status == 200))?;
    commits(&host, &mut producer, 2)?;
    ensure!(!host.said().contains(s3::SECRET), "a secret is told: {}", host.said());
    println!("{:?}", ends_well(host, &room, &tables_on_s3(&room, &store))?);
    Ok(())
}
