//! `phronis run`: a host, from its configuration to its orderly end.

use super::ConfigArgs;
use crate::failure::{Exit, Failure, Outcome};

/// Run a host
///
/// Without a configuration: the streams `sensors` and `agents` on 127.0.0.1:8000, data in ./phronis-data.
/// SIGTERM and Ctrl-C end it orderly: what was taken is judged and committed. A second signal ends it at once.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Run only these parts of a host (not on the embedded log, which has one process)
    #[arg(long, value_name = "ROLE", value_delimiter = ',')]
    pub role: Vec<String>,
}

/// Runs a host until it is told to end.
pub fn run(args: Args) -> Outcome {
    if !args.role.is_empty() {
        return Err(Failure::usage("--role: the embedded log belongs to one process, which runs all roles")
            .next("leave out --role"));
    }
    let config = args.config.load()?;
    crate::logging::start(&config.logging);
    Err(Failure::new(Exit::CheckFailed, "the host is not wired yet"))
}
