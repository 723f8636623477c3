//! What the server needs to know before it starts.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use phronis_archive::query::Limits;
use phronis_core::{Name, StreamId};
use serde::Deserialize;

use crate::access::InvalidKeyHash;

/// Where to listen, who may do what, and how much at a time.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// Where to listen; port 0 takes any free port.
    pub listen: SocketAddr,
    /// Who may do what. Without a key everyone may do everything, and only loopback can be listened on.
    pub keys: Vec<Key>,
    /// Host names that requests may name besides the listen address and loopback, without a port.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may use the API besides its own page, like `https://ops.example.com`.
    pub allowed_origins: Vec<String>,
    /// The stream behind `POST /ingest`.
    pub ingest_stream: StreamId,
    /// The stream behind `POST /ingest/state`.
    pub state_stream: StreamId,
    /// Largest request body, in bytes, after decompression.
    pub max_body: usize,
    /// Most bytes of request bodies in memory, over all requests; past it requests are answered with 429.
    pub max_in_flight: usize,
    /// Most connections; more wait in the system's queue.
    pub max_connections: usize,
    /// Most clients of `GET /v1/events` at a time.
    pub max_listeners: usize,
    /// Most clients of `GET /v1/agents/stream` at a time.
    pub max_guards: usize,
    /// Most readers of `GET /v1/topics/{topic}/records` at a time; each holds a thread.
    pub max_readers: usize,
    /// What a query of the archive may take.
    pub query: Limits,
    /// How long a request's head may take to arrive, also the longest idle time of a connection.
    pub head_timeout: Duration,
    /// How long a client may leave its receive window closed before it is dropped.
    pub stall_timeout: Duration,
    /// How long a request's body may pause.
    pub body_timeout: Duration,
    /// How often a silent live stream sends a comment.
    pub heartbeat: Duration,
    /// How long requests may take to end after the server is told to stop.
    pub drain_for: Duration,
    /// The metrics of the process.
    pub metrics: PrometheusHandle,
}

impl Options {
    /// The defaults.
    pub fn new(listen: SocketAddr, metrics: PrometheusHandle) -> Self {
        Self {
            listen,
            keys: Vec::new(),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            ingest_stream: default_stream("sensors"),
            state_stream: default_stream("agents"),
            max_body: 32 << 20,
            // Eight of the largest bodies, or thousands of usual ones; decoding needs about as much again.
            max_in_flight: 256 << 20,
            max_connections: 1024,
            max_listeners: 256,
            max_guards: 768,
            max_readers: 32,
            query: Limits::new(std::env::temp_dir().join(format!("phronis-query-{}", std::process::id()))),
            head_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(20),
            heartbeat: Duration::from_secs(15),
            drain_for: Duration::from_secs(10),
            metrics,
        }
    }
}

#[expect(clippy::expect_used, reason = "called with two constant names, which a test parses")]
fn default_stream(name: &str) -> StreamId {
    name.parse().expect("a constant name")
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("listen", &self.listen).field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// A key: who holds it, whose things it opens, and what it allows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// What the holder is called in the audit.
    pub name: String,
    /// SHA-256 of the key.
    pub hash: KeyHash,
    /// The tenant whose things it opens; `None` is all tenants.
    #[serde(default)]
    pub tenant: Option<Name>,
    /// What it allows.
    pub role: Role,
}

/// What a key allows; each role includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// See streams, plugins, records and live events.
    Read,
    /// Post events, halt and reset agents.
    Write,
    /// Change parameters and limits.
    Admin,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        })
    }
}

/// The SHA-256 of a key; written as 64 hex digits. The key itself is nowhere in the configuration.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyHash(pub(crate) [u8; 32]);

impl FromStr for KeyHash {
    type Err = InvalidKeyHash;

    fn from_str(text: &str) -> Result<Self, InvalidKeyHash> {
        if text.len() != 64 {
            return Err(InvalidKeyHash);
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
            let (Some(high), Some(low)) = (pair.first().and_then(|c| digit(*c)), pair.last().and_then(|c| digit(*c)))
            else {
                return Err(InvalidKeyHash);
            };
            *byte = high << 4 | low;
        }
        Ok(Self(hash))
    }
}

impl TryFrom<String> for KeyHash {
    type Error = InvalidKeyHash;

    fn try_from(text: String) -> Result<Self, InvalidKeyHash> {
        text.parse()
    }
}

impl std::fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_streams_are_names() {
        assert_eq!(default_stream("sensors").to_string(), "sensors");
        assert_eq!(default_stream("agents").to_string(), "agents");
    }

    #[test]
    fn only_64_hex_digits_are_a_hash() {
        assert!("ab".repeat(32).parse::<KeyHash>().is_ok_and(|hash| hash.0 == [0xab; 32]));
        for bad in ["", "ab", &"zz".repeat(32), &"a".repeat(63), &"ä".repeat(32)] {
            assert!(bad.parse::<KeyHash>().is_err(), "{bad}");
        }
    }

    #[test]
    fn roles_rise() {
        assert!(Role::Read < Role::Write && Role::Write < Role::Admin);
    }
}
