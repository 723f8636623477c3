//! Reads the embedded log itself, when no host runs. The records look as they do over HTTP.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use phronis_core::records::Records;
use phronis_log::embedded::{Log, Options};
use phronis_log::{Log as _, PollLimits, Position, Reader};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{Args, Printer, topic_of};
use crate::config::{self, Overrides};
use crate::failure::{Exit, Failure, Outcome};

/// Whether there is a log in a data folder: asking must not make one.
pub(super) fn has_log(data_dir: &Path) -> bool {
    config::log_dir(data_dir).is_dir()
}

/// Reads the topic and goes on as long as wanted: another process cannot write meanwhile, so following waits for nothing.
pub(super) async fn run(args: &Args, mut printer: Printer) -> Outcome {
    let overrides =
        Overrides::from_env().flag("--data-dir", "data_dir", args.client.data_dir.as_ref().map(|dir| dir.display()));
    let config = config::load(&args.client.config, &overrides)?;
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
    if !args.no_follow && args.from == "latest" {
        let message = "no host runs, so nothing new comes";
        return Err(Failure::new(Exit::NotReachable, message)
            .next("read what is there with --from earliest, or start a host with `phronis run`"));
    }
    let from = position(&args.from);
    let options = config.log.options(&config.data_dir);
    tokio::task::spawn_blocking(move || read(options, &topic, from, &mut printer))
        .await
        .map_err(|error| Failure::new(Exit::CheckFailed, error.to_string()))?
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

fn read(options: Options, topic: &str, from: Position, printer: &mut Printer) -> Outcome {
    let log = Log::open(options).map_err(failed)?;
    let topics = log.topics().map_err(failed)?;
    let Some(info) = topics.into_iter().find(|info| *info.name == *topic) else {
        return Err(failed(phronis_log::Error::UnknownTopic(topic.to_owned())));
    };
    for (partition, about) in (0_i32..).zip(&info.partitions) {
        let mut reader = log.reader(topic, partition, from).map_err(failed)?;
        while reader.position() < about.latest {
            if !print_some(&mut *reader, printer)? {
                return Ok(Exit::Ok);
            }
        }
    }
    printer.out.flush()?;
    Ok(Exit::Ok)
}

/// Prints the next records; `false` when no more are wanted, or no more come.
fn print_some(reader: &mut dyn Reader, printer: &mut Printer) -> Result<bool, Failure> {
    const SOME: PollLimits = PollLimits { records: 1_000, bytes: 4 << 20 };
    let Some(records) = reader.next(SOME, Duration::ZERO).map_err(failed)? else { return Ok(false) };
    for row in 0..records.len() {
        let line = serde_json::to_vec(&line(&records, row)).unwrap_or_default();
        if !printer.print(&line)? {
            return Ok(false);
        }
    }
    Ok(!records.is_empty())
}

fn failed(error: phronis_log::Error) -> Failure {
    Failure::new(Exit::NotReachable, error.to_string()).code(error.code())
}

/// A record as the host shows it: what is JSON or text as it is, all else in base64.
fn line(records: &Records, row: usize) -> Value {
    let timestamp =
        records.body.timestamps.values().get(row).and_then(|ms| jiff::Timestamp::from_millisecond(*ms).ok());
    let mut line = Map::new();
    let mut put = |name: &str, value: Value| line.insert(name.to_owned(), value);
    put("topic", records.topic.as_ref().into());
    put("partition", records.partition.into());
    put("offset", records.offsets.values().get(row).copied().into());
    put("timestamp", timestamp.map(|time| format!("{time:.3}")).into());
    match records.body.key(row).map(|key| (key, str::from_utf8(key))) {
        None => put("key", Value::Null),
        Some((_, Ok(key))) => put("key", key.into()),
        Some((key, Err(_))) => put("key_base64", STANDARD.encode(key).into()),
    };
    put("headers", headers(records, row));
    match records.body.value(row) {
        None => put("is_tombstone", true.into()),
        Some(value) => match serde_json::from_slice::<&RawValue>(value).and_then(|raw| serde_json::from_str(raw.get()))
        {
            Ok(json) => put("value", json),
            Err(_) => put("value_base64", STANDARD.encode(value).into()),
        },
    };
    Value::Object(line)
}

fn headers(records: &Records, row: usize) -> Value {
    let mut headers = Map::new();
    for (name, value) in records.body.headers(row) {
        let value = str::from_utf8(value).map_or_else(|_| json!({"base64": STANDARD.encode(value)}), Value::from);
        match headers.get_mut(name) {
            None => {
                headers.insert(name.to_owned(), value);
            }
            Some(Value::Array(several)) => several.push(value),
            Some(one) => *one = Value::Array(vec![one.take(), value]),
        }
    }
    Value::Object(headers)
}
