//! Words and decisions of Phronis.
//!
//! Pure: no async, no I/O, no clock (time is an argument), no wasmtime, no Kafka.
//! Everything here can be tested with thousands of cases in milliseconds.

pub mod agent;
pub mod alert;
pub mod breaker;
pub mod code;
pub mod contract;
pub mod decode;
pub mod delivery;
pub mod events;
pub mod id;
mod json;
pub mod letter;
pub mod name;
pub mod partition;
pub mod plugin;
pub mod processed;
pub mod records;
pub mod text;
pub mod time;

pub use code::Code;
pub use contract::Contract;
pub use decode::{Checked, Decoder, Rejection};
pub use events::Events;
pub use id::Id;
pub use name::{Name, PluginId, StreamId};
pub use time::Time;
