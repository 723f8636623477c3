//! What the sandbox adds: the same detector natively and as a component, three columns, batches of 64 to 8 192 rows.
//!
//! Method: best of nine rounds over the same million rows, one thread; findings are counted on both sides and must be equal.
//! Also prints how long loading takes, what one more idle plugin costs in memory, and what a fresh instance costs.
//! Run with `cargo bench -p phronis-engine --bench boundary`; needs the guests (the tests build them).

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a benchmark may stop where something is wrong"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{ArrayRef, Float64Array, Int64Array, TimestampMicrosecondArray};
use phronis_core::plugin::{Batch, Limits};
use phronis_engine::{Compiler, Engine, Options, Runner};
use serde_json::json;

const ROWS: usize = 1 << 20;
const ROUNDS: usize = 9;
const HIGH: f64 = 999.0;

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let compiler = Compiler::new(env!("CARGO_BIN_EXE_phronis-compile-child"), [] as [&str; 0]);
    let options = Options::new(folder.path().join("cache"), compiler);
    let wasm = std::fs::read(guests().join("detector.wasm")).expect("build the guests first");

    let begin = Instant::now();
    let engine = Engine::new(options.clone()).expect("an engine");
    println!("engine started              {:>10.1?}   rss {} KiB", begin.elapsed(), rss());
    let begin = Instant::now();
    drop(engine.load(&wasm).expect("a component"));
    println!("loaded, compiled            {:>10.1?}   {} KiB of wasm", begin.elapsed(), wasm.len() >> 10);
    drop(engine);
    let engine = Engine::new(options).expect("an engine");
    let begin = Instant::now();
    let component = engine.load(&wasm).expect("a component");
    println!("loaded, cached              {:>10.1?}", begin.elapsed());

    let params = component.defaults(&json!({"behaviour": "three-columns", "high": HIGH})).expect("parameters");
    let id = "default/bench/three".parse().expect("an id");
    let limits = Limits { output_rows: 100_000, ..Limits::default() };
    let new = || Runner::new(component.clone(), Clone::clone(&id), &params, limits).expect("a runner");
    let mut runner = new();
    let before = rss();
    let begin = Instant::now();
    let idle: Vec<Runner> = (0..200).map(|_| new()).collect();
    println!("one more instance           {:>10.1?}   {} KiB", begin.elapsed() / 200, (rss() - before) / 200);
    println!("200 idle instances          rss {} KiB", rss());
    drop(idle);

    let columns: [ArrayRef; 3] = [
        Arc::new(Float64Array::from_iter_values((0..ROWS).map(|n| (n * 7919 % 1000) as f64))),
        Arc::new(Int64Array::from_iter_values((0..ROWS).map(|n| n as i64))),
        Arc::new(TimestampMicrosecondArray::from_iter_values((0..ROWS).map(|n| n as i64)).with_timezone("UTC")),
    ];
    println!("{:>8} {:>12} {:>12} {:>12}   ns an event", "rows", "native", "component", "added");
    for rows in [64, 256, 1024, 8192] {
        let batches: Vec<Vec<ArrayRef>> =
            (0..ROWS / rows).map(|n| columns.iter().map(|c| c.slice(n * rows, rows)).collect()).collect();
        // Above every value: no findings, so that only the boundary differs.
        let (native, expected) = best(|| batches.iter().map(|columns| judge(columns)).sum());
        let (component, found) = best(|| {
            let judged = batches.iter().map(|columns| {
                runner.detect(&Batch { partition: 0, watermark: 0, rows, columns }).judgement.findings.len()
            });
            judged.sum()
        });
        assert_eq!(found, expected, "both judge the same");
        println!("{rows:>8} {native:>12.2} {component:>12.2} {:>12.2}", component - native);
    }
}

/// The detector of the guest, natively.
fn judge(columns: &[ArrayRef]) -> usize {
    let values = columns[0].as_primitive::<Float64Type>().values();
    let counts = columns[1].as_primitive::<Int64Type>().values();
    let times = columns[2].as_primitive::<TimestampMicrosecondType>().values();
    let rows = values.iter().zip(counts).zip(times);
    rows.filter(|((value, count), at)| **value > HIGH && **count >= 0 && **at >= 0).count()
}

/// Nanoseconds an event of the best round, and what it counted.
fn best(mut round: impl FnMut() -> usize) -> (f64, usize) {
    let mut best = (Duration::MAX, 0);
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let count = std::hint::black_box(round());
        best = best.min((begin.elapsed(), count));
    }
    (best.0.as_nanos() as f64 / ROWS as f64, best.1)
}

/// Memory of this process, in KiB.
fn rss() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn guests() -> PathBuf {
    if let Some(folder) = std::env::var_os("PHRONIS_GUESTS_DIR") {
        return folder.into();
    }
    let root = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs it")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    target.join("wasm32-wasip2/release/examples")
}
