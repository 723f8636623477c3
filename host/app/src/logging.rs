//! Logs of the host: to standard error, pretty for a person at a terminal, JSON for everyone else.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Logging};

/// Starts logging. A second call changes nothing.
pub fn start(logging: &Logging) {
    let is_terminal = std::io::stderr().is_terminal();
    let is_pretty = match logging.format {
        LogFormat::Auto => is_terminal,
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    };
    let filter = EnvFilter::builder().parse_lossy(&logging.level);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if is_pretty {
        builder.with_ansi(is_terminal && colours_wanted()).with_target(false).try_init()
    } else {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
    };
    if let Err(error) = started {
        tracing::debug!(%error, "logging was started before");
    }
}

/// Whether colours may be used: `NO_COLOR` (<https://no-color.org>) says no.
pub fn colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
