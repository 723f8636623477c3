//! What tests, the chaos run and the demo share: a real host in a room of its own, and the independent checker.
//!
//! Nothing here looks into the host: it is started as a process, spoken to over HTTP,
//! and judged by what it left in its log. The broker of the Kafka tests is a real one, and so is its bad network.

pub mod archived;
pub mod checker;
pub mod faults;
pub mod flaky;
pub mod fleet;
pub mod host;
pub mod kafka;
pub mod load;
pub mod mount;
pub mod plugins;
pub mod postgres;
pub mod proxy;
pub mod rest;
pub mod s3;
pub mod sweep;
