//! POST → alert on SSE at 1 000 events/s, each event its own post, durable before the answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::StreamExt;
use hdrhistogram::Histogram;
use serde_json::Value;

use crate::host::Host;
use crate::report::Report;

const RATE: u64 = 1000;
const SECONDS: u64 = 20;
/// Events before counting starts.
const WARM_UP: u64 = 2000;

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let host = Host::start(&["threshold"])?;
    let histogram = posts_to_alerts(&host.url, SECONDS)?;
    let millis = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    const METHOD: &str = "1 000 posts/s of one event for 20 s after 2 s of warm-up, every event an alert, one SSE client in the same process as the poster";
    report.add("POST → alert on SSE, p50", millis(0.5), "ms", "–", METHOD);
    report.add("POST → alert on SSE, p99", millis(0.99), "ms", "≤ 20, aim 10", METHOD);
    report.add("POST → alert on SSE, max", millis(1.0), "ms", "–", METHOD);
    Ok(())
}

/// Microseconds from the post of an event to its alert, at [`RATE`] for so many seconds after a warm-up.
pub(crate) fn posts_to_alerts(url: &str, seconds: u64) -> Result<Histogram<u64>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (histogram, missing) = runtime.block_on(measure(url, WARM_UP + RATE * seconds))?;
    ensure!(missing == 0, "{missing} alerts never came");
    Ok(histogram)
}

async fn measure(url: &str, total: u64) -> Result<(Histogram<u64>, usize)> {
    let sent: Arc<Mutex<HashMap<u64, Instant>>> = Arc::default();
    let mut histogram = Histogram::<u64>::new(3)?;
    let http = reqwest::Client::new();
    let mut live = http.get(format!("{url}/v1/events?kind=alert")).send().await?.bytes_stream();
    let poster = tokio::spawn(post_all(url.to_owned(), Arc::clone(&sent), total));
    let mut buffer = String::new();
    let mut seen = 0;
    let mut last = Instant::now();
    while seen < total && last.elapsed() < Duration::from_secs(40) {
        let Ok(Some(chunk)) = tokio::time::timeout(Duration::from_secs(10), live.next()).await else { break };
        buffer.push_str(&String::from_utf8_lossy(&chunk?));
        let now = Instant::now();
        while let Some(end) = buffer.find('\n') {
            let line: String = buffer.drain(..=end).collect();
            let Some(data) = line.strip_prefix("data:") else { continue };
            let alert: Value = serde_json::from_str(data.trim())?;
            let value = alert.pointer("/attributes/value").and_then(Value::as_str);
            let Some(seq) = value.and_then(|value| value.parse::<u64>().ok()?.checked_sub(100)) else { continue };
            let posted = sent.lock().unwrap_or_else(PoisonError::into_inner).remove(&seq);
            if let Some(posted) = posted {
                seen += 1;
                last = now;
                if seq >= WARM_UP {
                    histogram.record(u64::try_from((now - posted).as_micros())?)?;
                }
            }
        }
    }
    poster.await??;
    Ok((histogram, usize::try_from(total - seen)?))
}

/// Posts at a fixed rate, whatever the answers take: a slow host must not slow the clock that measures it.
async fn post_all(url: String, sent: Arc<Mutex<HashMap<u64, Instant>>>, total: u64) -> Result<()> {
    let http = reqwest::Client::new();
    let started = Instant::now();
    let mut posts = Vec::new();
    for seq in 0..total {
        let due = started + Duration::from_micros(seq * 1_000_000 / RATE);
        tokio::time::sleep_until(due.into()).await;
        let body = format!(r#"{{"sensor_id":"S{:04}","value":{}}}"#, seq % 100, 100 + seq);
        sent.lock().unwrap_or_else(PoisonError::into_inner).insert(seq, Instant::now());
        let post = http.post(format!("{url}/ingest")).body(body).send();
        posts.push(tokio::spawn(async move { Ok::<_, reqwest::Error>(post.await?.status()) }));
        if posts.len() >= 1000 {
            for post in posts.drain(..500) {
                ensure!(post.await?? == 202, "a post was refused");
            }
        }
    }
    for post in posts {
        ensure!(post.await?? == 202, "a post was refused");
    }
    Ok(())
}
