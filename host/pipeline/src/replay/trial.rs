//! One detector over archived columns: the same runner, limits and clock as in a worker, and nobody else hears of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{Array, ArrayRef, UInt32Array};
use arrow_schema::{ArrowError, DataType, Schema};
use phronis_archive::column;
use phronis_archive::history::Stretch;
use phronis_core::plugin::{Batch, Field, FieldType, Kind, Limits, Severity};
use phronis_core::text::did_you_mean;
use phronis_core::{Code, PluginId, code};
use phronis_engine::{Component, Runner};
use serde_json::Value;

use super::Error;
use crate::stage::deliver::code_of;

/// A detector on trial.
#[derive(Debug)]
pub struct Trial {
    runner: Runner,
    params: Value,
    fields: Vec<Field>,
    /// The archive's column of each field.
    columns: Vec<String>,
    /// Latest event time of each partition.
    watermarks: BTreeMap<i32, i64>,
    pub(super) counts: Counts,
    /// Time inside of the plugin.
    pub(super) busy: Duration,
}

/// What became of the events that a detector could have been shown.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Counts {
    pub(super) judged: u64,
    /// A field that it requires is null.
    pub(super) skipped: u64,
    /// Code, first message, and how many.
    pub(super) failed: BTreeMap<Code, (String, u64)>,
}

/// What a detector found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Hit {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) at: i64,
    pub(super) rule: Arc<str>,
    pub(super) severity: Severity,
    pub(super) key: Option<Arc<str>>,
    pub(super) message: String,
}

impl Trial {
    /// Makes an instance, and finds the columns that it reads in a table of the archive.
    ///
    /// # Errors
    /// It is no detector, it refuses the parameters, or the archive lacks what it reads.
    pub fn new(
        component: Component,
        id: PluginId,
        params: &Value,
        limits: Limits,
        table: &Schema,
    ) -> Result<Self, Error> {
        if component.kind() != Kind::Detector {
            return Err(Error::NotDetector { plugin: component.manifest().name.clone() });
        }
        let params = component.defaults(params).map_err(|problems| {
            let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Error::Params(told.join("; "))
        })?;
        let runner = Runner::new(component, id, &params, limits)?;
        let fields = runner.shape().fields.clone();
        let columns = fields.iter().map(|field| column_of(field, table)).collect::<Result<_, _>>()?;
        let (counts, busy) = (Counts::default(), Duration::ZERO);
        Ok(Self { runner, params, fields, columns, watermarks: BTreeMap::new(), counts, busy })
    }

    /// The columns of the archive that it reads.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The parameters in force.
    pub fn params(&self) -> &Value {
        &self.params
    }

    /// What runs: name, version, digest.
    pub fn named(&self) -> (String, String, String) {
        let component = self.runner.component();
        (self.runner.id().name.to_string(), component.manifest().version.clone(), component.digest().to_owned())
    }

    /// Judges rows; `at` says where each of [`Trial::columns`] stands in the stretch, `key` where the key stands.
    pub(super) fn judge(
        &mut self,
        stretch: &Stretch,
        at: &[usize],
        key: usize,
        hits: &mut Vec<Hit>,
    ) -> Result<(), ArrowError> {
        let rows = stretch.offsets.len();
        let missing = || ArrowError::SchemaError("a column is missing".to_owned());
        let mut columns = Vec::with_capacity(at.len());
        for (field, place) in self.fields.iter().zip(at) {
            columns.push(as_type(stretch.columns.get(*place).ok_or_else(missing)?, field.of_type)?);
        }
        let shown = shown(&self.fields, &columns, rows);
        if let Some(shown) = &shown {
            for array in &mut columns {
                *array = arrow_select::take::take(array, shown, None)?;
            }
        }
        let latest = stretch.event_times.values().iter().copied().max().unwrap_or(i64::MIN);
        let watermark = self.watermarks.entry(stretch.partition).or_insert(i64::MIN);
        *watermark = latest.max(*watermark);
        let shown_rows = shown.as_ref().map_or(rows, UInt32Array::len);
        self.counts.skipped += (rows - shown_rows) as u64;
        if shown_rows == 0 {
            return Ok(());
        }
        let batch = Batch { partition: stretch.partition, watermark: *watermark, rows: shown_rows, columns: &columns };
        let said = self.runner.detect(&batch);
        self.busy += said.busy;
        self.counts.judged += shown_rows.saturating_sub(said.judgement.failures.len()) as u64;
        for failure in said.judgement.failures {
            let (_, count) = self.counts.failed.entry(code_of(failure.kind)).or_insert((failure.message, 0));
            *count += 1;
        }
        let keys = stretch.columns.get(key).ok_or_else(missing)?;
        let keys = arrow_array::cast::AsArray::as_string_opt::<i32>(keys.as_ref());
        for finding in said.judgement.findings {
            let row = match &shown {
                Some(shown) => shown.values().get(finding.row).map_or(usize::MAX, |row| *row as usize),
                None => finding.row,
            };
            // The engine has checked that rows are in the batch.
            let Some(offset) = stretch.offsets.values().get(row) else { continue };
            hits.push(Hit {
                partition: stretch.partition,
                offset: *offset,
                at: stretch.event_times.values().get(row).copied().unwrap_or_default(),
                rule: finding.rule.into(),
                severity: finding.severity,
                key: keys.filter(|keys| keys.is_valid(row)).map(|keys| keys.value(row).into()),
                message: finding.message,
            });
        }
        Ok(())
    }
}

/// The rows that may be shown, where not all may: nothing that is required is null.
fn shown(fields: &[Field], columns: &[ArrayRef], rows: usize) -> Option<UInt32Array> {
    let required: Vec<&ArrayRef> = fields
        .iter()
        .zip(columns)
        .filter(|(field, array)| field.required && array.null_count() > 0)
        .map(|(_, array)| array)
        .collect();
    if required.is_empty() {
        return None;
    }
    let rows = u32::try_from(rows).unwrap_or(u32::MAX);
    let is_shown = |row: &u32| required.iter().all(|array| array.is_valid(*row as usize));
    Some((0..rows).filter(is_shown).collect::<Vec<_>>().into())
}

fn as_type(array: &ArrayRef, of_type: FieldType) -> Result<ArrayRef, ArrowError> {
    let wanted = of_type.arrow();
    if *array.data_type() == wanted { Ok(Arc::clone(array)) } else { arrow_cast::cast(array, &wanted) }
}

/// The archive's column of a field, if it has the type that the plugin wants.
fn column_of(field: &Field, table: &Schema) -> Result<String, Error> {
    let refused = |reason: String| Error::Field { field: field.path.clone(), reason };
    let name = match field.path.as_str() {
        "$key" => column::KEY,
        "$event_time" => column::EVENT_TIME,
        "$timestamp" => column::RECORD_TIME,
        "$offset" => column::OFFSET,
        path if path.starts_with('$') => {
            let reason = "the archive keeps the contract's fields, not the record's bytes and headers";
            return Err(refused(reason.to_owned()));
        }
        path => path,
    };
    let Ok(found) = table.field_with_name(name) else {
        let names = table.fields().iter().map(|known| known.name().as_str());
        let near = did_you_mean(name, names.filter(|known| !known.starts_with("phronis_")));
        return Err(refused(format!("the archived table has no column `{name}`{near}")));
    };
    if !fits(found.data_type(), field.of_type) {
        let (has, wants) = (phronis_archive::query::type_name(found.data_type()), field.of_type.name());
        return Err(refused(format!("the archived column is {has}, the plugin reads it as {wants}")));
    }
    Ok(name.to_owned())
}

fn fits(has: &DataType, wants: FieldType) -> bool {
    match (has, wants) {
        (DataType::Boolean, FieldType::Boolean)
        | (DataType::Int32 | DataType::Int64, FieldType::Integer | FieldType::Number)
        | (DataType::Float32 | DataType::Float64, FieldType::Number)
        | (DataType::Utf8, FieldType::Text | FieldType::Binary)
        | (DataType::Timestamp(..), FieldType::Timestamp)
        | (DataType::Binary | DataType::LargeBinary, FieldType::Binary) => true,
        (DataType::List(item), FieldType::Texts) => *item.data_type() == DataType::Utf8,
        (DataType::List(item), FieldType::Numbers) => *item.data_type() == DataType::Float64,
        _ => false,
    }
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::NotDetector { .. } => code::WRONG_WORLD,
            Self::Params(_) => code::PARAMS_REFUSED,
            Self::Refused(refusal) => refusal.code,
            Self::Field { .. } => code::REPLAY_FIELD,
            Self::NoTable { .. } => code::QUERY_NO_TABLE,
            Self::Against { .. } => code::REPLAY_AGAINST,
            Self::Archive(error) => error.code(),
            Self::Columns(_) | Self::Stopped => code::QUERY_FAILED,
        }
    }
}
