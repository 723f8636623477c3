//! The embedded log against the suite of all logs, and what it alone promises. One binary, so that it is linked once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "also what tests share fails by panicking"
)]

mod crash;
mod full;
mod parts;
mod promises;
mod retention;
