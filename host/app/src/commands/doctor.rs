//! `phronis doctor`: looks at everything that a host needs, and says what to do about what is wrong.

use std::io::{IsTerminal as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::ConfigArgs;
use crate::client::ClientArgs;
use crate::config::{Bytes, Config};
use crate::failure::{Exit, Outcome};
use crate::logging::colours_wanted;
use crate::survey;

/// Look at everything that a host needs, and say what to do about what is wrong
///
/// Configuration, data folder, disk, address or running host, plugins, clock. Exits with 1 when something is wrong.
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
    let mut findings = vec![finding("version", State::Good, crate::cli::VERSION, None), clock()];
    match args.config.load() {
        Ok(config) => {
            let what = format!("{} streams, {} keys", config.streams.len(), config.http.keys.len());
            findings.push(finding("configuration", State::Good, &what, None));
            findings.push(folder(&config.data_dir));
            findings.push(disk(&config));
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
    let (least, mib) = (config.log.min_free_bytes, |bytes: Bytes| format!("{} MiB", bytes.0 >> 20));
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
