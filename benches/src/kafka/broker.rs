//! A broker of this run's own, in a temporary folder, started the way that figures need: not `--quick`.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// A broker; dropping it removes all that it wrote, and so does the end of this process.
#[derive(Debug)]
pub(crate) struct Broker {
    dir: TempDir,
    /// What a client is given: `127.0.0.1:…`.
    pub(crate) bootstrap: String,
}

impl Broker {
    /// Starts it and waits until it answers.
    pub(crate) fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("phronis-bench-kafka-").tempdir()?;
        let mut broker = Self { dir, bootstrap: String::new() };
        let owner = std::process::id().to_string();
        broker.bootstrap = broker.run("start", &["--port", "0", "--heap", "1g", "--owner", &owner])?;
        Ok(broker)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Result<u32> {
        Ok(self.run("pid", &[])?.parse()?)
    }

    fn run(&self, action: &str, args: &[&str]) -> Result<String> {
        let mut command = Command::new(crate::repository("scripts/kafka"));
        command.arg(action).arg("--dir").arg(self.dir.path()).args(args);
        // What a person has set for a broker of their own is not for this one.
        for name in ["DIR", "PORT", "ADVERTISE_PORT", "DATA", "HEAP"] {
            command.env_remove(format!("PHRONIS_KAFKA_{name}"));
        }
        let output = command.output().context("running scripts/kafka")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "scripts/kafka {action}: {}", said.trim_end());
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Err(error) = self.run("wipe", &[]) {
            eprintln!("the broker in {} is left behind: {error:#}", self.dir.path().display());
        }
    }
}
