//! What a redrive of a hundred thousand letters does to who waits for an alert: POST → alert on SSE, beside it and without.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::host::{Host, reqwest_get};
use crate::kafka::median;
use crate::latency;
use crate::letters::{parked, post, refused, until};
use crate::report::Report;

const LETTERS: u64 = 100_000;
/// Letters a second that may come back: all of them in a little longer than is measured.
const RATE: u32 = 5000;
const SECONDS: u64 = 10;
const ROUNDS: usize = 2;

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let host = Host::start(&["threshold"])?;
        host.until_active(1)?;
        post(&host, LETTERS, refused)?;
        until(|| Ok(parked(&host)? >= LETTERS))?;
        alone.push(p99(&host)?);
        let id = begin(&host)?;
        beside.push(p99(&host)?);
        let moved = || job(&host, &id)?.get("moved").and_then(Value::as_u64).context("moved");
        ensure!(moved()? < LETTERS, "the redrive ended before the measurement");
        until(|| Ok(job(&host, &id)?.get("state").is_some_and(|state| state == "done")))?;
        ensure!(moved()? == LETTERS, "{} of {LETTERS} letters came back", moved()?);
        // They break the contract as before.
        until(|| Ok(parked(&host)? >= LETTERS))?;
        eprintln!("  p99 {:.2} ms alone, {:.2} ms beside", alone.last().unwrap_or(&0.0), beside.last().unwrap_or(&0.0));
    }
    const METHOD: &str = "1 000 posts/s of one event for 10 s after 2 s of warm-up, every event an alert, to a host with 100 000 parked letters; \
                          beside: the same while all of them are redriven at 5 000 a second, fail again and are parked again; median of rounds";
    let (without, with) = (median(alone), median(beside));
    report.add("POST → alert, p99 without a redrive", without, "ms", "–", METHOD);
    report.add("POST → alert, p99 beside a redrive of 100 000 letters", with, "ms", "–", METHOD);
    report.add("the same, with ÷ without a redrive", with / without, "×", "≤ 2", METHOD);
    Ok(())
}

fn p99(host: &Host) -> Result<f64> {
    Ok(latency::posts_to_alerts(&host.url, SECONDS)?.value_at_quantile(0.99) as f64 / 1000.0)
}

/// Begins to try all letters again; its id.
fn begin(host: &Host) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let body = json!({ "stream": "sensors", "all": true, "rate": RATE, "reason": "bench" });
    let answer: Value = runtime.block_on(async {
        let request = reqwest::Client::new().post(format!("{}/v1/redrives", host.url));
        let request = request.header("x-phronis", "1").header("x-actor", "bench").json(&body);
        request.send().await?.error_for_status()?.json().await
    })?;
    Ok(answer.get("id").and_then(Value::as_str).context("the id of a redrive")?.to_owned())
}

fn job(host: &Host, id: &str) -> Result<Value> {
    reqwest_get(&format!("{}/v1/redrives/{id}", host.url))
}
