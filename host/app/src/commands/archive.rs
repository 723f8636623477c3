//! `phronis archive`: what is archived, asked of catalog and storage themselves.

mod maintain;
mod query;
mod tables;

use crate::failure::Outcome;

/// Look at what is archived, ask it, and look after it
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Tables(tables::TablesArgs),
    Snapshots(tables::SnapshotsArgs),
    Query(query::Args),
    Maintain(maintain::Args),
}

/// Does what was asked.
pub async fn run(args: Args) -> Outcome {
    match args.command {
        Command::Tables(args) => tables::tables(args).await,
        Command::Snapshots(args) => tables::snapshots(args).await,
        Command::Query(args) => query::run(args).await,
        Command::Maintain(args) => maintain::run(args).await,
    }
}
