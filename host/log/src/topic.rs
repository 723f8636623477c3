//! What every log asks of a topic before it makes it.

use crate::{Error, Result, TopicSpec};

/// Partitions of one topic: each costs something in every log, and a typo should not make more.
const MOST_PARTITIONS: i32 = 10_000;

/// Whether a topic can be made like this.
pub(crate) fn check(topic: &TopicSpec) -> Result<()> {
    let name = &topic.name;
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 249 || !name.bytes().all(is_allowed) || matches!(&**name, "." | "..") {
        return Err(Error::Invalid(format!(
            "`{}` cannot name a topic: letters, digits, `.`, `_`, `-`, at most 249 bytes",
            name.escape_debug()
        )));
    }
    if !(1..=MOST_PARTITIONS).contains(&topic.partitions) {
        return Err(Error::Invalid(format!(
            "topic `{name}` cannot have {} partitions: 1 to {MOST_PARTITIONS}",
            topic.partitions
        )));
    }
    Ok(())
}
