//! Measures what the project promises: speed and memory, each figure counted at the sink.
//!
//! `cargo run --release -p phronis-benches [NAME…]` runs all, or those named, prints a table
//! and writes `benches/results/latest.json` with the machine and the method beside the figures.

mod chain;
mod events;
mod host;
mod http;
mod idle;
mod latency;
mod memory_log;
mod reload;
mod report;

use anyhow::{Result, bail};

type Bench = fn(&mut report::Report) -> Result<()>;

const BENCHES: &[(&str, Bench)] = &[
    ("chain", chain::run),
    ("http", http::run),
    ("latency", latency::run),
    ("reload", reload::run),
    ("idle", idle::run),
];

fn main() -> Result<()> {
    tracing_subscriber::fmt().with_env_filter("warn").with_writer(std::io::stderr).init();
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = wanted.iter().find(|name| BENCHES.iter().all(|(known, _)| known != name)) {
        bail!(
            "there is no bench `{unknown}`; there are {}",
            BENCHES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
        );
    }
    let mut report = report::Report::default();
    for (name, bench) in BENCHES {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            eprintln!("bench: {name}");
            bench(&mut report)?;
        }
    }
    report.finish()
}
