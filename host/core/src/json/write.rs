//! Writing JSON values into a byte buffer.

use std::fmt::Write as _;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, BinaryArray, BooleanArray, Float64Array, Int64Array, ListArray, StringArray};
use arrow_array::{ArrayRef, TimestampMicrosecondArray};

use crate::time::write_rfc3339;

/// A column seen once a batch as what it is, so that writing a value does not ask again.
#[derive(Debug)]
pub(crate) enum Cells<'a> {
    Boolean(&'a BooleanArray),
    Integer(&'a Int64Array),
    Number(&'a Float64Array),
    Text(&'a StringArray),
    Timestamp(&'a TimestampMicrosecondArray),
    Binary(&'a BinaryArray),
    Texts(&'a ListArray),
    /// A type that no plugin column has: written as null.
    Unknown,
}

impl<'a> Cells<'a> {
    pub(crate) fn of(array: &'a ArrayRef) -> Self {
        if let Some(a) = array.as_boolean_opt() {
            Self::Boolean(a)
        } else if let Some(a) = array.as_primitive_opt::<Int64Type>() {
            Self::Integer(a)
        } else if let Some(a) = array.as_primitive_opt::<Float64Type>() {
            Self::Number(a)
        } else if let Some(a) = array.as_string_opt::<i32>() {
            Self::Text(a)
        } else if let Some(a) = array.as_primitive_opt::<TimestampMicrosecondType>() {
            Self::Timestamp(a)
        } else if let Some(a) = array.as_binary_opt::<i32>() {
            Self::Binary(a)
        } else if let Some(a) = array.as_list_opt::<i32>() {
            Self::Texts(a)
        } else {
            Self::Unknown
        }
    }

    /// Appends the value of a row as JSON; null where there is none.
    pub(crate) fn write(&self, out: &mut Vec<u8>, row: usize) {
        match self {
            Self::Boolean(a) if a.is_valid(row) => out.extend_from_slice(if a.value(row) { b"true" } else { b"false" }),
            Self::Integer(a) if a.is_valid(row) => integer(out, a.value(row)),
            Self::Number(a) if a.is_valid(row) => number(out, a.value(row)),
            Self::Text(a) if a.is_valid(row) => text(out, a.value(row)),
            Self::Timestamp(a) if a.is_valid(row) => {
                out.push(b'"');
                write_rfc3339(out, a.value(row));
                out.push(b'"');
            }
            // JSON has no bytes; text where it is text, replacement characters where it is not.
            Self::Binary(a) if a.is_valid(row) => text(out, &String::from_utf8_lossy(a.value(row))),
            Self::Texts(a) if a.is_valid(row) => {
                let items = a.value(row);
                let cells = Cells::of(&items);
                out.push(b'[');
                for item in 0..items.len() {
                    if item > 0 {
                        out.push(b',');
                    }
                    cells.write(out, item);
                }
                out.push(b']');
            }
            _ => out.extend_from_slice(b"null"),
        }
    }
}

/// Appends a whole number.
pub(crate) fn integer(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends the shortest text that reads back as the same double; null for what JSON cannot say.
pub(crate) fn number(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else {
        out.extend_from_slice(b"null");
    }
}

/// Appends a string with its quotes.
pub(crate) fn text(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    let mut rest = value.as_bytes();
    while let Some(at) = rest.iter().position(|&b| b < 0x20 || b == b'"' || b == b'\\') {
        let Some((plain, [byte, after @ ..])) = rest.split_at_checked(at) else { break };
        out.extend_from_slice(plain);
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            byte => {
                let mut escape = String::with_capacity(6);
                let _infallible = write!(escape, "\\u{byte:04x}");
                out.extend_from_slice(escape.as_bytes());
            }
        }
        rest = after;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}
