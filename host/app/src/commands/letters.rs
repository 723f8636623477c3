//! `phronis letters`: what failed, why, and what is to be done about it.

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use phronis_core::text::escape;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::client::{Client, ClientArgs};
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
        /// Most letters
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// How to print the list
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
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
        /// Letters a second
        #[arg(long, value_name = "N")]
        rate: Option<u32>,
        /// Why, for the audit
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Comes back at once, rather than when the last letter was moved
        #[arg(long)]
        detach: bool,
    },
    /// List redrives
    Redrives {
        /// The stream; all unless said
        #[arg(long, value_name = "STREAM")]
        stream: Option<String>,
        /// How to print the list
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Stop a redrive; what was moved stays moved
    Cancel {
        /// Its id
        id: String,
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
        reason: Option<String>,
    },
    /// Write letters with their events, one JSON object a line
    Export {
        /// Which letters
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// Letters that failed in the same way
    Class,
    /// One letter
    Letter,
}

/// A filter.
#[derive(Debug, Clone, ClapArgs)]
struct Which {
    /// The stream
    #[arg(long, value_name = "STREAM", default_value = phronis_core::partition::DEFAULT_STREAM)]
    stream: String,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Debug, Clone, Default, ClapArgs)]
struct Filter {
    /// Only this class, as in the list: `detect/PH2003/threshold@1.2.0`
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
    /// Only what this step refused: gate, enrich, detect, deliver
    #[arg(long, value_name = "STAGE")]
    stage: Option<String>,
    /// Only this code
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    /// Only of this plugin
    #[arg(long, value_name = "NAME", id = "of-plugin")]
    of_plugin: Option<String>,
    /// Only of this version of the plugin
    #[arg(long = "plugin-version", value_name = "VERSION")]
    of_version: Option<String>,
    /// Only what failed for the first time then or later (RFC 3339)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only what failed for the first time before (RFC 3339)
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// Letters by name, or a filter.
#[derive(Debug, Clone, ClapArgs)]
struct Meant {
    /// Letters: stream/partition-offset
    letters: Vec<Letter>,
    /// The stream, for a filter
    #[arg(long, value_name = "STREAM", conflicts_with = "letters")]
    stream: Option<String>,
    #[command(flatten)]
    filter: Filter,
    /// All outstanding letters of the stream
    #[arg(long)]
    all: bool,
}

/// A letter by name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Letter {
    stream: String,
    place: String,
}

impl std::str::FromStr for Letter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (stream, place) = text.rsplit_once('/').unwrap_or((phronis_core::partition::DEFAULT_STREAM, text));
        let is_place = place
            .split_once('-')
            .is_some_and(|(partition, offset)| partition.parse::<u32>().is_ok() && offset.parse::<u64>().is_ok());
        if !is_place || stream.parse::<phronis_core::StreamId>().is_err() {
            return Err("expected stream/partition-offset, like sensors/3-42".to_owned());
        }
        Ok(Self { stream: stream.to_owned(), place: place.to_owned() })
    }
}

/// Runs the command.
pub async fn run(args: Args) -> Outcome {
    let client = args.client.client()?;
    match args.command {
        Command::List { which, by: By::Class, output, .. } => classes(&client, &which, output).await,
        Command::List { which, by: By::Letter, limit, output } => letters(&client, &which, limit, output).await,
        Command::Show { letter } => show(&client, &letter).await,
        Command::DryRun { letter, plugin } => dry_run(&client, &letter, &plugin).await,
        Command::Redrive { meant, rate, reason, detach } => {
            let mut body = meant.body()?;
            insert(&mut body, "rate", rate);
            insert(&mut body, "reason", reason);
            redrive(&client, body, detach).await
        }
        Command::Redrives { stream, output } => redrives(&client, stream, output).await,
        Command::Cancel { id } => {
            let job = send(&client, client.request(Method::DELETE, &format!("/v1/redrives/{id}"))).await?;
            tell(&format!(
                "{id}: {} ({} of {} letters were moved)",
                cell(&job, "/state"),
                cell(&job, "/moved"),
                cell(&job, "/total")
            ))?;
            Ok(Exit::Ok)
        }
        Command::Discard { meant, reason } => {
            let mut body = meant.body()?;
            insert(&mut body, "reason", Some(reason));
            let done = send(&client, client.request(Method::POST, "/v1/discards").json(&body)).await?;
            tell(&format!("{} letters are given up (discard {})", cell(&done, "/letters"), cell(&done, "/id")))?;
            Ok(Exit::Ok)
        }
        Command::Edit { letter, file, reason } => edit(&client, &letter, &file, reason).await,
        Command::Export { which } => export(&client, &which).await,
    }
}

async fn classes(client: &Client, which: &Which, format: Format) -> Outcome {
    let answer = client.get(&with_query("/v1/letter_classes", &[("stream", which.stream.clone())])).await?;
    let items: Vec<Value> = answer.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    let items: Vec<Value> = items.into_iter().filter(|item| which.filter.takes_class(item)).collect();
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
    let mut items = Vec::new();
    let mut cursor = None;
    while items.len() < limit {
        let (page, next) = page(client, which, (limit - items.len()).min(1000), cursor).await?;
        items.extend(page);
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
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

async fn page(
    client: &Client,
    which: &Which,
    limit: usize,
    cursor: Option<String>,
) -> Result<(Vec<Value>, Option<String>), Failure> {
    let mut query = which.filter.texts();
    query.extend([("stream", which.stream.clone()), ("limit", limit.to_string())]);
    query.extend(cursor.map(|cursor| ("cursor", cursor)));
    let answer = client.get(&with_query("/v1/letters", &query)).await?;
    let items = answer.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok((items, answer.get("next").and_then(Value::as_str).map(str::to_owned)))
}

async fn show(client: &Client, letter: &Letter) -> Outcome {
    let shown = client.get(&letter.path("")).await?;
    writeln!(std::io::stdout(), "{shown:#}")?;
    Ok(Exit::Ok)
}

async fn dry_run(client: &Client, letter: &Letter, plugin: &str) -> Outcome {
    let request = client.request(Method::POST, &letter.path("/dry_run")).json(&json!({ "plugin": plugin }));
    let answer = send(client, request).await?;
    writeln!(std::io::stdout(), "{answer:#}")?;
    // A script asks whether a redrive is worth it.
    Ok(if answer.get("verdict") == Some(&Value::from("fails")) { Exit::CheckFailed } else { Exit::Ok })
}

async fn redrive(client: &Client, body: Map<String, Value>, detach: bool) -> Outcome {
    let mut job = send(client, client.request(Method::POST, "/v1/redrives").json(&body)).await?;
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
    writeln!(std::io::stdout(), "{job:#}")?;
    Ok(Exit::Ok)
}

async fn redrives(client: &Client, stream: Option<String>, format: Format) -> Outcome {
    let query: Vec<(&str, String)> = stream.into_iter().map(|stream| ("stream", stream)).collect();
    let answer = client.get(&with_query("/v1/redrives", &query)).await?;
    let items = answer.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    output::list(
        &items,
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

async fn edit(client: &Client, letter: &Letter, file: &std::path::Path, reason: Option<String>) -> Outcome {
    let mut bytes = Vec::new();
    let read = if file.as_os_str() == "-" {
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes).map(drop)
    } else {
        std::fs::read(file).map(|read| bytes = read)
    };
    read.map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))?;
    let mut request = client.request(Method::POST, &letter.path("/edit")).body(bytes);
    if let Some(reason) = reason {
        request = request.header("x-reason", reason);
    }
    send(client, request).await?;
    tell(&format!("{}/{}: the edited copy is a new event, the letter is given up", letter.stream, letter.place))?;
    Ok(Exit::Ok)
}

async fn export(client: &Client, which: &Which) -> Outcome {
    let mut cursor = None;
    loop {
        let (items, next) = page(client, which, 200, cursor).await?;
        for item in items {
            let letter = Letter { stream: cell(&item, "/stream"), place: cell(&item, "/place") };
            match client.get(&letter.path("")).await {
                Ok(whole) => writeln!(std::io::stdout(), "{whole}")?,
                // It came back meanwhile.
                Err(failure) if failure.code.as_deref() == Some("PH4004") => {}
                Err(failure) => return Err(failure),
            }
        }
        cursor = next;
        if cursor.is_none() {
            return Ok(Exit::Ok);
        }
    }
}

async fn send(client: &Client, request: reqwest::RequestBuilder) -> Result<Value, Failure> {
    let request = match std::env::var("USER") {
        Ok(user) => request.header("x-actor", user),
        Err(_) => request,
    };
    let response = client.checked(request).await?;
    response.json().await.map_err(|error| client.unreachable(&error))
}

/// A path with a query whose values may be anything.
fn with_query(path: &str, query: &[(&str, String)]) -> String {
    let mut whole = path.to_owned();
    for (at, (name, value)) in query.iter().enumerate() {
        whole.push_str(if at == 0 { "?" } else { "&" });
        whole.push_str(name);
        whole.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => whole.push(char::from(byte)),
                _ => whole.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    whole
}

fn tell(what: &str) -> std::io::Result<()> {
    writeln!(std::io::stderr(), "{}", escape(what))
}

fn insert(body: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        body.insert(name.to_owned(), value.into());
    }
}

impl Letter {
    fn path(&self, then: &str) -> String {
        format!("/v1/letters/{}/{}{then}", self.stream, self.place)
    }
}

impl Filter {
    fn texts(&self) -> Vec<(&'static str, String)> {
        let Self { class, stage, code, of_plugin, of_version, since, until } = self;
        let all = [
            ("class", class),
            ("stage", stage),
            ("code", code),
            ("plugin", of_plugin),
            ("version", of_version),
            ("since", since),
            ("until", until),
        ];
        all.into_iter().filter_map(|(name, text)| Some((name, text.clone()?))).collect()
    }

    /// Whether a class of the list is one of those that are asked for.
    fn takes_class(&self, item: &Value) -> bool {
        let class = cell(item, "/class");
        let mut parts = class.splitn(3, '/');
        let (stage, code, plugin) = (parts.next(), parts.next(), parts.next().unwrap_or_default());
        let (name, version) = plugin.split_once('@').unwrap_or_default();
        let is = |wanted: &Option<String>, found: Option<&str>| wanted.is_none() || wanted.as_deref() == found;
        is(&self.class, Some(&class))
            && is(&self.stage, stage)
            && is(&self.code, code)
            && is(&self.of_plugin, Some(name))
            && is(&self.of_version, Some(version))
    }
}

impl Meant {
    fn body(&self) -> Result<Map<String, Value>, Failure> {
        let mut body = Map::new();
        let filter = self.filter.texts();
        if let Some(first) = self.letters.first() {
            if self.letters.iter().any(|letter| letter.stream != first.stream) {
                return Err(Failure::usage("letters of several streams: one stream at a time"));
            }
            if self.all || !filter.is_empty() {
                return Err(Failure::usage("letters by name and a filter do not go together"));
            }
            body.insert("stream".to_owned(), first.stream.clone().into());
            let places: Vec<&str> = self.letters.iter().map(|letter| letter.place.as_str()).collect();
            body.insert("letters".to_owned(), places.into());
            return Ok(body);
        }
        if filter.is_empty() && !self.all {
            return Err(Failure::usage("which letters? name them, or a --class, another filter, or --all")
                .next("`phronis letters list` shows the classes"));
        }
        let stream = self.stream.clone().unwrap_or_else(|| phronis_core::partition::DEFAULT_STREAM.to_owned());
        body.insert("stream".to_owned(), stream.into());
        body.extend(filter.into_iter().map(|(name, text)| (name.to_owned(), text.into())));
        if self.all {
            body.insert("all".to_owned(), true.into());
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_query_may_be_anything() {
        let query = [("class", "detect/PH2003/hot@1.0+b".to_owned()), ("limit", "5".to_owned())];
        assert_eq!(with_query("/v1/letters", &query), "/v1/letters?class=detect%2FPH2003%2Fhot%401.0%2Bb&limit=5");
    }

    #[test]
    fn a_letter_is_named_by_its_stream_and_place() {
        for (text, expected) in [
            ("3-42", Some(("sensors", "3-42"))),
            ("acme.pumps/0-7", Some(("acme.pumps", "0-7"))),
            ("sensors/3", None),
            ("3--42", None),
            ("../3-42", None),
        ] {
            let letter = text.parse::<Letter>().ok();
            let found = letter.as_ref().map(|letter| (letter.stream.as_str(), letter.place.as_str()));
            assert_eq!(found, expected, "{text}");
        }
    }
}
