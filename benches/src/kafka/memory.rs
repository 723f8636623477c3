//! Memory of a wide host: 200 partitions and 50 plugins on one stream, with events through all of them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::broker::Broker;
use super::topics::{OUTPUTS, Topics};
use super::{MIB, input};
use crate::host::{Host, plugin};
use crate::process;
use crate::report::Report;
use crate::repository;

const PARTITIONS: i32 = 200;
const WORKERS: u32 = 4;
const PLUGINS: usize = 50;
const EVENTS: u64 = 200_000;
/// How long the events may take through all plugins.
const PATIENCE: Duration = Duration::from_secs(180);
const METHOD: &str = "VmHWM of a host with one stream of 200 partitions, 4 workers and 50 copies of threshold under names of their own, after 200 000 events, 1 % of them alerts of each plugin";

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let broker = Broker::start()?;
    let topics = Topics::new(&broker.bootstrap)?;
    topics.create("wide.raw", PARTITIONS, &[])?;
    topics.renew_outputs("wide", PARTITIONS)?;
    input::load(&broker.bootstrap, "wide.raw", EVENTS)?;
    let names = OUTPUTS.map(|output| format!("\"wide.{output}\""));
    let [processed, dlq, alerts, state] = &names;
    let config = format!(
        "[log]\nkind = \"kafka\"\nbootstrap = \"{}\"\nauto_create = true\n\
         [streams.wide]\ncontract = \"{}\"\npartitions = {PARTITIONS}\nworkers = {WORKERS}\n\
         topics = {{ raw = \"wide.raw\", processed = {processed}, dlq = {dlq}, alerts = {alerts}, state = {state} }}\n",
        broker.bootstrap,
        repository("benches/w1/contract.yaml").display(),
    );
    let host = Host::start_with("wide", &config, |folder| {
        for nth in 0..PLUGINS {
            std::fs::write(folder.join(format!("hot-{nth}.toml")), "[params]\nhigh = 99\n")?;
            std::fs::copy(plugin("threshold")?, folder.join(format!("hot-{nth}.wasm")))?;
        }
        Ok(())
    })?;
    host.until_active(PLUGINS)?;
    let hot = (0..EVENTS).map(input::Event::new).filter(|event| event.is_hot() && !event.is_malformed).count();
    let due = (i64::try_from(EVENTS)?, i64::try_from(hot * PLUGINS)?);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ends = topics.ends(&["wide.alerts", "wide.processed", "wide.dlq"], PARTITIONS)?;
        let there = (ends.iter().skip(1).sum::<i64>(), ends.iter().take(1).sum());
        if there == due {
            break;
        }
        ensure!(Instant::now() < deadline, "outcomes and alerts are {there:?}, not {due:?}: {}", host.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    const WANTED: &str = "≤ 1024";
    let pid = host.pid();
    report.add("200 partitions and 50 plugins, peak memory", process::peak(pid)? as f64 / MIB, "MiB", WANTED, METHOD);
    report.add("the same, memory afterwards", process::resident(pid)? as f64 / MIB, "MiB", "–", METHOD);
    Ok(())
}
