//! Runs untrusted plugins: compiles, checks, limits, calls and watches them.
//!
//! The only crate that knows wasmtime. What comes in is Arrow columns, what goes out is `phronis_core::plugin`;
//! nothing of wasmtime shows in the public API.
//!
//! The way of a plugin: [`watch::Watcher`] sees the file, [`Engine::load`] compiles and checks it and gives a
//! [`Component`], [`Component::probe`] says what it reads and adds under some parameters, and a [`Runner`] (one for
//! each plugin and worker) judges batches.
//!
//! Limits of the promise: a deadline is wall-clock time, checked at loop heads and function entries of the guest, so
//! a guest is interrupted within a few milliseconds, not at once, and a machine that is starved of CPU can run an
//! honest guest into its deadline. Host calls that a guest makes are short and bounded, but not interrupted.

mod answer;
mod bisect;
mod cache;
mod columns;
mod compile;
mod component;
mod engine;
mod error;
mod inspect;
mod instance;
pub mod limits;
mod log;
mod manifest;
mod params;
mod runner;
mod sandbox;
mod settings;
mod text;
mod ticker;
mod wasi;
pub mod watch;
mod wit;

pub use compile::{Compiler, compile_child};
pub use component::{Component, Shape};
pub use engine::{Engine, Options};
pub use error::{Error, Refusal};
pub use params::ParamProblem;
pub use runner::{CallOutcomes, Enriched, Judged, Runner};
