//! Words and decisions of Phronis.
//!
//! Pure: no async, no I/O, no clock (time is an argument), no wasmtime, no Kafka.
//! Everything here can be tested with thousands of cases in milliseconds.

pub mod code;
pub mod delivery;
pub mod name;
pub mod plugin;
pub mod records;

pub use code::Code;
pub use name::{Name, PluginId, StreamId};
