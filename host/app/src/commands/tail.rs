//! `phronis tail`: follows a topic of a stream. Asks the running host; without one, reads the log itself.

use std::io::{self, BufWriter, IsTerminal as _, Write};

use futures::StreamExt as _;
use phronis_core::StreamId;
use reqwest::Method;
use serde_json::Value;

use crate::client::{Client, ClientArgs};
use crate::config::units::parse_duration;
use crate::failure::{Exit, Failure, Outcome};
use crate::logging::colours_wanted;

mod offline;
mod words;

/// Follow alerts, processed events, letters or raw records of a stream
///
/// On a terminal in plain words, else one JSON object a line. Ends with Ctrl-C, after -n records, or with --no-follow.
/// Without a running host, reads the log itself: the embedded one of the data folder, or Kafka.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to follow
    #[arg(value_enum)]
    what: What,
    /// The stream: name, or tenant.name
    #[arg(short, long, default_value = "sensors")]
    stream: StreamId,
    /// Where to begin: earliest, latest, an offset, @2026-01-31T12:00:00Z, or @-10m for ten minutes ago
    #[arg(long, value_name = "POSITION", value_parser = parse_from, default_value = "latest", default_value_if("no_follow", "true", "earliest"))]
    from: String,
    /// End after so many records
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<u64>,
    /// End where the topic ends now
    #[arg(long)]
    no_follow: bool,
    /// How to print [default: pretty on a terminal, else json]
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Shape>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// What detectors found
    Alerts,
    /// Events as they left the pipeline
    Processed,
    /// Records that the contract or a plugin refused
    Letters,
    /// Records as they came
    Raw,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Shape {
    /// One JSON object a line
    Json,
    /// Plain words
    Pretty,
}

/// Follows the topic.
pub async fn run(args: Args) -> Outcome {
    let shape = args.output.unwrap_or_else(|| if io::stdout().is_terminal() { Shape::Pretty } else { Shape::Json });
    let colours = io::stdout().is_terminal() && colours_wanted();
    let mut printer = Printer { what: args.what, shape, colours, left: args.limit, out: BufWriter::new(io::stdout()) };
    let is_named = args.client.endpoint.is_some();
    if !is_named && args.client.known_address()?.is_none() {
        let config = args.client.config()?;
        if config.log.kafka().is_some() {
            return offline::run(&args, config, printer).await;
        }
    }
    let client = args.client.client()?;
    match online(&args, &client, &mut printer).await {
        Err(failure) if is_nobody_there(&failure) && !is_named => {
            let config = args.client.config()?;
            if !offline::has_log(&config) {
                return Err(failure);
            }
            offline::run(&args, config, printer).await
        }
        outcome => outcome,
    }
}

fn is_nobody_there(failure: &Failure) -> bool {
    failure.exit == Exit::NotReachable && failure.code.is_none()
}

async fn online(args: &Args, client: &Client, printer: &mut Printer) -> Outcome {
    let stream = client.get(&format!("/v1/streams/{}", args.stream)).await?;
    let topic = stream.pointer(&format!("/topics/{}", topic_of(args.what))).and_then(Value::as_str);
    let topic = topic.ok_or_else(|| Failure::new(Exit::NotReachable, "the host does not say which topic that is"))?;
    let follow = if args.no_follow { "" } else { "&follow=true" };
    let limit = args.limit.map(|limit| format!("&limit={limit}")).unwrap_or_default();
    let from = args.from.replace('+', "%2B");
    let path = format!("/v1/topics/{topic}/records?from={from}{follow}{limit}");
    let response = client.checked(client.request(Method::GET, &path)).await?;
    let mut pieces = response.bytes_stream();
    let mut rest: Vec<u8> = Vec::new();
    while let Some(piece) = pieces.next().await {
        rest.extend_from_slice(&piece.map_err(|error| client.unreachable(&error).code(phronis_core::code::INTERNAL))?);
        let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { continue };
        let tail = rest.split_off(end + 1);
        for line in rest.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if !printer.print(line)? {
                return Ok(Exit::Ok);
            }
        }
        printer.out.flush()?;
        rest = tail;
    }
    if args.no_follow || args.limit.is_some() {
        return Ok(Exit::Ok);
    }
    let next = "run the same command again when the host is back; --from @-1m fills the gap";
    Err(Failure::new(Exit::NotReachable, "the host ended").next(next).code(phronis_core::code::INTERNAL))
}

/// Prints records.
struct Printer {
    what: What,
    shape: Shape,
    colours: bool,
    left: Option<u64>,
    out: BufWriter<io::Stdout>,
}

impl Printer {
    /// Prints one record, a line of JSON; `false` when it was the last that was wanted.
    fn print(&mut self, line: &[u8]) -> io::Result<bool> {
        if self.left == Some(0) {
            return Ok(false);
        }
        match (self.shape, serde_json::from_slice::<Value>(line)) {
            (Shape::Pretty, Ok(record)) => {
                let text = match self.what {
                    What::Alerts => words::alert(&record, self.colours),
                    What::Letters => words::letter(&record, self.colours),
                    What::Processed | What::Raw => words::event(&record),
                };
                writeln!(self.out, "{text}")?;
            }
            _ => {
                self.out.write_all(line)?;
                self.out.write_all(b"\n")?;
            }
        }
        self.left = self.left.map(|left| left - 1);
        if self.left == Some(0) {
            self.out.flush()?;
        }
        Ok(self.left != Some(0))
    }
}

fn topic_of(what: What) -> &'static str {
    match what {
        What::Alerts => "alerts",
        What::Processed => "processed",
        What::Letters => "dlq",
        What::Raw => "raw",
    }
}

/// Checks a position, and makes a moment of `@-10m`.
fn parse_from(text: &str) -> Result<String, String> {
    if matches!(text, "earliest" | "latest") || text.parse::<u64>().is_ok() {
        return Ok(text.to_owned());
    }
    let time = text.strip_prefix('@').ok_or("expected earliest, latest, an offset, @TIME or @-10m")?;
    if let Some(ago) = time.strip_prefix('-') {
        let ago = jiff::SignedDuration::try_from(parse_duration(ago)?).map_err(|error| error.to_string())?;
        return Ok(format!("@{}", jiff::Timestamp::now() - ago));
    }
    let at = time.parse::<jiff::Timestamp>().map_err(|_| "expected a time such as @2026-01-31T12:00:00Z".to_owned())?;
    Ok(format!("@{at}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_checked_before_anyone_is_asked() {
        for good in ["earliest", "latest", "42", "@2026-01-31T12:00:00Z"] {
            assert_eq!(parse_from(good).as_deref(), Ok(good));
        }
        assert_eq!(parse_from("@2026-01-31T12:00:00+01:00").as_deref(), Ok("@2026-01-31T11:00:00Z"));
        assert!(parse_from("@-10m").is_ok_and(|at| at.starts_with("@20")));
        for bad in ["", "newest", "-1", "@yesterday", "@-10"] {
            assert!(parse_from(bad).is_err(), "{bad}");
        }
    }
}
