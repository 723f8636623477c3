//! The broker of the tests, its clients, and the checker on it.

use std::time::{Duration, Instant};

use phronis_core::StreamId;
use phronis_core::partition::{Topics, of_key};
use phronis_tests::checker::{self, Expect};
use phronis_tests::kafka::{Admin, Broker, Isolation, NewRecord, Record, produce, read_all};
use phronis_tests::proxy::Proxy;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::{Left, letter};

const PATIENCE: Duration = Duration::from_secs(120);

fn values(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into()).collect()
}

#[test]
fn a_killed_broker_comes_back_with_all_that_it_acknowledged() -> anyhow::Result<()> {
    let proxy = Proxy::start(0)?;
    let broker = Broker::behind(&proxy)?;
    let bootstrap = broker.bootstrap();
    Admin::new(&bootstrap)?.create("kept", 3, &[])?;
    let record = |n: i64| NewRecord {
        key: (n % 7 != 0).then(|| format!("key {}", n % 20).into_bytes()),
        value: (n % 11 != 0).then(|| n.to_string().into_bytes()),
        headers: vec![("n".to_owned(), n.to_string().into_bytes()), ("n".to_owned(), vec![0xff])],
        timestamp: Some(1_700_000_000_000 + n),
        partition: None,
    };
    assert_eq!(produce(&bootstrap, "kept", (0..1000).map(record))?, 1000);
    assert!(bootstrap.ends_with(&format!(":{}", proxy.port())), "the broker is reached past the proxy");

    let before = read_all(&bootstrap, "kept", Isolation::Committed)?;
    assert_eq!(before.len(), 1000);
    for found in &before {
        let wanted = record(found.timestamp - 1_700_000_000_000);
        assert_eq!((&found.key, &found.value, &found.headers), (&wanted.key, &wanted.value, &wanted.headers));
        if let Some(key) = &found.key {
            assert_eq!(found.partition, of_key(key, 3), "{found:?}");
        }
    }
    for partition in 0..3 {
        let offsets: Vec<_> = before.iter().filter(|r| r.partition == partition).map(|r| r.offset).collect();
        assert!(!offsets.is_empty() && offsets.is_sorted());
    }

    let first = broker.pid()?;
    broker.kill()?;
    assert!(broker.pid().is_err());
    broker.restart()?;
    assert_ne!(broker.pid()?, first);
    // The proxy is no way any more; the broker's own listener is.
    proxy.refuse(true);
    proxy.cut();
    // A broker that was killed shows all of a partition only once it has looked how far its copies are.
    let until = Instant::now() + Duration::from_secs(60);
    let mut after = read_all(&broker.direct(), "kept", Isolation::Committed)?;
    while after.len() < before.len() && Instant::now() < until {
        after = read_all(&broker.direct(), "kept", Isolation::Committed)?;
    }
    let mut before = before;
    before.sort_by_key(|record| (record.partition, record.offset));
    after.sort_by_key(|record| (record.partition, record.offset));
    assert!(before == after);

    broker.pause()?;
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| read_all(&broker.direct(), "kept", Isolation::Committed));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!reading.is_finished(), "a paused broker answers");
        broker.resume()?;
        assert_eq!(reading.join().unwrap()?.len(), 1000);
        anyhow::Ok(())
    })?;
    let folder = broker.folder().to_owned();
    drop(broker);
    assert!(!folder.exists());
    Ok(())
}

#[test]
fn topics_are_made_changed_and_deleted() -> anyhow::Result<()> {
    let admin = Admin::new(&Broker::shared()?.bootstrap())?;
    admin.create("shape", 2, &[("cleanup.policy", "compact"), ("retention.ms", "1000")])?;
    let setting = |name: &str| anyhow::Ok(admin.settings("shape")?.get(name).cloned());
    assert_eq!(setting("cleanup.policy")?.as_deref(), Some("compact"));
    assert!(admin.create("shape", 2, &[]).is_err());
    admin.add_partitions("shape", 5)?;
    assert_eq!(admin.topics()?.get("shape"), Some(&5));
    admin.alter("shape", &[("cleanup.policy", "delete")])?;
    assert_eq!(setting("cleanup.policy")?.as_deref(), Some("delete"));
    assert_eq!(setting("retention.ms")?.as_deref(), Some("604800000"));
    admin.delete("shape")?;
    assert_eq!(admin.topics()?.get("shape"), None);
    assert!(read_all(&Broker::shared()?.bootstrap(), "shape", Isolation::Committed).is_err());
    Ok(())
}

#[test]
fn a_committed_reader_ends_where_the_open_transaction_begins() -> anyhow::Result<()> {
    let bootstrap = Broker::shared()?.bootstrap();
    Admin::new(&bootstrap)?.create("transactions", 1, &[])?;
    let mut config = ClientConfig::new();
    let producer: BaseProducer =
        config.set("bootstrap.servers", &bootstrap).set("transactional.id", "checker").create()?;
    producer.init_transactions(PATIENCE)?;
    let write = |value: &str| -> anyhow::Result<()> {
        producer.begin_transaction()?;
        let record = BaseRecord::<str, str>::to("transactions").key("k").payload(value);
        producer.send(record).map_err(|(error, _)| error)?;
        Ok(producer.flush(PATIENCE)?)
    };
    let read = |isolation| anyhow::Ok(values(&read_all(&bootstrap, "transactions", isolation)?));

    write("kept")?;
    producer.commit_transaction(PATIENCE)?;
    write("given up")?;
    producer.abort_transaction(PATIENCE)?;
    // The last that stands there is the marker of a transaction that nobody sees.
    assert_eq!(read(Isolation::Committed)?, ["kept"]);
    assert_eq!(read(Isolation::Uncommitted)?, ["kept", "given up"]);
    write("open")?;
    assert_eq!(read(Isolation::Committed)?, ["kept"]);
    assert_eq!(read(Isolation::Uncommitted)?, ["kept", "given up", "open"]);
    producer.commit_transaction(PATIENCE)?;
    assert_eq!(read(Isolation::Committed)?, ["kept", "open"]);
    Ok(())
}

/// Writes what a host left behind to topics of a stream of its own.
fn leave(left: &Left, stream: &str) -> anyhow::Result<()> {
    let bootstrap = Broker::shared()?.bootstrap();
    let admin = Admin::new(&bootstrap)?;
    let topics = Topics::of(&stream.parse::<StreamId>()?);
    for (topic, records) in left.by_topic(&topics) {
        admin.create(topic, 1, &[])?;
        let record = |record: &super::Record| NewRecord {
            headers: record.headers.iter().map(|(k, v)| ((*k).to_owned(), v.clone().into_bytes())).collect(),
            ..NewRecord::from((record.key, &record.value))
        };
        produce(&bootstrap, topic, records.iter().map(record))?;
    }
    Ok(())
}

fn check(stream: &str, may_repeat: bool) -> anyhow::Result<checker::Report> {
    checker::check_kafka(&Broker::shared()?.bootstrap(), stream, Expect { may_repeat, ..Expect::default() })
}

#[test]
fn a_sound_stream_holds_on_kafka_too() -> anyhow::Result<()> {
    leave(&Left::sound(), "sound.sensors")?;
    let report = check("sound.sensors", false)?.must_hold()?;
    let counts = (report.received, report.delivered, report.gate_letters, report.enrich_letters, report.dropped);
    assert_eq!(counts, (5, 3, 1, 0, 1), "{report}");
    let letters = checker::letters_on_kafka(&Broker::shared()?.bootstrap(), "sound.sensors")?;
    assert_eq!(letters.iter().map(|letter| letter.stage.as_str()).collect::<Vec<_>>(), ["gate", "detect"]);
    Ok(())
}

#[test]
fn a_second_delivery_is_wrong_unless_it_may_be() -> anyhow::Result<()> {
    let mut left = Left::sound();
    left.repeat_all();
    leave(&left, "twice.sensors")?;
    let report = check("twice.sensors", false)?;
    let words = report.to_string();
    for wrong in [
        "0/0 is Delivered and Delivered",
        "0/1 is GateLetter and GateLetter",
        "1 alerts stand in the topic more than once",
    ] {
        assert!(words.contains(wrong), "`{wrong}` is not in\n{words}");
    }
    let report = check("twice.sensors", true)?.must_hold()?;
    assert_eq!((report.delivered, report.repeated, report.repeated_alerts), (3, 6, 1), "{report}");
    Ok(())
}

#[test]
fn what_never_was_is_lost_on_kafka_too() -> anyhow::Result<()> {
    let mut left = Left::sound();
    left.processed.pop();
    left.dlq.push(letter("c", "0", "gate", "", r#"{"seq":0}"#));
    leave(&left, "lost.sensors")?;
    let words = check("lost.sensors", true)?.to_string();
    assert!(words.contains("0/3 is lost") && words.contains("0/0 is GateLetter and Delivered"), "{words}");
    Ok(())
}
