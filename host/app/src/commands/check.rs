//! `phronis check`: whether a host would start with this configuration and these plugins. Changes nothing.

use std::io::Write as _;

use super::ConfigArgs;
use crate::config::{Config, Problems};
use crate::failure::{Exit, Outcome};
use crate::survey;

/// Check a configuration, its contracts and its plugins, without running anything
///
/// Tells every problem, with file, line and what was expected. Exits with 3 when there is one.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
}

/// Checks, and sums up what would run.
pub fn run(args: &Args) -> Outcome {
    let config = args.config.load()?;
    let mut survey = survey::plugins(&config);
    survey.load_all(&config)?;
    if !survey.problems.is_empty() {
        return Err(Problems(survey.problems).into());
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "ok: {}", summary(&config, survey.plugins.len()))?;
    for (id, stream) in &config.streams {
        let contract =
            stream.contract_file.as_ref().map_or_else(|| "built in".to_owned(), |path| path.display().to_string());
        let plugins: Vec<&str> =
            survey.plugins.iter().filter(|plugin| plugin.stream == *id).map(|plugin| plugin.name.as_str()).collect();
        let plugins = if plugins.is_empty() { "no plugins".to_owned() } else { plugins.join(", ") };
        writeln!(out, "  {id}: {} partitions, contract {contract}, {plugins}", stream.partitions)?;
    }
    Ok(Exit::Ok)
}

fn summary(config: &Config, plugins: usize) -> String {
    let keys = match config.http.keys.len() {
        0 => "no keys (this machine only)".to_owned(),
        count => format!("{count} key{}", plural(count)),
    };
    let streams = config.streams.len();
    format!(
        "{streams} stream{}, {plugins} plugin{}, {keys}, listens on {}, data in {}",
        plural(streams),
        plural(plugins),
        config.http.listen,
        config.data_dir.display()
    )
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
