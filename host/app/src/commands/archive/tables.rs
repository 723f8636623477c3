//! `phronis archive tables` and `snapshots`: what is archived, and how it was at which time.

use phronis_archive::{TableName, describe};
use serde_json::Value;

use crate::archive;
use crate::commands::ConfigArgs;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Column, Format, cell};

/// List the tables of the archive
#[derive(Debug, clap::Args)]
pub(super) struct TablesArgs {
    /// How to print the list
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    config: ConfigArgs,
}

/// List the snapshots of a table, the newest first
///
/// Each can be asked: `FROM t FOR VERSION AS OF 123`.
#[derive(Debug, clap::Args)]
pub(super) struct SnapshotsArgs {
    /// The table, as `phronis archive tables` shows it
    table: TableName,
    /// Most snapshots; all without it
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<usize>,
    /// How to print the list
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Prints the tables.
pub(super) async fn tables(args: TablesArgs) -> Outcome {
    let archive = archive::open(&args.config.load()?).await?;
    let mut items = Vec::new();
    for name in archive.catalog().list().await? {
        // Others may have tables of other names in the namespace.
        let Ok(name) = name.parse::<TableName>() else { continue };
        let Some(table) = archive.catalog().load(&name.to_string()).await? else { continue };
        items.push(json(&describe::describe(&name, &table))?);
    }
    let columns: [Column<'_>; 7] = [
        ("TABLE", &|item| cell(item, "/name")),
        ("ROWS", &|item| cell(item, "/rows")),
        ("FILES", &|item| cell(item, "/files")),
        ("BYTES", &|item| cell(item, "/bytes")),
        ("SNAPSHOTS", &|item| cell(item, "/snapshots")),
        ("COMMITTED", &|item| cell(item, "/committed_at")),
        ("METADATA", &|item| cell(item, "/metadata")),
    ];
    output::list(&items, args.output, &columns)?;
    Ok(Exit::Ok)
}

/// Prints the snapshots of a table.
pub(super) async fn snapshots(args: SnapshotsArgs) -> Outcome {
    let archive = archive::open(&args.config.load()?).await?;
    let name = args.table.to_string();
    let table = archive.catalog().load(&name).await?.ok_or_else(|| unknown(&name))?;
    let taken = describe::snapshots(table.metadata());
    let limit = args.limit.unwrap_or(usize::MAX);
    let items = taken.iter().take(limit).map(json).collect::<Result<Vec<Value>, Failure>>()?;
    let columns: [Column<'_>; 7] = [
        ("SNAPSHOT", &|item| cell(item, "/id")),
        ("AT", &|item| cell(item, "/at")),
        ("OPERATION", &|item| cell(item, "/operation")),
        ("ROWS", &|item| cell(item, "/rows")),
        ("FILES", &|item| cell(item, "/files")),
        ("ADDED ROWS", &|item| cell(item, "/added_rows")),
        ("ADDED FILES", &|item| cell(item, "/added_files")),
    ];
    output::list(&items, args.output, &columns)?;
    Ok(Exit::Ok)
}

/// There is no such table.
pub(super) fn unknown(name: &str) -> Failure {
    Failure::new(Exit::Refused, format!("there is no table `{name}`"))
        .code(phronis_core::code::NOT_FOUND)
        .next("`phronis archive tables` lists them")
}

/// What is printed, as JSON.
pub(super) fn json(item: &impl serde::Serialize) -> Result<Value, Failure> {
    serde_json::to_value(item).map_err(|error| Failure::new(Exit::Refused, error.to_string()))
}
