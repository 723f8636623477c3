//! The command line: what can be asked, and who answers.
//!
//! Standard output carries data alone; everything else goes to standard error.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::commands;
use crate::failure::{Exit, Failure, Outcome};

/// A stream processor that is programmed with WebAssembly plugins.
///
/// Drop a compiled detector into a watched folder; a moment later it judges every event of a stream.
///
/// Exit codes: 0 ok, 1 a check failed, 2 usage, 3 configuration invalid, 4 not reachable, 5 refused, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "phronis", version, max_term_width = 100, after_help = TRY, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const TRY: &str = "\
Try it:
  phronis run                               a host on 127.0.0.1:8000
  phronis simulate --rate 500               made-up sensors with faults, from another terminal
  phronis tail alerts                       what the plugins found
  curl -d '{\"sensor_id\":\"S01\",\"value\":98.6}' localhost:8000/ingest";

#[derive(Debug, Subcommand)]
enum Command {
    Run(commands::run::Args),
    Check(commands::check::Args),
    Config(commands::config::Args),
    Doctor(commands::doctor::Args),
    Load(commands::load::Args),
    Simulate(commands::simulate::Args),
    Tail(commands::tail::Args),
    Streams(commands::streams::Args),
    Topics(commands::topics::Args),
    Plugin(commands::plugin::Args),
    Agents(commands::agents::Args),
    Audit(commands::audit::Args),
    Letters(commands::letters::Args),
    Breaker(commands::breaker::Args),
    Archive(commands::archive::Args),
    Replay(commands::replay::Args),
    Explain(commands::explain::Args),
    #[command(hide = true)]
    CompileComponent,
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    run(std::env::args_os()).into()
}

/// Runs a command line, tells what went wrong, and says how it ended.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, and go to standard output.
            let is_error = error.use_stderr();
            return match error.print() {
                Ok(()) if is_error => Exit::Usage,
                _ => Exit::Ok,
            };
        }
    };
    match cli.command.run() {
        Ok(exit) => exit,
        Err(failure) => {
            if !failure.message.is_empty() {
                // Without standard error there is nobody to tell.
                let _nobody = writeln!(std::io::stderr(), "{failure}");
            }
            failure.exit
        }
    }
}

impl Command {
    fn run(self) -> Outcome {
        match self {
            Self::Run(args) => commands::run::run(args),
            Self::Check(args) => commands::check::run(&args),
            Self::Config(args) => commands::config::run(&args),
            Self::Doctor(args) => block_on(commands::doctor::run(&args)),
            Self::Load(args) => block_on_to_the_end(commands::load::run(args)),
            Self::Simulate(args) => block_on_to_the_end(commands::simulate::run(args)),
            Self::Tail(args) => block_on(commands::tail::run(args)),
            Self::Streams(args) => block_on(commands::streams::run(&args)),
            Self::Topics(args) => commands::topics::run(&args),
            Self::Plugin(args) => block_on(commands::plugin::run(args)),
            Self::Agents(args) => block_on(commands::agents::run(args)),
            Self::Audit(args) => block_on(commands::audit::run(&args)),
            Self::Letters(args) => block_on(commands::letters::run(args)),
            Self::Breaker(args) => block_on(commands::breaker::run(args)),
            Self::Archive(args) => block_on_threads(commands::archive::run(args)),
            Self::Replay(args) => block_on_threads(commands::replay::run(args)),
            Self::Explain(args) => commands::explain::run(&args),
            Self::CompileComponent => commands::compile_component::run(),
        }
    }
}

/// Runs a command that waits for a host; Ctrl-C ends it where it stands.
fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
    block_on_to_the_end(async {
        tokio::select! {
            outcome = command => outcome,
            _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
        }
    })
}

/// The same for a command that has work for more than one core.
fn block_on_threads(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::NotReachable, format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = command => outcome,
            _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
        }
    });
    runtime.shutdown_background();
    outcome
}

/// Runs a command that sees to Ctrl-C itself.
fn block_on_to_the_end(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::NotReachable, format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(command);
    // A thread may still wait for input that never comes.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
