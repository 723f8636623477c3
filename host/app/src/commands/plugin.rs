//! `phronis plugin`: what the plugins of a running host do, and their parameters and limits, live.

use std::path::{Path, PathBuf};

use phronis_core::PluginId;
use reqwest::Method;
use serde_json::{Map, Value};

use super::{Listing, OfPlugin, read_whole, show, tell};
use crate::client::{Client, ClientArgs};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Format, cell};

/// Look at the plugins of a running host, and change their parameters and limits while they run
///
/// A plugin is named as it lies in the folder: tenant/stream/name, or stream/name for the default tenant.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the plugins: version, state, what they did, why a newer version is refused
    List(Listing),
    /// Show all that is known of a plugin, as JSON
    Show(OfPlugin),
    /// Show a plugin's parameters, or change them: in force from its next batch on
    ///
    /// Without --set or --file: prints the parameters in force.
    Params(Change),
    /// Show a plugin's limits, or change them below the ceilings of the host
    ///
    /// Limits are: memory, output_bytes, log_bytes ("32MiB"), deadline ("50ms"), output_rows.
    Limits(Change),
    /// Show the settings of a plugin's breaker, or change them
    ///
    /// Settings are: when_open (letter, bypass, hold), failures, deadlines, rows or rows_share and rows_at_least,
    /// slow_above, slow_share, slow_at_least, window, open_for, open_most, probes, probes_within, forgiven_after, ranges_most.
    Breaker(Change),
}

#[derive(Debug, clap::Args)]
struct Change {
    #[command(flatten)]
    of: OfPlugin,
    /// Change one: the value is JSON, or else a text; what is not named stays as it is
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_set)]
    set: Vec<(String, Value)>,
    /// Take all values from a JSON file (- is standard input) instead of those in force
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Check the change and make none
    #[arg(long)]
    dry_run: bool,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Does what was asked for.
pub async fn run(args: Args) -> Outcome {
    let client = args.client.client()?;
    match args.command {
        Command::List(listing) => list(&client, listing.output).await,
        Command::Show(of) => show(&client.get(&path(&of.id)).await?),
        Command::Params(what) => change(&client, what, "params").await,
        Command::Limits(what) => change(&client, what, "limits").await,
        Command::Breaker(what) => change(&client, what, "breaker").await,
    }
}

async fn list(client: &Client, format: Format) -> Outcome {
    let plugins = client.list("/v1/plugins", &[], usize::MAX).await?;
    output::list(
        &plugins,
        format,
        &[
            ("PLUGIN", &|item| cell(item, "/id")),
            ("STATE", &|item| cell(item, "/state")),
            ("VERSION", &|item| cell(item, "/active/version")),
            ("KIND", &|item| cell(item, "/active/kind")),
            ("JUDGED", &|item| cell(item, "/counts/judged")),
            ("SKIPPED", &|item| cell(item, "/counts/skipped")),
            ("FAILED", &|item| cell(item, "/counts/failed")),
            ("FINDINGS", &|item| cell(item, "/counts/findings")),
            ("REFUSED", &|item| match item.pointer("/refusal/code") {
                Some(code) => format!("{} {}", code.as_str().unwrap_or("-"), cell(item, "/refusal/message")),
                None => String::new(),
            }),
        ],
    )?;
    Ok(Exit::Ok)
}

async fn change(client: &Client, change: Change, what: &str) -> Outcome {
    let id = &change.of.id;
    if change.set.is_empty() && change.file.is_none() {
        return show(client.get(&path(id)).await?.get(what).unwrap_or(&Value::Null));
    }
    let mut version = None;
    let mut value = match &change.file {
        Some(file) => read_json(file)?,
        // Parameters are replaced whole, so those in force are the base; so are the settings of a breaker.
        // Limits are changed one by one.
        None if what != "limits" => {
            let mut plugin = client.get(&path(id)).await?;
            version = plugin.get("settings_version").and_then(Value::as_u64);
            plugin.get_mut(what).map(Value::take).unwrap_or_default()
        }
        None => Value::Object(Map::new()),
    };
    let Value::Object(members) = &mut value else {
        return Err(Failure::usage(format!("{what} are a JSON object: {{\"name\": value}}")));
    };
    members.extend(change.set);
    let dry_run = if change.dry_run { "?dry_run=true" } else { "" };
    let path = format!("{}/{what}{dry_run}", path(id));
    let mut request = client.change(Method::PUT, &path, change.reason.as_deref()).json(&value);
    if let Some(version) = version {
        // What somebody else has set meanwhile is not undone.
        request = request.header("if-match", format!("\"{version}\""));
    }
    let applied = client.json(request).await?;
    show(applied.get("value").unwrap_or(&Value::Null))?;
    tell(&match change.dry_run {
        true => format!("{id}: these {what} would be accepted, nothing changed"),
        false => format!("{id}: these {what} are in force (revision {})", cell(&applied, "/revision")),
    })?;
    Ok(Exit::Ok)
}

fn path(id: &PluginId) -> String {
    format!("/v1/plugins/{id}")
}

pub(super) fn parse_id(text: &str) -> Result<PluginId, String> {
    let whole = if text.split('/').count() == 2 {
        match text.split_once('/') {
            Some((stream, name)) if stream.contains('.') => format!("{}/{name}", stream.replacen('.', "/", 1)),
            _ => format!("{}/{text}", phronis_core::name::DEFAULT_TENANT),
        }
    } else {
        text.to_owned()
    };
    whole.parse().map_err(|_| "expected tenant/stream/name, as in `phronis plugin list`".to_owned())
}

fn parse_set(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    if name.is_empty() {
        return Err("expected NAME=VALUE".to_owned());
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((name.to_owned(), value))
}

fn read_json(file: &Path) -> Result<Value, Failure> {
    let unfit = |error| Failure::usage(format!("{} is not JSON: {error}", file.display()));
    serde_json::from_slice(&read_whole(file)?).map_err(unfit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_may_be_named_the_short_way() {
        for (text, id) in [
            ("sensors/hot", Some("default/sensors/hot")),
            ("acme/sensors/hot", Some("acme/sensors/hot")),
            ("acme.sensors/hot", Some("acme/sensors/hot")),
            ("hot", None),
            ("a/b/c/d", None),
        ] {
            assert_eq!(parse_id(text).ok().map(|id| id.to_string()).as_deref(), id, "{text}");
        }
    }

    #[test]
    fn a_value_is_json_or_else_a_text() {
        assert_eq!(parse_set("high=90.5"), Ok(("high".to_owned(), 90.5.into())));
        assert_eq!(parse_set("unit=C"), Ok(("unit".to_owned(), "C".into())));
        assert_eq!(parse_set("a=b=c"), Ok(("a".to_owned(), "b=c".into())));
        assert!(parse_set("high").is_err());
    }
}
