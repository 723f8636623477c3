//! W1: a full topic is worked off, at least once and exactly once in turn; rates by the broker's clock and by its offsets.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::broker::Broker;
use super::engine::{Engine, Job, Mode};
use super::topics::Topics;
use super::verify::Expected;
use super::{MIB, input, median, setting};
use crate::process;
use crate::report::Report;

const PREFIX: &str = "w1";
const PARTITIONS: i32 = 4;
/// Between two looks at the offsets.
const TICK: Duration = Duration::from_millis(100);
/// All is written when nothing has moved for this long.
const STILL: Duration = Duration::from_millis(1500);
/// A host that moves nothing for this long is stuck.
const STUCK: Duration = Duration::from_secs(60);

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let events = setting("PHRONIS_BENCH_EVENTS", 4_000_000)?;
    let rounds = setting("PHRONIS_BENCH_ROUNDS", 2)?;
    ensure!(events > 0 && rounds > 0, "nothing to measure");
    let broker = Broker::start()?;
    let topics = Topics::new(&broker.bootstrap)?;
    let raw = format!("{PREFIX}.raw");
    topics.create(&raw, PARTITIONS, &[])?;
    input::load(&broker.bootstrap, &raw, events)?;
    let bench = Bench {
        expected: Expected::read(&broker.bootstrap, &raw, PARTITIONS, events)?,
        broker: &broker,
        topics: &topics,
        events,
    };
    // The broker's code is compiled while it runs: whoever comes first would pay for it.
    eprintln!("  one run of each to warm up");
    bench.measure(Mode::AtLeastOnce, 0)?;
    bench.measure(Mode::ExactlyOnce, 0)?;
    let (mut at_least, mut exactly) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        at_least.push(bench.measure(Mode::AtLeastOnce, round)?);
        exactly.push(bench.measure(Mode::ExactlyOnce, round)?);
    }
    let method = |figures: &[Figures]| {
        let rates = figures.iter().map(|f| f.rate);
        let (low, high) = rates.fold((f64::MAX, f64::MIN), |(low, high), rate| (low.min(rate), high.max(rate)));
        format!(
            "{events} events through 4 partitions and 2 workers, broker on the same cores; rate by LogAppendTime of the first and the last output, every record checked; median of {rounds} rounds in turn after one of each to warm up, {low:.0} to {high:.0} events/s"
        )
    };
    Mode::AtLeastOnce.report(report, &at_least, &method(&at_least));
    Mode::ExactlyOnce.report(report, &exactly, &method(&exactly));
    let rate = |figures: &[Figures]| median(figures.iter().map(|f| f.rate).collect());
    report.add(
        "W1, exactly once ÷ at least once",
        rate(&exactly) / rate(&at_least),
        "×",
        "≥ 0.8, aim 0.95",
        method(&exactly),
    );
    Ok(())
}

impl Mode {
    fn report(self, report: &mut Report, figures: &[Figures], method: &str) {
        let mode = self.words();
        let of = |figure: fn(&Figures) -> f64| median(figures.iter().map(figure).collect());
        let (rate, cpu) = match self {
            Self::AtLeastOnce => ("≥ 0.9 × by hand, ≥ 2.5 × Kafka Streams (833 k and 281 k once)", "≤ 2.0, aim 1.2"),
            Self::ExactlyOnce => ("–", "–"),
        };
        report.add(format!("W1, {mode}"), of(|f| f.rate), "events/s", rate, method.to_owned());
        report.add(
            format!("W1, {mode}, steady"),
            of(|f| f.steady),
            "events/s",
            "–",
            "between 40 % and 95 % of the events, from end offsets every 100 ms",
        );
        const CPU: &str = "from /proc: the whole run with the start of the host; the broker from the first output on";
        report.add(format!("W1, {mode}, own CPU"), of(|f| f.own_cpu), "s/M", cpu, CPU);
        report.add(format!("W1, {mode}, CPU of the broker"), of(|f| f.broker_cpu), "s/M", "–", CPU);
        report.add(
            format!("W1, {mode}, peak memory"),
            of(|f| f.peak),
            "MiB",
            "≤ 256",
            "VmHWM of the host before SIGTERM",
        );
    }
}

/// What one run gave.
#[derive(Debug)]
struct Figures {
    rate: f64,
    steady: f64,
    /// Seconds per million events.
    own_cpu: f64,
    broker_cpu: f64,
    /// MiB.
    peak: f64,
}

/// What was seen at one moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Duration,
    /// Events with an outcome.
    done: u64,
    /// All that was written, alerts and drops too.
    written: u64,
    own_cpu: f64,
    broker_cpu: f64,
}

struct Bench<'a> {
    expected: Expected,
    broker: &'a Broker,
    topics: &'a Topics,
    events: u64,
}

impl Bench<'_> {
    fn measure(&self, mode: Mode, round: u64) -> Result<Figures> {
        self.topics.renew_outputs(PREFIX, PARTITIONS)?;
        let group = format!("w1-{}-{round}", mode.words().replace(' ', "-"));
        let mut engine = Engine::start(&Job {
            bootstrap: &self.broker.bootstrap,
            prefix: PREFIX,
            group: &group,
            alert_at: 99,
            linger_ms: 5,
            mode,
        })?;
        let samples = self.watch(&mut engine)?;
        let peak = process::peak(engine.pid())? as f64 / MIB;
        engine.stop()?;
        let appended = self.expected.check(&self.broker.bootstrap, PREFIX, PARTITIONS)?;
        let seconds = (appended.last - appended.first).max(1) as f64 / 1000.0;
        let millions = self.events as f64 / 1e6;
        let last = samples.last().context("no sample")?;
        // The first sample in which all was there, and the last in which nothing was.
        let end = samples.iter().find(|sample| sample.written == last.written).unwrap_or(last);
        let begin = samples.iter().rfind(|sample| sample.written == 0).unwrap_or(last);
        let figures = Figures {
            rate: self.events as f64 / seconds,
            steady: steady(&samples, self.events),
            own_cpu: end.own_cpu / millions,
            broker_cpu: (end.broker_cpu - begin.broker_cpu) / millions,
            peak,
        };
        eprintln!("  {}, round {round}: {:.0} events/s", mode.words(), figures.rate);
        Ok(figures)
    }

    /// Looks until every event has its outcome and nothing moves any more.
    fn watch(&self, engine: &mut Engine) -> Result<Vec<Sample>> {
        let broker = self.broker.pid()?;
        let names = super::topics::OUTPUTS.map(|output| format!("{PREFIX}.{output}"));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let started = Instant::now();
        let mut moved = Instant::now();
        let mut samples: Vec<Sample> = Vec::new();
        loop {
            engine.ensure_runs()?;
            let ends = self.topics.ends(&names, PARTITIONS)?;
            let sample = Sample {
                at: started.elapsed(),
                // Processed events and letters. The marker of each transaction is counted too: too few to matter for a rate.
                done: u64::try_from(ends.iter().take(2).sum::<i64>())?,
                written: u64::try_from(ends.iter().sum::<i64>())?,
                own_cpu: process::cpu(engine.pid())?,
                broker_cpu: process::cpu(broker)?,
            };
            if samples.last().is_none_or(|last| last.written != sample.written) {
                moved = Instant::now();
            }
            samples.push(sample);
            if sample.done >= self.events && moved.elapsed() > STILL {
                return Ok(samples);
            }
            ensure!(moved.elapsed() < STUCK, "the host is stuck at {} events: {}", sample.done, engine.log());
            std::thread::sleep(TICK.saturating_sub(started.elapsed() - sample.at));
        }
    }
}

/// The rate in the middle of a run, where starting and ending do not count. Not a number when a run is too short to tell.
fn steady(samples: &[Sample], events: u64) -> f64 {
    let reached = |share: f64| samples.iter().find(|sample| sample.done as f64 >= share * events as f64);
    let (Some(from), Some(to)) = (reached(0.4), reached(0.95)) else { return f64::NAN };
    (to.done - from.done) as f64 / (to.at - from.at).as_secs_f64()
}
