//! The commands, one file each: its arguments, and a `run` that does it.

pub mod agents;
pub mod archive;
pub mod audit;
pub mod breaker;
pub mod check;
pub mod compile_component;
pub mod config;
pub mod doctor;
pub mod explain;
pub mod letters;
pub mod load;
pub mod plugin;
mod progress;
pub mod replay;
pub mod run;
mod send;
pub mod simulate;
pub mod streams;
pub mod tail;
pub mod topics;
pub mod wiring;

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use phronis_core::PluginId;
use phronis_core::text::escape;
use serde_json::Value;

use crate::config::units::parse_duration;
use crate::config::{Config, Overrides, load as load_config};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::Format;

/// Which configuration a command means.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ConfigArgs {
    /// Configuration (TOML); may be given more than once, later ones override earlier ones, PHRONIS__SECTION__KEY
    /// overrides them all
    // One file each: what comes after it may be the command's own, a statement or a plugin.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Folder for the log, the cache and the state
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Folder where plugins are dropped
    #[arg(long, value_name = "DIR")]
    pub plugins_dir: Option<PathBuf>,
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// What to log, as in RUST_LOG: `info`, `debug`, `info,phronis_engine=debug`
    #[arg(long, value_name = "FILTER")]
    pub log_level: Option<String>,
}

impl ConfigArgs {
    /// What lies above the files.
    pub fn overrides(&self) -> Overrides {
        Overrides::from_env()
            .flag("--data-dir", "data_dir", self.data_dir.as_ref().map(|dir| dir.display()))
            .flag("--plugins-dir", "plugins_dir", self.plugins_dir.as_ref().map(|dir| dir.display()))
            .flag("--listen", "http.listen", self.listen.as_ref())
            .flag("--log-level", "logging.level", self.log_level.as_ref())
    }

    /// Reads and checks the configuration.
    ///
    /// # Errors
    /// All its problems.
    pub fn load(&self) -> Result<Config, Failure> {
        Ok(load_config(&self.files, &self.overrides())?)
    }
}

/// How a list is to be printed.
#[derive(Debug, clap::Args)]
struct Listing {
    /// How to print the list
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// A plugin, or its breaker.
#[derive(Debug, clap::Args)]
struct OfPlugin {
    /// The plugin
    #[arg(value_parser = plugin::parse_id)]
    id: PluginId,
}

/// Prints what the host says, as JSON.
fn show(shown: &Value) -> Outcome {
    writeln!(std::io::stdout(), "{shown:#}")?;
    Ok(Exit::Ok)
}

/// Says something to the person, beside what goes on to the next program.
fn tell(what: &str) -> std::io::Result<()> {
    writeln!(std::io::stderr(), "{}", escape(what))
}

/// Reads a file whole; `-` is standard input.
fn read_whole(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin().read_to_end(&mut bytes).map(drop),
        false => std::fs::read(file).map(|read| bytes = read),
    };
    read.map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))?;
    Ok(bytes)
}

/// A moment, or how long ago it was.
fn parse_moment(text: &str) -> Result<Timestamp, String> {
    let of_a_day = || Timestamp::from_millisecond(phronis_archive::query::time_ms(text).ok()?).ok();
    if let Some(at) = text.parse().ok().or_else(of_a_day) {
        return Ok(at);
    }
    let ago = parse_duration(text).map_err(|_| "expected `2h`, `7d`, or a time such as 2026-01-31T12:00:00Z")?;
    Timestamp::now().checked_sub(ago).map_err(|error| error.to_string())
}

/// The same as a text, for a request.
fn parse_time(text: &str) -> Result<String, String> {
    parse_moment(text).map(|at| at.to_string())
}

/// A time as hosts and files write it (RFC 3339, or a number since 1970), in milliseconds since 1970.
fn time_ms(value: &Value) -> Option<i64> {
    match value {
        Value::String(text) => {
            let parsed = text.parse::<Timestamp>().map(Timestamp::as_millisecond);
            let in_utc = || text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
            parsed.ok().or_else(|| in_utc().map(|zoned| zoned.timestamp().as_millisecond()))
        }
        // Seconds until the year 5138 and milliseconds since 1973 do not overlap.
        Value::Number(number) => match number.as_i64() {
            Some(seconds) if seconds.abs() < 100_000_000_000 => seconds.checked_mul(1000),
            Some(millis) if millis.abs() < 100_000_000_000_000 => Some(millis),
            Some(micros) => Some(micros / 1000),
            None => number
                .as_f64()
                .and_then(|seconds| jiff::SignedDuration::try_from_secs_f64(seconds).ok())
                .and_then(|since| i64::try_from(since.as_millis()).ok()),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_moments_or_durations() {
        let said = |text: &str| parse_moment(text).map(|at| at.to_string());
        assert_eq!(said("2026-01-31T12:00:00.000001+01:00").as_deref(), Ok("2026-01-31T11:00:00.000001Z"));
        assert_eq!(said("2026-01-31").as_deref(), Ok("2026-01-31T00:00:00Z"));
        assert!(parse_moment("2h").is_ok_and(|at| at < Timestamp::now()));
        for bad in ["", "yesterday", "2", "99999999999d"] {
            assert!(parse_moment(bad).is_err(), "{bad}");
        }
    }
}
