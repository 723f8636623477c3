//! Names of a stream's topics: derived from its id, or given one by one; no two streams share one.

use std::collections::BTreeMap;

use phronis_core::StreamId;
use phronis_core::partition::Topics;

use super::problem::{Origin, Problem};
use super::reader::{Reader, Section};

/// Who has a topic's name, and where that is written.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) who: String,
    pub(super) path: String,
    pub(super) origin: Origin,
}

/// Reads the names of a stream's topics. `taken` holds who owns a name already.
pub(super) fn read(
    reader: &mut Reader,
    section: &mut Section<'_>,
    id: &StreamId,
    taken: &mut BTreeMap<String, Owner>,
) -> Topics {
    let base = Topics::of(id);
    let mut section = section.section(reader, "topics");
    let mut name = |key: &'static str, base: &str| {
        let name = section.or(reader, key, base.to_owned());
        let is_fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > 249 || !name.bytes().all(is_fine) || name == "." || name == ".." {
            let message = format!("`{name}` is not a topic name: 1 to 249 letters, digits, `.`, `_`, `-`");
            reader.problems.push(section.problem(key, message));
        }
        let owner = Owner { who: format!("stream {id}"), path: section.path_of(key), origin: section.origin_of(key) };
        if let Some(other) = taken.get(&name) {
            // The name that someone wrote is the one to change, not the usual one of the other stream.
            let (at, holder) = if owner.origin == Origin::Default { (other, &owner) } else { (&owner, other) };
            let message = format!("topic `{name}` belongs to {} already: no two can share a topic", holder.who);
            reader.problems.push(Problem::new(&at.origin, at.path.clone(), message));
        }
        taken.insert(name.clone(), owner);
        name.into()
    };
    let topics = Topics {
        raw: name("raw", &base.raw),
        processed: name("processed", &base.processed),
        alerts: name("alerts", &base.alerts),
        dlq: name("dlq", &base.dlq),
        retry: name("retry", &base.retry),
        state: name("state", &base.state),
    };
    section.finish(reader);
    topics
}
