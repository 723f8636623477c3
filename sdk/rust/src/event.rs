//! From columns to rows: what `#[derive(Event)]` implements.

use crate::bindings::phronis::plugin::types::{Batch, Column, Field};
use crate::params::{ParamError, Params};
use crate::value::Value;

/// A row that a plugin reads. Use `#[derive(Event)]`.
///
/// `'a` is the life of the batch, which the row borrows from.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "needs `#[derive(Event)]`",
    note = "the first argument of a plugin is a struct with `#[derive(Event)]`, taken by value"
)]
pub trait Event<'a>: Sized {
    /// The borrowed columns, one a field.
    type Columns;

    /// Names the fields, in the order of the struct.
    ///
    /// # Errors
    /// A parameter that holds a path is missing or not a text.
    fn fields<P: Params>(params: &P) -> Result<Vec<Field>, ParamError>;

    /// Borrows the columns of a batch.
    ///
    /// # Errors
    /// The batch does not hold the columns that `fields` names.
    fn columns(batch: &'a Batch) -> Result<Self::Columns, String>;

    /// Reads one row; nothing where a field that is not an `Option` is null.
    fn row(columns: &Self::Columns, row: usize) -> Option<Self>;
}

#[doc(hidden)]
pub fn field<'a, T: Value<'a>>(path: &str) -> Field {
    Field { path: path.to_owned(), of_type: T::TYPE, required: T::REQUIRED }
}

#[doc(hidden)]
pub fn path_of<'p, P: Params>(params: &'p P, name: &str) -> Result<&'p str, ParamError> {
    match params.text(name) {
        Some("") => Err(ParamError::new(name, "must name a field of the event, it is empty")),
        Some(path) => Ok(path),
        None => Err(ParamError::new(name, "must be a text that names a field of the event")),
    }
}

#[doc(hidden)]
pub fn column_count<const N: usize>(batch: &Batch) -> Result<&[Column; N], String> {
    <&[Column; N]>::try_from(batch.columns.as_slice())
        .map_err(|_| format!("{N} columns are declared, the host sent {}", batch.columns.len()))
}
