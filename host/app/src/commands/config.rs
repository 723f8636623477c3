//! `phronis config`: what is in force and where it came from, and an example to start from.

use std::io::Write as _;

use super::ConfigArgs;
use crate::config::{EXAMPLE, show_effective};
use crate::failure::{Exit, Outcome};

/// Show the configuration in force, or an example of one
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print every setting in force as TOML that can be read again; secrets are masked
    Show {
        #[command(flatten)]
        config: ConfigArgs,
        /// Say where each value came from: a line of a file, a variable, an option, or the default
        #[arg(long)]
        origin: bool,
    },
    /// Print a commented configuration with all settings and their defaults
    Example,
}

/// Prints what was asked for.
pub fn run(args: &Args) -> Outcome {
    let mut out = std::io::stdout().lock();
    match &args.command {
        Command::Show { config, origin } => {
            writeln!(out, "{}", show_effective(&config.load()?.effective, *origin))?;
        }
        Command::Example => write!(out, "{EXAMPLE}")?,
    }
    Ok(Exit::Ok)
}
