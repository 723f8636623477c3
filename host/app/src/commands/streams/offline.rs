//! How far streams are behind, computed from Kafka: what their groups have committed, beside what there is.

use std::time::Duration;

use phronis_log::{Log, PollLimits, Position};
use phronis_pipeline::stream;
use serde_json::{Value, json};

use crate::commands::wiring;
use crate::config::Config;
use crate::eventlog::{EventLog, TOOL, within};
use crate::failure::Failure;

/// How long Kafka may take for all of it.
const WITHIN: Duration = Duration::from_secs(60);

/// All streams of a configuration, as a host would tell of them.
pub(super) fn streams(config: Config) -> Result<Vec<Value>, Failure> {
    let log = EventLog::open(&config, TOOL)?;
    let (port, options) = (log.port(), wiring::streams(&config));
    let streams = within(WITHIN, move || options.iter().map(|stream| look(port.as_ref(), stream)).collect());
    let streams: Result<Vec<Value>, phronis_log::Error> = streams?;
    log.close();
    Ok(streams?)
}

fn look(log: &dyn Log, stream: &stream::Options) -> Result<Value, phronis_log::Error> {
    let about = json!({
        "id": stream.id.to_string(),
        "tenant": stream.id.tenant.to_string(),
        "name": stream.id.stream.to_string(),
        "state": "stopped",
    });
    let info = match log.topic(&stream.topics.raw) {
        Ok(info) => info,
        Err(error @ phronis_log::Error::UnknownTopic(_)) => {
            return Ok(with(about, json!({ "detail": error.to_string(), "partitions": [] })));
        }
        Err(error) => return Err(error),
    };
    let committed = committed(log, stream)?;
    let now = jiff::Timestamp::now().as_millisecond();
    let (mut partitions, mut records, mut seconds) = (Vec::new(), 0, 0.0_f64);
    for (partition, about) in (0_i32..).zip(&info.partitions) {
        let index = usize::try_from(partition).unwrap_or_default();
        let committed = committed.get(index).copied().flatten();
        // A group that never committed begins at the oldest record.
        let next = committed.unwrap_or(about.earliest);
        let lag = about.latest.saturating_sub(next).max(0);
        let age = if lag > 0 { age(log, stream, partition, next.max(about.earliest), now)? } else { 0.0 };
        records += lag;
        seconds = seconds.max(age);
        partitions.push(json!({
            "partition": partition, "earliest": about.earliest, "latest": about.latest, "committed": committed,
            "lag_records": lag, "lag_seconds": age,
        }));
    }
    Ok(with(
        about,
        json!({
            "detail": "no host runs here; read from Kafka",
            "lag": { "records": records, "seconds": seconds },
            "partitions": partitions,
        }),
    ))
}

/// Where the group stands. A group nobody asked about for long has to be loaded by its broker first.
fn committed(log: &dyn Log, stream: &stream::Options) -> Result<Vec<Option<i64>>, phronis_log::Error> {
    /// Longer than a broker takes to load a partition of offsets.
    const PATIENCE: u32 = 50;
    const PAUSE: Duration = Duration::from_millis(200);
    let (group, topic) = (stream.group(), &stream.topics.raw);
    for _ in 1..PATIENCE {
        match log.committed(&group, topic) {
            Err(phronis_log::Error::Unreachable { .. }) => std::thread::sleep(PAUSE),
            answer => return answer,
        }
    }
    log.committed(&group, topic)
}

/// How long the oldest record that waits has waited; 0 where only the marks of transactions are left.
fn age(
    log: &dyn Log,
    stream: &stream::Options,
    partition: i32,
    next: i64,
    now: i64,
) -> Result<f64, phronis_log::Error> {
    let mut reader = log.reader(&stream.topics.raw, partition, Position::Offset(next))?;
    let records = reader.next(PollLimits { records: 1, bytes: 1 }, Duration::ZERO)?;
    let first = records.and_then(|records| records.body.timestamps.values().first().copied());
    let age = first.map_or(0, |at| now.saturating_sub(at).max(0));
    Ok(Duration::from_millis(u64::try_from(age).unwrap_or_default()).as_secs_f64())
}

fn with(mut item: Value, more: Value) -> Value {
    if let (Some(item), Value::Object(more)) = (item.as_object_mut(), more) {
        item.extend(more);
    }
    item
}
