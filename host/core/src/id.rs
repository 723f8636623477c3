//! Deterministic ids (decision 7): the same finding about the same record has the same id, however often it is judged.
//!
//! Each part is hashed with its length before it, so that no two lists of parts look alike, and each kind of id has its own domain.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::letter::Stage;
use crate::name::{Name, StreamId};

/// 16 bytes of a BLAKE3 hash, shown as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(pub [u8; 16]);

/// Where a record stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

impl Id {
    /// The id of what a rule of a plugin finds in a record.
    pub fn of_alert(stream: &StreamId, plugin: &Name, rule: &str, origin: Position<'_>) -> Self {
        hash("alert", &[stream.tenant.as_str(), stream.stream.as_str(), plugin.as_str(), rule], origin)
    }

    /// The id of the letter about a record that failed at a stage (for a plugin).
    pub fn of_letter(stream: &StreamId, stage: Stage, plugin: Option<&Name>, origin: Position<'_>) -> Self {
        let plugin = plugin.map_or("", Name::as_str);
        hash("letter", &[stream.tenant.as_str(), stream.stream.as_str(), stage.as_str(), plugin], origin)
    }

    /// The id of the range letter about records that a plugin was not shown, of which `first` is the first.
    pub fn of_range(stream: &StreamId, stage: Stage, plugin: &Name, first: Position<'_>) -> Self {
        hash("range", &[stream.tenant.as_str(), stream.stream.as_str(), stage.as_str(), plugin.as_str()], first)
    }
}

fn hash(domain: &str, parts: &[&str], origin: Position<'_>) -> Id {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(domain.as_bytes());
    for text in parts {
        part(text.as_bytes());
    }
    part(origin.topic.as_bytes());
    part(&origin.partition.to_le_bytes());
    part(&origin.offset.to_le_bytes());
    Id(hasher.finalize().as_bytes().first_chunk::<16>().copied().unwrap_or_default())
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not an [`Id`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id: an id is 32 hexadecimal digits")]
pub struct InvalidId;

impl FromStr for Id {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidId);
        }
        u128::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| InvalidId)
    }
}

impl TryFrom<String> for Id {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_part_changes_the_id_and_nothing_else_does() {
        let alert = |stream: &str, plugin: &str, rule: &str, topic, partition, offset| {
            Id::of_alert(
                &stream.parse().unwrap(),
                &plugin.parse().unwrap(),
                rule,
                Position { topic, partition, offset },
            )
        };
        let first = alert("a.s", "p", "r", "t", 1, 2);
        assert_eq!(first, alert("a.s", "p", "r", "t", 1, 2));
        assert_eq!(first.to_string().parse(), Ok(first));
        let others = [
            alert("b.s", "p", "r", "t", 1, 2),
            alert("a.x", "p", "r", "t", 1, 2),
            alert("a.s", "pr", "", "t", 1, 2),
            alert("a.s", "p", "x", "t", 1, 2),
            alert("a.s", "p", "r", "x", 1, 2),
            alert("a.s", "p", "r", "t", 2, 1),
            alert("a.s", "p", "r", "t", 1, 3),
            Id::of_letter(
                &"a.s".parse().unwrap(),
                Stage::Detect,
                Some(&"p".parse().unwrap()),
                Position { topic: "t", partition: 1, offset: 2 },
            ),
            Id::of_letter(&"a.s".parse().unwrap(), Stage::Gate, None, Position { topic: "t", partition: 1, offset: 2 }),
        ];
        assert_eq!(others.iter().chain([&first]).collect::<HashSet<_>>().len(), 10);
    }

    #[test]
    fn an_id_never_changes() {
        // A changed hash would make every consumer take old findings for new ones.
        let id = Id::of_alert(
            &"sensors".parse().unwrap(),
            &"threshold".parse().unwrap(),
            "too-high",
            Position { topic: "phronis.raw.events", partition: 3, offset: 42 },
        );
        assert_eq!(id.to_string(), "406d88ac720ce582be550ed5d3b9f0f8");
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for bad in ["", "00", &"g".repeat(32), &"+".repeat(32), &"0".repeat(33)] {
            assert_eq!(bad.parse::<Id>(), Err(InvalidId), "{bad}");
        }
    }
}
