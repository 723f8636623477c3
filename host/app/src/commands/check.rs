//! `phronis check`: whether a host would start with this configuration and these plugins. Changes nothing.

use std::io::Write;

use super::{ConfigArgs, topics};
use crate::archive;
use crate::config::{Config, Problems};
use crate::eventlog::{EventLog, TOOL};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::cell;
use crate::survey;

/// Check a configuration, its contracts and its plugins, without running anything
///
/// Tells every problem, with file, line and what was expected. Exits with 3 when there is one.
/// With --online it also asks Kafka whether the topics are as configured, and exits with 1 when they are not,
/// the store whether it answers, and storage and catalog of the archive, also where they are not on this machine.
/// What a contract would change in the tables of the archive is told; what they cannot take is refused.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Contact Kafka and the store too, and compare the topics with the configuration
    #[arg(long)]
    online: bool,
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
    if args.online {
        online(&config, &args.config, &mut out)?;
        writeln!(out, "  store: {}", ask_store(&config)?)?;
    }
    if args.online || archive::is_local(&config) {
        for line in ask_archive(&config)? {
            writeln!(out, "  archive: {line}")?;
        }
    } else if config.archive.is_some() {
        writeln!(out, "  archive: not asked whether it takes these contracts; --online asks")?;
    }
    Ok(Exit::Ok)
}

/// Compares the topics in Kafka with the configuration.
fn online(config: &Config, which: &ConfigArgs, out: &mut impl Write) -> Outcome {
    let Some(kafka) = config.log.kafka() else {
        writeln!(out, "  log: embedded, there is nobody to contact")?;
        return Ok(Exit::Ok);
    };
    let log = EventLog::open(config, TOOL)?;
    let found = topics::ask(config, &log);
    log.close();
    let found = found?;
    let (items, failure) = topics::compared(&found, &which.files);
    match failure {
        None => {
            writeln!(out, "  log: Kafka at {}, all {} topics are as configured", kafka.bootstrap.0, items.len())?;
            Ok(Exit::Ok)
        }
        Some(failure) => {
            let is_wrong = |item: &&serde_json::Value| cell(item, "/state") != "as configured";
            let line = |item| format!("\n  {}: {}", cell(item, "/topic"), topics::told(item));
            let lines: String = items.iter().filter(is_wrong).map(line).collect();
            Err(Failure { message: format!("{}{lines}", failure.message), ..failure })
        }
    }
}

fn ask_store(config: &Config) -> Result<String, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(crate::store::asked(config))
}

fn ask_archive(config: &Config) -> Result<Vec<String>, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(archive::changes(config))
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
