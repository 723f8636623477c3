//! What an enricher adds: columns built row by row, without an allocation a row for numbers and borrowed texts.

use std::fmt::Display;

use crate::bindings::phronis::plugin::types::{
    Added as AddedColumn, Batch, Column, Drop, Enrichment, FieldType, RowFailure, Texts, Values,
};
use crate::event::Event;
use crate::params::{ParamError, Params};
use crate::value::Timestamp;

/// The columns that an enricher adds to a row. Use `#[derive(Added)]`, or `()` for none.
pub trait Added: Sized {
    /// The columns under construction.
    type Builders: Default;

    /// Names the columns, in the order of the struct.
    ///
    /// # Errors
    /// A parameter that holds a name is missing or not a text.
    fn names<P: Params>(params: &P) -> Result<Vec<AddedColumn>, ParamError>;

    /// Appends a row; nothing for a row that gets no values.
    fn push(row: Option<Self>, builders: &mut Self::Builders);

    /// Ends the columns.
    fn finish(builders: Self::Builders) -> Vec<Column>;
}

impl Added for () {
    type Builders = ();

    fn names<P: Params>(_params: &P) -> Result<Vec<AddedColumn>, ParamError> {
        Ok(Vec::new())
    }

    fn push(_row: Option<Self>, _builders: &mut ()) {}

    fn finish(_builders: ()) -> Vec<Column> {
        Vec::new()
    }
}

/// A type that an added column may have.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an added column",
    label = "not a column type",
    note = "an added column is bool, i64, f64, &str, String, Timestamp, or an Option of one of these"
)]
pub trait AddedValue: Sized {
    /// What the host is told.
    const TYPE: FieldType;

    /// Appends the value.
    fn push(self, builder: &mut Builder);
}

/// One column under construction. All types share it, so that a plugin carries its code once.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Builder {
    rows: usize,
    validity: Option<Vec<u8>>,
    bits: Vec<u8>,
    integers: Vec<i64>,
    numbers: Vec<f64>,
    ends: Vec<u32>,
    text: Vec<u8>,
}

impl Builder {
    /// Appends a value, or a null.
    pub fn push<T: AddedValue>(&mut self, value: Option<T>) {
        match value {
            Some(value) => value.push(self),
            None => self.push_null(T::TYPE),
        }
    }

    /// Ends the column.
    pub fn finish<T: AddedValue>(self) -> Column {
        let values = match T::TYPE {
            FieldType::Boolean => Values::Boolean(self.bits),
            FieldType::Integer => Values::Integer(self.integers),
            FieldType::Timestamp => Values::Timestamp(self.integers),
            FieldType::Number => Values::Number(self.numbers),
            _ => {
                let offsets = std::iter::once(0).chain(self.ends).collect();
                Values::Text(Texts { offsets, data: self.text })
            }
        };
        Column { validity: self.validity, values }
    }

    fn push_null(&mut self, of_type: FieldType) {
        let rows = self.rows;
        // Columns without a null carry no bitmap: it appears with the first null, all rows before it present.
        self.validity.get_or_insert_with(|| {
            let mut bits = vec![0xff; rows / 8];
            bits.extend((!rows.is_multiple_of(8)).then(|| (1_u8 << (rows % 8)) - 1));
            bits
        });
        match of_type {
            FieldType::Boolean => false.push(self),
            FieldType::Integer | FieldType::Timestamp => 0_i64.push(self),
            FieldType::Number => 0.0_f64.push(self),
            _ => "".push(self),
        }
        // `push` marked the row as present.
        if let Some(last) = self.validity.as_mut().and_then(|bits| bits.last_mut()) {
            *last &= !(1 << (rows % 8));
        }
    }

    fn count_row(&mut self) {
        if let Some(validity) = &mut self.validity {
            push_bit(validity, self.rows, true);
        }
        self.rows += 1;
    }
}

fn push_bit(bits: &mut Vec<u8>, row: usize, value: bool) {
    if row.is_multiple_of(8) {
        bits.push(0);
    }
    if let Some(last) = bits.last_mut() {
        *last |= u8::from(value) << (row % 8);
    }
}

impl AddedValue for bool {
    const TYPE: FieldType = FieldType::Boolean;

    fn push(self, builder: &mut Builder) {
        push_bit(&mut builder.bits, builder.rows, self);
        builder.count_row();
    }
}

impl AddedValue for i64 {
    const TYPE: FieldType = FieldType::Integer;

    fn push(self, builder: &mut Builder) {
        builder.integers.push(self);
        builder.count_row();
    }
}

impl AddedValue for Timestamp {
    const TYPE: FieldType = FieldType::Timestamp;

    fn push(self, builder: &mut Builder) {
        self.0.push(builder);
    }
}

impl AddedValue for f64 {
    const TYPE: FieldType = FieldType::Number;

    fn push(self, builder: &mut Builder) {
        builder.numbers.push(self);
        builder.count_row();
    }
}

impl AddedValue for &str {
    const TYPE: FieldType = FieldType::Text;

    fn push(self, builder: &mut Builder) {
        builder.text.extend_from_slice(self.as_bytes());
        // A 32-bit guest cannot hold more than u32::MAX bytes of text.
        builder.ends.push(u32::try_from(builder.text.len()).unwrap_or(u32::MAX));
        builder.count_row();
    }
}

impl AddedValue for String {
    const TYPE: FieldType = FieldType::Text;

    fn push(self, builder: &mut Builder) {
        self.as_str().push(builder);
    }
}

impl<T: AddedValue> AddedValue for Option<T> {
    const TYPE: FieldType = T::TYPE;

    fn push(self, builder: &mut Builder) {
        builder.push(self);
    }
}

/// Why a row is not enriched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reject {
    /// It cannot be enriched: the row becomes a letter.
    Fail(String),
    /// A rule of the plugin drops it: the event goes no further, and the reason is counted.
    Drop(String),
}

impl Reject {
    /// The row cannot be enriched.
    pub fn fail(message: impl Into<String>) -> Self {
        Self::Fail(message.into())
    }

    /// A rule of the plugin drops the row.
    pub fn drop(reason: impl Into<String>) -> Self {
        Self::Drop(reason.into())
    }
}

impl<T: Display> From<T> for Reject {
    fn from(message: T) -> Self {
        Self::Fail(message.to_string())
    }
}

/// What an enricher's function may return.
#[diagnostic::on_unimplemented(
    message = "an enricher cannot return `{Self}`",
    note = "it returns a struct with `#[derive(Added)]`, or a `Result` of that and `String` or `Reject`"
)]
#[doc(hidden)]
pub trait IntoAdded {
    type Added: Added;

    fn into_added(self) -> Result<Self::Added, Reject>;
}

impl<A: Added> IntoAdded for A {
    type Added = A;

    fn into_added(self) -> Result<A, Reject> {
        Ok(self)
    }
}

impl<A: Added, E: Into<Reject>> IntoAdded for Result<A, E> {
    type Added = A;

    fn into_added(self) -> Result<A, Reject> {
        self.map_err(E::into)
    }
}

#[doc(hidden)]
pub fn added_names<R: IntoAdded, P: Params>(params: &P) -> Result<Vec<AddedColumn>, ParamError> {
    <R::Added as Added>::names(params)
}

#[doc(hidden)]
#[inline]
pub fn enrich_rows<'a, E: Event<'a>, R: IntoAdded>(
    batch: &'a Batch,
    mut enrich: impl FnMut(E) -> R,
) -> Result<Enrichment, String> {
    let columns = E::columns(batch)?;
    let mut builders = <R::Added as Added>::Builders::default();
    let mut drops = Vec::new();
    let mut failures = Vec::new();
    for row in 0..batch.rows {
        let added = match E::row(&columns, row as usize).map(|event| enrich(event).into_added()) {
            None => None,
            Some(Ok(added)) => Some(added),
            Some(Err(Reject::Fail(message))) => {
                failures.push(RowFailure { row, message });
                None
            }
            Some(Err(Reject::Drop(reason))) => {
                drops.push(Drop { row, reason });
                None
            }
        };
        Added::push(added, &mut builders);
    }
    Ok(Enrichment { columns: <R::Added as Added>::finish(builders), drops, failures })
}
