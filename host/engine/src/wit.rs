//! The types of `wit/plugin.wit` as they cross the component boundary.
//!
//! Owned buffers, not borrowed slices: a column is copied once into a buffer that the next call uses again and once
//! into the guest. Two copies of 8 KiB cost less than the type check that a call with borrowed parameters needs each
//! time, and need no `unsafe`.

#![expect(dead_code, reason = "guests make these variants, through generated code that does not name them")]

use std::sync::Arc;

use phronis_core::plugin;
use wasmtime::component::{ComponentType, Lift, Lower};

/// The version of the WIT package that this host speaks.
pub(crate) const VERSION: &str = "0.1.0";

pub(crate) type Detect = (Result<Judgement, String>,);
pub(crate) type Enrich = (Result<Enrichment, String>,);
pub(crate) type BatchParam = (Arc<Batch>,);

#[derive(ComponentType, Lower, Lift, Clone, Copy, Debug, PartialEq, Eq)]
#[component(enum)]
#[repr(u8)]
pub(crate) enum Kind {
    #[component(name = "detector")]
    Detector,
    #[component(name = "enricher")]
    Enricher,
}

#[derive(ComponentType, Lower, Lift, Clone, Copy, Debug, PartialEq, Eq)]
#[component(enum)]
#[repr(u8)]
pub(crate) enum FieldType {
    #[component(name = "boolean")]
    Boolean,
    #[component(name = "integer")]
    Integer,
    #[component(name = "number")]
    Number,
    #[component(name = "text")]
    Text,
    #[component(name = "timestamp")]
    Timestamp,
    #[component(name = "binary")]
    Binary,
    #[component(name = "texts")]
    Texts,
    #[component(name = "numbers")]
    Numbers,
}

#[derive(ComponentType, Lift, Debug)]
#[component(record)]
pub(crate) struct Field {
    pub(crate) path: String,
    #[component(name = "of-type")]
    pub(crate) of_type: FieldType,
    pub(crate) required: bool,
}

#[derive(ComponentType, Lift, Debug)]
#[component(record)]
pub(crate) struct Added {
    pub(crate) name: String,
    #[component(name = "of-type")]
    pub(crate) of_type: FieldType,
}

#[derive(ComponentType, Lift, Debug)]
#[component(record)]
pub(crate) struct Manifest {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) kind: Kind,
    #[component(name = "params-schema")]
    pub(crate) params_schema: String,
    pub(crate) stateful: bool,
}

#[derive(ComponentType, Lower, Lift, Debug, Default)]
#[component(record)]
pub(crate) struct Texts {
    pub(crate) offsets: Vec<u32>,
    pub(crate) data: Vec<u8>,
}

#[derive(ComponentType, Lower, Lift, Debug, Default)]
#[component(record)]
pub(crate) struct TextLists {
    pub(crate) offsets: Vec<u32>,
    pub(crate) items: Texts,
}

#[derive(ComponentType, Lower, Lift, Debug, Default)]
#[component(record)]
pub(crate) struct NumberLists {
    pub(crate) offsets: Vec<u32>,
    pub(crate) items: Vec<f64>,
}

#[derive(ComponentType, Lower, Lift, Debug)]
#[component(variant)]
pub(crate) enum Values {
    #[component(name = "boolean")]
    Boolean(Vec<u8>),
    #[component(name = "integer")]
    Integer(Vec<i64>),
    #[component(name = "number")]
    Number(Vec<f64>),
    #[component(name = "text")]
    Text(Texts),
    #[component(name = "timestamp")]
    Timestamp(Vec<i64>),
    #[component(name = "binary")]
    Binary(Texts),
    #[component(name = "texts")]
    Texts(TextLists),
    #[component(name = "numbers")]
    Numbers(NumberLists),
}

#[derive(ComponentType, Lower, Lift, Debug)]
#[component(record)]
pub(crate) struct Column {
    pub(crate) validity: Option<Vec<u8>>,
    pub(crate) values: Values,
}

#[derive(ComponentType, Lower, Debug, Default)]
#[component(record)]
pub(crate) struct Batch {
    pub(crate) partition: u32,
    pub(crate) rows: u32,
    pub(crate) watermark: i64,
    pub(crate) columns: Vec<Column>,
}

#[derive(ComponentType, Lower, Lift, Clone, Copy, Debug)]
#[component(enum)]
#[repr(u8)]
pub(crate) enum Severity {
    #[component(name = "info")]
    Info,
    #[component(name = "warning")]
    Warning,
    #[component(name = "critical")]
    Critical,
}

#[derive(ComponentType, Lift, Debug)]
#[component(record)]
pub(crate) struct Finding {
    pub(crate) row: u32,
    pub(crate) rule: String,
    pub(crate) severity: Severity,
    pub(crate) message: String,
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) halt: bool,
}

#[derive(ComponentType, Lift, Debug)]
#[component(record)]
pub(crate) struct RowFailure {
    pub(crate) row: u32,
    pub(crate) message: String,
}

#[derive(ComponentType, Lift, Debug)]
#[component(record)]
pub(crate) struct Drop {
    pub(crate) row: u32,
    pub(crate) reason: String,
}

#[derive(ComponentType, Lift, Debug)]
#[component(record)]
pub(crate) struct Judgement {
    pub(crate) findings: Vec<Finding>,
    pub(crate) failures: Vec<RowFailure>,
}

#[derive(ComponentType, Lift, Debug)]
#[component(record)]
pub(crate) struct Enrichment {
    pub(crate) columns: Vec<Column>,
    pub(crate) drops: Vec<Drop>,
    pub(crate) failures: Vec<RowFailure>,
}

#[derive(ComponentType, Lower, Lift, Clone, Copy, Debug)]
#[component(enum)]
#[repr(u8)]
pub(crate) enum LogLevel {
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

impl From<Kind> for plugin::Kind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Detector => Self::Detector,
            Kind::Enricher => Self::Enricher,
        }
    }
}

impl From<FieldType> for plugin::FieldType {
    fn from(of_type: FieldType) -> Self {
        match of_type {
            FieldType::Boolean => Self::Boolean,
            FieldType::Integer => Self::Integer,
            FieldType::Number => Self::Number,
            FieldType::Text => Self::Text,
            FieldType::Timestamp => Self::Timestamp,
            FieldType::Binary => Self::Binary,
            FieldType::Texts => Self::Texts,
            FieldType::Numbers => Self::Numbers,
        }
    }
}

impl From<Severity> for plugin::Severity {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Info => Self::Info,
            Severity::Warning => Self::Warning,
            Severity::Critical => Self::Critical,
        }
    }
}
