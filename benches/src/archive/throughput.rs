//! A host with an archive starts before a full log and works it off: log → rows → Parquet → committed tables.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use phronis_archive::Kind;
use phronis_tests::s3;
use tempfile::TempDir;

use super::ARCHIVE;
use super::backlog::{Backlog, Due, STREAM};
use super::sink::Sink;
use crate::host::Host;
use crate::kafka::{MIB, median, setting};
use crate::report::Report;

/// How long a host may take for everything.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two questions to the host whether it has read everything: what a time may be too long by.
const LOOK: Duration = Duration::from_millis(25);

/// A host that is to archive what is in a log.
#[derive(Debug)]
pub(super) struct Run<'a> {
    pub(super) stream: &'a str,
    pub(super) settings: &'a str,
    /// Where tables are and what the storage wants, when not in the folder of the host.
    pub(super) warehouse: Option<(&'a str, &'a BTreeMap<String, String>)>,
    pub(super) due: &'a Due,
}

/// What a run gave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figures {
    /// Events a second from the start of the process to the last commit.
    rate: f64,
    /// Events a second from the first commit to the last; not a number when there is one.
    steady: f64,
    /// Seconds of CPU of the host, from its start to its end, a million events.
    cpu: f64,
    /// The most resident memory of the host, in MiB.
    pub(super) peak: f64,
    /// Bytes of Parquet an event.
    bytes: f64,
}

/// Tables in a local folder.
pub(super) fn local(report: &mut Report, backlog: &Backlog) -> Result<()> {
    let settings = format!("{STREAM}{ARCHIVE}");
    let run = Run { stream: "sensors", settings: &settings, warehouse: None, due: &backlog.due };
    let figures = rounds("embedded log → local table", || run.measure(backlog.copy()?))?;
    tell(report, "embedded log → local table", "≥ 300 000, aim 600 000", &figures, &method(&backlog.due, "fsync"));
    Ok(())
}

/// Tables on an S3 server.
pub(super) fn s3(report: &mut Report, backlog: &Backlog) -> Result<()> {
    let server = s3::Server::start()?;
    let lines: String = server.settings().iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    let mut round = 0;
    let figures = rounds("embedded log → S3 table", || {
        round += 1;
        let place = format!("s3://{}/round-{round}", s3::BUCKET);
        let settings = format!("{STREAM}{ARCHIVE}warehouse = \"{place}\"\nstorage_file = \"storage\"\n");
        let storage = server.settings();
        let warehouse = Some((place.as_str(), &storage));
        let run = Run { stream: "sensors", settings: &settings, warehouse, due: &backlog.due };
        let dir = backlog.copy()?;
        std::fs::write(dir.path().join("storage"), &lines)?;
        run.measure(dir)
    })?;
    let method = method(&backlog.due, "SeaweedFS on the same cores");
    tell(report, "embedded log → S3 table", "≥ 150 000", &figures, &method);
    Ok(())
}

/// Some runs of the same.
pub(super) fn rounds(name: &str, mut run: impl FnMut() -> Result<Figures>) -> Result<Vec<Figures>> {
    let rounds = setting("PHRONIS_BENCH_ROUNDS", 2)?;
    ensure!(rounds > 0, "nothing to measure");
    let mut figures = Vec::new();
    for _ in 0..rounds {
        let found = run()?;
        eprintln!("  {name}: {:.0} events/s, peak memory {:.0} MiB", found.rate, found.peak);
        figures.push(found);
    }
    Ok(figures)
}

fn method(due: &Due, storage: &str) -> String {
    format!(
        "{} events of 75 bytes, {} alerts and {} letters in 8 partitions, {storage}, a commit in 10 s",
        due.events, due.alerts, due.letters
    )
}

/// Reports runs of the same.
pub(super) fn tell(report: &mut Report, name: &str, wanted: &'static str, figures: &[Figures], method: &str) {
    let of = |figure: fn(&Figures) -> f64| median(figures.iter().map(figure).collect());
    let rates = figures.iter().map(|found| found.rate);
    let (low, high) = rates.fold((f64::MAX, f64::MIN), |(low, high), rate| (low.min(rate), high.max(rate)));
    report.add(
        name.to_owned(),
        of(|found| found.rate),
        "events/s",
        wanted,
        format!(
            "{method}; from the start of the host's process to the snapshot that has the last row, every row of the Parquet \
             files counted and each offset there once; median of {} rounds, {low:.0} to {high:.0}",
            figures.len()
        ),
    );
    const STEADY: &str = "rows between the first snapshot and the last over the time between them";
    let steady = of(|found| found.steady);
    if steady.is_finite() {
        report.add(format!("{name}, between commits"), steady, "events/s", "–", STEADY);
    }
    const CPU: &str = "from /proc: user and system time of the host, from its start to its end";
    report.add(format!("{name}, CPU of the host"), of(|found| found.cpu), "s/M", "–", CPU);
    report.add(format!("{name}, events for a second of CPU"), 1e6 / of(|found| found.cpu), "events/s", "–", CPU);
    report.add(
        format!("{name}, an event in Parquet"),
        of(|found| found.bytes),
        "bytes",
        "–",
        "total-files-size of the last snapshot",
    );
    report.add(format!("{name}, peak memory of the host"), of(|found| found.peak), "MiB", "–", "VmHWM");
}

impl Run<'_> {
    /// Starts the host in a folder with a log that is full, and lets it end when it has read everything.
    pub(super) fn measure(&self, dir: TempDir) -> Result<Figures> {
        let begun = Timestamp::now().as_millisecond();
        let host = Host::open(dir, self.settings)?;
        let deadline = Instant::now() + PATIENCE;
        while host.metric("phronis_archive_records_total")? < self.due.records() as f64 {
            ensure!(Instant::now() < deadline, "the archive is stuck: {}", host.log());
            std::thread::sleep(LOOK);
        }
        // Its last commit has what is not committed yet.
        let ended = host.stop()?;
        let sink = Sink::open(ended.dir.path(), self.stream, self.warehouse)?;
        sink.check(self.due)?;
        let commits = sink.commits(Kind::Events)?;
        let (first, last) = (commits.first().context("no commit")?, commits.last().context("no commit")?);
        ensure!(last.rows == self.due.events, "the last snapshot counts {} rows", last.rows);
        let rate = |rows: u64, from: i64, to: i64| rows as f64 * 1000.0 / (to - from) as f64;
        let millions = self.due.events as f64 / 1e6;
        Ok(Figures {
            rate: rate(last.rows, begun, last.at),
            steady: rate(last.rows - first.rows, first.at, last.at),
            cpu: ended.cpu / millions,
            peak: ended.peak as f64 / MIB,
            bytes: sink.bytes(Kind::Events)? as f64 / self.due.events as f64,
        })
    }
}
