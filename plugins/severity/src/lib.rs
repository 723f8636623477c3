//! An enricher that grades a number as `ok`, `warning` or `critical` into a new column.
//!
//! A `critical` below `warning` means that low values are the bad ones.

use phronis_sdk::prelude::*;

/// What an operator sets.
#[derive(Debug, Params)]
#[params(validate = check)]
pub struct Grades {
    /// The field that is graded.
    #[param(default = "value")]
    field: String,
    /// From here on it is a warning.
    warning: f64,
    /// From here on it is critical; below `warning`: the lower, the worse.
    critical: f64,
    /// The column that is added.
    #[param(default = "severity")]
    output: String,
}

/// What is read of an event.
#[derive(Debug, Event)]
pub struct Reading {
    #[field(path_param = "field")]
    value: f64,
}

/// What is added to an event.
#[derive(Debug, Added)]
pub struct Grade {
    #[column(name_param = "output")]
    severity: &'static str,
}

/// Grades one event.
#[enricher(name = "severity")]
pub fn grade(reading: Reading, grades: &Grades) -> Grade {
    // Mirrored where low is bad, so that one comparison serves both.
    let sign = if grades.critical > grades.warning { 1.0 } else { -1.0 };
    let reaches = |limit: f64| reading.value * sign >= limit * sign;
    let severity = if reaches(grades.critical) {
        "critical"
    } else if reaches(grades.warning) {
        "warning"
    } else {
        "ok"
    };
    Grade { severity }
}

fn check(grades: &Grades) -> Result<(), ParamError> {
    if grades.warning == grades.critical {
        return Err(ParamError::new(
            "critical",
            "must differ from `warning`: which side is worse is read from the two",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_cases_hold() {
        phronis_sdk::test::run_cases::<super::grade>("cases");
    }
}
