//! What a stream's events must look like: Open Data Contract Standard documents, v3.0 to v3.2.
//!
//! One contract gives the gate, the columns, the archive's schema and the JSON Schema of the API page.
//! Read by our own small reader rather than the `odcs` crate: that one validates v3.1 documents as documents,
//! with an unmaintained YAML library and a JSON Schema engine; we need five versions, lines in every complaint, and rules that run.

use std::fmt;
use std::sync::Arc;

use crate::plugin::FieldType;
use crate::text;

mod loose;
mod read;
mod resolve;
mod rules;
mod schema;
mod yaml;

pub use resolve::{Column, Source};
pub(crate) use rules::Held;
pub use rules::{Format, OneOf, Range, Rules};

/// Keys that de-duplication remembers a partition unless the contract says otherwise: a few MiB of hashes.
const DEDUPLICATE_WINDOW: usize = 100_000;

/// Largest event unless the contract says otherwise: Kafka's own default for a message.
const MAX_BYTES: usize = 1 << 20;

/// A data contract, parsed and right.
#[derive(Debug, Clone)]
pub struct Contract {
    id: String,
    version: String,
    name: String,
    description: Option<String>,
    root: Object,
    fields: Vec<Field>,
    key: Option<usize>,
    agent: Option<usize>,
    event_time: Option<usize>,
    deduplicate: Option<Deduplicate>,
    undeclared: Undeclared,
    max_bytes: usize,
}

/// A field: a leaf of the contract, one column.
#[derive(Debug, Clone)]
pub struct Field {
    /// Path into the event, parts separated by dots.
    pub path: String,
    /// The type of its column.
    pub of_type: FieldType,
    /// Must be there and not null, if the object that holds it is there.
    pub required: bool,
    /// An object without declared properties: its column holds the object's JSON as text.
    pub is_object: bool,
    /// What the gate checks beside the type.
    pub rules: Option<Box<Rules>>,
    /// What the contract says about it.
    pub description: Option<String>,
}

/// What the gate does with fields that the contract does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Undeclared {
    /// They stay in the processed event.
    #[default]
    Keep,
    /// They are left out of the processed event.
    Drop,
    /// The event is refused.
    Refuse,
}

/// What de-duplication goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deduplicate {
    /// Index of the field whose value makes an event the same.
    pub field: usize,
    /// How many values each partition remembers.
    pub window: usize,
}

/// Properties of the event, or of an object in it.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) properties: Vec<Property>,
}

#[derive(Debug, Clone)]
pub(crate) struct Property {
    pub(crate) name: String,
    pub(crate) required: bool,
    pub(crate) description: Option<String>,
    pub(crate) shape: Shape,
}

#[derive(Debug, Clone)]
pub(crate) enum Shape {
    /// Index into [`Contract::fields`].
    Field(usize),
    Object(Object),
}

/// Why a document is not a contract that Phronis can hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The file, as the caller named it.
    pub source: Arc<str>,
    /// Line, from 1; 0 when it is about the whole document.
    pub line: u64,
    /// Where in the document: `schema[0].properties[2].logicalType`.
    pub path: String,
    /// What is wrong and what to do.
    pub problem: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "the document" } else { &self.path };
        write!(f, "{}:{}: {path}: {}", self.source, self.line, self.problem)
    }
}

impl std::error::Error for Error {}

impl Contract {
    /// Reads an ODCS document; `source` is named in errors.
    ///
    /// # Errors
    /// The first thing that is not valid ODCS, or that the gate could not hold.
    pub fn parse(yaml: &str, source: &str) -> Result<Self, Error> {
        read::contract(yaml).map_err(|problem| Error {
            source: source.into(),
            line: problem.line,
            path: problem.path,
            problem: problem.what,
        })
    }

    /// The contract's own id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The contract's own version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The name of the schema object.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All fields: nested ones too, in the order of the document. Their indices are the columns of [`crate::events::Events`].
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Index of the field of this path.
    pub fn position(&self, path: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.path == path)
    }

    /// Index of the field that becomes the record's key (`phronis.key`).
    pub fn key(&self) -> Option<usize> {
        self.key
    }

    /// Index of the field that names the agent (`phronis.agent`).
    pub fn agent(&self) -> Option<usize> {
        self.agent
    }

    /// Index of the field that says when it happened (`phronis.eventTime`).
    pub fn event_time(&self) -> Option<usize> {
        self.event_time
    }

    /// What de-duplication goes by, if it is wanted (`phronis.deduplicate`, or the one field that is `unique`).
    pub fn deduplicate(&self) -> Option<Deduplicate> {
        self.deduplicate
    }

    /// What happens to fields that are not declared.
    pub fn undeclared(&self) -> Undeclared {
        self.undeclared
    }

    /// Largest event, in bytes.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Whether the event has a top-level property of this name.
    pub fn declares(&self, name: &str) -> bool {
        self.root.properties.iter().any(|property| property.name == name)
    }

    /// The event as JSON Schema (2020-12), for the API page.
    pub fn json_schema(&self) -> serde_json::Value {
        schema::of(self)
    }

    pub(crate) fn root(&self) -> &Object {
        &self.root
    }

    fn nearest(&self, path: &str, others: &[String]) -> String {
        let paths = self.fields.iter().map(|field| field.path.as_str()).chain(others.iter().map(String::as_str));
        text::did_you_mean(path, paths)
    }
}

#[cfg(test)]
mod tests;
