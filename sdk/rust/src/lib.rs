//! Everything that a Phronis plugin needs: derives for the events that it reads, its parameters and the columns that
//! it adds, attributes that turn a function into a component, and a harness that tests the function without one.
//!
//! The columns of `wit/plugin.wit` stay out of sight; who wants them implements [`Detector`] or [`Enricher`] by hand.
//! The guide is `docs/plugins.md`. With the feature `guard`, programs that run AI agents refuse the calls of halted ones.
//!
//! ```
//! use phronis_sdk::prelude::*;
//!
//! #[derive(Event)]
//! struct Reading<'a> {
//!     sensor_id: &'a str,
//!     value: f64,
//! }
//!
//! #[derive(Params)]
//! struct Limits {
//!     #[param(default = 90.0, doc = "°C")]
//!     high: f64,
//! }
//!
//! #[detector(name = "high-temperature")]
//! fn judge(reading: Reading, limits: &Limits, alerts: &mut Alerts) {
//!     if reading.value > limits.high {
//!         alerts.warning("too-hot", format!("{} at {}", reading.sensor_id, reading.value));
//!     }
//! }
//! # fn main() {}
//! ```
//!
//! What cannot work does not compile, and the error points at the author's line:
//!
//! ```compile_fail,E0277
//! use phronis_sdk::prelude::*;
//!
//! #[derive(Event)]
//! struct Reading {
//!     value: f32, // `f32` cannot be a field of an event
//! }
//! ```
//!
//! ```compile_fail,E0277
//! use phronis_sdk::prelude::*;
//!
//! #[derive(Params)]
//! struct Limits {
//!     high: u8, // `u8` cannot be a parameter
//! }
//! ```

mod added;
mod alerts;
mod bindings;
#[doc(hidden)]
pub mod component;
mod event;
#[cfg(all(feature = "guard", not(target_arch = "wasm32")))]
pub mod guard;
pub mod log;
mod params;
mod plugin;
#[cfg(not(target_arch = "wasm32"))]
pub mod test;
mod value;

pub use added::{Added, AddedValue, Reject};
pub use alerts::{Alert, Alerts};
pub use bindings::phronis::plugin::types::{
    Added as AddedColumn, Batch, Column, Drop, Enrichment, Field, FieldType, Finding, Judgement, Kind, NumberLists,
    RowFailure, Severity, TextLists, Texts as TextColumn, Values,
};
pub use event::Event;
pub use params::{Param, ParamError, Params};
pub use phronis_sdk_macros::{Added, Event, Params, detector, enricher, export_detector, export_enricher};
pub use plugin::{Detector, Detects, Enricher, Enriches, Plugin, Role};
pub use value::{Texts, Timestamp, Value};

/// What a plugin imports with one line.
pub mod prelude {
    pub use std::collections::{BTreeMap, BTreeSet};

    pub use crate::{
        Added, Alerts, Event, ParamError, Params, Reject, Severity, Texts, Timestamp, detector, enricher, log,
    };
}

/// What the macros' output calls. Not for people: it changes without notice.
#[doc(hidden)]
pub mod __private {
    pub use serde_json::Value as Json;
    pub use wit_bindgen;

    pub use crate::added::{Builder, IntoAdded, added_names, enrich_rows};
    pub use crate::alerts::{IntoVerdict, detect_rows};
    pub use crate::bindings::phronis::plugin::{log, types};
    pub use crate::component;
    pub use crate::event::{column_count, field, path_of};
    pub use crate::params::object::{Object, Property, choice_schema, given, object_schema, unknown_choice};
}
