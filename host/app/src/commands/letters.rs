//! `phronis letters`: what failed, why, and what is to be done about it.

mod meant;

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use self::meant::{Letter, Meant, Which};
use super::{Listing, read_whole, show, tell};
use crate::client::{Client, ClientArgs, encoded, items, with_query};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Format, cell};

/// Look at letters, and decide about them
///
/// A letter keeps an event that something refused. Those that may be judged at another try come back by themselves;
/// the others are parked and wait for you.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List letters, or with `--by class` what kinds of them there are
    List {
        /// Which letters
        #[command(flatten)]
        which: Which,
        /// What a line is
        #[arg(long, value_enum, default_value_t = By::Class)]
        by: By,
        /// Most letters; 100 without it
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show one letter: its event, its headers, every attempt
    Show {
        /// The letter: stream/partition-offset, as `phronis letters list --by letter` shows it
        letter: Letter,
    },
    /// Show a letter's event to the plugins once more and say what would become of it; changes nothing
    DryRun {
        /// The letter
        letter: Letter,
        /// `installed`, or the digest (SHA-256, hex) of a version
        #[arg(long, value_name = "VERSION", default_value = "installed")]
        plugin: String,
    },
    /// Try letters again, at a capped rate
    Redrive {
        /// Which letters
        #[command(flatten)]
        meant: Meant,
        /// Only if a plugin of the stream runs in the version with this digest (SHA-256, hex)
        #[arg(long, value_name = "DIGEST")]
        if_running: Option<String>,
        /// Letters a second
        #[arg(long, value_name = "N")]
        rate: Option<u32>,
        /// Why, for the audit
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Comes back at once, rather than when the last letter was moved
        #[arg(long)]
        detach: bool,
    },
    /// List redrives
    Redrives {
        /// The stream; all unless said
        #[arg(short, long, value_name = "STREAM")]
        stream: Option<String>,
        #[command(flatten)]
        listing: Listing,
    },
    /// Stop a redrive; what was moved stays moved
    Cancel {
        /// Its id
        id: String,
        /// Why, for the audit
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Give letters up for good: nobody waits for them any more
    Discard {
        /// Which letters
        #[command(flatten)]
        meant: Meant,
        /// Why, for the audit
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Post an edited copy of a letter's event as a new event, and give the letter up
    Edit {
        /// The letter
        letter: Letter,
        /// File with the new event; - is standard input
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        /// Why, for the audit
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Write letters with their events, one JSON object a line
    Export {
        /// Which letters
        #[command(flatten)]
        which: Which,
    },
}

/// Letters of a list.
const LETTERS: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// Letters that failed in the same way
    Class,
    /// One letter
    Letter,
}

/// Runs the command.
pub async fn run(args: Args) -> Outcome {
    let client = args.client.client()?;
    match args.command {
        Command::List { which, by: By::Class, limit, .. } if limit.is_some() || which.filter.has_time() => {
            Err(Failure::usage("--since, --until and --limit are for single letters").next("add --by letter"))
        }
        Command::List { which, by: By::Class, listing, .. } => classes(&client, &which, listing.output).await,
        Command::List { which, by: By::Letter, limit, listing } => {
            letters(&client, &which, limit.unwrap_or(LETTERS), listing.output).await
        }
        Command::Show { letter } => show(&client.get(&letter.path("")).await?),
        Command::DryRun { letter, plugin } => dry_run(&client, &letter, &plugin).await,
        Command::Redrive { meant, if_running, rate, reason, detach } => {
            let mut body = meant.body()?;
            body.extend(if_running.map(|digest| ("if_running".to_owned(), digest.into())));
            body.extend(rate.map(|rate| ("rate".to_owned(), rate.into())));
            redrive(&client, client.change(Method::POST, "/v1/redrives", Some(&reason)).json(&body), detach).await
        }
        Command::Redrives { stream, listing } => redrives(&client, stream.as_deref(), listing.output).await,
        Command::Cancel { id, reason } => {
            let path = format!("/v1/redrives/{}", encoded(&id));
            let job = client.json(client.change(Method::DELETE, &path, Some(&reason))).await?;
            let (state, moved, total) = (cell(&job, "/state"), cell(&job, "/moved"), cell(&job, "/total"));
            tell(&format!("{id}: {state} ({moved} of {total} letters were moved)"))?;
            Ok(Exit::Ok)
        }
        Command::Discard { meant, reason } => {
            let request = client.change(Method::POST, "/v1/discards", Some(&reason)).json(&meant.body()?);
            let done = client.json(request).await?;
            tell(&format!("{} letters are given up (discard {})", cell(&done, "/letters"), cell(&done, "/id")))?;
            Ok(Exit::Ok)
        }
        Command::Edit { letter, file, reason } => {
            let request = client.change(Method::POST, &letter.path("/edit"), Some(&reason));
            let done = client.json(request.body(read_whole(&file)?)).await?;
            if done.get("is_given_up") == Some(&Value::Bool(false)) {
                tell(&cell(&done, "/detail"))?;
                return Ok(Exit::CheckFailed);
            }
            tell(&format!("{letter}: the edited copy is a new event, the letter is given up"))?;
            Ok(Exit::Ok)
        }
        Command::Export { which } => export(&client, &which).await,
    }
}

async fn classes(client: &Client, which: &Which, format: Format) -> Outcome {
    let answer = client.get(&with_query("/v1/letter_classes", [("stream", Some(which.stream.as_str()))])).await?;
    let items: Vec<Value> = items(&answer).into_iter().filter(|item| which.filter.takes_class(item)).collect();
    output::list(
        &items,
        format,
        &[
            ("CLASS", &|item| cell(item, "/class")),
            ("WAITING", &|item| cell(item, "/waiting")),
            ("PARKED", &|item| cell(item, "/parked")),
            ("EVER", &|item| cell(item, "/count")),
            ("OLDEST", &|item| cell(item, "/oldest")),
            ("LAST", &|item| cell(item, "/last")),
            ("", &|item| if item.get("is_new") == Some(&Value::Bool(true)) { "new".to_owned() } else { String::new() }),
            ("WHAT", &|item| cell(item, "/title")),
        ],
    )?;
    for trouble in answer.get("trouble").and_then(Value::as_array).into_iter().flatten() {
        tell(&format!("{}: {}", cell(trouble, "/stream"), cell(trouble, "/detail")))?;
    }
    Ok(Exit::Ok)
}

async fn letters(client: &Client, which: &Which, limit: usize, format: Format) -> Outcome {
    let items = client.list("/v1/letters", &which.texts(), limit).await?;
    output::list(
        &items,
        format,
        &[
            ("LETTER", &|item| format!("{}/{}", cell(item, "/stream"), cell(item, "/place"))),
            ("STATE", &|item| cell(item, "/state")),
            ("CLASS", &|item| cell(item, "/class")),
            ("ATTEMPT", &|item| cell(item, "/attempt")),
            ("FAILED", &|item| cell(item, "/first_failed_at")),
            ("DUE", &|item| cell(item, "/due_at")),
            ("WHY", &|item| cell(item, "/message")),
        ],
    )?;
    Ok(Exit::Ok)
}

async fn dry_run(client: &Client, letter: &Letter, plugin: &str) -> Outcome {
    let request = client.change(Method::POST, &letter.path("/dry_run"), None).json(&json!({ "plugin": plugin }));
    let answer = client.json(request).await?;
    show(&answer)?;
    // A script asks whether a redrive is worth it.
    Ok(if answer.get("verdict") == Some(&Value::from("fails")) { Exit::CheckFailed } else { Exit::Ok })
}

async fn redrive(client: &Client, request: RequestBuilder, detach: bool) -> Outcome {
    let mut job = client.json(request).await?;
    let id = cell(&job, "/id");
    tell(&format!("redrive {id}: {} letters, at most {} a second", cell(&job, "/total"), cell(&job, "/rate")))?;
    let mut told = Value::Null;
    while !detach && job.get("state") == Some(&Value::from("running")) {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        job = client.get(&format!("/v1/redrives/{id}")).await?;
        let detail = job.get("detail").cloned().unwrap_or_default();
        if detail != told && !detail.is_null() {
            tell(&cell(&job, "/detail"))?;
        }
        told = detail;
    }
    show(&job)
}

async fn redrives(client: &Client, stream: Option<&str>, format: Format) -> Outcome {
    let answer = client.get(&with_query("/v1/redrives", [("stream", stream)])).await?;
    output::list(
        &items(&answer),
        format,
        &[
            ("ID", &|item| cell(item, "/id")),
            ("STREAM", &|item| cell(item, "/stream")),
            ("STATE", &|item| cell(item, "/state")),
            ("MOVED", &|item| cell(item, "/moved")),
            ("TOTAL", &|item| cell(item, "/total")),
            ("RATE", &|item| cell(item, "/rate")),
            ("BEGAN", &|item| cell(item, "/created_at")),
            ("BY", &|item| cell(item, "/actor")),
            ("WHY", &|item| cell(item, "/reason")),
        ],
    )?;
    Ok(Exit::Ok)
}

async fn export(client: &Client, which: &Which) -> Outcome {
    let mut cursor: Option<String> = None;
    loop {
        // Few at a time: each is read on its own, and what came back meanwhile need not be.
        let place = [("limit", Some("200")), ("cursor", cursor.as_deref())];
        let piece = client.get(&with_query("/v1/letters", which.texts().into_iter().chain(place))).await?;
        for item in items(&piece) {
            let letter = Letter { stream: cell(&item, "/stream"), place: cell(&item, "/place") };
            match client.get(&letter.path("")).await {
                Ok(whole) => writeln!(std::io::stdout(), "{whole}")?,
                // It came back meanwhile.
                Err(failure) if failure.code.as_deref() == Some("PH4004") => {}
                Err(failure) => return Err(failure),
            }
        }
        cursor = piece.get("next").and_then(Value::as_str).map(str::to_owned);
        if cursor.is_none() {
            return Ok(Exit::Ok);
        }
    }
}
