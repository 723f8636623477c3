//! Whole pipelines on an embedded log, alone and side by side, with real guests, and with a log that goes away.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "all of this crate is tests; the lints only spare functions that are marked as such"
)]

#[path = "pipeline/again.rs"]
mod again;
#[path = "pipeline/agents.rs"]
mod agents;
#[path = "pipeline/away.rs"]
mod away;
#[path = "pipeline/breaker.rs"]
mod breaker;
#[path = "pipeline/hosts.rs"]
mod hosts;
#[path = "pipeline/large.rs"]
mod large;
#[path = "pipeline/letters.rs"]
mod letters;
#[path = "pipeline/opening.rs"]
mod opening;
#[path = "pipeline/replay.rs"]
mod replay;
#[path = "pipeline/room.rs"]
mod room;
#[path = "pipeline/settings.rs"]
mod settings;
