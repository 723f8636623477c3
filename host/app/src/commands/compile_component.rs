//! `phronis compile-component`: the child process in which the host compiles a plugin. Not for people.

use std::process::ExitCode;

use crate::failure::{Exit, Outcome};

/// Compiles what comes in on standard input, within the limits that the parent set.
pub fn run() -> Outcome {
    let is_ok = phronis_engine::compile_child() == ExitCode::SUCCESS;
    Ok(if is_ok { Exit::Ok } else { Exit::CheckFailed })
}
