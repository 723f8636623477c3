//! What archiving at full rate does to who waits for an alert: POST → alert on SSE, with a full log being worked off and without.

use anyhow::{Result, ensure};

use super::ARCHIVE;
use super::backlog::{Backlog, STREAM};
use crate::host::Host;
use crate::kafka::{median, setting};
use crate::latency;
use crate::report::Report;

/// Short enough that the log is not worked off before.
const SECONDS: u64 = 6;

pub(super) fn run(report: &mut Report, backlog: &Backlog) -> Result<()> {
    let rounds = setting("PHRONIS_BENCH_ROUNDS", 2)?;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        alone.push(round(backlog, false)?);
        beside.push(round(backlog, true)?);
    }
    const METHOD: &str = "1 000 posts/s of one event for 6 s after 2 s of warm-up, every event an alert, poster and listener on the same cores as the host; \
                          beside: the same while an archive works off a full log of 8 partitions, which lasts longer; median of rounds in turn";
    let of = |rounds: &[Round], figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
    let (without, with) = (of(&alone, |round| round.p99), of(&beside, |round| round.p99));
    report.add("POST → alert, p99 without an archive", without, "ms", "–", METHOD);
    report.add("POST → alert, p99 beside an archive at full rate", with, "ms", "–", METHOD);
    report.add("the same, with ÷ without", with / without, "×", "≤ 2", METHOD);
    report.add("POST → alert, p50 without an archive", of(&alone, |round| round.p50), "ms", "–", METHOD);
    report.add("POST → alert, p50 beside an archive at full rate", of(&beside, |round| round.p50), "ms", "–", METHOD);
    const RATE: &str =
        "rows that the archive made in the seconds of the measurement and its warm-up, as the host counts them";
    report.add("archived meanwhile", of(&beside, |round| round.archived), "events/s", "–", RATE);
    Ok(())
}

/// Milliseconds, and records a second.
struct Round {
    p50: f64,
    p99: f64,
    archived: f64,
}

fn round(backlog: &Backlog, is_archived: bool) -> Result<Round> {
    let archive = if is_archived { ARCHIVE } else { "" };
    let host = Host::open(backlog.copy()?, &format!("{STREAM}{archive}"))?;
    host.until_active(1)?;
    let read = || host.metric("phronis_archive_records_total");
    let (before, begun) = (read()?, std::time::Instant::now());
    let histogram = latency::posts_to_alerts(&host.url, SECONDS)?;
    let (after, took) = (read()?, begun.elapsed().as_secs_f64());
    let due = backlog.due.records() as f64;
    ensure!(!is_archived || after < due, "{after} of {due} records are archived: the log was too short");
    let millis = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    let round = Round { p50: millis(0.5), p99: millis(0.99), archived: (after - before) / took };
    let beside = if is_archived { "beside an archive" } else { "alone" };
    eprintln!("  {beside}: p50 {:.2} ms, p99 {:.2} ms, {:.0} records/s archived", round.p50, round.p99, round.archived);
    Ok(round)
}
