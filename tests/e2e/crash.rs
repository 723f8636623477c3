//! Processes that die, end, or come twice.

use phronis_tests::checker::{Expect, check_folder};
use phronis_tests::host::{Host, Room, run};
use phronis_tests::load::{Producer, survive};
use phronis_tests::plugins::plugin;

use crate::judged_by;

const ID: &str = "default/sensors/threshold";

#[test]
fn three_kills_under_load_lose_nothing() -> anyhow::Result<()> {
    let seed = std::env::var("PHRONIS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed} (PHRONIS_SEED={seed} runs it again)");
    let room = Room::new()?;
    room.install(ID, &plugin("threshold")?, "[params]\nhigh = 90.0\n")?;
    let survived = survive(&room, seed, 3)?;
    println!("seed {seed}: {} events sent, {} answered", survived.sent, survived.answered);
    let expect = Expect { acknowledged: survived.acknowledged.clone(), ..judged_by("threshold", 90.0) };
    let report = check_folder(&room.log(), "sensors", expect)?.must_hold()?;
    println!("{report}");
    assert!(report.received >= survived.answered && report.received <= survived.sent, "{report}");
    Ok(())
}

#[test]
fn sigterm_judges_and_commits_what_was_taken() -> anyhow::Result<()> {
    let room = Room::new()?;
    room.install(ID, &plugin("threshold")?, "[params]\nhigh = 90.0\n")?;
    let host = Host::start(&room)?;
    host.plugin_is(ID, "active")?;
    let mut producer = Producer::new(3);
    // What is judged within a moment also on a slow machine: at its end a host has three seconds for it.
    for _ in 0..10 {
        assert!(producer.post(&host, 100)?);
    }
    assert!(host.stop()?.success());
    let expect = Expect { acknowledged: producer.acknowledged.clone(), ..judged_by("threshold", 90.0) };
    let report = check_folder(&room.log(), "sensors", expect)?.must_hold()?;
    assert_eq!(report.received, producer.sent, "{report}");
    Ok(())
}

#[test]
fn a_second_host_on_the_same_log_is_refused_and_told_who_holds_it() -> anyhow::Result<()> {
    let room = Room::new()?;
    let host = Host::start(&room)?;
    let (code, _, said) = run(room.command(&["run"])?)?;
    assert!(code.is_some_and(|code| code != 0), "{said}");
    assert!(said.contains("PH0103") && said.contains(&host.pid().to_string()), "{said}");
    assert_eq!(host.get("/livez")?.status, 200, "the first one lives on");
    Ok(())
}
