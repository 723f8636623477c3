//! Names of tables: one for the events, the alerts and the letters of each stream.

use std::fmt;
use std::str::FromStr;

use phronis_core::{Name, StreamId};
use serde::{Deserialize, Serialize};

/// What a table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Every good event, with what enrichers added.
    Events,
    /// What detectors found.
    Alerts,
    /// What could not be judged.
    Letters,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Events, Self::Alerts, Self::Letters];

    /// The word at the end of the table's name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Alerts => "alerts",
            Self::Letters => "letters",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// The name of a table of the archive, shown as `<tenant>_<stream>_events`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// Who owns the stream.
    pub tenant: Name,
    /// The stream.
    pub stream: Name,
    /// What of the stream.
    pub kind: Kind,
}

/// A text that is no name of a table of the archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no table of the archive: they are called <tenant>_<stream>_events, …_alerts or …_letters")]
pub struct InvalidTableName(pub String);

impl TableName {
    /// The table of a stream.
    pub fn new(stream: &StreamId, kind: Kind) -> Self {
        Self { tenant: stream.tenant.clone(), stream: stream.stream.clone(), kind }
    }

    /// The stream that the table belongs to.
    pub fn stream_id(&self) -> StreamId {
        StreamId { tenant: self.tenant.clone(), stream: self.stream.clone() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}_{}_{}", self.tenant, self.stream, self.kind))
    }
}

impl FromStr for TableName {
    type Err = InvalidTableName;

    fn from_str(text: &str) -> Result<Self, InvalidTableName> {
        // Names have no underscore, so three parts are the only reading.
        let read = || {
            let mut parts = text.split('_');
            let (tenant, stream, word) = (parts.next()?, parts.next()?, parts.next()?);
            let kind = Kind::ALL.into_iter().find(|kind| kind.word() == word)?;
            if parts.next().is_some() {
                return None;
            }
            Some(Self { tenant: tenant.parse().ok()?, stream: stream.parse().ok()?, kind })
        };
        read().ok_or_else(|| InvalidTableName(text.chars().take(200).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back() {
        for kind in Kind::ALL {
            let name = TableName { tenant: "acme".parse().unwrap(), stream: "air-quality".parse().unwrap(), kind };
            assert_eq!(name.to_string().parse(), Ok(name));
        }
    }

    #[test]
    fn what_is_no_table_of_ours_is_refused() {
        for text in ["", "acme_sensors", "acme_sensors_Events", "acme_sensors_events_", "a_b_c_events", "_x_events"] {
            assert!(text.parse::<TableName>().is_err(), "{text}");
        }
    }
}
