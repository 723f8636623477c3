//! A detector over what is archived, before it goes live: the same engine, limits and event-time clock, and nothing is written.
//!
//! Each partition's events come by day and offset, in batches that are cut the same way each time, from one snapshot that the
//! report names: the same range gives the same result. What it is compared with is what a plugin of the stream found when it
//! ran (the archived alerts), or another plugin over the same events.

mod report;
mod tally;
mod trial;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_schema::{ArrowError, SchemaRef};
use phronis_archive::history::{Day, History, Wanted};
use phronis_archive::{Archive, Kind, Table, TableName, column};
use phronis_core::StreamId;
use phronis_core::plugin::Severity;
use phronis_core::time::Time;
use phronis_engine::Refusal;

pub use report::{ByDay, Compared, Cost, Failed, Findings, Named, Report, Sample, Sides, Tried, Version};
pub use trial::Trial;

use tally::Tally;
use trial::Hit;

/// Why there is no replay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Enrichers change events; only what is found can be compared.
    #[error("`{plugin}` is an enricher: a replay runs detectors")]
    NotDetector {
        /// The plugin.
        plugin: String,
    },
    /// The parameters do not fit the plugin's schema.
    #[error("the parameters are refused: {0}")]
    Params(String),
    /// The plugin cannot be started.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The archive lacks what the plugin reads.
    #[error("the plugin reads `{field}`: {reason}")]
    Field {
        /// The field.
        field: String,
        /// Why it cannot be had.
        reason: String,
    },
    /// Nothing of the stream is archived.
    #[error("there is no table `{table}`: nothing of the stream is archived")]
    NoTable {
        /// The table.
        table: String,
    },
    /// There is nothing to compare with.
    #[error("no archived alert of the range is from a plugin `{name}`")]
    Against {
        /// The name that was asked for.
        name: String,
    },
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] phronis_archive::Error),
    /// Columns are not as they should be.
    #[error("the archived columns cannot be judged: {0}")]
    Columns(#[from] ArrowError),
    /// The program is stopping.
    #[error("the replay was stopped")]
    Stopped,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What a trial is compared with.
#[derive(Debug)]
pub enum Against {
    /// The archived alerts of a plugin of the stream.
    Alerts {
        /// Its name.
        plugin: String,
        /// Its version; all of them unless said.
        version: Option<String>,
    },
    /// Another plugin, over the same events.
    Plugin(Box<Trial>),
}

/// A stream's archived events.
#[derive(Debug)]
pub struct Events {
    archive: Archive,
    stream: StreamId,
    table: Table,
}

impl Events {
    /// Finds the table of a stream. All that is read later is read from the snapshot that is the newest now.
    ///
    /// # Errors
    /// Nothing of the stream is archived, or the archive does not answer.
    pub async fn of(archive: Archive, stream: StreamId) -> Result<Self, Error> {
        let name = TableName::new(&stream, Kind::Events).to_string();
        let table = archive.catalog().load(&name).await?.ok_or(Error::NoTable { table: name })?;
        Ok(Self { archive, stream, table })
    }

    /// The columns of the table.
    ///
    /// # Errors
    /// The table has columns that nothing here can read.
    pub fn columns(&self) -> Result<SchemaRef, Error> {
        Ok(History::columns(&self.table, self.table.metadata().current_snapshot_id())?)
    }

    /// Runs a detector over the events of a range (event times in microseconds since 1970, the end not included).
    ///
    /// # Errors
    /// The archive cannot be read, or there is nothing to compare with.
    ///
    /// # Cancel safety
    /// Dropping the future ends the replay with the day that is worked on.
    pub async fn replay(self, new: Trial, against: Option<Against>, range: Range<i64>) -> Result<Report, Error> {
        let began = Instant::now();
        let (old, alerts) = match against {
            None => (None, None),
            Some(Against::Plugin(old)) => (Some(*old), None),
            Some(Against::Alerts { plugin, version }) => {
                (None, Some(Alerts::open(&self, plugin, version, &range).await?))
            }
        };
        let mut wanted: Vec<String> = vec![column::KEY.to_owned()];
        for name in [Some(&new), old.as_ref()].into_iter().flatten().flat_map(Trial::columns) {
            if !wanted.contains(name) {
                wanted.push(name.clone());
            }
        }
        let at = |trial: &Trial| {
            trial.columns().iter().filter_map(|name| wanted.iter().position(|known| known == name)).collect::<Vec<_>>()
        };
        let places = (at(&new), old.as_ref().map(at).unwrap_or_default());
        let snapshot = self.table.metadata().current_snapshot_id();
        let wanted = Wanted { columns: wanted, range: range.clone(), only: None, snapshot };
        let mut history = History::open(self.table.clone(), wanted).await?;
        let mut bench = Bench { new, old, alerts, places, tally: Tally::default(), events: 0, left_out: 0 };
        while let Some(day) = history.next_day().await? {
            let archived = match &mut bench.alerts {
                Some(alerts) => Some(alerts.of_day(day.day).await?),
                None => None,
            };
            // Plugins block: never on a thread that others' answers wait for.
            let judging = tokio::task::spawn_blocking(move || {
                let judged = bench.day(&day, archived);
                (bench, judged)
            });
            let judged;
            (bench, judged) = judging.await.map_err(|_| Error::Stopped)?;
            judged?;
        }
        bench.rest().await?;
        Ok(bench.report(&self, &history, &range, began.elapsed()))
    }
}

/// What works on a replay.
struct Bench {
    new: Trial,
    old: Option<Trial>,
    alerts: Option<Alerts>,
    /// Where the columns of both stand.
    places: (Vec<usize>, Vec<usize>),
    tally: Tally,
    events: u64,
    left_out: u64,
}

impl Bench {
    fn day(&mut self, day: &Day, archived: Option<Vec<Hit>>) -> Result<(), Error> {
        let (mut new, mut old) = (Vec::new(), archived);
        for stretch in day.stretches() {
            let stretch = stretch?;
            self.new.judge(&stretch, &self.places.0, 0, &mut new)?;
            if let Some(trial) = &mut self.old {
                trial.judge(&stretch, &self.places.1, 0, old.get_or_insert_default())?;
            }
        }
        let mut unmatched = 0;
        if let (Some(old), true) = (&mut old, self.alerts.is_some()) {
            let before = old.len();
            old.retain(|hit| day.has(hit.partition, hit.offset));
            unmatched = (before - old.len()) as u64;
        }
        if self.old.is_some() {
            old.get_or_insert_default();
        }
        self.events += day.rows() as u64;
        self.left_out += day.left_out;
        self.tally.day(day.day, day.rows() as u64, &mut new, old.as_mut(), unmatched);
        Ok(())
    }

    /// Alerts of days without events.
    async fn rest(&mut self) -> Result<(), Error> {
        if let Some(alerts) = &mut self.alerts {
            self.tally.all.unmatched += alerts.rest().await?;
            if alerts.versions.is_empty() {
                return Err(Error::Against { name: alerts.name.clone() });
            }
        }
        Ok(())
    }

    fn report(self, events: &Events, history: &History, range: &Range<i64>, took: Duration) -> Report {
        let Self { new, old, alerts, tally, events: count, left_out, .. } = self;
        let (files, file_bytes) = history.files();
        let per_event = |trial: &Trial| ratio(trial.busy.as_secs_f64() * 1e9, trial.counts.judged as f64);
        let cost = Cost {
            seconds: took.as_secs_f64(),
            events_per_second: ratio(count as f64, took.as_secs_f64()),
            plugin_nanos_per_event: per_event(&new),
            against_nanos_per_event: old.as_ref().map(per_event),
            files,
            file_bytes,
        };
        let result = Findings {
            stream: events.stream.to_string(),
            table: events.table.identifier().name().to_owned(),
            snapshot: history.snapshot().map(|id| id.to_string()),
            since: Time(range.start).to_string(),
            until: Time(range.end).to_string(),
            plugin: tried(&new),
            against: old.as_ref().map(|old| Compared::Plugin(tried(old))).or_else(|| alerts.map(Alerts::into_report)),
            events: count,
            left_out,
            alerts: tally.all,
            rules: tally.rules(),
            top_keys: tally.top_keys(),
            days: tally.days,
            only_new: tally.only_new,
            only_old: tally.only_old,
        };
        Report { result, cost }
    }
}

fn ratio(of: f64, by: f64) -> f64 {
    if by > 0.0 { of / by } else { 0.0 }
}

fn tried(trial: &Trial) -> Tried {
    let (name, version, digest) = trial.named();
    let failed = trial.counts.failed.iter().map(|(code, (message, events))| Failed {
        code: code.to_string(),
        message: message.clone(),
        events: *events,
    });
    Tried {
        name,
        version,
        digest,
        params: trial.params().clone(),
        judged: trial.counts.judged,
        skipped: trial.counts.skipped,
        failed: failed.collect(),
    }
}

/// What a plugin of the stream found when it ran.
struct Alerts {
    name: String,
    /// The version that is asked for; all of them unless said.
    version: Option<String>,
    table: String,
    history: History,
    /// A day that was read before the events of it.
    ahead: Option<Day>,
    versions: std::collections::BTreeMap<String, u64>,
}

/// The columns of alerts that are read.
const ALERT_COLUMNS: [&str; 5] = ["rule", "severity", column::KEY, column::PLUGINS, "message"];

impl Alerts {
    async fn open(events: &Events, name: String, version: Option<String>, range: &Range<i64>) -> Result<Self, Error> {
        let table = TableName::new(&events.stream, Kind::Alerts).to_string();
        let Some(found) = events.archive.catalog().load(&table).await? else { return Err(Error::Against { name }) };
        let wanted = Wanted {
            columns: ALERT_COLUMNS.map(str::to_owned).into(),
            range: range.clone(),
            only: Some(("plugin".to_owned(), name.clone())),
            snapshot: found.metadata().current_snapshot_id(),
        };
        let history = History::open(found, wanted).await?;
        Ok(Self { name, version, table, history, ahead: None, versions: std::collections::BTreeMap::new() })
    }

    /// The alerts of a day; days come in order.
    async fn of_day(&mut self, day: i64) -> Result<Vec<Hit>, Error> {
        let mut hits = Vec::new();
        loop {
            if self.ahead.is_none() {
                self.ahead = self.history.next_day().await?;
            }
            match self.ahead.take() {
                Some(next) if next.day > day => {
                    self.ahead = Some(next);
                    return Ok(hits);
                }
                // A day without events has no alerts about events either: its alerts find no match and are counted so.
                Some(next) => self.read(&next, &mut hits)?,
                None => return Ok(hits),
            }
        }
    }

    /// Alerts of days after the last one with events.
    async fn rest(&mut self) -> Result<u64, Error> {
        Ok(self.of_day(i64::MAX).await?.len() as u64)
    }

    fn read(&mut self, day: &Day, hits: &mut Vec<Hit>) -> Result<(), Error> {
        for stretch in day.stretches() {
            let stretch = stretch?;
            let column = |at: usize| stretch.columns.get(at).and_then(|column| column.as_string_opt::<i32>());
            let text =
                |at: usize, row: usize| column(at).filter(|texts| texts.is_valid(row)).map(|texts| texts.value(row));
            for row in 0..stretch.offsets.len() {
                // Of an open breaker, say: it bears the plugin's name and is about no event.
                if stretch.offsets.value(row) < 0 || !self.is_meant(text(3, row)) {
                    continue;
                }
                *self.versions.entry(text(3, row).unwrap_or("?").to_owned()).or_default() += 1;
                hits.push(Hit {
                    partition: stretch.partition,
                    offset: stretch.offsets.value(row),
                    at: stretch.event_times.value(row),
                    rule: text(0, row).unwrap_or_default().into(),
                    severity: match text(1, row) {
                        Some("critical") => Severity::Critical,
                        Some("warning") => Severity::Warning,
                        _ => Severity::Info,
                    },
                    key: text(2, row).map(Arc::from),
                    message: text(4, row).unwrap_or_default().to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Whether the plugin, as alerts name it, is of the version that is asked for.
    fn is_meant(&self, plugin: Option<&str>) -> bool {
        let Some(version) = &self.version else { return true };
        let named = plugin.and_then(|plugin| plugin.split_once('@')).map(|(_, of)| of.split('#').next().unwrap_or(of));
        named == Some(version)
    }

    fn into_report(self) -> Compared {
        let versions = self.versions.into_iter().map(|(version, alerts)| Version { version, alerts }).collect();
        let snapshot = self.history.snapshot().map(|id| id.to_string());
        Compared::Archive { name: self.name, table: self.table, snapshot, versions }
    }
}
