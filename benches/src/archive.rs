//! The archive as a part of the real host: how fast it turns a full log into tables, what it takes, and whom it disturbs.
//!
//! A log is filled by a host without an archive; then one with an archive starts on a copy of it, and works it off.
//! What counts is what stands in the tables, read through the catalog; at the end every row of the Parquet files is read.

mod backlog;
pub(crate) mod commits;
mod effect;
pub(crate) mod kafka;
pub(crate) mod memory;
mod sink;
mod throughput;

use anyhow::Result;

use self::backlog::{Backlog, Mix};
use crate::kafka::setting;
use crate::report::Report;

/// What a host with an archive is told beside its streams. The demo commits as often.
const ARCHIVE: &str = "[archive]\nenabled = true\ncommit_every = \"10s\"\n";

/// Events of a full log: ten seconds of archiving at least.
const EVENTS: u64 = 6_000_000;

/// All that begins with a full embedded log: it is filled once.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    let events = setting("PHRONIS_BENCH_EVENTS", EVENTS)?;
    let backlog = Backlog::fill(events, Mix::USUAL)?;
    let measured = [
        ("local", throughput::local(report, &backlog)),
        ("S3", throughput::s3(report, &backlog)),
        ("live", effect::run(report, &backlog)),
    ];
    drop(backlog);
    // What one of them could not do takes nothing away from the others.
    let mut outcome = Ok(());
    for (name, measured) in measured {
        if let Err(error) = measured {
            eprintln!("  {name} failed: {error:#}");
            outcome = outcome.and(Err(error.context(name)));
        }
    }
    outcome
}
