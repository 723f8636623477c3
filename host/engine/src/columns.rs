//! Arrow columns into the buffers of a call, and the cutting of a batch into calls.
//!
//! Buffers are used again from call to call. A slice of an Arrow array is rebased: offsets begin at 0, bitmaps at bit 0,
//! and no byte of a row outside of the call crosses the boundary, not even in the padding of a bitmap.

use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef};
use arrow_buffer::BooleanBuffer;
use arrow_schema::{DataType, Field, TimeUnit};
use phronis_core::plugin::{self, FieldType};

use crate::wit::{Batch, Column, NumberLists, TextLists, Texts, Values};

/// Rows per call. Above 256 the boundary costs a few nanoseconds a row (benches/boundary); more rows only make a
/// deadline harder to keep and guilty rows longer to find.
pub(crate) const ROWS_PER_CALL: usize = 1024;

/// The Arrow type of a column.
pub(crate) fn data_type(of_type: FieldType) -> DataType {
    match of_type {
        FieldType::Boolean => DataType::Boolean,
        FieldType::Integer => DataType::Int64,
        FieldType::Number => DataType::Float64,
        FieldType::Text => DataType::Utf8,
        FieldType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        FieldType::Binary => DataType::Binary,
        FieldType::Texts => DataType::List(Field::new_list_field(DataType::Utf8, true).into()),
        FieldType::Numbers => DataType::List(Field::new_list_field(DataType::Float64, true).into()),
    }
}

/// Whether a batch holds the columns that a plugin reads, each of the right type and length.
pub(crate) fn fits(batch: &plugin::Batch<'_>, fields: &[plugin::Field]) -> Result<(), String> {
    if batch.columns.len() != fields.len() {
        return Err(format!("the plugin reads {} columns, the batch has {}", fields.len(), batch.columns.len()));
    }
    for (column, field) in batch.columns.iter().zip(fields) {
        let right = match (column.data_type(), field.of_type) {
            (DataType::Timestamp(TimeUnit::Microsecond, _), FieldType::Timestamp) => true,
            (DataType::List(item), FieldType::Texts) => item.data_type() == &DataType::Utf8,
            (DataType::List(item), FieldType::Numbers) => item.data_type() == &DataType::Float64,
            (found, wanted) => *found == data_type(wanted),
        };
        if !right || column.len() != batch.rows {
            let (found, rows) = (column.data_type(), column.len());
            return Err(format!("the column `{}` is {found} with {rows} rows", field.path));
        }
    }
    Ok(())
}

/// Where the call that begins at `start` ends: after [`ROWS_PER_CALL`] rows, or fewer to stay under `bytes`.
/// A single row is always taken, however big.
pub(crate) fn cut(batch: &plugin::Batch<'_>, start: usize, bytes: usize) -> usize {
    let mut rows = ROWS_PER_CALL.min(batch.rows - start);
    while rows > 1 && batch.columns.iter().map(|c| size(c, start..start + rows)).sum::<usize>() > bytes {
        rows /= 2;
    }
    start + rows
}

/// Fills the buffers of a call with some rows of a batch.
pub(crate) fn fill(call: &mut Batch, batch: &plugin::Batch<'_>, rows: Range<usize>) {
    call.partition = u32::try_from(batch.partition).unwrap_or(0);
    call.rows = u32::try_from(rows.len()).unwrap_or(0);
    call.watermark = batch.watermark;
    call.columns.truncate(batch.columns.len());
    for (n, array) in batch.columns.iter().enumerate() {
        match call.columns.get_mut(n) {
            Some(column) => fill_column(column, array, rows.clone()),
            None => {
                let mut column = Column { validity: None, values: Values::Boolean(Vec::new()) };
                fill_column(&mut column, array, rows.clone());
                call.columns.push(column);
            }
        }
    }
}

fn fill_column(column: &mut Column, array: &ArrayRef, rows: Range<usize>) {
    column.validity = array.nulls().filter(|nulls| nulls.null_count() > 0).and_then(|nulls| {
        let nulls = nulls.slice(rows.start, rows.len());
        (nulls.null_count() > 0).then(|| {
            let mut buffer = column.validity.take().unwrap_or_default();
            bits(nulls.inner(), 0..nulls.len(), &mut buffer);
            buffer
        })
    });
    /// The buffer of the last call if it was of the same type, else a new one.
    macro_rules! reuse {
        ($variant:ident) => {{
            if !matches!(column.values, Values::$variant(_)) {
                column.values = Values::$variant(Default::default());
            }
            match &mut column.values {
                Values::$variant(buffer) => buffer,
                _ => return,
            }
        }};
    }
    match array.data_type() {
        DataType::Boolean => bits(array.as_boolean().values(), rows, reuse!(Boolean)),
        DataType::Int64 => copy(array.as_primitive::<Int64Type>().values(), rows, reuse!(Integer)),
        DataType::Float64 => copy(array.as_primitive::<Float64Type>().values(), rows, reuse!(Number)),
        DataType::Timestamp(..) => {
            copy(array.as_primitive::<TimestampMicrosecondType>().values(), rows, reuse!(Timestamp));
        }
        DataType::Utf8 => {
            let texts = array.as_string::<i32>();
            spans(texts.value_offsets(), texts.value_data(), rows, reuse!(Text));
        }
        DataType::Binary => {
            let bytes = array.as_binary::<i32>();
            spans(bytes.value_offsets(), bytes.value_data(), rows, reuse!(Binary));
        }
        DataType::List(item) if item.data_type() == &DataType::Utf8 => {
            let lists = array.as_list::<i32>();
            let TextLists { offsets, items } = reuse!(Texts);
            let inner = rebase(lists.value_offsets(), rows, offsets);
            let texts = lists.values().as_string::<i32>();
            spans(texts.value_offsets(), texts.value_data(), inner, items);
        }
        DataType::List(_) => {
            let lists = array.as_list::<i32>();
            let NumberLists { offsets, items } = reuse!(Numbers);
            let inner = rebase(lists.value_offsets(), rows, offsets);
            copy(lists.values().as_primitive::<Float64Type>().values(), inner, items);
        }
        // `fits` has refused every other type.
        _ => {}
    }
}

fn copy<T: Copy>(values: &[T], rows: Range<usize>, to: &mut Vec<T>) {
    to.clear();
    to.extend_from_slice(values.get(rows).unwrap_or_default());
}

fn bits(values: &BooleanBuffer, rows: Range<usize>, to: &mut Vec<u8>) {
    let count = rows.len();
    let packed = values.slice(rows.start, count).sliced();
    to.clear();
    to.extend_from_slice(packed.as_slice().get(..count.div_ceil(8)).unwrap_or_default());
    // The bits behind the last row belong to rows that are not in this call.
    if let (Some(last), rest @ 1..) = (to.last_mut(), count % 8) {
        *last &= (1 << rest) - 1;
    }
}

fn spans(offsets: &[i32], data: &[u8], rows: Range<usize>, to: &mut Texts) {
    let bytes = rebase(offsets, rows, &mut to.offsets);
    to.data.clear();
    to.data.extend_from_slice(data.get(bytes).unwrap_or_default());
}

/// Copies offsets so that the first is 0; gives the range that they span in the original.
fn rebase(offsets: &[i32], rows: Range<usize>, to: &mut Vec<u32>) -> Range<usize> {
    let offsets = offsets.get(rows.start..=rows.end).unwrap_or(&[0]);
    let (first, last) = (offsets.first().copied().unwrap_or(0), offsets.last().copied().unwrap_or(0));
    to.clear();
    to.extend(offsets.iter().map(|offset| (offset - first).cast_unsigned()));
    usize::try_from(first).unwrap_or(0)..usize::try_from(last).unwrap_or(0)
}

/// Bytes that some rows of a column take in a call.
fn size(array: &ArrayRef, rows: Range<usize>) -> usize {
    let span = |offsets: &[i32]| {
        let at = |n: usize| offsets.get(n).and_then(|o| usize::try_from(*o).ok()).unwrap_or(0);
        at(rows.start)..at(rows.end)
    };
    match array.data_type() {
        DataType::Boolean => rows.len() / 8,
        DataType::Utf8 => 4 * rows.len() + span(array.as_string::<i32>().value_offsets()).len(),
        DataType::Binary => 4 * rows.len() + span(array.as_binary::<i32>().value_offsets()).len(),
        DataType::List(_) => {
            let lists = array.as_list::<i32>();
            4 * rows.len() + size(lists.values(), span(lists.value_offsets()))
        }
        _ => 8 * rows.len(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::builder::{ListBuilder, StringBuilder};
    use arrow_array::{BooleanArray, Float64Array, StringArray};

    use super::*;

    fn filled(array: ArrayRef, rows: Range<usize>) -> Column {
        let mut call = Batch::default();
        let batch = plugin::Batch { partition: 0, watermark: 0, rows: array.len(), columns: &[array] };
        fill(&mut call, &batch, rows);
        call.columns.remove(0)
    }

    #[test]
    fn slices_are_rebased_and_show_nothing_of_other_rows() {
        let texts = StringArray::from(vec![Some("secret"), Some("a"), None, Some("bc"), Some("secret")]);
        let column = filled(Arc::new(texts.slice(1, 4)), 0..3);
        assert_eq!(column.validity, Some(vec![0b101]));
        let Values::Text(texts) = column.values else { panic!("{column:?}") };
        assert_eq!((texts.offsets, texts.data), (vec![0, 1, 1, 3], b"abc".to_vec()));

        let column = filled(Arc::new(BooleanArray::from(vec![true; 20])), 3..8);
        let Values::Boolean(bits) = column.values else { panic!("{column:?}") };
        assert_eq!(bits, [0b11111]);
    }

    #[test]
    fn lists_are_rebased_on_both_levels() {
        let mut builder = ListBuilder::new(StringBuilder::new());
        for row in [vec!["x"], vec!["ab", "c"], vec![], vec!["d"]] {
            row.iter().for_each(|item| builder.values().append_value(item));
            builder.append(true);
        }
        let column = filled(Arc::new(builder.finish()), 1..4);
        let Values::Texts(lists) = column.values else { panic!("{column:?}") };
        assert_eq!(lists.offsets, [0, 2, 2, 3]);
        assert_eq!((lists.items.offsets, lists.items.data), (vec![0, 2, 3, 4], b"abcd".to_vec()));
    }

    #[test]
    fn a_batch_is_cut_by_rows_and_by_bytes_but_never_below_one_row() {
        let numbers: ArrayRef = Arc::new(Float64Array::from(vec![0.0; 3000]));
        let batch = plugin::Batch { partition: 0, watermark: 0, rows: 3000, columns: &[numbers] };
        assert_eq!(cut(&batch, 0, usize::MAX), 1024);
        assert_eq!(cut(&batch, 2900, usize::MAX), 3000);
        assert_eq!(cut(&batch, 0, 8 * 300), 256);
        assert_eq!(cut(&batch, 7, 1), 8);
    }
}
