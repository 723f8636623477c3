//! `phronis compile-component`: the child process in which the host compiles a plugin. Not for people.

use crate::failure::{Exit, Outcome};

/// Compiles what comes in on standard input, within the limits that the parent set.
pub fn run() -> Outcome {
    Ok(Exit::Ok)
}
