//! A real Apache Kafka of a test's own, and the plain clients with which a test speaks to it.
//!
//! The broker is started by `scripts/kafka` in a temporary folder. Nothing here uses the host's own Kafka code.

mod admin;
mod producer;
mod reader;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

pub use admin::Admin;
pub use producer::{NewRecord, produce};
pub use reader::{Isolation, Record, each, read_all};

use crate::plugins::root;
use crate::proxy::Proxy;

/// What differs from the usual broker.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where records go, when not beside the rest: a small mounted folder for example. Several are separated by commas.
    pub data: Option<PathBuf>,
    /// The port that clients are told, when not its own.
    pub advertised_port: Option<u16>,
    /// Further lines of `server.properties`.
    pub settings: Vec<(String, String)>,
    /// Users of SASL SCRAM-SHA-512, with their passwords.
    pub users: Vec<(String, String)>,
}

/// A broker. Dropping it kills it and removes all that it wrote; so does the end of this process.
#[derive(Debug)]
pub struct Broker {
    folder: TempDir,
    options: Options,
    port: u16,
}

impl Broker {
    /// Starts a broker and waits until it answers.
    ///
    /// # Errors
    /// When it does not; with the last lines of its log.
    pub fn start() -> anyhow::Result<Self> {
        Self::with(Options::default())
    }

    /// Starts a broker that is not the usual one.
    ///
    /// # Errors
    /// When it does not answer; with the last lines of its log.
    pub fn with(options: Options) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("phronis-kafka-").tempdir()?;
        let mut broker = Self { folder, options, port: 0 };
        // Its own controller puts out a broker that got no CPU for a while, and may not let it in again for minutes.
        broker.port = broker.launch(&["--set", "broker.session.timeout.ms=600000"])?;
        Ok(broker)
    }

    /// Starts a broker that clients reach through this proxy alone; [`Broker::direct`] passes it by.
    ///
    /// # Errors
    /// When it does not answer; with the last lines of its log.
    pub fn behind(proxy: &Proxy) -> anyhow::Result<Self> {
        let broker = Self::with(Options { advertised_port: Some(proxy.port()), ..Options::default() })?;
        proxy.aim(broker.port);
        Ok(broker)
    }

    /// The broker that all tests of this process share; never kill or pause it. It ends with the process.
    ///
    /// # Errors
    /// When it could not be started.
    pub fn shared() -> anyhow::Result<&'static Self> {
        static SHARED: OnceLock<Result<Broker, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| Self::start().map_err(|error| format!("{error:#}")));
        shared.as_ref().map_err(|error| anyhow::Error::msg(error.clone()))
    }

    /// What a client is given: `127.0.0.1:…`.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.options.advertised_port.unwrap_or(self.port))
    }

    /// The broker's own listener, which no proxy is in front of: for a checker that must see what is really there.
    pub fn direct(&self) -> String {
        format!("127.0.0.1:{}", self.port + 1)
    }

    /// The port on which clients are served.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its folder: configuration, log, data.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.run("pid", &[])?.parse()?)
    }

    /// Kills it from wherever it stands.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.run("kill", &[]).map(drop)
    }

    /// Lets it end in order.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn stop(&self) -> anyhow::Result<()> {
        self.run("stop", &[]).map(drop)
    }

    /// Starts it again after [`Broker::kill`] or [`Broker::stop`]: the same ports, the same data.
    ///
    /// # Errors
    /// When it does not answer; with the last lines of its log.
    pub fn restart(&self) -> anyhow::Result<()> {
        // A broker that was killed is let in when its last session is over: that one has to be short.
        let port = self.launch(&[])?;
        ensure!(port == self.port, "the broker came back on {port}, not on {}", self.port);
        Ok(())
    }

    /// Stops it where it stands: connections stay open and nothing is answered.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.run("pause", &[]).map(drop)
    }

    /// Lets it go on after [`Broker::pause`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.run("resume", &[]).map(drop)
    }

    fn launch(&self, more: &[&str]) -> anyhow::Result<u16> {
        let usual = ["--port", "0", "--quick", "--heap", "384m", "--owner"];
        let mut args: Vec<String> = more.iter().chain(&usual).map(|&word| word.to_owned()).collect();
        args.push(std::process::id().to_string());
        if let Some(port) = self.options.advertised_port {
            args.extend(["--advertise-port".to_owned(), port.to_string()]);
        }
        for (key, value) in &self.options.settings {
            args.extend(["--set".to_owned(), format!("{key}={value}")]);
        }
        for (name, password) in &self.options.users {
            args.extend(["--scram".to_owned(), format!("{name}:{password}")]);
        }
        let bootstrap = self.run("start", &args)?;
        let port = bootstrap.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        port.with_context(|| format!("scripts/kafka start said `{bootstrap}`"))
    }

    fn run(&self, action: &str, args: &[String]) -> anyhow::Result<String> {
        let mut command = Command::new(root().join("scripts/kafka"));
        command.arg(action).arg("--dir").arg(self.folder.path()).args(args);
        if let Some(data) = &self.options.data {
            command.arg("--data").arg(data);
        }
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
            eprintln!("the broker in {} is left behind: {error:#}", self.folder.path().display());
        }
    }
}
