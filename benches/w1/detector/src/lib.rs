//! The detector of the Kafka benchmark: what `threshold` does, with the rule and the fields that the benchmark's checker asks for.

use phronis_sdk::prelude::*;

/// What is read of an event; the alert carries it.
#[derive(Debug, Event)]
pub struct Reading<'a> {
    sensor_id: &'a str,
    value: f64,
    ts: &'a str,
}

/// What the benchmark sets.
#[derive(Debug, Params)]
pub struct Limits {
    /// Values above are reported.
    #[param(default = 99.0)]
    high: f64,
}

/// Judges one event.
#[detector(name = "too-hot")]
pub fn judge(reading: Reading, limits: &Limits, alerts: &mut Alerts) {
    if reading.value > limits.high {
        alerts.warning("too-hot", format!("{} at {} since {}", reading.sensor_id, reading.value, reading.ts));
    }
}
