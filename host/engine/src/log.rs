//! What guests write: `phronis:plugin/log` and the lines of stdout and stderr, into the host's log.
//!
//! Each line is escaped, bounded and counted against `limits.log_bytes` a second; what is over is dropped and counted.
//! The budget belongs to the runner, not to the instance, so that trapping does not buy a new one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use phronis_core::PluginId;

use crate::text;
use crate::wit::LogLevel;

/// The longest line that is kept; longer ones are cut.
const LINE_BYTES: usize = 2048;

/// Where the lines of one plugin go; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Log(Option<Arc<Plugin>>);

#[derive(Debug)]
struct Plugin {
    id: PluginId,
    budget: Mutex<Budget>,
    dropped: metrics::Counter,
}

#[derive(Debug)]
struct Budget {
    rate: u64,
    left: u64,
    since: Instant,
}

impl Log {
    /// Writes nowhere: for the first look at a component, which belongs to no plugin yet.
    pub(crate) fn nowhere() -> Self {
        Self(None)
    }

    /// Writes as this plugin, at most `rate` bytes a second.
    pub(crate) fn of(id: PluginId, rate: u64) -> Self {
        let dropped = metrics::counter!(
            "phronis_plugin_log_lines_dropped_total",
            "tenant" => id.stream.tenant.to_string(),
            "stream" => id.stream.stream.to_string(),
            "plugin" => id.name.to_string(),
        );
        let budget = Mutex::new(Budget { rate, left: rate, since: Instant::now() });
        Self(Some(Arc::new(Plugin { id, budget, dropped })))
    }

    /// Changes the rate.
    pub(crate) fn set_rate(&self, rate: u64) {
        if let Some(plugin) = &self.0 {
            let mut budget = plugin.budget.lock().unwrap_or_else(PoisonError::into_inner);
            budget.left = budget.left.min(rate);
            budget.rate = rate;
        }
    }

    /// Writes one line, or drops and counts it.
    pub(crate) fn line(&self, level: LogLevel, line: &str) {
        let Some(plugin) = &self.0 else { return };
        let cut = line.len().min(LINE_BYTES);
        let allowed = plugin.budget.lock().unwrap_or_else(PoisonError::into_inner).take(cut as u64 + 1, Instant::now());
        if !allowed {
            plugin.dropped.increment(1);
            return;
        }
        let message = text::for_people(line, LINE_BYTES);
        let PluginId { stream, name } = &plugin.id;
        macro_rules! event {
            ($level:ident) => {
                tracing::event!(target: "plugin", tracing::Level::$level, tenant = %stream.tenant,
                    stream = %stream.stream, plugin = %name, "{message}")
            };
        }
        match level {
            LogLevel::Debug => event!(DEBUG),
            LogLevel::Info => event!(INFO),
            LogLevel::Warn => event!(WARN),
            LogLevel::Error => event!(ERROR),
        }
    }
}

impl Budget {
    fn take(&mut self, bytes: u64, now: Instant) -> bool {
        if now.saturating_duration_since(self.since).as_secs() >= 1 {
            (self.left, self.since) = (self.rate, now);
        }
        let fits = bytes <= self.left;
        if fits {
            self.left -= bytes;
        }
        fits
    }
}

/// Collects the bytes of stdout or stderr into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
    /// The last line that was not empty: often a panic message.
    pub(crate) last: String,
}

impl Lines {
    /// Takes bytes; writes the lines that are whole. A line that grows too long is cut there.
    pub(crate) fn write(&mut self, bytes: &[u8], level: LogLevel, log: &Log) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let whole = piece.ends_with(b"\n");
            let room = LINE_BYTES.saturating_sub(self.partial.len());
            self.partial.extend(piece.iter().take(room));
            if whole {
                self.flush(level, log);
            }
        }
    }

    /// Writes what is left without a line end.
    pub(crate) fn flush(&mut self, level: LogLevel, log: &Log) {
        let line = String::from_utf8_lossy(&self.partial);
        if !line.trim().is_empty() {
            log.line(level, &line);
            // The first lines of a panic say what happened, the `note:` after it does not.
            if !line.starts_with("note:") {
                self.last = line.trim().to_owned();
            }
        }
        self.partial.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_budget_is_full_again_after_a_second() {
        let begin = Instant::now();
        let mut budget = Budget { rate: 10, left: 10, since: begin };
        assert!(budget.take(6, begin));
        assert!(!budget.take(6, begin));
        assert!(budget.take(4, begin + Duration::from_millis(999)));
        assert!(!budget.take(1, begin + Duration::from_millis(999)));
        assert!(budget.take(10, begin + Duration::from_secs(1)));
    }

    #[test]
    fn bytes_become_lines_and_a_line_without_end_is_cut() {
        let mut lines = Lines::default();
        lines.write(b"one\ntw", LogLevel::Info, &Log::nowhere());
        assert_eq!(lines.last, "one");
        lines.write(b"o\n", LogLevel::Info, &Log::nowhere());
        assert_eq!(lines.last, "two");
        lines.write(&[b'x'; 10_000], LogLevel::Info, &Log::nowhere());
        assert_eq!(lines.partial.len(), LINE_BYTES);
    }
}
