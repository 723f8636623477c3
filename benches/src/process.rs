//! What the system knows about a process: the CPU time that it used, the memory that it holds.

use anyhow::{Context, Result};

/// Linux counts CPU time in these towards programs, whatever the kernel's own clock.
const TICKS_PER_SECOND: f64 = 100.0;

/// What stands after the name in proc(5)'s `stat`.
fn stat(pid: u32) -> Result<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name before the last bracket may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("no name in /proc/…/stat")?;
    Ok(fields.to_owned())
}

/// Whether a process has ended and nobody has waited for it yet.
pub(crate) fn has_ended(pid: u32) -> Result<bool> {
    Ok(stat(pid)?.trim_start().starts_with('Z'))
}

/// Seconds of CPU that a process has used, user and system; ended children are not in it.
pub(crate) fn cpu(pid: u32) -> Result<f64> {
    let fields = stat(pid)?;
    // utime and stime are the fields 14 and 15 of proc(5), counted from the name's 2.
    let ticks: Vec<u64> =
        fields.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, std::num::ParseIntError>>()?;
    Ok(ticks.iter().sum::<u64>() as f64 / TICKS_PER_SECOND)
}

/// Resident memory of a process in bytes.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    status(pid, "VmRSS:")
}

/// The most resident memory that a process has had, in bytes.
pub(crate) fn peak(pid: u32) -> Result<u64> {
    status(pid, "VmHWM:")
}

fn status(pid: u32, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}
