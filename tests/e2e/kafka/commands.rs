//! The commands of a person, with a host on Kafka and without one.

use anyhow::ensure;
use phronis_tests::fleet::{Fleet, Options};
use phronis_tests::host::{Room, run};
use phronis_tests::kafka::{Admin, Broker, produce};
use serde_json::Value;

/// Runs a command that must end well; what it printed.
fn told(room: &Room, args: &[&str]) -> anyhow::Result<String> {
    let (code, told, said) = run(room.command(args)?)?;
    anyhow::ensure!(code == Some(0), "phronis {args:?} ended with {code:?}: {said}");
    Ok(told)
}

/// What `phronis streams` says of the stream's lag, in records and whether in time, and its state.
fn lag(room: &Room, stream: &str) -> anyhow::Result<(Option<u64>, Option<bool>, String)> {
    let items: Value = serde_json::from_str(&told(room, &["streams", "-o", "json"])?)?;
    let items = items.as_array().or_else(|| items.get("items")?.as_array()).cloned().unwrap_or_default();
    let item = items.into_iter().find(|item| item.get("id") == Some(&stream.into())).unwrap_or_default();
    let state = item.get("state").and_then(Value::as_str).unwrap_or_default().to_owned();
    let is_late = item.pointer("/lag/seconds").and_then(Value::as_f64).map(|seconds| seconds > 0.0);
    Ok((item.pointer("/lag/records").and_then(Value::as_u64), is_late, state))
}

#[test]
fn the_commands_work_with_a_host_and_without_one() -> anyhow::Result<()> {
    let fleet = Fleet::shared("commands", Options::default())?;
    let (stream, bootstrap) = (fleet.stream(), Broker::shared()?.bootstrap());
    told_nothing_differs(&fleet)?;
    let mut node = fleet.start("a")?;
    let room = node.room();
    let rows: String = (0..300).map(|seq| crate::reading("S1", seq, 20.0)).collect();
    std::fs::write(room.folder().join("rows.ndjson"), rows)?;
    told(room, &["load", "rows.ndjson", "--stream", stream])?;
    told(room, &["simulate", "--to", stream, "--rate", "500", "--duration", "1s"])?;
    fleet.drained(&[&node])?;
    node.host()?
        .until("the command says so", |_| Ok(lag(room, stream)? == (Some(0), Some(false), "running".to_owned())))?;
    let tail = ["tail", "processed", "--stream", stream, "--no-follow"];
    assert_eq!(told(room, &tail)?.lines().count(), 800);
    node.stop()?;

    let late = (0..100).map(|seq| ("S1", crate::reading("S1", 300 + seq, 20.0)));
    produce(&bootstrap, &fleet.topics()?.raw, late)?;
    let room = node.room();
    assert_eq!(lag(room, stream)?, (Some(100), Some(true), "stopped".to_owned()));
    assert_eq!(told(room, &tail)?.lines().count(), 800);
    assert_eq!(told(room, &["tail", "raw", "--stream", stream, "--no-follow"])?.lines().count(), 900);
    assert!(told(room, &["topics", "describe"])?.contains(&*fleet.topics()?.raw));
    Ok(())
}

fn told_nothing_differs(fleet: &Fleet) -> anyhow::Result<()> {
    let (code, told, said) = fleet.command(&["topics", "check"])?;
    assert_eq!(code, Some(0), "{told}{said}");
    let again = fleet.create_topics(&[])?;
    assert!(!again.contains("made"), "{again}");
    Ok(())
}

#[test]
fn a_host_without_its_topics_names_them_and_topics_that_someone_changed_are_told() -> anyhow::Result<()> {
    // A broker of its own: the topics that all streams share are looked at, too.
    let broker = Broker::start()?;
    let (bootstrap, direct) = (broker.bootstrap(), broker.bootstrap());
    let fleet = Fleet::planned(&bootstrap, &direct, "missed", Options::default())?;
    let topics = fleet.topics()?;
    let node = fleet.node("a")?;
    let (code, _, said) = run(node.room().command(&["run"])?)?;
    for part in ["PH3007", &*topics.raw, "phronis.config", "`phronis topics create -c "] {
        ensure!(code == Some(5) && said.contains(part), "{part}: {code:?} {said}");
    }
    let check = |parts: &[&str]| -> anyhow::Result<()> {
        let (code, told, said) = fleet.command(&["topics", "check"])?;
        for part in parts {
            ensure!(code == Some(1) && (told.contains(part) || said.contains(part)), "{part}: {code:?} {told}{said}");
        }
        Ok(())
    };
    check(&["PH3007", "missing"])?;
    fleet.create_topics(&[])?;
    told_nothing_differs(&fleet)?;

    // Old settings would go, and an event of a clock that is ahead would be refused for ever.
    let admin = Admin::new(&direct)?;
    admin.alter("phronis.config", &[("cleanup.policy", "compact,delete")])?;
    admin.alter(&topics.processed, &[("message.timestamp.after.max.ms", "3600000")])?;
    let retention = "retention compacted, 7d, configured compacted";
    check(&["PH3008", "differs", retention, "message.timestamp.after.max.ms 1h, configured any"])?;
    fleet.create_topics(&[])?;
    told_nothing_differs(&fleet)
}

#[test]
fn topics_that_several_make_at_once_are_made_once_and_all_are_told_so() -> anyhow::Result<()> {
    // A broker of its own: the topics that all streams share are new, too.
    let broker = Broker::start()?;
    let (bootstrap, direct) = (broker.bootstrap(), broker.bootstrap());
    let fleets = (0..3).map(|_| Fleet::planned(&bootstrap, &direct, "at-once", Options::default()));
    let fleets: Vec<Fleet> = fleets.collect::<anyhow::Result<_>>()?;
    std::thread::scope(|scope| {
        let made: Vec<_> = fleets
            .iter()
            .flat_map(|fleet| [fleet, fleet])
            .map(|fleet| scope.spawn(|| fleet.create_topics(&[])))
            .collect();
        made.into_iter().try_for_each(|made| made.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?.map(|_| ()))
    })?;
    fleets.iter().try_for_each(told_nothing_differs)
}
