//! The pipeline: takes records through their stages, and plugins through their lives.
//!
//! [`Pipeline::start`] brings up the branches that share nothing but the log:
//! workers a stream (`worker`), the control of plugins (`plugins`), the alert branch (`live`), the retry branch (`retry`),
//! the archive branch ([`archive`]), and the kill switch ([`agents`]).
//! They begin when the log is ready for them (`opening`, `readiness`); [`hosts`] are the others that share it.
//! [`Handle`] is what the faces see of it.

pub mod agents;
pub mod archive;
pub mod breakers;
mod clock;
mod crew;
mod error;
mod failpoint;
mod handle;
pub mod hosts;
pub mod ingest;
mod lasting;
pub mod letters;
pub mod live;
mod meters;
mod opening;
pub mod plugins;
mod readiness;
pub mod replay;
pub mod retry;
mod roles;
mod stage;
pub mod status;
pub mod stream;
mod supervisor;
mod topics;
mod whole;
mod worker;

pub use error::Error;
pub use handle::Handle;
pub use roles::{Node, Role, UnknownRole};
pub use supervisor::{Options, Pipeline};
pub use topics::{TopicPolicy, topics};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
