//! Memory of the archive branch while it fills three tables from eight partitions each.

use std::time::Duration;

use anyhow::Result;

use super::ARCHIVE;
use super::backlog::{Backlog, Mix, STREAM};
use super::throughput::{Run, rounds};
use crate::host::Host;
use crate::kafka::{MIB, median, setting};
use crate::process;
use crate::report::Report;

const EVENTS: u64 = 1_500_000;
/// How long a host without an archive stands before it is measured.
const SETTLE: Duration = Duration::from_secs(3);

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let backlog = Backlog::fill(EVENTS.min(setting("PHRONIS_BENCH_EVENTS", EVENTS)?), Mix::EVEN)?;
    let host = Host::open(backlog.copy()?, STREAM)?;
    host.until_active(1)?;
    std::thread::sleep(SETTLE);
    let without = process::peak(host.pid())? as f64 / MIB;
    drop(host);
    let settings = format!("{STREAM}{ARCHIVE}");
    let run = Run { stream: "sensors", settings: &settings, warehouse: None, due: &backlog.due };
    let figures = rounds("three even tables", || run.measure(backlog.copy()?))?;
    let with = median(figures.iter().map(|found| found.peak).collect());
    let due = &backlog.due;
    let method = format!(
        "VmHWM of a host that archives {} events, {} alerts and {} letters from 8 partitions each, less that of one on the same log without an archive",
        due.events, due.alerts, due.letters
    );
    report.add("archive of 3 tables × 8 partitions, memory", with - without, "MiB", "≤ 256", method.clone());
    report.add("the same host without an archive", without, "MiB", "–", method);
    Ok(())
}
