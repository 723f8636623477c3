//! `phronis streams`: what each stream does right now.

use serde_json::Value;

use super::items;
use crate::client::ClientArgs;
use crate::failure::{Exit, Outcome};
use crate::output::{self, Format, cell};

/// List the streams of a running host: what they do, what they have done, how far they are behind
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    client: ClientArgs,
    /// How to print the list
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// Prints the streams.
pub async fn run(args: &Args) -> Outcome {
    let streams = items(&args.client.client()?, "/v1/streams").await?;
    output::list(
        &streams,
        args.output,
        &[
            ("STREAM", &|item| cell(item, "/id")),
            ("STATE", &|item| cell(item, "/state")),
            ("RECEIVED", &|item| cell(item, "/counts/received")),
            ("DELIVERED", &|item| cell(item, "/counts/delivered")),
            ("LETTERS", &letters),
            ("DROPPED", &|item| cell(item, "/counts/dropped")),
            ("ALERTS", &|item| cell(item, "/counts/alerts")),
            ("LAG", &|item| cell(item, "/lag/records")),
            ("", &|item| cell(item, "/detail").trim_start_matches('-').to_owned()),
        ],
    )?;
    Ok(Exit::Ok)
}

fn letters(item: &Value) -> String {
    let count = |name: &str| item.pointer(&format!("/counts/{name}_letters")).and_then(Value::as_u64).unwrap_or(0);
    (count("gate") + count("enrich") + count("detect")).to_string()
}
