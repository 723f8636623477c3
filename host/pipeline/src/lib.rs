//! The pipeline: takes records through their stages, and plugins through their lives.
//!
//! [`Pipeline::start`] brings up the branches that share nothing but the log:
//! workers a stream (`worker`), the control of plugins (`plugins`), and the alert branch (`live`).
//! [`Handle`] is what the faces see of it.

mod clock;
mod crew;
mod error;
mod handle;
pub mod ingest;
pub mod live;
mod meters;
pub mod plugins;
mod stage;
pub mod status;
pub mod stream;
mod supervisor;
mod worker;

pub use error::Error;
pub use handle::Handle;
pub use supervisor::{Options, Pipeline};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
