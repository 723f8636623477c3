//! Hosts that are killed, sleep, come and go.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{line, options};
use crate::fleet::{Fleet, Load};
use crate::host::Host;

/// Kills a host under load, so many times, at random moments of its life.
///
/// # Errors
/// When something was lost, or doubled where it must not.
pub fn kills(seed: u64, kills: u32, exactly_once: bool) -> anyhow::Result<String> {
    let mut chance = StdRng::seed_from_u64(seed);
    let fleet = Fleet::shared("kill", options(exactly_once))?;
    let mut node = fleet.node("a")?;
    let writer = fleet.write(Load::new(seed))?;
    for kill in 0..kills {
        node.start_unready(&[])?;
        if kill == 0 {
            // One of them at least comes in the midst of its work.
            let is_at_work = |_: &Host| Ok(fleet.places()?.iter().any(|place| place.committed > Some(0)));
            node.host()?.until("something is judged", is_at_work)?;
        }
        // From "hardly started" to "in full swing".
        std::thread::sleep(Duration::from_millis(chance.random_range(5..3000)));
        node.kill()?;
    }
    node.start()?;
    writer.writes(500)?;
    let written = writer.stop()?;
    fleet.drained(&[&node])?;
    node.stop()?;
    Ok(line(&fleet.judge(&written)?))
}

/// One of two hosts is stopped where it stands, until the other has its partitions, and then goes on as if nothing had been.
pub(super) fn sleep(seed: u64, exactly_once: bool) -> anyhow::Result<String> {
    let fleet = Fleet::shared("sleep", options(exactly_once))?;
    let (mut a, mut b) = (fleet.start("a")?, fleet.start("b")?);
    let writer = fleet.write(Load { rate: 800, ..Load::new(seed) })?;
    writer.writes(1500)?;
    b.host()?.until("each has partitions", |_| Ok(!a.owned().is_empty() && !b.owned().is_empty()))?;
    let all = a.owned().len() + b.owned().len();
    a.host()?.pause()?;
    b.host()?.until("its partitions are the other's", |_| Ok(b.owned().len() == all))?;
    a.host()?.resume()?;
    writer.writes(2000)?;
    let written = writer.stop()?;
    fleet.drained(&[&a, &b])?;
    for node in [&mut a, &mut b] {
        super::is_ready(node)?;
        node.stop()?;
    }
    Ok(line(&fleet.judge(&written)?))
}

/// Hosts join and leave, in order and by being killed.
pub(super) fn come_and_go(seed: u64, exactly_once: bool) -> anyhow::Result<String> {
    let fleet = Fleet::shared("fleet", options(exactly_once))?;
    let writer = fleet.write(Load { rate: 800, ..Load::new(seed) })?;
    let mut a = fleet.start("a")?;
    let mut b = fleet.start("b")?;
    writer.writes(600)?;
    let mut c = fleet.start("c")?;
    writer.writes(600)?;
    b.stop()?;
    writer.writes(600)?;
    c.kill()?;
    b.start()?;
    a.stop()?;
    writer.writes(600)?;
    c.start()?;
    writer.writes(600)?;
    let written = writer.stop()?;
    fleet.drained(&[&b, &c])?;
    b.stop()?;
    c.stop()?;
    Ok(line(&fleet.judge(&written)?))
}
