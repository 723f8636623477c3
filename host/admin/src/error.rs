//! Why the server does not start.

use std::net::SocketAddr;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the server itself. What goes wrong with a request is a problem document instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The port is taken.
    #[error("{address} is used by another program: stop it, or listen elsewhere (another host may be running already)")]
    PortTaken {
        /// Where the server was to listen.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Where the server was to listen.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// Everyone on the network could read and change everything.
    #[error("{address} is reachable from other machines and no key is configured: add a key, or listen on 127.0.0.1")]
    KeyNeeded {
        /// Where the server was to listen.
        address: SocketAddr,
    },
    /// The listening socket broke.
    #[error("the listening socket failed: {0}")]
    Listener(#[source] std::io::Error),
}
