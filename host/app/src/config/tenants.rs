//! `[limits]` and `[tenants]`: what plugins get when nothing is said, and what they can never get.

use std::collections::BTreeMap;
use std::time::Duration;

use phronis_core::name::DEFAULT_TENANT;
use phronis_core::plugin::Limits;
use phronis_core::{Name, code};

use super::problem::Problem;
use super::reader::{Reader, Section};
use super::units::Bytes;

/// Who owns streams and plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenant {
    /// What no plugin of the tenant can exceed; never above the host's ceilings.
    pub ceiling: Limits,
    /// What a plugin of the tenant gets when its settings say nothing; never above `ceiling`.
    pub default: Limits,
}

/// Ceilings where `[limits.max]` says nothing: generous for an honest plugin, and 100 such plugins still fit a server.
const MAX: Limits = Limits {
    memory: 512 << 20,
    deadline_ms: 10_000,
    output_rows: 1_000_000,
    output_bytes: 64 << 20,
    log_bytes: 1 << 20,
};

/// The tenants, `default` among them.
pub(super) fn read(reader: &mut Reader, root: &mut Section<'_>) -> BTreeMap<Name, Tenant> {
    let mut limits = root.section(reader, "limits");
    let mut section = limits.section(reader, "max");
    let max = read_limits(reader, &mut section, MAX, None);
    section.finish(reader);
    let mut section = limits.section(reader, "default");
    // A ceiling below the built-in default lowers it; only what someone wrote can be too much.
    let default = read_limits(reader, &mut section, lower(Limits::default(), max), Some((max, "[limits.max]")));
    section.finish(reader);
    limits.finish(reader);

    let mut tenants = BTreeMap::new();
    if let Ok(name) = DEFAULT_TENANT.parse() {
        tenants.insert(name, Tenant { ceiling: max, default });
    }
    for (name, mut section) in root.named(reader, "tenants") {
        let mut limits = section.section(reader, "limits");
        let ceiling = read_limits(reader, &mut limits, max, Some((max, "[limits.max]")));
        limits.finish(reader);
        match name.parse::<Name>() {
            Ok(name) => {
                tenants.insert(name, Tenant { ceiling, default: lower(default, ceiling) });
            }
            Err(error) => reader.problems.push(Problem::new(section.origin(), section.path(), error.to_string())),
        }
        section.finish(reader);
    }
    tenants
}

/// The lower of each.
fn lower(a: Limits, b: Limits) -> Limits {
    Limits {
        memory: a.memory.min(b.memory),
        deadline_ms: a.deadline_ms.min(b.deadline_ms),
        output_rows: a.output_rows.min(b.output_rows),
        output_bytes: a.output_bytes.min(b.output_bytes),
        log_bytes: a.log_bytes.min(b.log_bytes),
    }
}

fn read_limits(
    reader: &mut Reader,
    section: &mut Section<'_>,
    base: Limits,
    ceiling: Option<(Limits, &str)>,
) -> Limits {
    let mut size = |reader: &mut Reader, key, base: u64, least: u64, most: Option<u64>| {
        let read = section.or(reader, key, Bytes(base));
        let value = bounded(reader, section, key, read, Bytes(least), most.map(Bytes), ceiling);
        value.0
    };
    let most = ceiling.map(|(limits, _)| limits);
    // One page of linear memory is 64 KiB; a guest with a std has about 1 MiB of stack alone.
    let memory = size(reader, "memory", base.memory, 2 << 20, most.map(|limits| limits.memory));
    let output_bytes = size(reader, "output_bytes", base.output_bytes, 1 << 10, most.map(|limits| limits.output_bytes));
    let log_bytes = size(reader, "log_bytes", base.log_bytes, 0, most.map(|limits| limits.log_bytes));
    let deadline = section.or(reader, "deadline", Duration::from_millis(base.deadline_ms));
    let most_time = most.map(|limits| Duration::from_millis(limits.deadline_ms));
    let deadline = bounded(reader, section, "deadline", deadline, Duration::from_millis(1), most_time, ceiling);
    let rows = section.or(reader, "output_rows", base.output_rows);
    let output_rows = bounded(reader, section, "output_rows", rows, 1, most.map(|limits| limits.output_rows), ceiling);
    let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
    Limits { memory, deadline_ms, output_rows, output_bytes, log_bytes }
}

/// A value that lies within its bounds, whatever was written.
fn bounded<T: super::value::Setting + Ord + Copy>(
    reader: &mut Reader,
    section: &Section<'_>,
    key: &str,
    value: T,
    least: T,
    most: Option<T>,
    ceiling: Option<(Limits, &str)>,
) -> T {
    if value < least {
        reader
            .problems
            .push(section.problem(key, format!("{} is too little: at least {}", value.show(), least.show())));
        return least;
    }
    match (most, ceiling) {
        (Some(most), Some((_, name))) if value > most => {
            let message = format!("{} is above the ceiling {} of {name}", value.show(), most.show());
            reader.problems.push(section.problem(key, message).code(code::CEILING_EXCEEDED));
            most
        }
        _ => value,
    }
}
