//! A network that is slow, cut, or swallows everything.

use std::time::Duration;

use super::{is_ready, line, options};
use crate::fleet::{Fleet, Load};
use crate::kafka::Broker;
use crate::proxy::Proxy;

/// Longer than any patience that clients of Kafka have with one request.
const SILENCE: Duration = Duration::from_secs(20);

/// One thing after the other; the producer and the checker have a network of their own.
pub(super) fn is_bad(seed: u64) -> anyhow::Result<String> {
    let proxy = Proxy::start(0)?;
    let broker = Broker::behind(&proxy)?;
    let on = |exactly_once| Fleet::on(&broker.bootstrap(), &broker.direct(), "network", options(exactly_once));
    let fleets = [on(false)?, on(true)?];
    let [loose, strict] = &fleets;
    let mut nodes = [loose.start("a")?, strict.start("a")?];
    let load = Load { rate: 300, ..Load::new(seed) };
    let writers = [loose.write(load)?, strict.write(load)?];
    let [paced, _] = &writers;
    paced.writes(600)?;
    proxy.latency(Duration::from_millis(100));
    paced.writes(900)?;
    proxy.cut();
    paced.writes(600)?;
    proxy.black_hole(true);
    std::thread::sleep(SILENCE);
    proxy.heal();
    paced.writes(600)?;
    let mut told = Vec::new();
    for ((fleet, node), writer) in fleets.iter().zip(&mut nodes).zip(writers) {
        let written = writer.stop()?;
        fleet.drained(&[node])?;
        is_ready(node)?;
        node.stop()?;
        told.push(line(&fleet.judge(&written)?));
    }
    Ok(told.join("; exactly once: "))
}
