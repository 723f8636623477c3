//! An enricher that converts a number to one unit a quantity: °C, bar, m/s, m, kg, W.
//!
//! It reads the number and its unit from two fields and adds both, converted, as two columns.

use phronis_sdk::prelude::*;

/// What an operator sets.
#[derive(Debug, Params)]
pub struct Columns {
    /// The field with the number.
    #[param(default = "value")]
    value_field: String,
    /// The field with the unit.
    #[param(default = "unit")]
    unit_field: String,
    /// The column for the converted number.
    #[param(default = "value_normal")]
    value_output: String,
    /// The column for its unit.
    #[param(default = "unit_normal")]
    unit_output: String,
    /// What happens to an event without a unit that is known: `fail` makes it a letter, `pass` adds number and unit as
    /// they are.
    #[param(default = Unknown::Fail)]
    unknown: Unknown,
}

/// What happens to an event without a unit that is known.
#[derive(Debug, Clone, Copy, PartialEq, Params)]
pub enum Unknown {
    /// It becomes a letter.
    Fail,
    /// Number and unit are added as they are.
    Pass,
}

/// What is read of an event.
#[derive(Debug, Event)]
pub struct Reading<'a> {
    #[field(path_param = "value_field")]
    value: f64,
    #[field(path_param = "unit_field")]
    unit: Option<&'a str>,
}

/// What is added to an event.
#[derive(Debug, Added)]
pub struct Normal<'a> {
    #[column(name_param = "value_output")]
    value: f64,
    #[column(name_param = "unit_output")]
    unit: Option<&'a str>,
}

/// A unit: `normal = (value + offset) * factor`.
struct Unit {
    names: &'static [&'static str],
    normal: &'static str,
    offset: f64,
    factor: f64,
}

const fn unit(names: &'static [&'static str], normal: &'static str, offset: f64, factor: f64) -> Unit {
    Unit { names, normal, offset, factor }
}

/// The units that are known. Factors: BIPM, "The International System of Units", and NIST SP 811, appendix B.
const UNITS: &[Unit] = &[
    unit(&["°C", "C", "degC", "celsius"], "°C", 0.0, 1.0),
    unit(&["°F", "F", "degF", "fahrenheit"], "°C", -32.0, 5.0 / 9.0),
    unit(&["K", "kelvin"], "°C", -273.15, 1.0),
    unit(&["bar"], "bar", 0.0, 1.0),
    unit(&["mbar", "hPa"], "bar", 0.0, 1e-3),
    unit(&["Pa"], "bar", 0.0, 1e-5),
    unit(&["kPa"], "bar", 0.0, 1e-2),
    unit(&["MPa"], "bar", 0.0, 10.0),
    unit(&["psi"], "bar", 0.0, 0.068_947_572_931_683),
    unit(&["atm"], "bar", 0.0, 1.013_25),
    unit(&["m/s"], "m/s", 0.0, 1.0),
    unit(&["mm/s"], "m/s", 0.0, 1e-3),
    unit(&["km/h"], "m/s", 0.0, 1.0 / 3.6),
    unit(&["mph"], "m/s", 0.0, 0.447_04),
    unit(&["kn", "kt"], "m/s", 0.0, 1852.0 / 3600.0),
    unit(&["m"], "m", 0.0, 1.0),
    unit(&["mm"], "m", 0.0, 1e-3),
    unit(&["cm"], "m", 0.0, 1e-2),
    unit(&["km"], "m", 0.0, 1e3),
    unit(&["in"], "m", 0.0, 0.0254),
    unit(&["ft"], "m", 0.0, 0.3048),
    unit(&["kg"], "kg", 0.0, 1.0),
    unit(&["g"], "kg", 0.0, 1e-3),
    unit(&["t"], "kg", 0.0, 1e3),
    unit(&["lb"], "kg", 0.0, 0.453_592_37),
    unit(&["W"], "W", 0.0, 1.0),
    unit(&["kW"], "W", 0.0, 1e3),
    unit(&["MW"], "W", 0.0, 1e6),
];

/// Converts one event.
#[enricher(name = "unit-normaliser")]
pub fn normalise<'a>(reading: Reading<'a>, columns: &Columns) -> Result<Normal<'a>, String> {
    let Reading { value, unit } = reading;
    let known = unit.and_then(|name| UNITS.iter().find(|unit| unit.names.contains(&name.trim())));
    match (known, unit) {
        (Some(known), _) => Ok(Normal { value: (value + known.offset) * known.factor, unit: Some(known.normal) }),
        (None, unit) if columns.unknown == Unknown::Pass => Ok(Normal { value, unit }),
        (None, Some(unit)) => Err(format!("unit `{unit}` is not known")),
        (None, None) => Err(format!("there is no unit in `{}`", columns.unit_field)),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_cases_hold() {
        phronis_sdk::test::run_cases::<super::normalise>("cases");
    }
}
