//! The types that a field of an event may have, read straight from the columns.
//!
//! A column is checked once a batch; reading a row is then an index into borrowed slices, without allocation.

use crate::bindings::phronis::plugin::types::{Column, FieldType, Texts as TextColumn, Values};

/// A type that a field of an event may have.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a field of an event",
    label = "not a field type",
    note = "a field is bool, i64, f64, &str, Timestamp, &[u8], &[f64], Texts, or an Option of one of these"
)]
pub trait Value<'a>: Sized {
    /// What the host is asked for.
    const TYPE: FieldType;
    /// Whether rows with a null are not shown.
    const REQUIRED: bool = true;
    /// The borrowed column.
    type Column;

    /// Borrows a column of `rows` rows.
    ///
    /// # Errors
    /// The column has another type or another length.
    fn column(column: &'a Column, rows: usize) -> Result<Self::Column, String>;

    /// Reads one row; nothing where it is null.
    fn read(column: &Self::Column, row: usize) -> Option<Self>;
}

/// A time, in microseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Microseconds since 1970-01-01T00:00:00Z.
    pub fn micros(self) -> i64 {
        self.0
    }
}

/// A list of texts in one row.
#[derive(Debug, Clone, Copy)]
pub struct Texts<'a> {
    offsets: &'a [u32],
    data: &'a str,
}

impl<'a> Texts<'a> {
    /// The texts, in order.
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        self.offsets.windows(2).filter_map(move |pair| match *pair {
            [from, to] => self.data.get(from as usize..to as usize),
            _ => None,
        })
    }

    /// Whether one of the texts is `text`.
    pub fn contains(self, text: &str) -> bool {
        self.iter().any(|item| item == text)
    }
}

/// A column with one item a row.
#[derive(Debug, Clone, Copy)]
pub struct Plain<'a, T> {
    validity: Option<&'a [u8]>,
    values: &'a [T],
}

/// A column with a slice of `data` a row.
#[derive(Debug, Clone, Copy)]
pub struct Sliced<'a, T: ?Sized> {
    validity: Option<&'a [u8]>,
    offsets: &'a [u32],
    data: &'a T,
}

impl<T: ?Sized> Sliced<'_, T> {
    #[inline]
    fn range(&self, row: usize) -> Option<std::ops::Range<usize>> {
        if !is_present(self.validity, row) {
            return None;
        }
        let from = *self.offsets.get(row)?;
        let to = *self.offsets.get(row + 1)?;
        Some(from as usize..to as usize)
    }
}

macro_rules! plain {
    ($type:ty, $field_type:ident, $variant:ident, $item:ty, |$item_name:ident| $value:expr) => {
        impl<'a> Value<'a> for $type {
            const TYPE: FieldType = FieldType::$field_type;
            type Column = Plain<'a, $item>;

            fn column(column: &'a Column, rows: usize) -> Result<Self::Column, String> {
                match &column.values {
                    Values::$variant(values) if values.len() == rows => {
                        Ok(Plain { validity: validity(column, rows)?, values })
                    }
                    other => Err(mismatch(FieldType::$field_type, other)),
                }
            }

            #[inline]
            fn read(column: &Self::Column, row: usize) -> Option<Self> {
                let $item_name = *column.values.get(row)?;
                is_present(column.validity, row).then_some($value)
            }
        }
    };
}

plain!(i64, Integer, Integer, i64, |value| value);
plain!(f64, Number, Number, f64, |value| value);
plain!(Timestamp, Timestamp, Timestamp, i64, |value| Timestamp(value));

impl<'a> Value<'a> for bool {
    const TYPE: FieldType = FieldType::Boolean;
    type Column = Plain<'a, u8>;

    fn column(column: &'a Column, rows: usize) -> Result<Self::Column, String> {
        match &column.values {
            Values::Boolean(values) if values.len() >= rows.div_ceil(8) => {
                Ok(Plain { validity: validity(column, rows)?, values })
            }
            other => Err(mismatch(FieldType::Boolean, other)),
        }
    }

    #[inline]
    fn read(column: &Self::Column, row: usize) -> Option<Self> {
        is_present(column.validity, row).then(|| is_set(column.values, row))
    }
}

impl<'a> Value<'a> for &'a str {
    const TYPE: FieldType = FieldType::Text;
    type Column = Sliced<'a, str>;

    fn column(column: &'a Column, rows: usize) -> Result<Self::Column, String> {
        match &column.values {
            Values::Text(texts) => {
                let offsets = offsets(&texts.offsets, rows)?;
                Ok(Sliced { validity: validity(column, rows)?, offsets, data: utf8(texts)? })
            }
            other => Err(mismatch(FieldType::Text, other)),
        }
    }

    #[inline]
    fn read(column: &Self::Column, row: usize) -> Option<Self> {
        column.data.get(column.range(row)?)
    }
}

impl<'a> Value<'a> for &'a [u8] {
    const TYPE: FieldType = FieldType::Binary;
    type Column = Sliced<'a, [u8]>;

    fn column(column: &'a Column, rows: usize) -> Result<Self::Column, String> {
        match &column.values {
            Values::Binary(bytes) => {
                let offsets = offsets(&bytes.offsets, rows)?;
                Ok(Sliced { validity: validity(column, rows)?, offsets, data: &bytes.data })
            }
            other => Err(mismatch(FieldType::Binary, other)),
        }
    }

    #[inline]
    fn read(column: &Self::Column, row: usize) -> Option<Self> {
        column.data.get(column.range(row)?)
    }
}

impl<'a> Value<'a> for &'a [f64] {
    const TYPE: FieldType = FieldType::Numbers;
    type Column = Sliced<'a, [f64]>;

    fn column(column: &'a Column, rows: usize) -> Result<Self::Column, String> {
        match &column.values {
            Values::Numbers(lists) => {
                let offsets = offsets(&lists.offsets, rows)?;
                Ok(Sliced { validity: validity(column, rows)?, offsets, data: &lists.items })
            }
            other => Err(mismatch(FieldType::Numbers, other)),
        }
    }

    #[inline]
    fn read(column: &Self::Column, row: usize) -> Option<Self> {
        column.data.get(column.range(row)?)
    }
}

impl<'a> Value<'a> for Texts<'a> {
    const TYPE: FieldType = FieldType::Texts;
    type Column = (Sliced<'a, [u32]>, &'a str);

    fn column(column: &'a Column, rows: usize) -> Result<Self::Column, String> {
        match &column.values {
            Values::Texts(lists) => {
                let offsets = offsets(&lists.offsets, rows)?;
                let items = lists.items.offsets.as_slice();
                Ok((Sliced { validity: validity(column, rows)?, offsets, data: items }, utf8(&lists.items)?))
            }
            other => Err(mismatch(FieldType::Texts, other)),
        }
    }

    #[inline]
    fn read((lists, data): &Self::Column, row: usize) -> Option<Self> {
        let items = lists.range(row)?;
        // n items are bounded by n + 1 offsets.
        let offsets = lists.data.get(items.start..=items.end)?;
        Some(Texts { offsets, data })
    }
}

impl<'a, T: Value<'a>> Value<'a> for Option<T> {
    const TYPE: FieldType = T::TYPE;
    const REQUIRED: bool = false;
    type Column = T::Column;

    fn column(column: &'a Column, rows: usize) -> Result<Self::Column, String> {
        T::column(column, rows)
    }

    #[inline]
    fn read(column: &Self::Column, row: usize) -> Option<Self> {
        Some(T::read(column, row))
    }
}

#[inline]
fn is_present(validity: Option<&[u8]>, row: usize) -> bool {
    validity.is_none_or(|bits| is_set(bits, row))
}

#[inline]
fn is_set(bits: &[u8], row: usize) -> bool {
    bits.get(row / 8).is_some_and(|byte| byte >> (row % 8) & 1 == 1)
}

fn validity(column: &Column, rows: usize) -> Result<Option<&[u8]>, String> {
    match &column.validity {
        Some(bits) if bits.len() < rows.div_ceil(8) => Err("a column's validity is too short".to_owned()),
        bits => Ok(bits.as_deref()),
    }
}

fn offsets(offsets: &[u32], rows: usize) -> Result<&[u32], String> {
    if offsets.len() == rows + 1 { Ok(offsets) } else { Err("a column does not have rows + 1 offsets".to_owned()) }
}

fn utf8(texts: &TextColumn) -> Result<&str, String> {
    std::str::from_utf8(&texts.data).map_err(|_| "a text column is not UTF-8".to_owned())
}

fn mismatch(wanted: FieldType, values: &Values) -> String {
    let got = match values {
        Values::Boolean(_) => FieldType::Boolean,
        Values::Integer(_) => FieldType::Integer,
        Values::Number(_) => FieldType::Number,
        Values::Text(_) => FieldType::Text,
        Values::Timestamp(_) => FieldType::Timestamp,
        Values::Binary(_) => FieldType::Binary,
        Values::Texts(_) => FieldType::Texts,
        Values::Numbers(_) => FieldType::Numbers,
    };
    format!("a column of {wanted:?} is needed, the host sent {got:?} or another number of rows")
}
