//! L1: 1 000 events a second, a tenth of them alerts; the age of each when a reader has the event, and when it has the alert.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use hdrhistogram::Histogram;
use rdkafka::Message as _;
use rdkafka::producer::{DefaultProducerContext, Producer as _, ThreadedProducer};
use serde::Deserialize;

use super::broker::Broker;
use super::engine::{Engine, Job, Mode};
use super::topics::Topics;
use super::{MIB, input, reader};
use crate::process;
use crate::report::Report;

const PARTITIONS: i32 = 4;
const RATE: u64 = 1000;
const WARM_UP_SECONDS: u64 = 40;
const SECONDS: u64 = 30;
/// Every so many events there is one above the limit.
const HOT_EVERY: u64 = 10;
/// How long a host may take until the first alert, and the last alerts until they are read.
const PATIENCE: Duration = Duration::from_secs(60);
const METHOD: &str = "1 000 events/s for 40 s + 30 s, a tenth of them alerts, no linger; now − the microsecond in the event, at a reader of alerts and at one of the raw topic at the same time";

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let broker = Broker::start()?;
    let topics = Topics::new(&broker.bootstrap)?;
    for mode in [Mode::AtLeastOnce, Mode::ExactlyOnce] {
        measure(mode, &broker, &topics)?.report(report, mode);
    }
    Ok(())
}

struct Figures {
    raw: Histogram<u64>,
    alerts: Histogram<u64>,
    /// MiB.
    peak: f64,
    /// Share of one core.
    cpu: f64,
}

impl Figures {
    fn report(&self, report: &mut Report, mode: Mode) {
        let words = mode.words();
        let kinds = [("Kafka alone", &self.raw), ("alerts", &self.alerts)];
        for (what, histogram) in kinds {
            for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)] {
                let wanted = match (mode, what, name) {
                    (Mode::AtLeastOnce, "alerts", "p50") => "≤ Kafka alone + 1 ms",
                    (Mode::AtLeastOnce, "alerts", "p99") => "≤ Kafka alone + 5 ms",
                    (Mode::ExactlyOnce, "alerts", "p99") => "≤ 60, aim 30",
                    _ => "–",
                };
                report.add(format!("L1, {words}, {what}, {name}"), millis(histogram, quantile), "ms", wanted, METHOD);
            }
        }
        if mode == Mode::AtLeastOnce {
            for (name, quantile, wanted) in [("p50", 0.5, "≤ 1"), ("p99", 0.99, "≤ 5")] {
                let more = millis(&self.alerts, quantile) - millis(&self.raw, quantile);
                report.add(format!("L1, {words}, alerts − Kafka alone, {name}"), more, "ms", wanted, METHOD);
            }
        }
        report.add(format!("L1, {words}, peak memory"), self.peak, "MiB", "≤ 80", "VmHWM of the host before SIGTERM");
        report.add(format!("L1, {words}, own CPU"), self.cpu, "% of a core", "–", "from /proc, without the warm-up");
    }
}

fn millis(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1000.0
}

fn measure(mode: Mode, broker: &Broker, topics: &Topics) -> Result<Figures> {
    let group = format!("l1-{}", mode.words().replace(' ', "-"));
    let raw = format!("{group}.raw");
    topics.create(&raw, PARTITIONS, &[])?;
    topics.renew_outputs(&group, PARTITIONS)?;
    let mut engine = Engine::start(&Job {
        bootstrap: &broker.bootstrap,
        prefix: &group,
        group: &group,
        alert_at: 90,
        linger_ms: 0,
        mode,
    })?;
    let window = Arc::new(Window::default());
    let raw_reader = observe::<Reading>(broker, &raw, &window, |reading| (reading.value > 90.0, reading.ts))?;
    let alerts = format!("{group}.alerts");
    let alert_reader = observe::<Alert>(broker, &alerts, &window, |alert| (true, alert.event.ts))?;

    let events = Events { producer: input::producer(&broker.bootstrap, "0")?, topic: raw };
    events.send_until_alert(&mut engine, &window)?;
    events.send_at_rate(WARM_UP_SECONDS)?;
    window.from.store(now()?, Ordering::Relaxed);
    let before = process::cpu(engine.pid())?;
    let hot = events.send_at_rate(SECONDS)?;
    let cpu = (process::cpu(engine.pid())? - before) * 100.0 / SECONDS as f64;
    events.producer.flush(PATIENCE)?;
    let deadline = Instant::now() + PATIENCE;
    while window.alerts.load(Ordering::Relaxed) < hot && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    // An alert that comes twice would come now.
    std::thread::sleep(Duration::from_secs(1));
    window.is_over.store(true, Ordering::Relaxed);
    let (raw, alerts) = (joined(raw_reader)?, joined(alert_reader)?);
    ensure!(
        raw.len() == hot && alerts.len() == hot,
        "of {hot} hot events {} came, and {} alerts",
        raw.len(),
        alerts.len()
    );
    let peak = process::peak(engine.pid())? as f64 / MIB;
    engine.stop()?;
    Ok(Figures { raw, alerts, peak, cpu })
}

/// What the observers share.
#[derive(Debug)]
struct Window {
    /// Events made from this microsecond on count.
    from: AtomicU64,
    /// Alerts that came, and count.
    alerts: AtomicU64,
    /// Whether any alert came.
    is_ready: AtomicBool,
    is_over: AtomicBool,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            from: AtomicU64::new(u64::MAX),
            alerts: AtomicU64::default(),
            is_ready: AtomicBool::default(),
            is_over: AtomicBool::default(),
        }
    }
}

#[derive(Deserialize)]
struct Reading {
    value: f64,
    ts: String,
}

#[derive(Deserialize)]
struct Alert {
    event: Reading,
}

type Observer = std::thread::JoinHandle<Result<Histogram<u64>>>;

/// Reads a topic on a thread of its own and notes how old each hot event is. `facts`: whether it is hot, and its time.
fn observe<T: serde::de::DeserializeOwned + 'static>(
    broker: &Broker,
    topic: &str,
    window: &Arc<Window>,
    facts: fn(T) -> (bool, String),
) -> Result<Observer> {
    let consumer = reader::open(&broker.bootstrap, topic, PARTITIONS)?;
    let window = Arc::clone(window);
    let is_alerts = topic.ends_with(".alerts");
    Ok(std::thread::spawn(move || {
        let mut ages = Histogram::new(3)?;
        while !window.is_over.load(Ordering::Relaxed) {
            let Some(Ok(message)) = consumer.poll(Duration::from_millis(20)) else { continue };
            let read = now()?;
            let (is_hot, ts) = facts(serde_json::from_slice(message.payload().unwrap_or_default())?);
            if !is_hot {
                continue;
            }
            window.is_ready.fetch_or(is_alerts, Ordering::Relaxed);
            let made: u64 = ts.parse()?;
            if made >= window.from.load(Ordering::Relaxed) {
                ages.record(read.saturating_sub(made))?;
                window.alerts.fetch_add(u64::from(is_alerts), Ordering::Relaxed);
            }
        }
        Ok(ages)
    }))
}

fn joined(observer: Observer) -> Result<Histogram<u64>> {
    observer.join().map_err(|_| anyhow!("an observer panicked"))?
}

struct Events {
    producer: ThreadedProducer<DefaultProducerContext>,
    topic: String,
}

impl Events {
    /// A hot event now and then, until an alert shows that the host works.
    fn send_until_alert(&self, engine: &mut Engine, window: &Window) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !window.is_ready.load(Ordering::Relaxed) {
            engine.ensure_runs()?;
            ensure!(Instant::now() < deadline, "no alert came: {}", engine.log());
            self.send(0)?;
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Keeps its clock whatever the rest does; returns how many of the events were hot.
    fn send_at_rate(&self, seconds: u64) -> Result<u64> {
        let started = Instant::now();
        for nth in 0..RATE * seconds {
            let due = started + Duration::from_micros(nth * 1_000_000 / RATE);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            self.send(nth)?;
        }
        Ok(RATE * seconds / HOT_EVERY)
    }

    fn send(&self, nth: u64) -> Result<()> {
        // From 91 up, or below 89.
        let value = if nth.is_multiple_of(HOT_EVERY) { 9_100 + nth % 800 } else { nth % 8_900 };
        let key = format!("s{:04}", nth % input::SENSORS);
        let (whole, rest) = (value / 100, value % 100);
        let event = format!(r#"{{"sensor_id":"{key}","value":{whole}.{rest:02},"ts":"{:016}","unit":"C"}}"#, now()?);
        input::send(&self.producer, &self.topic, &key, &event)
    }
}

/// Microseconds since 1970.
fn now() -> Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    Ok(u64::try_from(since.as_micros())?)
}
