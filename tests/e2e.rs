//! The host from end to end: real processes, real components, real files, judged by the independent checker.

#[path = "e2e/alerts.rs"]
mod alerts;
#[path = "e2e/archive.rs"]
mod archive;
#[path = "e2e/commands.rs"]
mod commands;
#[path = "e2e/config.rs"]
mod config;
#[path = "e2e/crash.rs"]
mod crash;
#[path = "e2e/disk.rs"]
mod disk;
#[path = "e2e/events.rs"]
mod events;
#[path = "e2e/files.rs"]
mod files;
#[path = "e2e/guard.rs"]
mod guard;
#[path = "e2e/guests.rs"]
mod guests;
#[path = "e2e/halted.rs"]
mod halted;
#[path = "e2e/kafka.rs"]
mod kafka;
#[path = "e2e/letters.rs"]
mod letters;
#[path = "e2e/nab.rs"]
mod nab;
#[path = "e2e/ordered.rs"]
mod ordered;
#[path = "e2e/params.rs"]
mod params;
#[path = "e2e/store.rs"]
mod store;
#[path = "e2e/swap.rs"]
mod swap;
#[path = "e2e/sweep.rs"]
mod sweep;
#[path = "e2e/tenants.rs"]
mod tenants;
#[path = "e2e/trouble.rs"]
mod trouble;
#[path = "e2e/web.rs"]
mod web;

use phronis_tests::checker::{above, judged_by};
use serde_json::json;

/// A reading as a line.
fn reading(sensor: &str, seq: u64, value: f64) -> String {
    format!("{}\n", json!({"sensor_id": sensor, "seq": seq, "value": value}))
}
