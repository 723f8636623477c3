//! Many keys, each a strict sequence, through several hosts.

use super::{line, options};
use crate::fleet::{Fleet, Load, Options};

/// Agents of a large installation.
const KEYS: u32 = 50_000;

/// Two hosts, and a third one that comes and goes twice; nothing may get lost or out of order.
///
/// # Errors
/// When something does.
pub fn many_keys(seed: u64, events: u64) -> anyhow::Result<String> {
    let fleet = Fleet::shared("keys", Options { partitions: 12, ..options(false) })?;
    let (mut a, mut b, mut c) = (fleet.start("a")?, fleet.start("b")?, fleet.node("c")?);
    let begun = std::time::Instant::now();
    let writer = fleet.write(Load { keys: KEYS, rate: 20_000, most: events, ..Load::new(seed) })?;
    for is_orderly in [true, false] {
        writer.writes(events / 5)?;
        c.start()?;
        writer.writes(events / 5)?;
        match is_orderly {
            true => c.stop()?,
            false => c.kill()?,
        }
    }
    let written = writer.finish()?;
    fleet.drained(&[&a, &b])?;
    let seconds = begun.elapsed().as_secs();
    a.stop()?;
    b.stop()?;
    let report = fleet.judge(&written)?;
    Ok(format!("{} keys, {seconds} s; {}", report.keys, line(&report)))
}
