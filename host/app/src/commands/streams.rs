//! `phronis streams`: what each stream does right now. Asks the running host; without one, asks Kafka.

use serde_json::Value;

use crate::client::ClientArgs;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Column, Format, cell};

mod offline;

/// List the streams: what they do, what they have done, how far they are behind
///
/// Asks the running host. Without one, and with Kafka, computes how far they are behind from Kafka itself.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    client: ClientArgs,
    /// How far behind each partition is, instead of whole streams
    #[arg(long)]
    partitions: bool,
    /// How to print the list
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// Prints the streams.
pub async fn run(args: &Args) -> Outcome {
    let streams = find(args).await?;
    if args.partitions {
        by_partition(&streams, args.output)?;
        return Ok(Exit::Ok);
    }
    let columns: [Column<'_>; 10] = [
        ("STREAM", &|item| cell(item, "/id")),
        ("STATE", &|item| cell(item, "/state")),
        ("RECEIVED", &|item| cell(item, "/counts/received")),
        ("DELIVERED", &|item| cell(item, "/counts/delivered")),
        ("LETTERS", &letters),
        ("DROPPED", &|item| cell(item, "/counts/dropped")),
        ("ALERTS", &|item| cell(item, "/counts/alerts")),
        ("LAG", &|item| cell(item, "/lag/records")),
        ("SECONDS", &|item| seconds(item, "/lag/seconds")),
        ("", &|item| cell(item, "/detail").trim_start_matches('-').to_owned()),
    ];
    output::list(&streams, args.output, &columns)?;
    Ok(Exit::Ok)
}

/// The streams of the host; of Kafka when no host was named and none is there.
async fn find(args: &Args) -> Result<Vec<Value>, Failure> {
    let is_named = args.client.endpoint.is_some();
    if !is_named && args.client.known_address()?.is_none() {
        let config = args.client.config()?;
        if config.log.kafka().is_some() {
            return offline::streams(config);
        }
    }
    match args.client.client()?.list("/v1/streams", &[], usize::MAX).await {
        Err(failure) if failure.exit == Exit::NotReachable && failure.code.is_none() && !is_named => {
            let config = args.client.config()?;
            if config.log.kafka().is_none() {
                return Err(failure);
            }
            offline::streams(config)
        }
        outcome => outcome,
    }
}

fn by_partition(streams: &[Value], format: Format) -> std::io::Result<()> {
    let mut rows = Vec::new();
    for stream in streams {
        for partition in stream.get("partitions").and_then(Value::as_array).into_iter().flatten() {
            let mut row = partition.clone();
            if let Some(row) = row.as_object_mut() {
                row.insert("stream".to_owned(), stream.get("id").cloned().unwrap_or_default());
            }
            rows.push(row);
        }
    }
    let columns: [Column<'_>; 6] = [
        ("STREAM", &|item| cell(item, "/stream")),
        ("PARTITION", &|item| cell(item, "/partition")),
        ("LATEST", &|item| cell(item, "/latest")),
        ("COMMITTED", &|item| cell(item, "/committed")),
        ("LAG", &|item| cell(item, "/lag_records")),
        ("SECONDS", &|item| seconds(item, "/lag_seconds")),
    ];
    output::list(&rows, format, &columns)
}

/// Seconds with one decimal.
fn seconds(item: &Value, pointer: &str) -> String {
    item.pointer(pointer).and_then(Value::as_f64).map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1}"))
}

fn letters(item: &Value) -> String {
    let Some(counts) = item.get("counts") else { return "-".to_owned() };
    let count = |name: &str| counts.get(format!("{name}_letters")).and_then(Value::as_u64).unwrap_or(0);
    ["gate", "enrich", "detect", "deliver", "halt", "order"].into_iter().map(count).sum::<u64>().to_string()
}
