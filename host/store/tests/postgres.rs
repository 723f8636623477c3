//! The store on a real PostgreSQL: the suite, and everything that a server and the way to it can suffer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use phronis_core::Time;
use phronis_store::audit::{Entry, Filter};
use phronis_store::conformance::server::{PASSWORD, Server};
use phronis_store::conformance::{CASES, Hosts};
use phronis_store::{Error, Options, Postgres, Store};
use phronis_tests::proxy::Proxy;

/// Longer than anything takes on a busy machine; what is waited for is a change, never a time.
const LONG: Duration = Duration::from_secs(60);

fn entry(id: &str) -> Entry {
    Entry {
        id: id.to_owned(),
        at: Time(1),
        actor: "ops".to_owned(),
        action: "test".to_owned(),
        subject: "x".to_owned(),
        tenant: None,
        reason: None,
        facts: serde_json::json!({}),
    }
}

/// A database, asked with as much patience as it may need.
fn options(url: &str, schema: &str) -> Options {
    let usual = Postgres::new(url.parse().unwrap());
    Options::Postgres(Postgres { schema: schema.to_owned(), patience: LONG, ..usual })
}

async fn open(server: &Server) -> Store {
    Store::open(&options(&server.url(), "phronis")).await.unwrap()
}

/// With the patience of a host: for what must fail soon while the database is away.
async fn open_as_usual(url: &str) -> Store {
    Store::open(&Options::Postgres(Postgres::new(url.parse().unwrap()))).await.unwrap()
}

/// A schema that no earlier case used.
fn fresh() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("case_{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Tries until the store has an entry, as everybody does who has something to write back. It is there once, however often.
async fn store_at_last(store: &Store, id: &str) {
    let deadline = Instant::now() + LONG;
    while let Err(error) = store.append_audit(&[entry(id)]).await {
        assert!(Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the store is known to serve.
async fn until_it_serves(store: &Store) {
    let mut health = store.watch_health();
    tokio::time::timeout(LONG, health.wait_for(Option::is_none)).await.unwrap().unwrap();
}

async fn ids(store: &Store) -> Vec<String> {
    let page = store.audit(&Filter::default(), 100_000, None).await.unwrap();
    page.items.into_iter().map(|entry| entry.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_what_every_store_must_do() {
    let server = Server::start().unwrap();
    for (name, case) in CASES {
        println!("{name}");
        let options = options(&server.url(), &fresh());
        case(Hosts { one: Store::open(&options).await.unwrap(), other: Store::open(&options).await.unwrap() }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_start_at_once_make_the_tables_once() {
    let server = Server::start().unwrap();
    let mut openers = tokio::task::JoinSet::new();
    for opener in 0..6 {
        let url = server.url();
        openers.spawn(async move {
            let store = Store::open(&options(&url, "phronis")).await.unwrap();
            // Whoever waits for the others' migrations for too long is told so by the server, and tries again.
            store_at_last(&store, &opener.to_string()).await;
        });
    }
    openers.join_all().await;
    assert_eq!(ids(&open(&server).await).await.len(), 6);
    let migrations = server.sql("SELECT max(version) = count(*) FROM phronis._sqlx_migrations").unwrap();
    assert_eq!(migrations, "t", "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_starts_without_it_and_the_tables_are_made_when_it_comes() {
    let server = Server::start().unwrap();
    server.stop().unwrap();
    let store = open_as_usual(&server.url()).await;
    let error = store.append_audit(&[entry("early")]).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }) && error.is_retriable(), "{error}");
    assert_eq!((error.code().to_string().as_str(), store.health().is_err()), ("PH5001", true));
    server.launch().unwrap();
    store_at_last(&store, "late").await;
    until_it_serves(&store).await;
    assert_eq!(ids(&open(&server).await).await, ["late"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_being_killed_amid_writes() {
    let server = Server::start().unwrap();
    let store = open_as_usual(&server.url()).await;
    store_at_last(&store, "first").await;
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let (mut writers, is_over) = (tokio::task::JoinSet::new(), Arc::new(AtomicBool::new(false)));
        for writer in 0..4 {
            let (store, is_over) = (store.clone(), Arc::clone(&is_over));
            writers.spawn(async move {
                let mut stored = Vec::new();
                loop {
                    let id = format!("{round}-{writer}-{}", stored.len());
                    match store.append_audit(&[entry(&id)]).await {
                        Ok(()) => stored.push(id),
                        Err(Error::Unreachable { .. }) if is_over.load(Ordering::Relaxed) => break,
                        // Before that, the machine only stood still for a moment.
                        Err(Error::Unreachable { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                        Err(error) => panic!("{error:?}"),
                    }
                }
                stored
            });
        }
        // Some are stored, and others are under way.
        let counting = Instant::now();
        let some = format!("SELECT count(*) > 30 FROM phronis.audit WHERE id LIKE '{round}-%'");
        while server.sql(&some).unwrap() != "t" {
            assert!(counting.elapsed() < LONG);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        is_over.store(true, Ordering::Relaxed);
        server.kill().unwrap();
        for stored in writers.join_all().await {
            acknowledged.extend(stored);
        }
        server.launch().unwrap();
        until_it_serves(&store).await;
    }
    let there = ids(&open(&server).await).await;
    let lost: Vec<&String> = acknowledged.iter().filter(|id| !there.contains(id)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(acknowledged.len() > 60, "{}", acknowledged.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_is_away_calls_fail_at_once_and_others_are_told_when_it_is_back() {
    let server = Server::start().unwrap();
    let store = open_as_usual(&server.url()).await;
    let mut health = store.watch_health();
    server.stop().unwrap();
    assert!(store.append_audit(&[entry("a")]).await.is_err());
    tokio::time::timeout(LONG, health.wait_for(Option::is_some)).await.unwrap().unwrap();
    // A thousand calls, each of which would else wait for itself.
    let began = Instant::now();
    for _ in 0..1000 {
        assert!(matches!(store.halts().await, Err(Error::Unreachable { .. })));
    }
    assert!(began.elapsed() < LONG);
    server.launch().unwrap();
    until_it_serves(&store).await;
    store_at_last(&store, "b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_swallows_everything_is_noticed_and_forgotten_when_it_heals() {
    let server = Server::start().unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    let store = open_as_usual(&server.url_through(proxy.port())).await;
    store_at_last(&store, "before").await;
    proxy.black_hole(true);
    // More calls at once than there are connections.
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..12 {
        let store = store.clone();
        calls.spawn(async move { store.append_audit(&[entry(&number.to_string())]).await });
    }
    for outcome in calls.join_all().await {
        assert!(matches!(outcome, Err(Error::Unreachable { .. })), "{outcome:?}");
    }
    // A firewall that forgot the connections: the old ones never get an answer.
    proxy.cut();
    proxy.black_hole(false);
    for number in 0..12 {
        store_at_last(&store, &number.to_string()).await;
    }
    assert_eq!(ids(&open(&server).await).await.len(), 13, "each once, whether the first try got through or not");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_one_answers_and_one_that_is_too_slow_is_away() {
    let server = Server::start().unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    let patient = Postgres { patience: LONG, ..Postgres::new(server.url_through(proxy.port()).parse().unwrap()) };
    let hasty = Postgres { patience: Duration::from_secs(1), ..patient.clone() };
    let patient = Store::open(&Options::Postgres(patient)).await.unwrap();
    let hasty = Store::open(&Options::Postgres(hasty)).await.unwrap();
    store_at_last(&hasty, "quick").await;
    // There and back, each answer takes longer than the hasty one has.
    proxy.latency(Duration::from_millis(600));
    patient.append_audit(&[entry("slow")]).await.unwrap();
    let error = hasty.append_audit(&[entry("too slow")]).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    proxy.heal();
    store_at_last(&hasty, "fine").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_is_told_why_and_never_the_password() {
    let server = Server::start().unwrap();
    for (url, said) in [
        (server.url().replace(PASSWORD, "s3cret-and-wrong"), "password authentication failed"),
        (server.url().replace("/postgres?", "/nothing?"), "does not exist"),
        (server.url().replace("sslmode=disable", "sslmode=require"), "TLS"),
    ] {
        let store = Store::open(&options(&url, "phronis")).await.unwrap();
        let error = store.append_audit(&[entry("a")]).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
        for text in [error.to_string(), format!("{error:?}"), store.place(), format!("{store:?}")] {
            assert!(!text.contains("s3cret"), "{text}");
        }
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_make_a_schema_uses_the_one_that_is_there() {
    let server = Server::start().unwrap();
    server.sql("CREATE ROLE small LOGIN PASSWORD 'small'; CREATE DATABASE theirs").unwrap();
    let url = server.url().replace(&format!("phronis:{PASSWORD}"), "small:small").replace("/postgres?", "/theirs?");
    let store = Store::open(&options(&url, "phronis")).await.unwrap();
    let error = store.halts().await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    drop(store);
    server.sql_in("theirs", "CREATE SCHEMA phronis AUTHORIZATION small").unwrap();
    let store = Store::open(&options(&url, "phronis")).await.unwrap();
    store.append_audit(&[entry("a")]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_version_made_is_refused_untouched() {
    let server = Server::start().unwrap();
    let old = open(&server).await;
    server
        .sql("INSERT INTO phronis._sqlx_migrations (version, description, success, checksum, execution_time) VALUES (99, 'later', TRUE, '', 0)")
        .unwrap();
    let error = Store::open(&options(&server.url(), "phronis")).await.unwrap_err();
    assert!(matches!(error, Error::Newer { found: 99, .. }), "{error:?}");
    assert!(!error.to_string().contains(PASSWORD), "{error}");
    old.append_audit(&[entry("a")]).await.expect("who runs already goes on");

    server.stop().unwrap();
    let early = open_as_usual(&server.url()).await;
    server.launch().unwrap();
    let deadline = Instant::now() + LONG;
    loop {
        match early.append_audit(&[entry("b")]).await.unwrap_err() {
            Error::Newer { .. } => break,
            error => assert!(error.is_retriable() && Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
