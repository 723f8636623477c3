//! `phronis doctor`: looks at everything that a host needs, and says what to do about what is wrong.

use std::io::{IsTerminal as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::{ConfigArgs, topics};
use crate::client::ClientArgs;
use crate::config::{self, Bytes, Config};
use crate::eventlog::{EventLog, TOOL};
use crate::failure::{Exit, Outcome};
use crate::logging::colours_wanted;
use crate::survey;
use crate::topics::Found;

/// Look at everything that a host needs, and say what to do about what is wrong
///
/// Configuration, data folder, disk, Kafka and its topics, the store, the archive, address or running host, plugins, clock. Exits with 1 when something is wrong.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
}

/// What was found about one thing.
struct Finding {
    name: &'static str,
    state: State,
    what: String,
    next: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Good,
    Warning,
    Wrong,
}

/// Looks at everything.
pub async fn run(args: &Args) -> Outcome {
    let mut findings = vec![finding("version", State::Good, env!("CARGO_PKG_VERSION"), None), clock()];
    match args.config.load() {
        Ok(config) => {
            let what = format!("{} streams, {} keys", config.streams.len(), config.http.keys.len());
            findings.push(finding("configuration", State::Good, &what, None));
            findings.push(folder(&config.data_dir));
            findings.push(disk(&config));
            findings.extend(kafka(&config, &args.config));
            findings.push(store(&config).await);
            findings.extend(archive(&config).await);
            findings.extend(host(&config, args).await);
            findings.extend(plugins(&config));
        }
        Err(failure) => {
            findings.push(finding("configuration", State::Wrong, &failure.message, Some("phronis check -c FILE")))
        }
    }
    let colours = std::io::stdout().is_terminal() && colours_wanted();
    let mut out = std::io::stdout().lock();
    for finding in &findings {
        let (mark, colour) = match finding.state {
            State::Good => ("ok", "32"),
            State::Warning => ("warning", "33"),
            State::Wrong => ("wrong", "31"),
        };
        let mark = if colours { format!("\u{1b}[{colour}m{mark:<7}\u{1b}[0m") } else { format!("{mark:<7}") };
        writeln!(out, "{mark}  {:<13}  {}", finding.name, finding.what.replace('\n', "\n         "))?;
        if let Some(next) = &finding.next {
            writeln!(out, "         next: {next}")?;
        }
    }
    let is_wrong = findings.iter().any(|finding| finding.state == State::Wrong);
    Ok(if is_wrong { Exit::CheckFailed } else { Exit::Ok })
}

fn finding(name: &'static str, state: State, what: &str, next: Option<&str>) -> Finding {
    Finding { name, state, what: what.to_owned(), next: next.map(str::to_owned) }
}

fn clock() -> Finding {
    /// 2026-01-01T00:00:00Z: before it, this program did not exist.
    const BUILT_AFTER: u64 = 1_767_225_600;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match now > BUILT_AFTER {
        true => finding("clock", State::Good, &jiff::Timestamp::now().strftime("%F %T UTC").to_string(), None),
        false => finding(
            "clock",
            State::Wrong,
            "the clock is years behind",
            Some("set the clock, then keep it right with NTP"),
        ),
    }
}

/// A folder can be written when a file in it can. One that is not there yet counts by its nearest parent.
fn folder(dir: &Path) -> Finding {
    let there = existing(dir);
    let probe = there.join(format!(".phronis-doctor-{}", std::process::id()));
    let written = std::fs::write(&probe, b"").and_then(|()| std::fs::remove_file(&probe));
    match written {
        Ok(()) if there == dir => {
            finding("data folder", State::Good, &format!("{} can be written", dir.display()), None)
        }
        Ok(()) => finding("data folder", State::Good, &format!("{} will be made", dir.display()), None),
        Err(error) => {
            let what = format!("{} cannot be written: {error}", there.display());
            finding(
                "data folder",
                State::Wrong,
                &what,
                Some("give it to the user that runs the host, or choose another with --data-dir"),
            )
        }
    }
}

fn existing(dir: &Path) -> PathBuf {
    let found = dir.ancestors().find(|dir| dir.is_dir()).filter(|dir| !dir.as_os_str().is_empty());
    found.unwrap_or_else(|| Path::new(".")).to_owned()
}

fn disk(config: &Config) -> Finding {
    let there = existing(&config.data_dir);
    let free = match rustix::fs::statvfs(&there) {
        Ok(about) => Bytes(about.f_bavail.saturating_mul(about.f_frsize)),
        Err(error) => return finding("disk", State::Warning, &format!("cannot be asked: {error}"), None),
    };
    let mib = |bytes: Bytes| format!("{} MiB", bytes.0 >> 20);
    let config::Log::Embedded(log) = config.log else {
        // Kafka keeps the records; here are only compiled plugins and their last good versions.
        const LITTLE: u64 = 256 << 20;
        let state = if free.0 < LITTLE { State::Warning } else { State::Good };
        return finding("disk", state, &format!("{} free", mib(free)), None);
    };
    let least = log.min_free_bytes;
    let what = format!("{} free, the log leaves {}", mib(free), mib(least));
    match free.0 {
        free if free <= least.0 => finding(
            "disk",
            State::Wrong,
            &what,
            Some("free space, or lower log.min_free_bytes: the log counts as full"),
        ),
        free if free <= least.0.saturating_mul(2) => finding("disk", State::Warning, &what, Some("free space soon")),
        _ => finding("disk", State::Good, &what, None),
    }
}

/// Kafka: whether it answers, whose name this host has there, whether the topics are as configured.
fn kafka(config: &Config, which: &ConfigArgs) -> Vec<Finding> {
    let Some(kafka) = config.log.kafka() else { return Vec::new() };
    let mut findings = vec![node(config)];
    let place = &kafka.bootstrap.0;
    let log = match EventLog::open(config, TOOL) {
        Ok(log) => log,
        Err(failure) => {
            findings.push(finding("kafka", State::Wrong, &failure.message, failure.next.as_deref()));
            return findings;
        }
    };
    let began = Instant::now();
    let found = topics::ask(config, &log);
    log.close();
    match found {
        Ok(found) => {
            let what = format!("{place} answers, all topics looked up in {} ms", began.elapsed().as_millis());
            findings.push(finding("kafka", State::Good, &what, None));
            findings.extend(topics_of(&found, which));
        }
        Err(failure) => {
            let next = "look at the brokers, log.bootstrap, their advertised.listeners, and TLS and SASL of both sides";
            findings.push(finding("kafka", State::Wrong, &format!("{place}: {}", failure.message), Some(next)));
        }
    }
    findings
}

async fn store(config: &Config) -> Finding {
    match crate::store::asked(config).await {
        Ok(what) => finding("store", State::Good, &what, None),
        Err(failure) => {
            let what = format!("{}: {}", config.store.options(), failure.message);
            let next =
                failure.code.map_or_else(|| "docs/store.md".to_owned(), |code| format!("phronis explain {code}"));
            finding("store", State::Wrong, &what, Some(&next))
        }
    }
}

/// The archive: whether catalog and storage answer, and take the credentials.
async fn archive(config: &Config) -> Option<Finding> {
    let wanted = config.archive.as_ref()?;
    let place = &wanted.warehouse;
    Some(match crate::archive::changes(config).await {
        Ok(tables) => {
            finding("archive", State::Good, &format!("{place} and its catalog answer; {}", tables.join(", ")), None)
        }
        Err(failure) => {
            let what = format!("{place}: {}", failure.message);
            let next =
                failure.code.map_or_else(|| "docs/archive.md".to_owned(), |code| format!("phronis explain {code}"));
            finding("archive", State::Wrong, &what, Some(&next))
        }
    })
}

fn node(config: &Config) -> Finding {
    match crate::node::known(config) {
        Ok(Some(name)) => finding("node id", State::Good, &name, None),
        Ok(None) => finding("node id", State::Good, "will be made at the first start", None),
        Err(failure) => finding("node id", State::Wrong, &failure.message, failure.next.as_deref()),
    }
}

fn topics_of(found: &[Found], which: &ConfigArgs) -> Vec<Finding> {
    let (items, failure) = topics::compared(found, &which.files);
    let Some(failure) = failure else {
        return vec![finding("topics", State::Good, &format!("all {} are as configured", items.len()), None)];
    };
    let state = if crate::topics::missing(found).is_empty() { State::Warning } else { State::Wrong };
    let is_wrong = |item: &&Value| crate::output::cell(item, "/state") != "as configured";
    let line = |item| format!("\n{}: {}", crate::output::cell(item, "/topic"), topics::told(item));
    let lines: String = items.iter().filter(is_wrong).map(line).collect();
    vec![finding("topics", state, &format!("{}{lines}", failure.message), failure.next.as_deref())]
}

/// A running host, or an address that a host could take.
async fn host(config: &Config, args: &Args) -> Vec<Finding> {
    let client = ClientArgs {
        config: args.config.files.clone(),
        data_dir: Some(config.data_dir.clone()),
        ..ClientArgs::default()
    };
    let client = ClientArgs { endpoint: std::env::var("PHRONIS_ENDPOINT").ok(), ..client };
    let address = client.known_address().ok().flatten();
    if let (Some(address), Ok(client)) = (address, client.client()) {
        match client.send(client.request(reqwest::Method::GET, "/readyz")).await {
            Ok(response) => {
                let is_ready = response.status().is_success();
                let body: Value = response.json().await.unwrap_or_default();
                return vec![running(&address, is_ready, &body)];
            }
            Err(failure) => {
                let what = format!("{}; what is left of it: host.json in the data folder", failure.message);
                return vec![finding("host", State::Warning, &what, Some("start it with `phronis run`")), port(config)];
            }
        }
    }
    vec![finding("host", State::Good, "none runs on this data folder", None), port(config)]
}

fn running(address: &str, is_ready: bool, body: &Value) -> Finding {
    let checks = body.get("checks").and_then(Value::as_array).into_iter().flatten();
    let bad = checks.filter(|check| check.get("is_ok") == Some(&Value::Bool(false)));
    let bad: Vec<String> = bad
        .map(|check| format!("{}: {}", crate::output::cell(check, "/name"), crate::output::cell(check, "/detail")))
        .collect();
    match is_ready {
        true => finding("host", State::Good, &format!("runs at {address} and is ready"), None),
        false => {
            let what = format!("runs at {address} and is not ready {}", bad.join("; "));
            finding(
                "host",
                State::Wrong,
                what.trim_end(),
                Some("look at its log, at `phronis streams` and `phronis plugin list`"),
            )
        }
    }
}

fn port(config: &Config) -> Finding {
    let listen = config.http.listen;
    match TcpListener::bind(listen) {
        Ok(_) => finding("address", State::Good, &format!("{listen} is free"), None),
        Err(error) => {
            let what = format!("{listen} cannot be taken: {error}");
            finding("address", State::Wrong, &what, Some("stop who uses it, or choose another with --listen"))
        }
    }
}

fn plugins(config: &Config) -> Vec<Finding> {
    let survey = survey::plugins(config);
    let count = survey.plugins.len();
    let what = format!("{count} in {}", config.plugins_dir.display());
    let mut findings = vec![finding("plugins", State::Good, &what, None)];
    for problem in survey.problems {
        let what = format!("{}: {}", problem.origin, problem.message);
        findings.push(finding("plugins", State::Wrong, &what, Some(&format!("phronis explain {}", problem.code))));
    }
    findings
}
