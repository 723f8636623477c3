//! Memory of an idle host with one plugin, and of each further idle plugin.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::host::{Host, plugin, reqwest_get};
use crate::report::Report;

const FURTHER: usize = 50;

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let host = Host::start(&["threshold"])?;
    settle(&host, 1)?;
    let one = host.resident()?;
    for nth in 0..FURTHER {
        std::fs::copy(plugin("threshold")?, host.plugins().join(format!("copy-{nth}.wasm")))?;
    }
    settle(&host, FURTHER + 1)?;
    let many = host.resident()?;
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

fn settle(host: &Host, plugins: usize) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let list = reqwest_get(&format!("{}/v1/plugins", host.url))?;
        let items = list.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        if items.iter().filter(|item| item.get("state").and_then(Value::as_str) == Some("active")).count() == plugins {
            break;
        }
        ensure!(Instant::now() < deadline, "the plugins are not active: {list}");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(3));
    Ok(())
}
