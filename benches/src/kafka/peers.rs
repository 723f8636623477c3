//! The same job by others, in turn with Phronis, where their harness is: started by `benches/w1/peers`, read from its results.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::median;
use crate::host::target_dir;
use crate::report::Report;
use crate::repository;

/// By hand: the program that asks most of Kafka's client and least of everything else.
const BY_HAND: &str = "rust";
const STREAMS: &str = "streams";
const OURS: &str = "run";
const OURS_EXACTLY_ONCE: &str = "run-eos";

/// A line of the harness's `runs.jsonl`.
#[derive(Debug, Deserialize)]
struct Run {
    peer: String,
    n: u64,
    rec_s: f64,
    rec_s_steady: Option<f64>,
    #[serde(rename = "peer_cpu_s_per_M")]
    cpu: f64,
    #[serde(rename = "peak_rss_mib")]
    peak: f64,
    correct: bool,
}

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let room = tempfile::Builder::new().prefix("phronis-bench-peers-").tempdir()?;
    let status = Command::new(repository("benches/w1/peers"))
        .env("PEERS_RESULTS", room.path())
        .env("TMPDIR", room.path())
        .env("CARGO_TARGET_DIR", target_dir())
        .status()
        .context("running benches/w1/peers")?;
    ensure!(status.success(), "benches/w1/peers ended with {status}");
    let runs = read(&room.path().join("runs.jsonl"))?;
    for (peer, runs) in &runs {
        report_peer(report, peer, runs)?;
    }
    let rate = |peer: &str| Some(median(runs.get(peer)?.iter().map(|run| run.rec_s).collect()));
    for (ours, theirs, name, wanted) in [
        (OURS, BY_HAND, "W1 beside others, Phronis ÷ by hand", "≥ 0.9, aim 1.3"),
        (OURS, STREAMS, "W1 beside others, Phronis ÷ Kafka Streams", "≥ 2.5"),
        (OURS_EXACTLY_ONCE, OURS, "W1 beside others, exactly once ÷ at least once", "≥ 0.8, aim 0.95"),
    ] {
        if let (Some(ours), Some(theirs)) = (rate(ours), rate(theirs)) {
            report.add(name, ours / theirs, "×", wanted, "medians of the same run, in turn");
        }
    }
    Ok(())
}

/// The runs of each peer; none where there is no harness.
fn read(path: &Path) -> Result<BTreeMap<String, Vec<Run>>> {
    let mut runs: BTreeMap<String, Vec<Run>> = BTreeMap::new();
    if !path.is_file() {
        return Ok(runs);
    }
    for line in std::fs::read_to_string(path)?.lines() {
        let run: Run = serde_json::from_str(line).with_context(|| format!("reading {line}"))?;
        runs.entry(run.peer.clone()).or_default().push(run);
    }
    Ok(runs)
}

fn report_peer(report: &mut Report, peer: &str, runs: &[Run]) -> Result<()> {
    let name = match peer {
        OURS => "Phronis",
        OURS_EXACTLY_ONCE => "Phronis, exactly once",
        BY_HAND => "by hand",
        STREAMS => "Kafka Streams",
        other => other,
    };
    let wrong = runs.iter().filter(|run| !run.correct).count();
    ensure!(wrong == 0 || !peer.starts_with(OURS), "{wrong} runs of {name} did not do the job, says the harness");
    let of = |figure: fn(&Run) -> f64| median(runs.iter().map(figure).collect());
    let events = runs.first().map_or(0, |run| run.n);
    let method =
        format!("the peers' harness, {events} events; median of {} runs in turn, {wrong} of them wrong", runs.len());
    let what = format!("W1 beside others, {name}");
    let (cpu, peak) = if peer == OURS { ("≤ 2.0, aim 1.2", "≤ 256") } else { ("–", "–") };
    report.add(what.clone(), of(|run| run.rec_s), "events/s", "–", method.clone());
    report.add(
        format!("{what}, steady"),
        of(|run| run.rec_s_steady.unwrap_or(f64::NAN)),
        "events/s",
        "–",
        method.clone(),
    );
    report.add(format!("{what}, own CPU"), of(|run| run.cpu), "s/M", cpu, method.clone());
    report.add(format!("{what}, peak memory"), of(|run| run.peak), "MiB", peak, method);
    Ok(())
}
