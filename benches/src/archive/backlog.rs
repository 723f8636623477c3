//! A log that is full of what nobody has archived: filled once, copied for each run.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::host::{Host, install};
use crate::{events, http};

/// Events of a post.
const ROWS: u64 = 1000;
const PARTITIONS: usize = 8;
/// How long the host may take for what was posted.
const PATIENCE: Duration = Duration::from_secs(120);

/// The stream of the hosts here: one, so that it has all the memory of the archive.
pub(super) const STREAM: &str = "[streams.sensors]\npartitions = 8\n";

/// What the events are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mix {
    /// One in so many becomes an alert.
    hot: u64,
    /// One in so many breaks the contract, and becomes a letter.
    bad: u64,
}

impl Mix {
    /// What a stream is like.
    pub(super) const USUAL: Self = Self { hot: 100, bad: 100 };
    /// All three tables get the same.
    pub(super) const EVEN: Self = Self { hot: 3, bad: 3 };

    fn event(self, nth: u64) -> String {
        let value = match nth {
            nth if nth % self.bad == 1 => "\"broken\"",
            nth if nth % self.hot == 0 => "98.50",
            _ => "71.25",
        };
        events::event_of(nth, value)
    }

    fn lines(self, first: u64) -> String {
        (first..first + ROWS).map(|nth| self.event(nth) + "\n").collect()
    }
}

/// A full log.
#[derive(Debug)]
pub(super) struct Backlog {
    dir: TempDir,
    pub(super) due: Due,
}

/// What tables must have when everything is archived.
#[derive(Debug, Clone, Default)]
pub(super) struct Due {
    pub(super) events: u64,
    pub(super) alerts: u64,
    pub(super) letters: u64,
    /// Records of raw, by partition: each is an event or a letter.
    pub(super) raw: Vec<u64>,
}

impl Due {
    /// Records of all topics that are archived.
    pub(super) fn records(&self) -> u64 {
        self.events + self.alerts + self.letters
    }
}

impl Backlog {
    /// Fills a log with so many events, by HTTP and a host that judges them and archives nothing.
    pub(super) fn fill(events: u64, mix: Mix) -> Result<Self> {
        let host = Host::start_with("sensors", STREAM, |folder| install("threshold", folder))?;
        host.until_active(1)?;
        let posts = events.div_ceil(ROWS);
        http::post(&host, usize::try_from(posts)?, |nth| mix.lines(nth as u64 * ROWS))?;
        let ends = |topic: &str| host.ends(&format!("phronis.{topic}"));
        let raw = ends("raw.events")?;
        let count = |topic: &str| Ok::<u64, anyhow::Error>(ends(topic)?.iter().sum());
        let deadline = Instant::now() + PATIENCE;
        let (events, letters) = loop {
            let (events, letters) = (count("processed")?, count("dlq")?);
            if events + letters == posts * ROWS {
                break (events, letters);
            }
            ensure!(Instant::now() < deadline, "{events} events and {letters} letters of {}", posts * ROWS);
            std::thread::sleep(Duration::from_millis(20));
        };
        ensure!(raw.len() == PARTITIONS && raw.iter().sum::<u64>() == posts * ROWS, "raw has {raw:?}");
        let due = Due { events, alerts: count("alerts")?, letters, raw };
        eprintln!("  a log of {} events, {} alerts and {} letters", due.events, due.alerts, due.letters);
        Ok(Self { dir: host.stop()?.dir, due })
    }

    /// A folder with the same log, as nobody has archived it, all of it on disk.
    pub(super) fn copy(&self) -> Result<TempDir> {
        let dir = tempfile::tempdir()?;
        copy_folder(&self.dir.path().join("data"), &dir.path().join("data"))?;
        // What was not written back would be, while something is measured.
        rustix::fs::sync();
        Ok(dir)
    }
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    // A host refuses a cache that others can write to.
    std::fs::set_permissions(to, std::fs::metadata(from)?.permissions())?;
    for entry in std::fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_folder(&from, &to)?;
        } else {
            std::fs::copy(&from, &to)?;
        }
    }
    Ok(())
}
