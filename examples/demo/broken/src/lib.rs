//! The threshold detector as it must not be: the limits of a site stand in a table that has no row for any site.
//!
//! It loads, it takes its parameters, and it crashes on every event: what no check before the first event can see.

use phronis_sdk::prelude::*;

/// What an operator sets.
#[derive(Debug, Params)]
pub struct Limits {
    /// The field that is judged.
    #[param(default = "value")]
    field: String,
    /// Values above are reported.
    #[param(default = 90.0)]
    high: f64,
}

/// What is read of an event.
#[derive(Debug, Event)]
pub struct Reading<'a> {
    #[field(path_param = "field")]
    value: f64,
    #[field(path = "$key")]
    key: Option<&'a str>,
}

/// Judges one event.
#[detector(name = "threshold")]
pub fn judge(reading: Reading, limits: &Limits, alerts: &mut Alerts) {
    let sites: [(&str, f64); 0] = [];
    let site = reading.key.and_then(|key| sites.iter().find(|(name, _)| key.starts_with(name)));
    #[expect(clippy::expect_used, reason = "the mistake that the demo shows")]
    let (_, margin) = site.expect("every sensor stands in the table of sites");
    if reading.value > limits.high + margin {
        alerts.raise(Severity::Warning, "too-high", format!("{} is {}", limits.field, reading.value));
    }
}
