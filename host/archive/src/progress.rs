//! How far a table has been filled, as the table itself says: the property `phronis.progress`.
//!
//! It is set in the same commit as the snapshot that it tells of, so it cannot be ahead or behind.
//! Snapshots expire, a property does not. Upkeep never touches it.

use std::collections::{BTreeMap, HashMap};

use iceberg::spec::TableMetadata;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::spec::Source;
use crate::{Error, Result};

/// The table property.
pub(crate) const PROPERTY: &str = "phronis.progress";

/// How far a table has been filled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// The topic that fills it.
    pub(crate) topic: String,
    /// That topic's identity.
    pub(crate) identity: String,
    /// The identity of the topic that origin offsets count in, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<String>,
    /// By partition of the topic.
    #[serde(default)]
    pub(crate) partitions: BTreeMap<i32, Reached>,
}

/// How far a partition has been archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reached {
    /// The offset of the source after the last one that is archived.
    pub(crate) next: i64,
    /// The greatest origin offset, in the partition of the same number, that was ever archived from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) high: Option<i64>,
    /// The plan that got this far.
    pub(crate) plan: Uuid,
}

impl Progress {
    /// That of a new table.
    pub(crate) fn new(source: &Source) -> Self {
        Self {
            topic: source.topic.clone(),
            identity: source.identity.clone(),
            origin: source.origin.clone(),
            partitions: BTreeMap::new(),
        }
    }

    /// What a table says.
    ///
    /// # Errors
    /// In words: there is none, or it cannot be read.
    pub(crate) fn of(metadata: &TableMetadata) -> Result<Self, String> {
        let text = metadata.properties().get(PROPERTY).ok_or_else(|| format!("it has no property `{PROPERTY}`"))?;
        serde_json::from_str(text).map_err(|error| format!("its property `{PROPERTY}` cannot be read: {error}"))
    }

    /// The property.
    pub(crate) fn property(&self) -> Result<HashMap<String, String>> {
        let text =
            serde_json::to_string(self).map_err(|error| Error::failed("writing how far a table was filled", error))?;
        Ok(HashMap::from([(PROPERTY.to_owned(), text)]))
    }
}
