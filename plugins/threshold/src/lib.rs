//! A detector that reports events whose number is above or below a limit.
//!
//! It judges one field, which a parameter names; a key may have limits of its own.

use phronis_sdk::prelude::*;

/// The limit of someone who sets none: a detector that is just dropped in does something at once.
const HIGH: f64 = 90.0;

/// What an operator sets.
#[derive(Debug, Params)]
#[params(validate = check)]
pub struct Limits {
    /// The field that is judged.
    #[param(default = "value")]
    field: String,
    /// Values above are reported. 90 when there is no limit at all.
    high: Option<f64>,
    /// Values below are reported.
    low: Option<f64>,
    /// How bad a finding is.
    #[param(default = Severity::Warning)]
    severity: Severity,
    /// Asks the host to halt the event's agent.
    #[param(default = false)]
    halt: bool,
    /// Limits of single keys; what a key does not set is taken from above.
    #[param(default)]
    overrides: BTreeMap<String, Override>,
}

/// The limits of one key.
#[derive(Debug, Params)]
pub struct Override {
    /// Values above are reported.
    high: Option<f64>,
    /// Values below are reported.
    low: Option<f64>,
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
    let (high, low) = limits.of(reading.key);
    let (rule, side, limit) = match (high, low) {
        (Some(high), _) if reading.value > high => ("too-high", "above", high),
        (_, Some(low)) if reading.value < low => ("too-low", "below", low),
        _ => return,
    };
    let (field, value) = (&limits.field, reading.value);
    let message = match reading.key {
        Some(key) => format!("{key}: {field} is {value}, {side} {limit}"),
        None => format!("{field} is {value}, {side} {limit}"),
    };
    alerts
        .raise(limits.severity, rule, message)
        .attribute("field", field)
        .attribute("value", value)
        .attribute("limit", limit)
        .halt_if(limits.halt);
}

impl Limits {
    /// High and low for a key.
    fn of(&self, key: Option<&str>) -> (Option<f64>, Option<f64>) {
        // Most streams have no overrides: then no key is looked up.
        let own = if self.overrides.is_empty() { None } else { key.and_then(|key| self.overrides.get(key)) };
        match own {
            Some(own) => (own.high.or(self.high), own.low.or(self.low)),
            None if self.high.is_none() && self.low.is_none() && self.overrides.is_empty() => (Some(HIGH), None),
            None => (self.high, self.low),
        }
    }
}

fn check(limits: &Limits) -> Result<(), ParamError> {
    ordered((limits.high, limits.low))?;
    for key in limits.overrides.keys() {
        ordered(limits.of(Some(key))).map_err(|error| error.within(key).within("overrides"))?;
    }
    Ok(())
}

fn ordered((high, low): (Option<f64>, Option<f64>)) -> Result<(), ParamError> {
    match (high, low) {
        (Some(high), Some(low)) if low > high => {
            Err(ParamError::new("low", format!("must not be above `high`: {low} > {high}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_cases_hold() {
        phronis_sdk::test::run_cases::<super::judge>("cases");
    }
}
