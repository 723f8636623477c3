//! `phronis audit`: who changed what, when and why.

use crate::client::ClientArgs;
use crate::failure::{Exit, Outcome};
use crate::output::{self, Column, Format, cell};

/// Show who changed what, when and why, newest first
///
/// Asks the running host; a key needs the role admin. `-o jsonl` is for keeping: entries are never changed or deleted.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    client: ClientArgs,
    /// Not earlier than this: `2h`, `7d`, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = super::parse_time)]
    since: Option<String>,
    /// Earlier than this
    #[arg(long, value_name = "TIME", value_parser = super::parse_time)]
    until: Option<String>,
    /// By this actor
    #[arg(long)]
    actor: Option<String>,
    /// This action, or all that begin with it and a dot: `agent` stands for `agent.halt` and `agent.reset`
    #[arg(long)]
    action: Option<String>,
    /// About this: a plugin's id such as `default/sensors/threshold`, or `agents/<tenant>/<agent>`
    #[arg(long)]
    subject: Option<String>,
    /// Most entries; all without it
    #[arg(short = 'n', long, value_name = "N")]
    limit: Option<usize>,
    /// How to print the list
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// Prints the entries.
pub async fn run(args: &Args) -> Outcome {
    let query = [
        ("from", args.since.as_deref()),
        ("until", args.until.as_deref()),
        ("actor", args.actor.as_deref()),
        ("action", args.action.as_deref()),
        ("subject", args.subject.as_deref()),
    ];
    let entries = args.client.client()?.list("/v1/audit", &query, args.limit.unwrap_or(usize::MAX)).await?;
    let columns: [Column<'_>; 6] = [
        ("AT", &|item| cell(item, "/at")),
        ("ACTOR", &|item| cell(item, "/actor")),
        ("ACTION", &|item| cell(item, "/action")),
        ("SUBJECT", &|item| cell(item, "/subject")),
        ("REASON", &|item| cell(item, "/reason")),
        ("FACTS", &|item| cell(item, "/facts")),
    ];
    output::list(&entries, args.output, &columns)?;
    Ok(Exit::Ok)
}
