//! `.wasm` saved → the new version is active, compiled from scratch and from the cache.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::host::{Host, plugin, reqwest_get};
use crate::report::Report;

const ROUNDS: u8 = 5;

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let host = Host::start(&["threshold"])?;
    let original = std::fs::read(plugin("threshold")?)?;
    let (mut fresh, mut cached) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        fresh.push(swap(&host, &variant(&original, round))?);
    }
    for round in 0..ROUNDS {
        cached.push(swap(&host, &variant(&original, round))?);
    }
    fresh.sort_by(f64::total_cmp);
    cached.sort_by(f64::total_cmp);
    const METHOD: &str = "the file written under a temporary name and renamed, until the host says that the new digest is active; median of 5, seen by asking every millisecond";
    let median = |times: &[f64]| times.get(times.len() / 2).copied().unwrap_or(f64::NAN);
    report.add("size of the component", original.len() as f64 / 1024.0, "KiB", "200", METHOD);
    report.add(".wasm saved → active, not cached", median(&fresh), "ms", "≤ 500", METHOD);
    report.add(".wasm saved → active, cached", median(&cached), "ms", "≤ 50", METHOD);
    Ok(())
}

fn swap(host: &Host, bytes: &[u8]) -> Result<f64> {
    let before = digest(host)?;
    let file = host.plugins().join("threshold.wasm");
    let temporary = host.plugins().join(".threshold.tmp");
    std::fs::write(&temporary, bytes)?;
    let saved = Instant::now();
    std::fs::rename(&temporary, &file)?;
    while digest(host)? == before {
        ensure!(saved.elapsed() < Duration::from_secs(20), "{} was not taken", Path::new(&file).display());
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(saved.elapsed().as_secs_f64() * 1000.0)
}

fn digest(host: &Host) -> Result<String> {
    let plugin = reqwest_get(&format!("{}/v1/plugins/default/sensors/threshold", host.url))?;
    Ok(plugin.pointer("/active/digest").and_then(Value::as_str).context("no active version")?.to_owned())
}

/// The same component with a custom section of its own: other bytes, other digest, same work.
fn variant(component: &[u8], nth: u8) -> Vec<u8> {
    let mut bytes = component.to_vec();
    bytes.extend_from_slice(&[0, 6, 4, b'b', b'e', b'n', b'c', nth]);
    bytes
}
