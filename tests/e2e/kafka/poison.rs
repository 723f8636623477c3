//! A record that kills every host that judges it, on Kafka, where offsets trail behind outputs: it is found, and nothing else is lost to it.

use anyhow::ensure;
use phronis_tests::checker::{Expect, check_kafka};
use phronis_tests::fleet::{Fleet, Load, Options};
use phronis_tests::host::Host;

/// Starts that it may take: batches before the record, a part, and the record alone, each with some luck.
const MOST_DEATHS: usize = 30;

fn found(name: &str, exactly_once: bool) -> anyhow::Result<()> {
    let fleet = Fleet::shared(name, Options { partitions: 1, exactly_once, ..Options::default() })?;
    let written = fleet.write(Load { most: 3_000, rate: 0, ..Load::new(5) })?.finish()?;
    let mut node = fleet.node("a")?;
    let poison = [("PHRONIS_FAIL_AT", "record-0-1234")];
    let mut deaths = 0;
    loop {
        ensure!(deaths < MOST_DEATHS, "the record is not found");
        // It may be gone before it answered anything.
        if let Ok(host) = Host::start_with(node.room(), &poison) {
            let waited = host.until("it dies, or all is judged", |host| Ok(host.is_gone() || fleet.lag()? == 0));
            if !host.is_gone() {
                waited?;
                ensure!(host.stop()?.success());
                break;
            }
        }
        deaths += 1;
    }
    ensure!(deaths >= 3, "{deaths} deaths are no proof");
    node.start()?;
    fleet.drained(&[&node])?;
    node.stop()?;
    let report =
        check_kafka(fleet.direct(), fleet.stream(), Expect { may_repeat: !exactly_once, ..Expect::default() })?;
    let report = report.must_hold()?;
    ensure!(report.letters_with("PH2304") == 1 && report.received == written.sent, "{report}");
    println!("found after {deaths} deaths");
    Ok(())
}

#[test]
fn a_record_that_kills_the_host_is_found() -> anyhow::Result<()> {
    found("poison", false)
}

#[test]
fn a_record_that_kills_the_host_is_found_where_once_is_asked() -> anyhow::Result<()> {
    found("poison-once", true)
}
