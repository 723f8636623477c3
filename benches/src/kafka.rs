//! The job of the Kafka benchmark on a real broker, counted and checked by a reader that shares no code with the host.
//!
//! Each bench starts a broker of its own in a temporary folder, so that none inherits what another left behind.

pub(crate) mod broker;
mod engine;
pub(crate) mod input;
pub(crate) mod latency;
pub(crate) mod memory;
pub(crate) mod peers;
mod reader;
pub(crate) mod throughput;
pub(crate) mod topics;
mod verify;

/// A mebibyte.
pub(crate) const MIB: f64 = (1 << 20) as f64;

/// A whole number from the environment.
pub(crate) fn setting(name: &str, default: u64) -> anyhow::Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().map_err(|_| anyhow::anyhow!("{name} must be a whole number, not `{text}`")),
        Err(_) => Ok(default),
    }
}

/// The value in the middle; of an even number of values, between the two.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    let half = values.len() / 2;
    if values.len().is_multiple_of(2) { f64::midpoint(at(half.wrapping_sub(1)), at(half)) } else { at(half) }
}
