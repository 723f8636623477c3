//! Measures what the project promises: speed and memory, each figure counted at the sink.
//!
//! `cargo run --release -p phronis-benches [NAME…]` runs those named, else the suites `latest` and `archive`, prints a table a suite
//! and writes `benches/results/<suite>.json` with the machine and the method beside the figures.

mod archive;
mod chain;
mod events;
mod halt;
mod host;
mod http;
mod idle;
mod kafka;
mod latency;
mod letters;
mod memory_log;
mod process;
mod redrive;
mod reload;
mod replay;
mod report;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// As in the host, whose parts some benches run in this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Bench = fn(&mut report::Report) -> Result<()>;

/// Benches by what they need: a suite is a file of results.
const SUITES: &[(&str, &[(&str, Bench)])] = &[
    (
        "latest",
        &[
            ("chain", chain::run),
            ("http", http::run),
            ("latency", latency::run),
            ("halt", halt::run),
            ("reload", reload::run),
            ("idle", idle::run),
            ("letters", letters::run),
            ("redrive", redrive::run),
        ],
    ),
    (
        "kafka",
        &[
            ("kafka-throughput", kafka::throughput::run),
            ("kafka-latency", kafka::latency::run),
            ("kafka-memory", kafka::memory::run),
            ("kafka-peers", kafka::peers::run),
        ],
    ),
    (
        "archive",
        &[
            ("archive-log", archive::run),
            ("archive-memory", archive::memory::run),
            ("archive-kafka", archive::kafka::run),
            ("archive-commits", archive::commits::run),
            ("replay", replay::run),
        ],
    ),
];
/// What runs when nothing is named: what ends within minutes.
const DEFAULT: [&str; 2] = ["latest", "archive"];

/// What Kafka's client calls an error is the end of a topic, or is an error of ours as well.
const LOGGED: &str = "warn,rdkafka=off,librdkafka=error";

/// A file of the repository: around the package that cargo runs, else here. Hosts run elsewhere, so the path is absolute.
fn repository(path: &str) -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR");
    let path = package.map_or_else(PathBuf::new, |here| Path::new(&here).join("..")).join(path);
    std::path::absolute(&path).unwrap_or(path)
}

fn main() -> Result<()> {
    tracing_subscriber::fmt().with_env_filter(LOGGED).with_writer(std::io::stderr).init();
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    if wanted.is_empty() {
        wanted.extend(DEFAULT.map(str::to_owned));
    }
    let known: Vec<&str> = SUITES
        .iter()
        .flat_map(|(suite, benches)| std::iter::once(*suite).chain(benches.iter().map(|(bench, _)| *bench)))
        .collect();
    if let Some(unknown) = wanted.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no bench `{unknown}`; there are {}", known.join(", "));
    }
    let is_wanted = |name: &str| wanted.iter().any(|wanted| wanted == name);
    for (suite, benches) in SUITES {
        let is_whole = is_wanted(suite);
        let chosen: Vec<_> = benches.iter().filter(|(name, _)| is_whole || is_wanted(name)).collect();
        if chosen.is_empty() {
            continue;
        }
        let mut report = report::Report::new();
        let mut failed = None;
        for (name, bench) in chosen {
            eprintln!("bench: {name}");
            if let Err(error) = bench(&mut report) {
                eprintln!("  {name} failed: {error:#}");
                failed.get_or_insert_with(|| error.context(*name));
            }
        }
        // What one bench could not do takes nothing away from the others.
        report.finish(suite, is_whole && failed.is_none())?;
        if let Some(error) = failed {
            return Err(error);
        }
    }
    Ok(())
}
