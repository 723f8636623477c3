//! Ceilings: what a plugin's file or the API may set, at most.
//!
//! Files and API only lower what the host's `[limits.max]` allows; asking for more is refused, never silently capped,
//! so that nobody believes in a limit that does not hold.

use phronis_core::Code;
use phronis_core::code::CEILING_EXCEEDED;
use phronis_core::plugin::Limits;

/// The least memory that lets a small plugin start.
const LEAST_MEMORY: u64 = 1 << 20;

/// A limit that asks for more than its ceiling, or for too little to work with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// [`CEILING_EXCEEDED`].
    pub code: Code,
    /// The name of the limit, as in the settings file.
    pub field: &'static str,
    /// What was asked for.
    pub wanted: u64,
    /// What is allowed.
    pub allowed: u64,
    /// Both in words.
    pub message: String,
}

/// Checks wanted limits against a ceiling.
///
/// # Errors
///
/// Names every limit that is above its ceiling, or too small to run anything, with both numbers.
pub fn lower(wanted: Limits, ceiling: &Limits) -> Result<Limits, Vec<Problem>> {
    let rows = [
        ("memory", wanted.memory, LEAST_MEMORY, ceiling.memory),
        ("deadline_ms", wanted.deadline_ms, 1, ceiling.deadline_ms),
        ("output_rows", wanted.output_rows.into(), 1, ceiling.output_rows.into()),
        ("output_bytes", wanted.output_bytes, 1024, ceiling.output_bytes),
        ("log_bytes", wanted.log_bytes, 0, ceiling.log_bytes),
    ];
    let mut problems = Vec::new();
    for (field, wanted, least, most) in rows {
        if wanted > most {
            let message = format!("`{field}` asks for {wanted}, the ceiling is {most}: lower it or ask the operator");
            problems.push(Problem { code: CEILING_EXCEEDED, field, wanted, allowed: most, message });
        } else if wanted < least.min(most) {
            let message = format!("`{field}` asks for {wanted}, less than {least} cannot run a plugin");
            problems.push(Problem { code: CEILING_EXCEEDED, field, wanted, allowed: least, message });
        }
    }
    if problems.is_empty() { Ok(wanted) } else { Err(problems) }
}

/// Lowers every limit to its ceiling: a second line of defence where limits were not checked by [`lower`].
pub(crate) fn clamp(wanted: Limits, ceiling: &Limits) -> Limits {
    Limits {
        memory: wanted.memory.min(ceiling.memory),
        deadline_ms: wanted.deadline_ms.clamp(1, ceiling.deadline_ms.max(1)),
        output_rows: wanted.output_rows.min(ceiling.output_rows),
        output_bytes: wanted.output_bytes.min(ceiling.output_bytes),
        log_bytes: wanted.log_bytes.min(ceiling.log_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_for_more_than_the_ceiling_is_refused_with_both_numbers() {
        let ceiling = Limits::default();
        assert_eq!(lower(ceiling, &ceiling), Ok(ceiling));
        let wanted = Limits { memory: ceiling.memory + 1, deadline_ms: 0, ..ceiling };
        let problems = lower(wanted, &ceiling).unwrap_err();
        assert_eq!(problems.iter().map(|p| p.field).collect::<Vec<_>>(), ["memory", "deadline_ms"]);
        assert_eq!(problems[0].code, CEILING_EXCEEDED);
        assert!(problems[0].message.contains("67108865") && problems[0].message.contains("67108864"));
    }
}
