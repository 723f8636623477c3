//! A minute of Phronis: faults are found, a threshold changes, a plugin is replaced, all under load, and all of it is checked.
//!
//! With `--kafka` it starts an Apache Kafka of its own and runs on that; otherwise events are in the embedded log.
//! The host is the real process; its plugins are the files that ship; the summary is the independent checker's, read from the topics.
//! This file is the script; the scenes are told in `say`, fed by `feed`, watched by `watch` and judged by `judge`.
//! `trouble` has two of its own, and `archive` the last: what is left when the host is gone.

mod archive;
mod feed;
mod judge;
mod say;
mod trouble;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use phronis_core::time::Time;
use phronis_tests::checker::{self, Expect};
use phronis_tests::host::{Host, Room};
use phronis_tests::kafka::Broker;
use phronis_tests::plugins::{package, plugin};
use serde_json::json;

use feed::Feed;
use say::Say;
use watch::Watch;

/// The plugin that is changed and replaced.
const THRESHOLD: &str = "default/sensors/threshold";

/// The limit at first, in °C: no normal reading comes near it.
const HIGH: f64 = 90.0;

/// The limit after the change: sensors that are only warming up are over it.
const LOWER: f64 = 75.0;

/// Readings a second while people watch.
const RATE: f64 = 2_000.0;

/// Readings of the burst: a second or two of work.
const BURST: usize = 300_000;

/// How long the scenes last.
const SCENES: [Duration; 3] = [Duration::from_secs(8), Duration::from_secs(5), Duration::from_secs(6)];

fn main() -> ExitCode {
    let say = Say::new();
    let on_kafka = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--kafka") => true,
        Some(other) => {
            say.line(&format!(
                "`{other}` is not known: --kafka runs the demo on Apache Kafka, nothing on the embedded log"
            ));
            return ExitCode::from(2);
        }
    };
    match run(&say, on_kafka) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) if say::was_interrupted() => ExitCode::from(130),
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say.line(&format!("the demo cannot go on: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(say: &Say, on_kafka: bool) -> anyhow::Result<bool> {
    say::notice_ctrl_c();
    say.title(RATE);
    let broker = on_kafka.then(|| start_kafka(say)).transpose()?;
    let (room, next) = prepare(broker.as_ref())?;
    let started = Instant::now();
    let host = Host::start(&room)?;
    let place = broker
        .as_ref()
        .map_or_else(|| "one SQLite file".to_owned(), |broker| format!("Kafka on {}", broker.bootstrap()));
    say.fact("host", &format!("ready after {} on {}, events in {place}", say::time(started.elapsed()), host.base()));
    for (name, what) in [
        ("unit-normaliser", "adds every value in °C".to_owned()),
        ("severity", format!("adds ok, warning (from {LOWER:.0} °C) or critical (from {HIGH:.0} °C)")),
        ("threshold", format!("alerts above {HIGH:.0} °C")),
    ] {
        let status = host.plugin_is(&format!("default/sensors/{name}"), "active")?;
        say.plugin(name, &status, &what);
    }
    let feed = Feed::new();
    let mut watch = Watch::new(host.listen("?kind=alert").or_else(|_| host.listen(""))?);
    let play = play(say, &host, &room, &next, &feed, &mut watch);
    feed.should_stop.store(true, Ordering::Relaxed);
    let mut play = play?;
    let drained = Instant::now();
    let end = host.stop()?;
    say.fact("stopped", &format!("the host judged what was left and ended in {}", say::time(drained.elapsed())));
    anyhow::ensure!(end.success(), "the host ended with {end}");
    if let Some(before) = &play.before_burst
        && !say::was_interrupted()
    {
        play.archived = Some(archive::tell(say, &room, before)?);
    }

    let mut truth = feed.truth(HIGH, LOWER);
    let expect = Expect {
        detectors: ["threshold".to_owned()].into(),
        acknowledged: feed.acknowledged(),
        judge: Some(Box::new(|seen| truth.judge(seen))),
        ..Expect::default()
    };
    let report = match &broker {
        Some(broker) => checker::check_kafka(&broker.bootstrap(), "sensors", expect)?,
        None => checker::check_folder(&room.log(), "sensors", expect)?,
    };
    let wrong = play.archived.as_ref().map(|archived| archived.wrong(&report, &truth)).unwrap_or_default();
    let holds = say.summary(&report, &truth.faults(), &wrong, &watch.latencies(), &play);
    if holds && !say::was_interrupted() {
        say.next_steps();
    }
    Ok(holds && !say::was_interrupted())
}

/// A broker of its own, which ends with the demo.
fn start_kafka(say: &Say) -> anyhow::Result<Broker> {
    let started = Instant::now();
    let broker = Broker::start()?;
    say.fact("kafka", &format!("Apache Kafka is up after {} on {}", say::time(started.elapsed()), broker.bootstrap()));
    Ok(broker)
}

/// The time by the clock on the wall, in whole seconds.
fn now() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let second = Time::from_millis(i64::try_from(since.as_secs()).unwrap_or_default().saturating_mul(1000));
    second.to_string().replace(".000000", "")
}

/// What the scenes took.
#[derive(Debug, Default)]
struct Play {
    reload: Option<Duration>,
    broken: Option<trouble::Broken>,
    halted: Option<trouble::Halted>,
    burst: Option<(usize, Duration)>,
    before_burst: Option<String>,
    archived: Option<archive::Archived>,
}

/// Makes the room and puts the plugins into it; the second version of the detector waits outside.
fn prepare(broker: Option<&Broker>) -> anyhow::Result<(Room, PathBuf)> {
    let log = broker.map_or_else(String::new, |broker| {
        format!("[log]\nkind = \"kafka\"\nbootstrap = \"{}\"\nauto_create = true\n", broker.bootstrap())
    });
    let archive = archive::CONFIG;
    let config = format!("{log}{archive}[streams.sensors]\n[streams.agents.plugins.threshold]\nmay_halt = true\n");
    let room = match std::env::var_os("PHRONIS_DEMO_DIR") {
        Some(folder) => Room::kept(&PathBuf::from(folder), &config)?,
        None => Room::with(&config)?,
    };
    let settings = format!("[params]\nfield = \"value_normal\"\nwarning = {LOWER:.1}\ncritical = {HIGH:.1}\n");
    room.install("default/sensors/unit-normaliser", &plugin("unit-normaliser")?, "")?;
    room.install("default/sensors/severity", &plugin("severity")?, &settings)?;
    let settings = format!("[params]\nfield = \"value_normal\"\nhigh = {HIGH:.1}\n");
    room.install(THRESHOLD, &plugin("threshold")?, &settings)?;
    trouble::prepare(&room)?;
    Ok((room, package("phronis-demo-next", "threshold-next")?))
}

/// The scenes, one after the other, while readings come in.
fn play(
    say: &Say,
    host: &Host,
    room: &Room,
    next: &std::path::Path,
    feed: &Feed,
    watch: &mut Watch,
) -> anyhow::Result<Play> {
    let mut play = Play::default();
    std::thread::scope(|scope| {
        let steady = scope.spawn(|| feed.steady(host, RATE));
        let outcome = (|| -> anyhow::Result<()> {
            say.scene("Alerts as they come. The time at the end: from the post of the reading to the alert here.");
            watch.tell(say, feed, SCENES[0]);
            if say::was_interrupted() {
                return Ok(());
            }

            say.scene(&format!(
                "A new threshold, live: {HIGH:.0} → {LOWER:.0} °C. Sensors that only warm up are now over it."
            ));
            let asked = Instant::now();
            let params = json!({"field": "value_normal", "high": LOWER});
            let answer = host.put(&format!("/v1/plugins/{THRESHOLD}/params"), &params)?;
            anyhow::ensure!(answer.status == 200, "the host refused the threshold: {}", answer.text);
            say.fact("PUT params", &format!("in force after {}", say::time(asked.elapsed())));
            watch.tell(say, feed, SCENES[1]);
            if say::was_interrupted() {
                return Ok(());
            }

            say.scene("A new version of the detector is saved over the old one. Readings go on.");
            feed.probes.store(true, Ordering::Relaxed);
            watch.tell(say, feed, Duration::from_millis(300));
            let before = watch.version();
            room.install(THRESHOLD, next, "")?;
            let saved = Instant::now();
            play.reload = watch.until_other_version(say, feed, &before).map(|at| at.saturating_duration_since(saved));
            feed.probes.store(false, Ordering::Relaxed);
            let reload = play.reload.context("the new version never judged anything")?;
            say.fact("file saved", &format!("first alert of {} after {}", watch.version(), say::time(reload)));
            watch.tell(say, feed, SCENES[2]);
            if say::was_interrupted() {
                return Ok(());
            }
            play.broken = Some(trouble::broken(say, host, room, next, feed, watch)?);
            Ok(())
        })();
        feed.should_stop.store(true, Ordering::Relaxed);
        let fed = steady.join().map_err(|_| anyhow::anyhow!("the feed panicked"))?;
        // Ctrl-C reaches the host as well: posts that fail then are no surprise.
        if say::was_interrupted() { Ok(()) } else { outcome.and(fed) }
    })?;
    if say::was_interrupted() {
        return Ok(play);
    }
    play.halted = Some(trouble::runaway(say, host)?);
    say.scene(&format!(
        "A burst: {} readings as fast as they go, durable before each answer.",
        say::number(BURST as u64)
    ));
    watch.is_quiet = true;
    let bodies = feed.bodies(BURST);
    play.before_burst = Some(now());
    let begun = Instant::now();
    feed.burst(host, bodies)?;
    host.drained("sensors")?;
    let took = begun.elapsed();
    play.burst = Some((BURST, took));
    let rate = BURST as f64 / took.as_secs_f64();
    say.fact("burst", &format!("taken, judged and delivered in {}: {} a second", say::time(took), say::rounded(rate)));
    Ok(play)
}
