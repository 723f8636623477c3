//! What the threshold detector must find, for whoever installs it.

use serde_json::Value;

use super::{Expect, Judge, Verdict};

/// Each event above the limit has this plugin's alert, once; no other event has one.
pub fn above(plugin: &'static str, limit: f64) -> Judge<'static> {
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
pub fn judged_by(plugin: &'static str, limit: f64) -> Expect<'static> {
    Expect { detectors: [plugin.to_owned()].into(), judge: Some(above(plugin, limit)), ..Expect::default() }
}
