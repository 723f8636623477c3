//! `phronis archive maintain`: upkeep now, of one table or all, or what it would do.

use std::time::Duration;

use phronis_archive::{Archive, Plan, Report, TableName};
use serde_json::Value;

use super::tables::{json, unknown};
use crate::archive;
use crate::commands::{ConfigArgs, wiring};
use crate::config::units::parse_duration;
use crate::failure::{Exit, Outcome};
use crate::output::{self, Column, Format, cell};

/// Look after the tables of the archive: join small files, forget old snapshots, remove what nobody needs
///
/// Writers and readers go on meanwhile. A running host does the same by its schedule.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The tables, as `phronis archive tables` shows them; all without it
    #[arg(value_name = "TABLE")]
    tables: Vec<TableName>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Keep snapshots so long, rather than as configured
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    keep_snapshots: Option<Duration>,
    /// How to print what was done; JSON names every file
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Does it, table by table.
pub(super) async fn run(args: Args) -> Outcome {
    let config = args.config.load()?;
    let archive = archive::open(&config).await?;
    let mut upkeep = config.archive.as_ref().map(wiring::upkeep).unwrap_or_default();
    upkeep.keep_for = args.keep_snapshots.unwrap_or(upkeep.keep_for);
    let names = names(&archive, &args.tables).await?;
    let mut items = Vec::new();
    let mut is_whole = true;
    for name in names {
        let item = if args.dry_run {
            planned(&archive.plan_upkeep(&name, &upkeep).await?)?
        } else {
            let report = archive.maintain(&name, &upkeep).await?;
            is_whole &= report.skipped.is_empty();
            done(&report)?
        };
        items.push(item);
    }
    output::list(&items, args.output, &COLUMNS)?;
    Ok(if is_whole { Exit::Ok } else { Exit::CheckFailed })
}

const COLUMNS: [Column<'static>; 7] = [
    ("TABLE", &|item| cell(item, "/table")),
    ("EXPIRED", &|item| cell(item, "/expired")),
    ("DELETED", &|item| cell(item, "/deleted")),
    ("ORPHANS", &|item| cell(item, "/orphans")),
    ("MERGED", &|item| cell(item, "/merged")),
    ("COMPACTED", &|item| cell(item, "/compacted")),
    ("NOTES", &|item| notes(item)),
];

/// The tables that are meant.
async fn names(archive: &Archive, asked: &[TableName]) -> Result<Vec<String>, crate::failure::Failure> {
    let there = archive.catalog().list().await?;
    if asked.is_empty() {
        return Ok(there.into_iter().filter(|name| name.parse::<TableName>().is_ok()).collect());
    }
    let asked: Vec<String> = asked.iter().map(ToString::to_string).collect();
    match asked.iter().find(|name| !there.contains(name)) {
        Some(missing) => Err(unknown(missing)),
        None => Ok(asked),
    }
}

/// What would be done, in the words of what was done.
fn planned(plan: &Plan) -> Result<Value, crate::failure::Failure> {
    let report = Report {
        expired: plan.expire.len(),
        deleted: plan.delete.len(),
        orphans: plan.orphans.len(),
        merged: plan.merge.iter().map(Vec::len).sum(),
        compacted: plan.compact.iter().map(|group| group.files.len()).sum(),
        skipped: Vec::new(),
        plan: plan.clone(),
    };
    done(&report)
}

fn done(report: &Report) -> Result<Value, crate::failure::Failure> {
    let mut item = json(report)?;
    if let Value::Object(fields) = &mut item {
        fields.insert("table".to_owned(), Value::from(report.plan.table.clone()));
    }
    Ok(item)
}

fn notes(item: &Value) -> String {
    let all = ["/plan/notes", "/skipped"].iter().filter_map(|place| item.pointer(place)?.as_array());
    let texts: Vec<&str> = all.flatten().filter_map(Value::as_str).collect();
    if texts.is_empty() { "-".to_owned() } else { texts.join("; ") }
}
