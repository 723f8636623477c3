//! Reads the log itself, when no host runs. The records look as they do over HTTP.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use phronis_admin::Line;
use phronis_core::records::{Records, TopicName};
use phronis_log::{Log, PollLimits, Position, Start};

use super::{Args, Printer, topic_of};
use crate::config::{self, Config};
use crate::eventlog::{EventLog, TOOL};
use crate::failure::{Exit, Failure, Outcome};

/// Bounds of one read.
const SOME: PollLimits = PollLimits { records: 1_000, bytes: 4 << 20 };

/// Whether there is a log to read: asking must not make one.
pub(super) fn has_log(config: &Config) -> bool {
    config.log.kafka().is_some() || config::log_dir(&config.data_dir).is_dir()
}

/// Reads the topic and goes on as long as wanted.
/// Another process cannot write into the embedded log meanwhile, so following that one waits for nothing.
pub(super) async fn run(args: &Args, config: Config, printer: Printer) -> Outcome {
    let stream = config.streams.get(&args.stream).ok_or_else(|| {
        let known: Vec<String> = config.streams.keys().map(ToString::to_string).collect();
        Failure::usage(format!("there is no stream `{}`; there are {}", args.stream, known.join(", ")))
    })?;
    let topic = match topic_of(args.what) {
        "alerts" => Arc::clone(&stream.topics.alerts),
        "processed" => Arc::clone(&stream.topics.processed),
        "dlq" => Arc::clone(&stream.topics.dlq),
        _ => Arc::clone(&stream.topics.raw),
    };
    let is_kafka = config.log.kafka().is_some();
    if !args.no_follow && args.from == "latest" && !is_kafka {
        let message = "no host runs, so nothing new comes";
        return Err(Failure::new(Exit::NotReachable, message)
            .next("read what is there with --from earliest, or start a host with `phronis run`"));
    }
    let is_endless = !args.no_follow && is_kafka;
    let from = position(&args.from);
    // Kafka brings the first records some moments after it was asked.
    let wait = if is_kafka { Duration::from_secs(5) } else { Duration::ZERO };
    let job = move || {
        let log = EventLog::open(&config, TOOL)?;
        let mut tail = Tail { log: log.port(), topic, printer };
        let outcome = if is_endless { tail.follow(from) } else { tail.read(from, wait) };
        log.close();
        outcome
    };
    tokio::task::spawn_blocking(job).await.map_err(|error| Failure::new(Exit::CheckFailed, error.to_string()))?
}

fn position(from: &str) -> Position {
    match from {
        "latest" => Position::Latest,
        "earliest" => Position::Earliest,
        _ => match from.strip_prefix('@') {
            Some(time) => {
                Position::Timestamp(time.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_millisecond))
            }
            None => from.parse().map_or(Position::Earliest, Position::Offset),
        },
    }
}

/// What is read, and who prints it.
struct Tail {
    log: Arc<dyn Log>,
    topic: TopicName,
    printer: Printer,
}

impl Tail {
    /// Reads what is there now, partition by partition.
    fn read(&mut self, from: Position, wait: Duration) -> Outcome {
        let info = self.log.topic(&self.topic)?;
        for (partition, about) in (0_i32..).zip(&info.partitions) {
            let mut reader = self.log.reader(&self.topic, partition, from)?;
            while reader.position() < about.latest {
                let Some(records) = reader.next(SOME, wait)? else { break };
                if !self.print(&records)? {
                    return Ok(Exit::Ok);
                }
            }
        }
        self.printer.out.flush()?;
        Ok(Exit::Ok)
    }

    /// Reads what is there and what comes, of all partitions, until no more is wanted.
    fn follow(&mut self, from: Position) -> Outcome {
        /// How long a look waits where there is nothing.
        const WAIT: Duration = Duration::from_millis(200);
        let start = match from {
            Position::Earliest => Start::Earliest,
            Position::Latest => Start::Latest,
            // One reader knows two places to begin; from others, each partition has its own.
            Position::Offset(_) | Position::Timestamp(_) => return self.follow_each(from),
        };
        let mut follower = self.log.follow(&[Arc::clone(&self.topic)], start)?;
        loop {
            if let Some(records) = follower.next(SOME, WAIT)?
                && !self.print(&records)?
            {
                return Ok(Exit::Ok);
            }
        }
    }

    fn follow_each(&mut self, from: Position) -> Outcome {
        /// How long a look waits when no partition had anything.
        const WAIT: Duration = Duration::from_millis(50);
        let count = i32::try_from(self.log.topic(&self.topic)?.partitions.len()).unwrap_or(i32::MAX);
        let readers = (0..count).map(|partition| self.log.reader(&self.topic, partition, from));
        let mut readers = readers.collect::<Result<Vec<_>, _>>()?;
        let mut wait = WAIT;
        loop {
            let mut is_idle = true;
            for reader in &mut readers {
                if let Some(records) = reader.next(SOME, wait)? {
                    is_idle = false;
                    if !self.print(&records)? {
                        return Ok(Exit::Ok);
                    }
                }
                wait = Duration::ZERO;
            }
            wait = if is_idle { WAIT } else { Duration::ZERO };
        }
    }

    /// Prints records; `false` when no more are wanted.
    fn print(&mut self, records: &Records) -> Result<bool, Failure> {
        for line in (0..records.len()).filter_map(|row| Line::of(records, row)) {
            let line = serde_json::to_vec(&line).unwrap_or_default();
            if !self.printer.print(&line)? {
                return Ok(false);
            }
        }
        self.printer.out.flush()?;
        Ok(true)
    }
}
