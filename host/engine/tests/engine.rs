//! The engine against real components that misbehave: the host lives, the other rows are judged, the guilty are named.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    unreachable_pub,
    reason = "all of this crate is tests; the lints only spare functions that are marked as such"
)]

#[path = "engine/contract.rs"]
mod contract;
#[path = "engine/hostile.rs"]
mod hostile;
#[path = "engine/loading.rs"]
mod loading;
#[path = "engine/support.rs"]
mod support;
#[path = "engine/watching.rs"]
mod watching;
