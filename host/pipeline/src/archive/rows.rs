//! Rows of the archive: what stands in `processed`, `alerts` and `dlq`, as the columns of its tables.
//!
//! Every record becomes a row, also one that somebody else wrote or that cannot be read: its bytes are kept then
//! (`phronis_undecoded`), and it is counted. The origin in raw says which rows are the same event (`system.rs`).

mod alerts;
mod events;
mod letters;
mod system;
#[cfg(test)]
mod tests;

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, DataType, SchemaRef};
use phronis_core::plugin::{Added, FieldType};
use phronis_core::records::Records;

pub(crate) use self::alerts::AlertRows;
pub(crate) use self::events::EventRows;
pub(crate) use self::letters::LetterRows;
pub(crate) use self::system::PREFIX;

/// The type that an added column has in a table.
pub(crate) fn archived(of: FieldType) -> DataType {
    // JSON has no bytes: they are text there, and so here.
    if of == FieldType::Binary { DataType::Utf8 } else { of.arrow() }
}

/// What was made of records.
#[derive(Debug)]
pub(crate) struct Made {
    /// One row a record.
    pub(crate) rows: RecordBatch,
    /// Records that say nothing of where they came from: somebody else wrote them.
    pub(crate) foreign: u64,
    /// Records whose value cannot be read; their bytes are kept.
    pub(crate) undecoded: u64,
}

/// Makes the rows of one table.
#[derive(Debug)]
pub(crate) enum Rows {
    Events(Box<EventRows>),
    Alerts(AlertRows),
    Letters(LetterRows),
}

impl Rows {
    /// All columns, in order.
    pub(crate) fn schema(&self) -> SchemaRef {
        match self {
            Self::Events(rows) => rows.schema(),
            Self::Alerts(rows) => rows.schema(),
            Self::Letters(rows) => rows.schema(),
        }
    }

    /// Columns that tell rows of one origin apart.
    pub(crate) fn key(&self) -> Vec<String> {
        let names: &[&str] = match self {
            Self::Events(_) => &[],
            Self::Alerts(_) => &alerts::KEY,
            Self::Letters(_) => &letters::KEY,
        };
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Columns that these records have and the rows have not yet.
    pub(crate) fn unknown(&self, records: &Records) -> Vec<Added> {
        match self {
            Self::Events(rows) => rows.unknown(records),
            Self::Alerts(_) | Self::Letters(_) => Vec::new(),
        }
    }

    /// The rows of records, read at this time (microseconds since 1970).
    ///
    /// # Errors
    /// A fault of the host.
    pub(crate) fn make(&mut self, records: Records, now: i64) -> Result<Made, ArrowError> {
        match self {
            Self::Events(rows) => rows.make(records, now),
            Self::Alerts(rows) => rows.make(&records, now),
            Self::Letters(rows) => rows.make(&records, now),
        }
    }
}

/// The nearest text of bytes: a key or a value for people.
fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
