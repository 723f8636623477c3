//! One worker thread, no broker: JSON in memory → decode → gate → `threshold` → enriched JSON and 1 % alerts.
//!
//! The real pipeline with a log in memory; what comes out is counted at its sink.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use phronis_core::contract::Contract;
use phronis_core::partition::Topics;
use phronis_core::records::RecordsBuilder;
use phronis_pipeline::{Pipeline, stream};

use crate::kafka::setting;
use crate::memory_log::{Counts, MemoryLog};
use crate::report::Report;
use crate::{events, host};

const ROWS: u64 = 8192;
/// Events unless `PHRONIS_BENCH_EVENTS` says otherwise.
const EVENTS: u64 = 1000 * ROWS;
const ROUNDS: usize = 3;

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let with_enricher = best(&["threshold", "severity"])?;
    let detector_only = best(&["threshold"])?;
    const METHOD: &str = "one worker, 8.2 M events of 75 bytes in batches of 8192, processed records counted at an in-memory sink, best of 3";
    report.add(
        "decode → gate → threshold → JSON, one thread",
        detector_only,
        "events/s",
        "≥ 1 000 000, aim 2 000 000",
        METHOD,
    );
    report.add("the same with the severity enricher", with_enricher, "events/s", "–", METHOD);
    Ok(())
}

fn best(plugins: &[&str]) -> Result<f64> {
    let mut best = 0.0f64;
    for _ in 0..ROUNDS {
        best = best.max(round(plugins)?);
    }
    Ok(best)
}

fn round(plugins: &[&str]) -> Result<f64> {
    let batches = setting("PHRONIS_BENCH_EVENTS", EVENTS)?.div_ceil(ROWS);
    let dir = tempfile::tempdir()?;
    let folder = dir.path().join("plugins/default/sensors");
    std::fs::create_dir_all(&folder)?;
    for plugin in plugins {
        host::install(plugin, &folder)?;
    }
    let id: phronis_core::StreamId = "sensors".parse()?;
    let contract = Contract::parse(host::SENSORS_CONTRACT, "sensors.yaml")?;
    let mut batch = RecordsBuilder::default();
    for nth in 0..ROWS {
        let event = events::event(nth);
        batch.push(
            1_732_276_800_000,
            Some(event.as_bytes().get(14..19).unwrap_or_default()),
            Some(event.as_bytes()),
            &[],
        );
    }
    let counts = Arc::new(Counts::default());
    let log = MemoryLog {
        batch: batch.finish(),
        batches,
        raw: Topics::of(&id).raw,
        counts: Arc::clone(&counts),
        started: Instant::now(),
    };
    let engine = host::engine(dir.path())?;
    let mut options = stream::Options::new(id, Arc::new(contract));
    options.partitions = 1;
    let options = phronis_pipeline::Options {
        node: phronis_pipeline::Node { id: "bench".to_owned(), listen: None },
        roles: phronis_pipeline::Role::all(),
        topics: phronis_pipeline::TopicPolicy::Create,
        streams: vec![options],
        plugins_dir: dir.path().join("plugins"),
        state_dir: dir.path().join("state"),
        agents_file: dir.path().join("agents.halted"),
        archive: None,
        store: phronis_store::conformance::local(dir.path()),
    };
    let pipeline = Pipeline::start(options, Arc::new(log), engine)?;
    let deadline = Instant::now() + Duration::from_secs(120);
    while counts.processed.load(Ordering::Relaxed) < ROWS * batches {
        if Instant::now() > deadline {
            bail!("only {} events came out", counts.processed.load(Ordering::Relaxed));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    pipeline.stop();
    let alerts = counts.alerts.load(Ordering::Relaxed);
    let letters = counts.letters.load(Ordering::Relaxed);
    let expected = batches * ROWS.div_ceil(100);
    if alerts != expected || letters != 0 {
        bail!("{alerts} alerts and {letters} letters came out, {expected} and none were expected");
    }
    let nanos = counts.last_delivery.load(Ordering::Relaxed) - counts.first_poll.load(Ordering::Relaxed);
    Ok((ROWS * batches) as f64 / Duration::from_nanos(nanos).as_secs_f64())
}
