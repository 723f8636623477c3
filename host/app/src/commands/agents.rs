//! `phronis agents`: who may act, and who may not: looks, halts, resets.

use reqwest::{Method, StatusCode};
use serde_json::{Map, Value};

use super::{Listing, show, tell};
use crate::client::{Client, ClientArgs, encoded, with_query};
use crate::failure::{Exit, Outcome};
use crate::output::{self, Column, Format, cell};

/// Halt agents, let them act again, and look who is halted and why
///
/// An agent is named as its events name it. A halt is in force on every host and in every guard within milliseconds.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    client: ClientArgs,
    /// Whose agents [default: the tenant of the key, else `default`]
    #[arg(long, value_name = "TENANT", global = true)]
    tenant: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the agents that are halted
    List {
        /// Also those that were halted once and may act again
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show whether an agent may act, and why, as JSON
    Show {
        /// The agent
        agent: String,
    },
    /// Halt an agent, or everything of a tenant
    Halt {
        #[command(flatten)]
        whom: Whom,
        /// Why: whoever reads the history later asks for it
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Let it act again after this time by itself: 30m, 2h
        #[arg(long = "for", value_name = "TIME")]
        hold_for: Option<String>,
    },
    /// Let an agent act again, or everything of a tenant
    ///
    /// Refused while the store is away: what is halted stays halted until it answers.
    Reset {
        #[command(flatten)]
        whom: Whom,
        /// Why: whoever reads the history later asks for it
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Only if it is still at this version, as `phronis agents show` has it
        #[arg(long, value_name = "NUMBER")]
        if_version: Option<u64>,
    },
    /// Show who halted and reset an agent, when and why, newest first
    History {
        /// The agent
        agent: String,
        #[command(flatten)]
        listing: Listing,
    },
}

/// One agent, or all.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Whom {
    /// The agent
    agent: Option<String>,
    /// Everything of the tenant
    #[arg(long)]
    whole_tenant: bool,
}

/// Does what was asked for.
pub async fn run(args: Args) -> Outcome {
    let client = args.client.client()?;
    let tenant = args.tenant;
    match args.command {
        Command::List { all, listing } => list(&client, tenant.as_deref(), all, listing.output).await,
        Command::Show { agent } => {
            show(&client.get(&with_query(&path(&agent, ""), [("tenant", tenant.as_deref())])).await?)
        }
        Command::Halt { whom, reason, hold_for } => {
            let mut order = order(reason);
            order.extend(hold_for.map(|span| ("for".to_owned(), Value::String(span))));
            change(&client, &whom, tenant.as_deref(), "halt", order, None).await
        }
        Command::Reset { whom, reason, if_version } => {
            change(&client, &whom, tenant.as_deref(), "reset", order(reason), if_version).await
        }
        Command::History { agent, listing } => history(&client, &agent, tenant.as_deref(), listing.output).await,
    }
}

async fn list(client: &Client, tenant: Option<&str>, all: bool, format: Format) -> Outcome {
    let state = (!all).then_some("halted");
    let agents = client.list("/v1/agents", &[("state", state), ("tenant", tenant)], usize::MAX).await?;
    let columns: [Column<'_>; 7] = [
        ("AGENT", &|item| match item.get("agent") {
            Some(Value::String(agent)) => agent.clone(),
            _ => format!("(all of {})", cell(item, "/tenant")),
        }),
        ("STATE", &|item| cell(item, "/state")),
        ("SINCE", &|item| cell(item, "/at")),
        ("UNTIL", &|item| cell(item, "/expires_at")),
        ("BY", &|item| cell(item, "/actor")),
        ("REASON", &|item| cell(item, "/reason")),
        ("", &|item| match item.get("replicated") {
            Some(Value::Bool(false)) => "not in the store yet".to_owned(),
            _ => String::new(),
        }),
    ];
    output::list(&agents, format, &columns)?;
    Ok(Exit::Ok)
}

async fn history(client: &Client, agent: &str, tenant: Option<&str>, format: Format) -> Outcome {
    let changes = client.list(&path(agent, "/history"), &[("tenant", tenant)], usize::MAX).await?;
    let columns: [Column<'_>; 6] = [
        ("AT", &|item| cell(item, "/at")),
        ("STATE", &|item| cell(item, "/state")),
        ("VERSION", &|item| cell(item, "/version")),
        ("UNTIL", &|item| cell(item, "/expires_at")),
        ("BY", &|item| cell(item, "/actor")),
        ("REASON", &|item| cell(item, "/reason")),
    ];
    output::list(&changes, format, &columns)?;
    Ok(Exit::Ok)
}

async fn change(
    client: &Client,
    whom: &Whom,
    tenant: Option<&str>,
    what: &str,
    order: Map<String, Value>,
    if_version: Option<u64>,
) -> Outcome {
    let path = match &whom.agent {
        Some(agent) => with_query(&path(agent, &format!("/{what}")), [("tenant", tenant)]),
        None => {
            let tenant = tenant.unwrap_or(phronis_core::name::DEFAULT_TENANT);
            format!("/v1/tenants/{}/{what}", encoded(tenant))
        }
    };
    let mut request = client.change(Method::POST, &path, None).json(&order);
    if let Some(version) = if_version {
        request = request.header("if-match", format!("\"{version}\""));
    }
    let response = client.checked(request).await?;
    let is_local = response.status() == StatusCode::ACCEPTED;
    let changed: Value = response.json().await.map_err(|error| client.unreachable(&error))?;
    show(&changed)?;
    let name = whom.agent.as_deref().unwrap_or("everything of the tenant");
    tell(&match (what, is_local, cell(&changed, "/state").as_str()) {
        ("halt", true, _) => format!("{name}: halted; the store is away and gets it later"),
        ("halt", false, _) => format!("{name}: halted"),
        // The agent's own halt is over, its tenant's is not.
        (_, _, "halted") => format!("{name}: reset, and still halted, as everything of its tenant is"),
        _ => format!("{name}: may act"),
    })?;
    Ok(Exit::Ok)
}

fn order(reason: String) -> Map<String, Value> {
    [("reason".to_owned(), Value::String(reason))].into_iter().collect()
}

fn path(agent: &str, rest: &str) -> String {
    format!("/v1/agents/{}{rest}", encoded(agent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_fits_into_a_path() {
        assert_eq!(path("billing-7", ""), "/v1/agents/billing-7");
        assert_eq!(path("a/b ?ä", "/halt"), "/v1/agents/a%2Fb%20%3F%C3%A4/halt");
    }
}
