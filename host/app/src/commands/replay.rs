//! `phronis replay`: a detector over what is archived, before it goes live. Writes nothing.

mod print;

use std::ops::Range;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use phronis_core::plugin::Limits;
use phronis_core::{Name, PluginId, StreamId, code};
use phronis_engine::Engine;
use phronis_pipeline::plugins::WantedLimits;
use phronis_pipeline::replay::{Against, Error, Events, Report, Trial};
use serde_json::Value;

use super::{ConfigArgs, wiring};
use crate::archive;
use crate::config::Config;
use crate::failure::{Exit, Failure, Outcome};

/// Run a detector over archived events, and compare what it finds with what was found
///
/// The same engine, limits and event-time clock as live; nothing is written. The same range gives the same result,
/// however often: the report names the snapshot that was read. Only what it took differs (`cost` in the JSON).
///
/// An alert is one rule about one event. --against compares with the archived alerts of a plugin of the stream,
/// or with another .wasm over the same events.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The detector
    #[arg(value_name = "PLUGIN.wasm")]
    plugin: PathBuf,
    /// The stream whose archived events it judges: `name`, or `tenant.name`
    #[arg(long, value_name = "STREAM")]
    stream: StreamId,
    /// From this event time: a length such as `7d`, or a time such as 2026-11-15T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = super::parse_moment)]
    since: Timestamp,
    /// To this event time, not included; now unless said
    #[arg(long, value_name = "TIME", value_parser = super::parse_moment)]
    until: Option<Timestamp>,
    /// Its parameters: JSON, or a file of JSON or TOML; unless said, `[params]` of the `.toml` file beside it
    #[arg(long, value_name = "PARAMS")]
    params: Option<String>,
    /// What it is called in the stream; unless said, as its file
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,
    /// A plugin of the stream, by its name or `name@version`, or another .wasm
    #[arg(long, value_name = "NAME|FILE")]
    against: Option<String>,
    /// The parameters of the other .wasm, as --params
    #[arg(long, value_name = "PARAMS")]
    against_params: Option<String>,
    /// How to print the report
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
    #[command(flatten)]
    config: ConfigArgs,
}

/// How a report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Output {
    /// Tables for people
    #[default]
    Table,
    /// One JSON document
    Json,
}

/// Replays, and prints the report.
pub async fn run(args: Args) -> Outcome {
    let (since, until) = (args.since, args.until.unwrap_or_else(Timestamp::now));
    if since >= until {
        let message = "the range ends before it begins: --since is not before --until";
        return Err(Failure::usage(message).code(code::REPLAY_RANGE));
    }
    let config = args.config.load()?;
    let archive = archive::open(&config).await?;
    let events = Events::of(archive, args.stream.clone()).await?;
    let scratch = std::env::temp_dir().join(format!("phronis-replay-{}", std::process::id()));
    let outcome = replayed(&args, since.as_microsecond()..until.as_microsecond(), &config, events, &scratch).await;
    // Left behind, it is only a folder in the system's temporary place.
    std::fs::remove_dir_all(scratch).ok();
    print::print(&outcome?, args.output == Output::Json)?;
    Ok(Exit::Ok)
}

async fn replayed(
    args: &Args,
    range: Range<i64>,
    config: &Config,
    events: Events,
    scratch: &Path,
) -> Result<Report, Failure> {
    let columns = events.columns()?;
    let engine = wiring::engine(config, scratch)?;
    let trial = |file: &Path, params: Option<&str>| -> Result<Trial, Failure> {
        let params = params_of(file, params)?;
        let name = name_of(file, args.name.as_ref())?;
        let id = PluginId { stream: args.stream.clone(), name };
        let limits = limits(config, &args.stream, file)?;
        Ok(Trial::new(load(&engine, file)?, id, &params, limits, &columns)?)
    };
    let new = trial(&args.plugin, args.params.as_deref())?;
    let against = match &args.against {
        None => None,
        Some(file) if Path::new(file).extension().is_some_and(|extension| extension == "wasm") => {
            let other = trial(Path::new(file), args.against_params.as_deref())?;
            Some(Against::Plugin(Box::new(other)))
        }
        Some(name) => {
            let (name, version) = name.split_once('@').map_or((name.as_str(), None), |(name, of)| (name, Some(of)));
            Some(Against::Alerts { plugin: name.to_owned(), version: version.map(str::to_owned) })
        }
    };
    Ok(events.replay(new, against, range).await?)
}

/// The limits of a plugin: as beside its file, else the tenant's; never above the tenant's ceiling.
fn limits(config: &Config, stream: &StreamId, file: &Path) -> Result<Limits, Failure> {
    let (default, ceiling) =
        config.tenant(&stream.tenant).map_or_else(Default::default, |tenant| (tenant.default, tenant.ceiling));
    let beside = file.with_extension("toml");
    let table = if beside.exists() { read_toml(&beside)? } else { toml::Table::new() };
    let wrong = |why: &dyn std::fmt::Display| Failure::usage(format!("{}: {why}", beside.display()));
    let limits: WantedLimits = match table.get("limits") {
        Some(limits) => limits.clone().try_into().map_err(|error: toml::de::Error| wrong(&error))?,
        None => WantedLimits::default(),
    };
    let limits = limits.over(default).map_err(|error| wrong(&error))?;
    phronis_engine::limits::lower(limits, &ceiling).map_err(|problems| {
        let words: Vec<_> = problems.into_iter().map(|problem| problem.message).collect();
        wrong(&words.join("; ")).code(code::CEILING_EXCEEDED)
    })
}

fn load(engine: &Engine, file: &Path) -> Result<phronis_engine::Component, Failure> {
    let bytes =
        std::fs::read(file).map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))?;
    engine.load(&bytes).map_err(|refusal| {
        Failure::new(Exit::Refused, format!("{}: {}", file.display(), refusal.message)).code(refusal.code)
    })
}

fn name_of(file: &Path, name: Option<&Name>) -> Result<Name, Failure> {
    if let Some(name) = name {
        return Ok(name.clone());
    }
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().replace('_', "-")).unwrap_or_default();
    stem.parse().map_err(|error| Failure::usage(format!("`{stem}` is no name of a plugin: {error}")).next("say --name"))
}

/// The parameters of a plugin: as said, else those beside its file, else none.
fn params_of(file: &Path, said: Option<&str>) -> Result<Value, Failure> {
    let beside = file.with_extension("toml");
    match said {
        Some(text) if text.trim_start().starts_with('{') => {
            serde_json::from_str(text).map_err(|error| Failure::usage(format!("--params is no JSON: {error}")))
        }
        Some(path) => read_params(Path::new(path), false),
        None if beside.exists() => read_params(&beside, true),
        None => Ok(Value::Object(serde_json::Map::new())),
    }
}

/// A file of parameters; `is_settings` when it is the file beside a plugin, where they stand under `[params]`.
fn read_params(path: &Path, is_settings: bool) -> Result<Value, Failure> {
    if path.extension().is_some_and(|extension| extension == "toml") {
        let table = read_toml(path)?;
        let params = table.get("params").cloned();
        let params = params.unwrap_or_else(|| toml::Value::Table(if is_settings { toml::Table::new() } else { table }));
        return serde_json::to_value(params).map_err(|error| unreadable(path, &error));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    serde_json::from_str(&text).map_err(|error| unreadable(path, &error))
}

fn read_toml(path: &Path) -> Result<toml::Table, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    toml::from_str(&text).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::usage(format!("{}: {error}", path.display()))
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match &error {
            Error::Archive(_) | Error::Stopped => Exit::NotReachable,
            Error::NoTable { .. } | Error::Against { .. } => Exit::Usage,
            _ => Exit::Refused,
        };
        Self::new(exit, error.to_string()).code(error.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_come_from_the_command_line_a_file_or_beside_the_plugin() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let plugin = folder.path().join("hot.wasm");
        let empty = serde_json::json!({});
        assert_eq!(params_of(&plugin, None).unwrap(), empty);
        file("hot.toml", "[params]\nhigh = 1.5\n[limits]\nmemory = \"1MiB\"\n");
        let high = |high: f64| serde_json::json!({ "high": high });
        assert_eq!(params_of(&plugin, None).unwrap(), high(1.5));
        assert_eq!(params_of(&plugin, Some(" {\"high\": 2.5}")).unwrap(), high(2.5));
        let json = file("p.json", "{\"high\": 3.5}");
        assert_eq!(params_of(&plugin, json.to_str()).unwrap(), high(3.5));
        let toml = file("p.toml", "high = 4.5");
        assert_eq!(params_of(&plugin, toml.to_str()).unwrap(), high(4.5));
        assert!(params_of(&plugin, Some("{broken")).is_err() && params_of(&plugin, Some("gone.json")).is_err());
    }

    #[test]
    fn a_plugin_is_called_as_its_file() {
        assert_eq!(name_of(Path::new("a/too_hot.wasm"), None).unwrap().as_str(), "too-hot");
        assert!(name_of(Path::new("a/Too Hot.wasm"), None).is_err());
    }
}
