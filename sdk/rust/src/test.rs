//! Tests a plugin without wasm: parameters and rows in as JSON, what it says out as JSON.
//!
//! [`Harness`] is for a test in Rust, [`run_cases`] for a folder of recorded cases. Both treat the plugin as the host
//! does: rows with a null in a required field are not shown to it, and an answer that breaks the contract is an error.
//!
//! ```
//! use phronis_sdk::prelude::*;
//! use phronis_sdk::test::{Harness, json};
//!
//! #[derive(Event)]
//! struct Reading {
//!     value: f64,
//! }
//!
//! #[detector(name = "negative")]
//! fn judge(reading: Reading, alerts: &mut Alerts) {
//!     if reading.value < 0.0 {
//!         alerts.critical("negative", "the value is below zero");
//!     }
//! }
//!
//! # fn main() {
//! let mut harness = Harness::<judge>::new(json!({})).unwrap();
//! let answer = harness.run(&[json!({"value": 1}), json!({"value": -1}), json!({"value": null})]).unwrap();
//! assert_eq!(answer["findings"][0]["row"], 1);
//! assert_eq!(answer["skipped"], json!([2]));
//! # }
//! ```

mod cases;
mod columns;

use std::collections::BTreeSet;
use std::fmt;

pub use serde_json::{Value as Json, json};

pub use self::cases::run_cases;
use crate::component;
use crate::params::Param;
use crate::plugin::{Plugin, Role};
use crate::{AddedColumn, Batch, Enrichment, Field, Finding, Judgement, Kind};

/// A configured plugin.
pub struct Harness<P: Plugin> {
    plugin: P,
    fields: Vec<Field>,
    adds: Vec<AddedColumn>,
}

impl<P: Plugin> Harness<P> {
    /// Configures the plugin as the host does at load: describe, fields, configure.
    ///
    /// # Errors
    /// The plugin refuses the parameters, in its own words.
    #[expect(clippy::needless_pass_by_value, reason = "reads well with json!")]
    pub fn new(params: Json) -> Result<Self, String> {
        let text = params.to_string();
        let fields = component::fields::<P>(&text)?;
        let adds = component::adds::<P>(&text)?;
        let parsed = P::Params::parse(&params).map_err(|error| error.to_string())?;
        let plugin = P::configure(parsed).map_err(|error| error.to_string())?;
        Ok(Self { plugin, fields, adds })
    }

    /// The JSON Schema of the parameters.
    pub fn schema() -> Json {
        serde_json::from_str(&component::describe::<P>().params_schema).unwrap_or_default()
    }

    /// The fields that the plugin reads.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Runs the rows as one batch. A row is the event as a JSON object; system columns are members like `"$key"`.
    ///
    /// Answers `{"findings": […], "added": […], "drops": […], "failures": […], "skipped": […]}`: `added` holds an object
    /// for each row that an enricher was shown and did not refuse, else null; `skipped` the rows that were not shown.
    ///
    /// # Errors
    /// A row does not fit the fields, the plugin fails the batch, or its answer breaks the contract.
    pub fn run(&mut self, rows: &[Json]) -> Result<Json, String> {
        let mut shown = Vec::new();
        let mut skipped = Vec::new();
        for (row, event) in rows.iter().enumerate() {
            let has_all =
                self.fields.iter().all(|field| !field.required || !columns::find(event, &field.path).is_null());
            if has_all { shown.push((row, event)) } else { skipped.push(row) }
        }
        let events: Vec<_> = shown.iter().map(|(_, event)| *event).collect();
        let batch = self.batch(&events)?;
        let (judgement, enrichment) = P::Role::run(&mut self.plugin, &batch)?;
        self.check(&batch, &judgement, &enrichment)?;

        let origin = |row: u32| shown.get(row as usize).map_or(0, |(row, _)| *row);
        let failures = judgement.failures.iter().chain(&enrichment.failures);
        let failures: Vec<_> =
            failures.map(|failure| json!({"row": origin(failure.row), "message": failure.message})).collect();
        let drops: Vec<_> =
            enrichment.drops.iter().map(|drop| json!({"row": origin(drop.row), "reason": drop.reason})).collect();
        let mut added = vec![Json::Null; if P::Role::KIND == Kind::Enricher { rows.len() } else { 0 }];
        let refused: BTreeSet<u32> = enrichment
            .failures
            .iter()
            .map(|failure| failure.row)
            .chain(enrichment.drops.iter().map(|drop| drop.row))
            .collect();
        for row in (0..batch.rows).filter(|row| !refused.contains(row)) {
            if let Some(slot) = added.get_mut(origin(row)) {
                let cells = self.adds.iter().zip(&enrichment.columns);
                let cells = cells.map(|(column, values)| (column.name.clone(), columns::cell(values, row as usize)));
                *slot = Json::Object(cells.collect());
            }
        }
        Ok(json!({
            "findings": judgement.findings.iter().map(|found| finding(found, origin(found.row))).collect::<Vec<_>>(),
            "added": added,
            "drops": drops,
            "failures": failures,
            "skipped": skipped,
        }))
    }

    fn batch(&self, events: &[&Json]) -> Result<Batch, String> {
        let columns: Result<_, String> = self.fields.iter().map(|field| columns::column(field, events)).collect();
        let rows = u32::try_from(events.len()).map_err(|_| "too many rows for one batch".to_owned())?;
        Ok(Batch { partition: 0, rows, watermark: 0, columns: columns? })
    }

    /// What the host checks in an answer.
    fn check(&self, batch: &Batch, judgement: &Judgement, enrichment: &Enrichment) -> Result<(), String> {
        let mut rules = BTreeSet::new();
        for found in &judgement.findings {
            if !is_name(&found.rule) {
                return Err(format!("rule `{}` is not 1 to 63 of the characters a-z, 0-9 and -", found.rule));
            }
            if !rules.insert((found.row, found.rule.as_str())) {
                return Err(format!("rule `{}` has two findings in row {}", found.rule, found.row));
            }
        }
        let rows = judgement.findings.iter().map(|found| found.row);
        let rows = rows.chain(judgement.failures.iter().map(|failure| failure.row));
        let rows = rows.chain(enrichment.failures.iter().map(|failure| failure.row));
        let mut rows = rows.chain(enrichment.drops.iter().map(|drop| drop.row));
        if let Some(row) = rows.find(|row| *row >= batch.rows) {
            return Err(format!("row {row} is not in the batch of {} rows", batch.rows));
        }
        if self.adds.len() != enrichment.columns.len() {
            return Err(format!("{} columns are announced, {} are added", self.adds.len(), enrichment.columns.len()));
        }
        let columns = self.adds.iter().zip(&enrichment.columns);
        for (announced, column) in columns {
            if !columns::fits(column, announced.of_type, batch.rows as usize) {
                return Err(format!("column `{}` has another type or length than announced", announced.name));
            }
        }
        Ok(())
    }
}

impl<P: Plugin> fmt::Debug for Harness<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness").field("plugin", &P::NAME).field("fields", &self.fields).finish_non_exhaustive()
    }
}

fn finding(found: &Finding, row: usize) -> Json {
    let attributes: serde_json::Map<_, _> =
        found.attributes.iter().map(|(name, value)| (name.clone(), Json::from(value.as_str()))).collect();
    json!({
        "row": row,
        "rule": found.rule,
        "severity": found.severity.to_json(),
        "message": found.message,
        "attributes": attributes,
        "halt": found.halt,
    })
}

fn is_name(name: &str) -> bool {
    let fits = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    (1..=63).contains(&name.len()) && name.chars().all(fits)
}
