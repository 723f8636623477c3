//! Brokers that are killed, full, or come late.

use crate::fleet::{Fleet, Load, Options};
use crate::kafka::Broker;

use super::line;

pub(super) fn a_killed_broker_is_waited_for(seed: u64) -> anyhow::Result<String> {
    let broker = Broker::start()?;
    let mut told = Vec::new();
    for exactly_once in [false, true] {
        let options = Options { exactly_once, ..Options::default() };
        let fleet = Fleet::on(&broker.bootstrap(), &broker.bootstrap(), "broker", options)?;
        let mut node = fleet.start("a")?;
        let writer = fleet.write(Load::new(seed))?;
        writer.writes(2000)?;
        broker.kill()?;
        broker.restart()?;
        writer.writes(2000)?;
        let written = writer.stop()?;
        fleet.drained(&[&node])?;
        node.stop()?;
        told.push(line(&fleet.judge(&written)?));
    }
    Ok(told.join("; exactly once: "))
}
