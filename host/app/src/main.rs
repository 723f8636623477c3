//! The `phronis` binary.
fn main() {}
