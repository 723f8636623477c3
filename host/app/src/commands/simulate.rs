//! `phronis simulate`: made-up sensors or agents with faults at known moments, into a stream of a running host.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use phronis_core::StreamId;
use phronis_load::simulate::{Agents, Event, Expect, Fault, FaultKind, Sensors, Settings};
use serde_json::{Value, json};

use super::progress::Progress;
use super::send::{Batch, Sender};
use crate::client::{ClientArgs, needs_host};
use crate::config::units::parse_duration;
use crate::failure::{Exit, Failure, Outcome};
use crate::signals::Shutdown;

/// Send made-up events with faults at known moments to a running host
///
/// The same seed makes the same events. --truth writes down which events a threshold must find
/// and which the contract must refuse, to compare with alerts and letters afterwards.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to make up, and the stream that it goes to
    #[arg(short, long, value_enum, default_value = "sensors")]
    stream: Kind,
    /// Another stream to send to: name, or tenant.name
    #[arg(long, value_name = "STREAM")]
    to: Option<StreamId>,
    /// How many sensors or agents
    #[arg(short, long, default_value_t = 50)]
    keys: u32,
    /// Events a second, all keys together; 0 is as fast as the host takes them
    #[arg(short, long, default_value_t = 1000.0)]
    rate: f64,
    /// How long, in time of the events [default: until Ctrl-C]
    #[arg(short, long, value_name = "DURATION", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// One fault in so many events of a key, at least 64; 0 is no faults
    #[arg(long, default_value_t = 400, value_name = "EVENTS")]
    faults: u64,
    /// Share of events that the contract must refuse, 0 to 1
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    malformed: f64,
    /// Decides everything that looks like chance
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the truth to a file: one JSON object a line
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Machine temperatures
    Sensors,
    /// AI agents at work
    Agents,
}

/// Either simulator.
enum Source {
    Sensors(Sensors),
    Agents(Agents),
}

impl Source {
    fn next(&mut self) -> Option<Event> {
        match self {
            Self::Sensors(sensors) => sensors.next(),
            Self::Agents(agents) => agents.next(),
        }
    }

    fn faults(&self) -> &[Fault] {
        match self {
            Self::Sensors(sensors) => sensors.faults(),
            Self::Agents(agents) => agents.faults(),
        }
    }
}

/// Sends events until the time is over or Ctrl-C.
pub async fn run(args: Args) -> Outcome {
    if !(0.0..=1.0).contains(&args.malformed) || !args.rate.is_finite() || args.rate < 0.0 {
        return Err(Failure::usage("--malformed goes from 0 to 1, --rate from 0 up"));
    }
    let mut source = source(&args);
    let name = match args.stream {
        Kind::Sensors => "sensors",
        Kind::Agents => "agents",
    };
    let stream = match &args.to {
        Some(stream) => stream.clone(),
        None => name.parse().map_err(|_| Failure::usage("no such stream"))?,
    };
    let mut truth = Truth::create(args.truth.as_deref())?;
    let mut sender = Sender::new(&args.client.client()?, &stream, "event");
    let total = args.duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    let mut progress = Progress::counting(total, name);
    let started = Instant::now();
    let shutdown = Shutdown::on_signals()?;
    let (mut next, mut is_interrupted) = (source.next(), false);
    while let Some(first) = next.take().filter(|event| args.duration.is_none_or(|duration| event.at < duration)) {
        let wait = if args.rate > 0.0 { first.at.saturating_sub(started.elapsed()) } else { Duration::ZERO };
        tokio::select! {
            biased;
            () = shutdown.requested() => { is_interrupted = true; break }
            () = tokio::time::sleep(wait) => {}
        }
        let mut events = vec![first];
        let mut batch = Batch::default();
        let mut number = sender.tally.accepted + sender.tally.refused;
        for event in &events {
            number += 1;
            batch.push(number, &event.bytes);
        }
        // Whatever is due by now goes along.
        next = source.next();
        while let Some(event) = next.take_if(|event| {
            let is_in_time = args.duration.is_none_or(|duration| event.at < duration);
            is_in_time && !batch.is_full() && (args.rate == 0.0 || event.at <= started.elapsed())
        }) {
            number += 1;
            batch.push(number, &event.bytes);
            events.push(event);
            next = source.next();
        }
        // Finished even after Ctrl-C, so that the truth knows what the host has.
        sender.post(&batch).await.map_err(needs_host)?;
        truth.events(&events)?;
        let at = events.last().map_or(Duration::ZERO, |event| event.at);
        progress.at(u64::try_from(at.as_millis()).unwrap_or(0), sender.tally.accepted, sender.tally.refused);
    }
    progress.end();
    let (tally, seconds) = (&sender.tally, started.elapsed().as_secs_f64());
    let sent = tally.accepted + tally.refused;
    truth.summary(source.faults(), sent, tally.accepted, tally.refused)?;
    eprintln!(
        "{sent} events in {seconds:.1} s ({:.0}/s): {} accepted, {} refused; {} faults, {} events over the threshold",
        sent as f64 / seconds.max(0.001),
        tally.accepted,
        tally.refused,
        source.faults().len(),
        truth.over,
    );
    Ok(if is_interrupted { Exit::Interrupted } else { Exit::Ok })
}

fn source(args: &Args) -> Source {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let base = Settings::default();
    let settings = Settings {
        seed: args.seed,
        keys: args.keys.max(1),
        per_second: if args.rate > 0.0 { args.rate } else { base.per_second },
        start_ms: i64::try_from(now.as_millis()).unwrap_or(base.start_ms),
        fault_every: (args.faults > 0).then_some(args.faults.max(64)),
        malformed: args.malformed,
        ..base
    };
    match args.stream {
        Kind::Sensors => Source::Sensors(Sensors::new(settings)),
        Kind::Agents => Source::Agents(Agents::new(settings)),
    }
}

/// What must be found and what refused, of the events that the host has taken.
struct Truth {
    file: Option<BufWriter<File>>,
    over: u64,
}

impl Truth {
    fn create(path: Option<&std::path::Path>) -> Result<Self, Failure> {
        let unwritable =
            |path: &std::path::Path, error| Failure::usage(format!("cannot write {}: {error}", path.display()));
        let file = path.map(|path| File::create(path).map_err(|error| unwritable(path, error))).transpose()?;
        Ok(Self { file: file.map(BufWriter::new), over: 0 })
    }

    fn events(&mut self, events: &[Event]) -> Result<(), Failure> {
        for event in events {
            let refused = match event.expect {
                Expect::Delivered => None,
                Expect::Refused(_) => event.expect.code(),
            };
            self.over += u64::from(event.is_fault);
            if event.is_fault || refused.is_some() {
                self.line(&json!({
                    "type": "event", "key": &*event.key, "seq": event.seq, "time_ms": event.time_ms,
                    "is_fault": event.is_fault, "fault": event.fault.map(fault_name), "refused": refused.map(|code| code.to_string()),
                }))?;
            }
        }
        Ok(())
    }

    fn summary(&mut self, faults: &[Fault], sent: u64, accepted: u64, refused: u64) -> Result<(), Failure> {
        for fault in faults {
            self.line(&json!({
                "type": "fault", "key": &*fault.key, "kind": fault_name(fault.kind), "from_seq": fault.from_seq,
                "to_seq": fault.to_seq, "over": fault.over, "peak": fault.peak,
            }))?;
        }
        let over = self.over;
        self.line(&json!({
            "type": "summary", "sent": sent, "accepted": accepted, "refused": refused,
            "faults": faults.len(), "over_threshold": over,
        }))?;
        match &mut self.file {
            Some(file) => file.flush().map_err(Failure::from),
            None => Ok(()),
        }
    }

    fn line(&mut self, line: &Value) -> Result<(), Failure> {
        match &mut self.file {
            Some(file) => writeln!(file, "{line}").map_err(Failure::from),
            None => Ok(()),
        }
    }
}

fn fault_name(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Overheat => "overheat",
        FaultKind::Spike => "spike",
        FaultKind::Stuck => "stuck",
        FaultKind::DropOut => "drop_out",
        FaultKind::CostExplosion => "cost_explosion",
        FaultKind::CallStorm => "call_storm",
    }
}
