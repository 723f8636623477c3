//! The host from end to end: real processes, real components, real files, judged by the independent checker.

#[path = "e2e/alerts.rs"]
mod alerts;
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
#[path = "e2e/guests.rs"]
mod guests;
#[path = "e2e/nab.rs"]
mod nab;
#[path = "e2e/params.rs"]
mod params;
#[path = "e2e/swap.rs"]
mod swap;
#[path = "e2e/tenants.rs"]
mod tenants;
#[path = "e2e/web.rs"]
mod web;

use phronis_tests::checker::{Expect, Judge, Verdict};
use serde_json::{Value, json};

/// What the threshold detector must find: each event above the limit, once.
fn above(plugin: &'static str, limit: f64) -> Judge<'static> {
    Box::new(move |seen| {
        let value = seen.event.get("value").and_then(Value::as_f64).unwrap_or(f64::NAN);
        let alerts = seen.alerts.iter().filter(|alert| alert.plugin == plugin).count() as u64;
        match value > limit {
            true => Verdict { found: alerts.min(1), missed: 1 - alerts.min(1), wrong: alerts.saturating_sub(1) },
            false => Verdict { wrong: alerts, ..Verdict::default() },
        }
    })
}

/// One detector that judges from the first event on.
fn judged_by(plugin: &'static str, limit: f64) -> Expect<'static> {
    Expect { detectors: [plugin.to_owned()].into(), judge: Some(above(plugin, limit)), ..Expect::default() }
}

/// A reading as a line.
fn reading(sensor: &str, seq: u64, value: f64) -> String {
    format!("{}\n", json!({"sensor_id": sensor, "seq": seq, "value": value}))
}
