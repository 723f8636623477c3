//! The threshold detector, next version: it also says how far over the limit a value is.
//!
//! The demo saves it over the running version, under load. Same name, same parameters, another component.

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
    let (field, value, limit) = (&limits.field, reading.value, limits.high);
    if value <= limit {
        return;
    }
    let message = format!("{}: {field} is {value}, {:.1} above {limit}", reading.key.unwrap_or("?"), value - limit);
    alerts
        .raise(Severity::Warning, "too-high", message)
        .attribute("field", field)
        .attribute("value", value)
        .attribute("limit", limit);
}
