//! From the field that a plugin names to the column that it gets, checked when the plugin is loaded.

use std::sync::Arc;

use super::Contract;
use crate::plugin::{Added, Field, FieldType};

/// A column that a plugin gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Where it comes from.
    pub source: Source,
    /// The type that the plugin sees; the host converts integers to numbers where it must.
    pub of_type: FieldType,
}

/// Where a column comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A field of the contract, by index.
    Field(usize),
    /// A column that an enricher added, by index into what was given as `added`.
    Added(usize),
    /// The key: the contract's key field, or the record's key where there is none.
    Key,
    /// When it happened.
    EventTime,
    /// The record's own timestamp.
    Timestamp,
    /// The record's offset.
    Offset,
    /// The event as it came.
    Payload,
    /// The last header of this name.
    Header(Arc<str>),
}

const SYSTEM: [&str; 6] = ["$key", "$event_time", "$timestamp", "$offset", "$payload", "$header.<name>"];

impl Contract {
    /// Finds the column for a field that a plugin wants; `added` are the columns of the enrichers that run before it.
    ///
    /// # Errors
    /// In words: no such field (and the nearest name), or another type.
    pub fn resolve(&self, wanted: &Field, added: &[Added]) -> Result<Column, String> {
        let (source, of_type) = self.find(&wanted.path, added)?;
        let fits = of_type == wanted.of_type
            || matches!((of_type, wanted.of_type), (FieldType::Integer, FieldType::Number))
            || (of_type == FieldType::Text
                && wanted.of_type == FieldType::Binary
                && matches!(source, Source::Payload | Source::Header(_) | Source::Key));
        if fits {
            return Ok(Column { source, of_type: wanted.of_type });
        }
        let (path, has, wants) = (&wanted.path, of_type.name(), wanted.of_type.name());
        Err(format!("field `{path}` is {has}, the plugin reads it as {wants}"))
    }

    fn find(&self, path: &str, added: &[Added]) -> Result<(Source, FieldType), String> {
        if let Some(name) = path.strip_prefix("$header.") {
            return Ok((Source::Header(name.into()), FieldType::Text));
        }
        if path.starts_with('$') {
            return match path {
                "$key" => Ok((Source::Key, FieldType::Text)),
                "$event_time" => Ok((Source::EventTime, FieldType::Timestamp)),
                "$timestamp" => Ok((Source::Timestamp, FieldType::Timestamp)),
                "$offset" => Ok((Source::Offset, FieldType::Integer)),
                "$payload" => Ok((Source::Payload, FieldType::Text)),
                _ => Err(format!("there is no system column `{path}`; there are {}", SYSTEM.join(", "))),
            };
        }
        if let Some(index) = self.position(path) {
            let of_type = self.fields.get(index).map_or(FieldType::Text, |field| field.of_type);
            return Ok((Source::Field(index), of_type));
        }
        if let Some((index, column)) = added.iter().enumerate().find(|(_, column)| column.name == path) {
            return Ok((Source::Added(index), column.of_type));
        }
        let inside = format!("{path}.");
        if self.fields.iter().any(|field| field.path.starts_with(&inside)) {
            return Err(format!("`{path}` is an object; name one of its fields"));
        }
        let names: Vec<String> = added.iter().map(|column| column.name.clone()).collect();
        Err(format!("the contract has no field `{path}`{}", self.nearest(path, &names)))
    }
}
