//! Hosts that are killed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::line;
use crate::fleet::{Fleet, Load, Options};

pub(super) fn three_kills_lose_nothing(seed: u64) -> anyhow::Result<String> {
    kills(seed, 3, false)
}

pub(super) fn three_kills_double_nothing(seed: u64) -> anyhow::Result<String> {
    kills(seed, 3, true)
}

/// Kills a host under load, so many times, at random moments of its life.
///
/// # Errors
/// When something was lost, or doubled where it must not.
pub fn kills(seed: u64, kills: u32, exactly_once: bool) -> anyhow::Result<String> {
    let mut chance = StdRng::seed_from_u64(seed);
    let fleet = Fleet::shared("kill", Options { exactly_once, ..Options::default() })?;
    let mut node = fleet.node("a")?;
    let writer = fleet.write(Load::new(seed))?;
    for _ in 0..kills {
        node.start_unready(&[])?;
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
