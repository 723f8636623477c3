//! Whether Kafka can be reached, as far as this process knows.
//!
//! One thread asks for metadata now and then; everyone else only looks. It is told once when Kafka goes and when it comes back,
//! while librdkafka would say so for each client and each attempt.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use crate::{Error, Result};

/// How a reason begins that someone must do something about.
const REFUSED: &str = "the broker refuses the credentials";

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    /// Nobody has asked yet.
    #[default]
    Unknown,
    Up,
    Down {
        reason: String,
        since: Instant,
    },
}

impl Health {
    /// An error while Kafka is not known to be there.
    pub(super) fn check(&self) -> Result<()> {
        match &*self.lock() {
            State::Up => Ok(()),
            State::Unknown => Err(Error::Unreachable { reason: "it has not answered yet".to_owned() }),
            State::Down { reason, .. } => Err(Error::Unreachable { reason: reason.clone() }),
        }
    }

    /// Kafka answered.
    pub(super) fn answered(&self) {
        let before = std::mem::replace(&mut *self.lock(), State::Up);
        match before {
            State::Up => {}
            State::Unknown => tracing::info!("Kafka answers"),
            State::Down { since, .. } => tracing::info!(after = ?since.elapsed(), "Kafka answers again"),
        }
    }

    /// Kafka did not answer.
    pub(super) fn silent(&self, reason: String) {
        let mut state = self.lock();
        match &mut *state {
            // Why it refuses says more than that it is silent.
            State::Down { reason: known, .. } if known.starts_with(REFUSED) && !reason.starts_with(REFUSED) => {}
            State::Down { reason: known, .. } => *known = reason,
            State::Unknown | State::Up => {
                tracing::warn!(%reason, "Kafka cannot be reached; trying again until it can");
                *state = State::Down { reason, since: Instant::now() };
            }
        }
    }

    /// What a client said about itself.
    pub(super) fn heard(&self, error: &KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed) => {
                self.silent(format!("{REFUSED}: {reason}"));
            }
            // Single connections come and go, and a client that has none is not the whole.
            _ => tracing::debug!(%error, reason, "a Kafka client"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
