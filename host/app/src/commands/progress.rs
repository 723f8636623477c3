//! How far a load is: a bar on a terminal, else a line now and then. On standard error.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The progress of one source.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    name: String,
    total: Option<u64>,
    told: Instant,
}

impl Progress {
    /// Begins to go through so many bytes.
    pub(super) fn new(total: Option<u64>, name: &str) -> Self {
        Self::with_template(total, name, "{prefix} {wide_bar} {bytes}/{total_bytes} {msg} eta {eta}")
    }

    /// Begins to go through so many of something else.
    pub(super) fn counting(total: Option<u64>, name: &str) -> Self {
        Self::with_template(total, name, "{prefix} {wide_bar} {percent} % {msg} eta {eta}")
    }

    fn with_template(total: Option<u64>, name: &str, template: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let template = if total.is_some() { template } else { "{prefix} {spinner} {elapsed} {msg}" };
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            bar.with_style(style).with_prefix(phronis_core::text::escape(name).into_owned())
        });
        Self { bar, name: name.to_owned(), total, told: Instant::now() }
    }

    /// Shows how far it is.
    pub(super) fn at(&mut self, position: u64, accepted: u64, refused: u64) {
        let rows = accepted + refused;
        let refused = if refused > 0 { format!(", {refused} refused") } else { String::new() };
        if let Some(bar) = &self.bar {
            bar.set_position(position);
            bar.set_message(format!("{rows} rows{refused}"));
        } else if self.told.elapsed() >= LINE_EVERY {
            self.told = Instant::now();
            let share = self.total.filter(|total| *total > 0).map(|total| position.saturating_mul(100) / total);
            let share = share.map(|share| format!(" ({share} %)")).unwrap_or_default();
            eprintln!("{}: {rows} rows{refused}{share}", self.name);
        }
    }

    /// Ends.
    pub(super) fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
