//! `phronis breaker`: what the breakers of a running host do, and a person's word over them.

use std::io::Write as _;

use phronis_core::PluginId;
use phronis_core::text::escape;
use reqwest::Method;
use serde_json::{Map, Value};

use super::{Listing, OfPlugin, show};
use crate::client::{Client, ClientArgs};
use crate::failure::{Exit, Outcome};
use crate::output::{self, Format, cell};

/// Look at the breakers of a running host, and open or close them by hand
///
/// Each plugin has a breaker: when the plugin keeps failing it opens, and the plugin is left alone for a while.
/// What becomes of events meanwhile is the plugin's setting when_open: letter, bypass or hold.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the breakers: state, who decides, failures, when they are tried again
    List(Listing),
    /// Show all that is known of a plugin's breaker, as JSON
    Show(OfPlugin),
    /// Keep a breaker open: the plugin is not asked
    Open(Said),
    /// Keep a breaker closed: the plugin is asked, however often it fails
    Close(Said),
    /// Let a breaker count and say what it would have done, and never open
    Shadow(Said),
    /// Let a breaker decide itself again
    Auto {
        #[command(flatten)]
        of: OfPlugin,
        /// Why, for the audit
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Said {
    #[command(flatten)]
    of: OfPlugin,
    /// Why; it stands beside the breaker and in the audit
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// For how long: 30m, 2h; without it, until someone says otherwise
    #[arg(long = "for", value_name = "TIME")]
    lasts: Option<String>,
}

/// Does what was asked for.
pub async fn run(args: Args) -> Outcome {
    let client = args.client.client()?;
    match args.command {
        Command::List(listing) => list(&client, listing.output).await,
        Command::Show(of) => show(&client.get(&path(&of.id)).await?),
        Command::Open(said) => say(&client, &said.of.id, "open", Some(said.reason), said.lasts).await,
        Command::Close(said) => say(&client, &said.of.id, "close", Some(said.reason), said.lasts).await,
        Command::Shadow(said) => say(&client, &said.of.id, "shadow", Some(said.reason), said.lasts).await,
        Command::Auto { of, reason } => say(&client, &of.id, "auto", reason, None).await,
    }
}

async fn list(client: &Client, format: Format) -> Outcome {
    let breakers = client.list("/v1/breakers", &[], usize::MAX).await?;
    output::list(
        &breakers,
        format,
        &[
            ("PLUGIN", &|item| cell(item, "/plugin")),
            ("STATE", &|item| cell(item, "/state")),
            ("MODE", &|item| cell(item, "/mode")),
            ("WHEN OPEN", &|item| cell(item, "/settings/when_open")),
            ("FAILURES", &|item| format!("{}/{}", cell(item, "/failures"), cell(item, "/threshold"))),
            ("RETRY AT", &|item| cell(item, "/retry_at")),
            ("LAST TRIP", &|item| match item.pointer("/last_trip/reason").and_then(Value::as_str) {
                Some(reason) => format!("{reason} {}", cell(item, "/last_trip/at")),
                None => String::new(),
            }),
            ("WAITING", &|item| cell(item, "/ranges_waiting")),
            ("REASON", &|item| match item.pointer("/override/reason") {
                Some(_) => cell(item, "/override/reason"),
                None => String::new(),
            }),
        ],
    )?;
    Ok(Exit::Ok)
}

async fn say(client: &Client, id: &PluginId, state: &str, reason: Option<String>, lasts: Option<String>) -> Outcome {
    let members = [("state", Some(state.to_owned())), ("reason", reason), ("for", lasts)];
    let body: Map<String, Value> =
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect();
    client.checked(client.change(Method::PUT, &format!("{}/override", path(id)), None).json(&body)).await?;
    let breaker = client.get(&path(id)).await?;
    let told = format!("{id}: the breaker is {} ({})", cell(&breaker, "/state"), cell(&breaker, "/mode"));
    writeln!(std::io::stdout(), "{}", escape(&told))?;
    Ok(Exit::Ok)
}

fn path(id: &PluginId) -> String {
    format!("/v1/breakers/{id}")
}
