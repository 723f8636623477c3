//! Memory of an idle host with one plugin, and of each further idle plugin.

use std::time::Duration;

use anyhow::Result;

use crate::host::{Host, plugin};
use crate::process;
use crate::report::Report;

const FURTHER: usize = 50;

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let host = Host::start(&["threshold"])?;
    let one = settle(&host, 1)?;
    for nth in 0..FURTHER {
        std::fs::copy(plugin("threshold")?, host.plugins().join(format!("copy-{nth}.wasm")))?;
    }
    let many = settle(&host, FURTHER + 1)?;
    const MIB: f64 = (1 << 20) as f64;
    const METHOD: &str = "VmRSS of the host after 3 s of idling, with 1 and with 51 copies of threshold on one stream";
    report.add("idle host with one plugin", one as f64 / MIB, "MiB", "≤ 80, aim 40", METHOD);
    report.add(
        "each further idle plugin",
        many.saturating_sub(one) as f64 / MIB / FURTHER as f64,
        "MiB",
        "≤ 2, aim 0.2",
        METHOD,
    );
    Ok(())
}

fn settle(host: &Host, plugins: usize) -> Result<u64> {
    host.until_active(plugins)?;
    std::thread::sleep(Duration::from_secs(3));
    process::resident(host.pid())
}
