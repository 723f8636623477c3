//! An event posted whose alert halts its agent → the guard of that agent, in another process than the host, refuses.
//!
//! At 1 000 events/s, each a post of its own; a fiftieth are of agents that run away, a new agent each time.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use phronis_sdk::guard::{Guard, Options};

use crate::host::{Host, install};
use crate::report::Report;

const RATE: u64 = 1000;
const SECONDS: u64 = 20;
/// Events before counting starts.
const WARM_UP: u64 = 2000;
/// Every so manieth event halts its agent.
const ONE_IN: u64 = 50;
/// Between two looks of the guard at who is not refused yet: what a measured time may be too long by.
const LOOK: Duration = Duration::from_micros(200);
/// How long a halt may take before it counts as missing.
const PATIENCE: Duration = Duration::from_secs(10);

const SETTINGS: &str = "[streams.agents.plugins.threshold]\nmay_halt = true\n";
const LIMIT: &str = "[params]\nfield = \"metadata.calls_in_minute\"\nhigh = 500\nhalt = true\n";

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let host = Host::start_with("agents", SETTINGS, |folder| {
        install("threshold", folder)?;
        Ok(std::fs::write(folder.join("threshold.toml"), LIMIT)?)
    })?;
    host.until_active(1)?;
    let guard = Guard::connect(Options { post_events: false, ..Options::new(&host.url) })?;
    let until = Instant::now() + PATIENCE;
    while !guard.state().is_connected {
        ensure!(Instant::now() < until, "the guard does not hear the host: {:?}", guard.state().trouble);
        std::thread::sleep(Duration::from_millis(5));
    }
    let (posted, halting) = channel();
    let url = host.url;
    let poster = std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(post_all(&url, &posted))
    });
    let (histogram, missing) = watch(&guard, &halting)?;
    poster.join().map_err(|_| anyhow::anyhow!("the poster panicked"))??;
    ensure!(missing == 0, "{missing} halts never reached the guard");
    const METHOD: &str = "1 000 posts/s of one event for 20 s after 2 s of warm-up, every 50th of a new agent that is over its limit; \
                          from before its post until check() of a guard in another process refuses, looked at every 0.2 ms";
    let millis = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    report.add("POST → agent's next call refused, p50", millis(0.5), "ms", "–", METHOD);
    report.add("POST → agent's next call refused, p99", millis(0.99), "ms", "≤ 20", METHOD);
    report.add("POST → agent's next call refused, max", millis(1.0), "ms", "–", METHOD);
    Ok(())
}

/// Waits for each agent's refusal; those that never come are counted.
fn watch(guard: &Guard, halting: &Receiver<(u64, Instant)>) -> Result<(Histogram<u64>, usize)> {
    let mut histogram = Histogram::<u64>::new(3)?;
    let mut waiting: VecDeque<(u64, String, Instant)> = VecDeque::new();
    let mut is_over = false;
    while !is_over || !waiting.is_empty() {
        loop {
            match halting.try_recv() {
                Ok((seq, at)) => waiting.push_back((seq, agent(seq), at)),
                Err(std::sync::mpsc::TryRecvError::Empty) => break,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => {
                    is_over = true;
                    break;
                }
            }
        }
        let mut failed = Ok(());
        waiting.retain(|(seq, agent, at)| {
            let is_allowed = guard.check(agent).is_ok();
            if !is_allowed && *seq >= WARM_UP {
                let micros = u64::try_from(at.elapsed().as_micros()).unwrap_or(u64::MAX);
                if let Err(error) = histogram.record(micros) {
                    failed = Err(error);
                }
            }
            is_allowed
        });
        failed?;
        if is_over && waiting.front().is_some_and(|(_, _, at)| at.elapsed() > PATIENCE) {
            break;
        }
        std::thread::sleep(LOOK);
    }
    Ok((histogram, waiting.len()))
}

fn agent(seq: u64) -> String {
    if seq.is_multiple_of(ONE_IN) { format!("runaway-{seq}") } else { format!("agent-{}", seq % 97) }
}

/// Posts at a fixed rate, whatever the answers take.
async fn post_all(url: &str, halting: &Sender<(u64, Instant)>) -> Result<()> {
    let http = reqwest::Client::new();
    let started = Instant::now();
    let mut posts = VecDeque::new();
    for seq in 0..WARM_UP + RATE * SECONDS {
        let due = started + Duration::from_micros(seq * 1_000_000 / RATE);
        tokio::time::sleep_until(due.into()).await;
        let is_halting = seq.is_multiple_of(ONE_IN);
        let calls = if is_halting { 501 } else { 5 };
        let body = format!(
            r#"{{"agent_id":"{}","status":"active","event_type":"TOOL_CALL","metadata":{{"seq":{seq},"calls_in_minute":{calls}}}}}"#,
            agent(seq)
        );
        if is_halting {
            halting.send((seq, Instant::now()))?;
        }
        posts.push_back(tokio::spawn(http.post(format!("{url}/v1/streams/agents/events")).body(body).send()));
        if posts.len() >= 1000 {
            for post in posts.drain(..500) {
                ensure!(post.await??.status() == 202, "a post was refused");
            }
        }
    }
    for post in posts {
        ensure!(post.await??.status() == 202, "a post was refused");
    }
    Ok(())
}
