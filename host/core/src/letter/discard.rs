//! Discards: one record of dlq gives up all letters of a class before an offset.

use serde::{Deserialize, Serialize};

use super::{DISCARD, Letter, Stage, full};
use crate::code::Code;
use crate::name::Name;
use crate::records::{Headers, HeadersBuilder};

/// Letters that have the same reason: what people list, redrive and discard as one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Class {
    /// The step that refused them.
    pub stage: Stage,
    /// Why.
    pub code: Code,
    /// The plugin, where it was one.
    pub plugin: Option<Name>,
    /// Its version, as its author counts; empty where it was none.
    pub version: String,
}

impl Class {
    /// The class of a letter.
    pub fn of(letter: &Letter) -> Self {
        let plugin = letter.plugin.as_ref();
        Self {
            stage: letter.stage,
            code: letter.code,
            plugin: plugin.map(|plugin| plugin.name.clone()),
            version: plugin.map_or_else(String::new, |plugin| plugin.version.clone()),
        }
    }
}

/// The end of all letters of a class in one partition of dlq.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discard {
    /// Which letters.
    pub class: Class,
    /// Only those before this offset.
    pub up_to: i64,
    /// What ordered it.
    pub redrive: String,
    /// Who.
    pub actor: String,
    /// Why, in words.
    pub reason: String,
}

impl Discard {
    /// Writes the headers of the record, and returns its value.
    pub fn write(&self, out: &mut HeadersBuilder) -> Vec<u8> {
        out.push(DISCARD, self.redrive.as_bytes());
        // Texts, numbers and enumerations are always JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a discard; `None` when the record is none.
    pub fn read(headers: Headers<'_>, value: Option<&[u8]>) -> Option<Self> {
        full(headers, DISCARD)?;
        serde_json::from_slice(value?).ok()
    }
}
