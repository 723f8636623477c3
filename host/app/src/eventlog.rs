//! Opens the event log that the configuration means, and asks it without waiting for ever.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use phronis_log::{Log, embedded, kafka};

use crate::config::{self, Config};
use crate::failure::{Exit, Failure};

/// An open log.
#[derive(Debug, Clone)]
pub enum EventLog {
    /// The one in the data folder.
    Embedded(embedded::Log),
    /// Apache Kafka.
    Kafka(kafka::Log),
}

/// What tools are called at the brokers. They join no group, so that several may have the same name.
pub const TOOL: &str = "phronis-cli";

impl EventLog {
    /// Opens the log for the host, or a tool, of this name. Kafka is not contacted yet.
    ///
    /// # Errors
    /// When the embedded log is in use or damaged, or Kafka's settings are refused.
    pub fn open(config: &Config, name: &str) -> Result<Self, Failure> {
        Ok(match &config.log {
            config::Log::Embedded(log) => Self::Embedded(embedded::Log::open(log.options(&config.data_dir))?),
            config::Log::Kafka(log) => Self::Kafka(kafka::Log::open(log.options(name))?),
        })
    }

    /// The log as the pipeline wants it.
    pub fn port(&self) -> Arc<dyn Log> {
        match self {
            Self::Embedded(log) => Arc::new(log.clone()),
            Self::Kafka(log) => Arc::new(log.clone()),
        }
    }

    /// Closes it.
    pub fn close(&self) {
        match self {
            Self::Embedded(log) => log.close(),
            Self::Kafka(log) => log.close(),
        }
    }
}

/// Does something that may block, on a thread of its own, and waits so long for it; after that the thread is left alone.
///
/// # Errors
/// Not reachable, when the time was up.
pub fn within<T: Send + 'static>(limit: Duration, ask: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let (sender, answer) = mpsc::channel();
    let thread = std::thread::Builder::new().name("ask-log".to_owned()).spawn(move || {
        // The answer may come too late for anyone to want it.
        drop(sender.send(ask()));
    });
    thread.map_err(|error| Failure::new(Exit::NotReachable, format!("cannot start a thread: {error}")))?;
    answer.recv_timeout(limit).map_err(|_| {
        Failure::new(Exit::NotReachable, format!("the log did not answer within {} s", limit.as_secs()))
            .code(phronis_core::code::LOG_UNREACHABLE)
    })
}

impl From<phronis_log::Error> for Failure {
    fn from(error: phronis_log::Error) -> Self {
        let exit = match error {
            phronis_log::Error::Locked { .. } => Exit::Refused,
            phronis_log::Error::Unreachable { .. } => Exit::NotReachable,
            _ => Exit::CheckFailed,
        };
        Self::new(exit, error.to_string()).code(error.code())
    }
}
