//! The `phronis` binary. What it does stands in the library of this crate.

fn main() -> std::process::ExitCode {
    phronis::cli::main()
}
