//! The compile child as a program of its own: what `phronis` runs as a hidden subcommand.

use std::process::ExitCode;

fn main() -> ExitCode {
    phronis_engine::compile_child()
}
