//! The `phronis` program: command line, configuration, and the wiring of a host.
//!
//! `main.rs` only calls [`cli::main`]; what can be tested stands here.
//! Commands are one file each in [`commands`]; no decision about events is made in this crate.

mod allocator;
mod archive;
pub mod cli;
pub mod client;
pub mod commands;
pub mod config;
pub mod eventlog;
pub mod failure;
pub mod logging;
pub mod node;
pub mod output;
pub mod signals;
mod store;
pub mod survey;
pub mod topics;
