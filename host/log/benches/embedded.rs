//! How fast the embedded log is: appends with and without a sync, latency of small ones, polls from memory and from the file.
//!
//! `cargo bench -p phronis-log`; `PHRONIS_BENCH_FOLDER` says on which disk, `PHRONIS_BENCH_SECONDS` how long each part takes.
//! Records are counted where they arrive: in receipts for appends, in polled batches for reads. One JSON object a line on stdout.

#![allow(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a benchmark: it stops when anything fails")]

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use phronis_core::delivery::{Append, Delivery};
use phronis_core::records::{NewRecords, RecordsBuilder, TopicName};
use phronis_log::embedded::{Durability, Log, Options};
use phronis_log::{Log as _, PollLimits, Position, Retention, TopicSpec};

const BATCH: usize = 1000;

fn main() {
    let base = std::env::var_os("PHRONIS_BENCH_FOLDER").map_or_else(std::env::temp_dir, PathBuf::from);
    let seconds = std::env::var("PHRONIS_BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let time = Duration::from_secs(seconds);
    let folder = || tempfile::tempdir_in(&base).unwrap();
    for durability in [Durability::Commit, Durability::Interval(Duration::from_millis(100)), Durability::Os] {
        appends(folder().path(), durability, 16, time);
    }
    appends(folder().path(), Durability::Commit, 1, time);
    latency(folder().path(), time);
    polls(folder().path(), 1 << 30, "hot tail");
    polls(folder().path(), 0, "file");
}

/// Readings of sensors, as JSON of about 75 bytes with a key; no two alike.
fn readings(from: usize, count: usize) -> NewRecords {
    let mut builder = RecordsBuilder::with_capacity(count, count * 80);
    for n in from..from + count {
        let value = 20.0 + (n.wrapping_mul(2_654_435_761) % 80_000) as f64 / 1000.0;
        let key = format!("S{:03}", n % 500);
        let text = format!(r#"{{"sensor_id":"{key}","value":{value:.3},"seq":{n:09},"time":{}}}"#, 1_700_000_000 + n);
        builder.push(1_700_000_000_000, Some(key.as_bytes()), Some(text.as_bytes()), &[]);
    }
    builder.finish()
}

fn open(folder: &Path, durability: Durability, hot_tail_bytes: usize) -> (Log, TopicName) {
    let log = Log::open(Options { durability, hot_tail_bytes, ..Options::new(folder) }).unwrap();
    let topic: TopicName = "bench".into();
    log.create_topic(&TopicSpec { name: Arc::clone(&topic), partitions: 1, retention: Retention::default() }).unwrap();
    (log, topic)
}

fn append(topic: &TopicName, records: NewRecords) -> Delivery {
    Delivery { appends: vec![Append { topic: Arc::clone(topic), partition: 0, records }], commits: Vec::new() }
}

/// One producer with so many batches under way.
fn appends(folder: &Path, durability: Durability, under_way: usize, time: Duration) {
    let (log, topic) = open(folder, durability, 32 << 20);
    let sink = log.sink().unwrap();
    let batches: Vec<NewRecords> = (0..64).map(|n| readings(n * BATCH, BATCH)).collect();
    let bytes: usize = batches.iter().map(NewRecords::bytes).sum::<usize>() / (64 * BATCH);
    let (started, mut waiting, mut records) = (Instant::now(), VecDeque::new(), 0);
    for batch in batches.iter().cycle() {
        if started.elapsed() > time {
            break;
        }
        waiting.push_back(sink.submit(append(&topic, batch.clone())).unwrap());
        if waiting.len() >= under_way {
            waiting.pop_front().map(|ticket| ticket.wait().unwrap());
            records += BATCH;
        }
    }
    for ticket in waiting {
        ticket.wait().unwrap();
        records += BATCH;
    }
    let seconds = started.elapsed().as_secs_f64();
    let stored = log.topics().unwrap().iter().flat_map(|topic| &topic.partitions).filter_map(|p| p.bytes).sum::<u64>();
    println!(
        r#"{{"what":"append batches of {BATCH}","durability":"{durability:?}","under_way":{under_way},"bytes_a_record":{bytes},"records_a_second":{:.0},"batches_a_second":{:.0},"stored_bytes_a_record":{:.1}}}"#,
        records as f64 / seconds,
        records as f64 / seconds / BATCH as f64,
        stored as f64 / records as f64,
    );
}

/// One record at a time, each waited for.
fn latency(folder: &Path, time: Duration) {
    let (log, topic) = open(folder, Durability::Commit, 32 << 20);
    let sink = log.sink().unwrap();
    let mut histogram = Histogram::<u64>::new(3).unwrap();
    let started = Instant::now();
    let mut n = 0;
    while started.elapsed() < time {
        let records = readings(n, 1);
        let from = Instant::now();
        sink.submit(append(&topic, records)).unwrap().wait().unwrap();
        histogram.record(u64::try_from(from.elapsed().as_micros()).unwrap()).unwrap();
        n += 1;
    }
    println!(
        r#"{{"what":"append one record, synced","commits_a_second":{:.0},"p50_us":{},"p99_us":{},"p999_us":{},"max_us":{}}}"#,
        n as f64 / started.elapsed().as_secs_f64(),
        histogram.value_at_quantile(0.5),
        histogram.value_at_quantile(0.99),
        histogram.value_at_quantile(0.999),
        histogram.max(),
    );
}

/// Reads a million records in polls of a batch's size.
fn polls(folder: &Path, hot_tail_bytes: usize, from: &str) {
    let (log, topic) = open(folder, Durability::Os, hot_tail_bytes);
    let sink = log.sink().unwrap();
    for n in 0..1000 {
        sink.submit(append(&topic, readings(n * BATCH, BATCH))).unwrap().wait().unwrap();
    }
    let mut reader = log.reader(&topic, 0, Position::Earliest).unwrap();
    let (started, mut records) = (Instant::now(), 0);
    while let Some(batch) = reader.next(PollLimits { records: BATCH, bytes: 1 << 20 }, Duration::ZERO).unwrap() {
        records += batch.len();
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        r#"{{"what":"poll from the {from}","records":{records},"records_a_second":{:.0}}}"#,
        records as f64 / seconds
    );
}
