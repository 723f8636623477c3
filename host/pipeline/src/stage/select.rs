//! Which rows of a batch a plugin is shown, and how its answers find back to their events.

use std::collections::BTreeMap;

use arrow_array::{Array, ArrayRef, UInt32Array};
use phronis_core::contract::Column;
use phronis_core::plugin::Field;

use super::{Judged, Leaving};

/// What a plugin is shown of a batch.
#[derive(Debug)]
pub(crate) struct Selection {
    /// The declared columns of the rows that are shown.
    pub(crate) columns: Vec<ArrayRef>,
    /// Number of rows shown.
    pub(crate) rows: usize,
    /// The events of these rows; `None`: row and event are the same.
    events: Option<UInt32Array>,
    /// Events that are there but not shown, because a required field is null.
    pub(crate) skipped: Vec<u32>,
}

impl Selection {
    /// The event of a row.
    pub(crate) fn event(&self, row: usize) -> u32 {
        let same = u32::try_from(row).unwrap_or(u32::MAX);
        self.events.as_ref().map_or(same, |events| events.values().get(row).copied().unwrap_or(u32::MAX))
    }

    /// The events of all rows, rising.
    pub(crate) fn events(&self) -> impl Iterator<Item = u32> {
        (0..self.rows).map(|row| self.event(row))
    }

    /// Stretches a column of the shown rows over all events; null where an event was not shown.
    pub(crate) fn spread(&self, column: &ArrayRef, events: usize) -> Result<ArrayRef, arrow_schema::ArrowError> {
        let Some(shown) = &self.events else { return Ok(ArrayRef::clone(column)) };
        let mut rows: Vec<Option<u32>> = vec![None; events];
        for (row, event) in (0u32..).zip(shown.values()) {
            if let Some(slot) = rows.get_mut(*event as usize) {
                *slot = Some(row);
            }
        }
        arrow_select::take::take(column, &UInt32Array::from(rows), None)
    }
}

/// Chooses the rows that a plugin is shown: still there, and nothing required is null.
pub(crate) fn select(
    judged: &Judged,
    fields: &[Field],
    columns: &[Column],
) -> Result<Selection, arrow_schema::ArrowError> {
    let events = judged.checked.events.len();
    let whole: Vec<ArrayRef> = columns.iter().map(|column| column_of(judged, column)).collect();
    let required: Vec<&ArrayRef> = fields
        .iter()
        .zip(&whole)
        .filter(|(field, array)| field.required && array.null_count() > 0)
        .map(|(_, a)| a)
        .collect();
    if judged.leaving.is_empty() && required.is_empty() {
        return Ok(Selection { columns: whole, rows: events, events: None, skipped: Vec::new() });
    }
    let mut shown = Vec::with_capacity(events);
    let mut skipped = Vec::new();
    for event in 0..u32::try_from(events).unwrap_or(u32::MAX) {
        if is_gone(&judged.leaving, event) {
            continue;
        }
        if required.iter().any(|array| array.is_null(event as usize)) {
            skipped.push(event);
        } else {
            shown.push(event);
        }
    }
    let shown = UInt32Array::from(shown);
    let columns = whole.iter().map(|array| arrow_select::take::take(array, &shown, None)).collect::<Result<_, _>>()?;
    Ok(Selection { columns, rows: shown.len(), events: Some(shown), skipped })
}

fn is_gone(leaving: &BTreeMap<u32, Leaving>, event: u32) -> bool {
    !leaving.is_empty() && leaving.contains_key(&event)
}

fn column_of(judged: &Judged, column: &Column) -> ArrayRef {
    judged.checked.project(column, &judged.added)
}
