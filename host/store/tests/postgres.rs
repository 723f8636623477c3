//! The store on a real PostgreSQL: the suite, and everything that a server and the way to it can suffer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::sync::atomic::{AtomicU32, Ordering};
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

fn options(url: &str, schema: &str) -> Options {
    Options::Postgres(Postgres { schema: schema.to_owned(), ..Postgres::new(url.parse().unwrap()) })
}

async fn open(server: &Server) -> Store {
    Store::open(&options(&server.url(), "phronis")).await.unwrap()
}

/// A schema that no earlier case used.
fn fresh() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("case_{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Tries until the store answers, as everybody does who has something to write back.
async fn until_it_answers(store: &Store) {
    let deadline = Instant::now() + LONG;
    let mut health = store.watch_health();
    while let Err(error) = store.audit(&Filter::default(), 1, None).await {
        assert!(Instant::now() < deadline, "{error}");
        drop(tokio::time::timeout(LONG, health.changed()).await);
    }
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
            store.append_audit(&[entry(&opener.to_string())]).await.unwrap();
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
    let store = open(&server).await;
    let error = store.append_audit(&[entry("early")]).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }) && error.is_retriable(), "{error}");
    assert_eq!((error.code().to_string().as_str(), store.health().is_err()), ("PH5001", true));
    server.launch().unwrap();
    until_it_answers(&store).await;
    store.append_audit(&[entry("late")]).await.unwrap();
    assert_eq!(ids(&store).await, ["late"]);
    assert!(store.health().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_being_killed_amid_writes() {
    let server = Server::start().unwrap();
    let store = open(&server).await;
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..4 {
            let store = store.clone();
            writers.spawn(async move {
                let mut stored = Vec::new();
                for number in 0.. {
                    let id = format!("{round}-{writer}-{number}");
                    match store.append_audit(&[entry(&id)]).await {
                        Ok(()) => stored.push(id),
                        Err(Error::Unreachable { .. }) => break,
                        Err(error) => panic!("{error:?}"),
                    }
                }
                stored
            });
        }
        // Some are stored, and others are under way.
        let counting = Instant::now();
        let some = format!("SELECT count(*) > 20 FROM phronis.audit WHERE id LIKE '{round}-%'");
        while server.sql(&some).unwrap() != "t" {
            assert!(counting.elapsed() < LONG);
        }
        server.kill().unwrap();
        for stored in writers.join_all().await {
            acknowledged.extend(stored);
        }
        server.launch().unwrap();
        until_it_answers(&store).await;
    }
    let there = ids(&store).await;
    let lost: Vec<&String> = acknowledged.iter().filter(|id| !there.contains(id)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(acknowledged.len() > 60, "{}", acknowledged.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_is_away_calls_fail_at_once_and_others_are_told_when_it_is_back() {
    let server = Server::start().unwrap();
    let store = open(&server).await;
    let mut health = store.watch_health();
    server.stop().unwrap();
    assert!(store.append_audit(&[entry("a")]).await.is_err());
    health.wait_for(Option::is_some).await.unwrap();
    // A thousand calls, each of which would else wait for itself.
    let began = Instant::now();
    for _ in 0..1000 {
        assert!(matches!(store.halts().await, Err(Error::Unreachable { .. })));
    }
    assert!(began.elapsed() < LONG);
    server.launch().unwrap();
    tokio::time::timeout(LONG, health.wait_for(Option::is_none)).await.unwrap().unwrap();
    until_it_answers(&store).await;
    store.append_audit(&[entry("b")]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_swallows_everything_is_noticed_and_forgotten_when_it_heals() {
    let server = Server::start().unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    let store = Store::open(&options(&server.url_through(proxy.port()), "phronis")).await.unwrap();
    store.append_audit(&[entry("before")]).await.unwrap();
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
    until_it_answers(&store).await;
    for number in 0..12 {
        store.append_audit(&[entry(&number.to_string())]).await.unwrap();
    }
    assert_eq!(ids(&store).await.len(), 13, "each once, whether the first try got through or not");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_one_answers_and_one_that_is_too_slow_is_away() {
    let server = Server::start().unwrap();
    let proxy = Proxy::start(server.port()).unwrap();
    let patient = Postgres { patience: LONG, ..Postgres::new(server.url_through(proxy.port()).parse().unwrap()) };
    let hasty = Postgres { patience: Duration::from_millis(300), ..patient.clone() };
    let patient = Store::open(&Options::Postgres(patient)).await.unwrap();
    let hasty = Store::open(&Options::Postgres(hasty)).await.unwrap();
    until_it_answers(&hasty).await;
    proxy.latency(Duration::from_millis(200));
    patient.append_audit(&[entry("slow")]).await.unwrap();
    let error = hasty.append_audit(&[entry("too slow")]).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    proxy.heal();
    until_it_answers(&hasty).await;
    hasty.append_audit(&[entry("fine")]).await.unwrap();
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
    let early = open(&server).await;
    server.launch().unwrap();
    let mut health = early.watch_health();
    let is_told = |error: &Option<Error>| matches!(error, Some(Error::Newer { .. }));
    tokio::time::timeout(LONG, health.wait_for(is_told)).await.unwrap().unwrap();
    let error = early.append_audit(&[entry("b")]).await.unwrap_err();
    assert!(matches!(error, Error::Newer { .. }), "{error}");
}
