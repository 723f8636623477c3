//! A million parked letters: how fast a person sees what kinds there are, and what they cost the host in memory.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::events;
use crate::host::{Host, reqwest_get};
use crate::process;
use crate::report::Report;

const LETTERS: u64 = 1_000_000;
const ROWS: u64 = 1000;
/// How often the list is asked for.
const LOOKS: usize = 50;
/// How long the host may take for all letters.
const PATIENCE: Duration = Duration::from_secs(300);
const MIB: f64 = (1 << 20) as f64;

pub(crate) fn run(report: &mut Report) -> Result<()> {
    // The same number of good events, so that what the log itself remembers is in both.
    let without = {
        let host = Host::start(&[])?;
        post(&host, LETTERS, |n| events::lines(n * ROWS, ROWS))?;
        until(|| Ok(host.records("phronis.processed")? >= LETTERS))?;
        settled(&host)?
    };
    let host = Host::start(&[])?;
    post(&host, LETTERS, refused)?;
    until(|| Ok(parked(&host)? >= LETTERS))?;
    let with = settled(&host)?;
    let mut looks: Vec<f64> = Vec::with_capacity(LOOKS);
    let client = reqwest::Client::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for _ in 0..LOOKS {
        let started = Instant::now();
        let url = format!("{}/v1/letter_classes?stream=sensors", host.url);
        let body = runtime.block_on(async { client.get(&url).send().await?.error_for_status()?.bytes().await })?;
        looks.push(started.elapsed().as_secs_f64() * 1000.0);
        ensure!(!body.is_empty(), "no classes");
    }
    looks.sort_by(f64::total_cmp);
    const METHOD: &str = "1 M events that break the contract in three ways, posted over HTTP to a host without plugins, all parked; GET /v1/letter_classes 50 times, the slowest";
    report.add("1 M parked letters: list by class", looks.last().copied().unwrap_or_default(), "ms", "≤ 200", METHOD);
    const MEMORY: &str = "VmRSS 3 s after the last letter is in the index, less that of a host after 1 M good events";
    report.add("1 M parked letters: memory of the host", (with as f64 - without as f64) / MIB, "MiB", "≤ 100", MEMORY);
    Ok(())
}

/// Events that the contract refuses, in three ways.
pub(crate) fn refused(post: u64) -> String {
    let mut lines = String::new();
    for n in 0..ROWS {
        lines.push_str(match (post + n) % 3 {
            0 => "{\"sensor_id\":\"S01\"}\n",
            1 => "{\"sensor_id\":\"S02\",\"value\":\"hot\"}\n",
            _ => "{\"value\":1.5}\n",
        });
    }
    lines
}

pub(crate) fn post(host: &Host, events: u64, body: impl Fn(u64) -> String) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let url = format!("{}/v1/streams/sensors/events", host.url);
    runtime.block_on(async {
        let http = reqwest::Client::new();
        for n in 0..events / ROWS {
            let request = http.post(&url).header("content-type", "application/x-ndjson").body(body(n));
            let answer = request.send().await?;
            // Where all are refused they are taken all the same.
            ensure!([202, 422].contains(&answer.status().as_u16()), "{}: {}", answer.status(), answer.text().await?);
        }
        Ok(())
    })
}

pub(crate) fn parked(host: &Host) -> Result<u64> {
    let classes = reqwest_get(&format!("{}/v1/letter_classes?stream=sensors", host.url))?;
    let items = classes.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Ok(items.iter().filter_map(|item| item.get("parked")?.as_u64()).sum())
}

fn settled(host: &Host) -> Result<u64> {
    std::thread::sleep(Duration::from_secs(3));
    process::resident(host.pid())
}

pub(crate) fn until(mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so()? {
        ensure!(Instant::now() < deadline, "not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
