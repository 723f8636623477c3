//! Times that others can read: those of the years 1 to 9999.
//!
//! A time in microseconds can lie 290 000 years away. Calendars of other engines end long before, Python's at the year 9999,
//! and a single row beyond it would make a whole table unreadable for them. So such a time is archived as the nearest that they know.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, TimeUnit};

/// 0001-01-01T00:00:00Z.
const FIRST: i64 = -62_135_596_800_000_000;

/// 9999-12-31T23:59:59.999999Z.
const LAST: i64 = 253_402_300_799_999_999;

/// The same rows, with all times within the years that others know.
pub(crate) fn readable(rows: RecordBatch) -> Result<RecordBatch, ArrowError> {
    if rows.columns().iter().all(is_readable) {
        return Ok(rows);
    }
    let columns =
        rows.columns().iter().map(|column| if is_readable(column) { Arc::clone(column) } else { clamp(column) });
    RecordBatch::try_new(rows.schema(), columns.collect())
}

fn is_readable(column: &ArrayRef) -> bool {
    if !matches!(column.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)) {
        return true;
    }
    // What stands where a null is may be out of range; then a copy is made for nothing.
    let times = column.as_primitive::<TimestampMicrosecondType>().values();
    times.iter().fold(true, |is_readable, time| is_readable & (FIRST..=LAST).contains(time))
}

fn clamp(column: &ArrayRef) -> ArrayRef {
    let times = column.as_primitive::<TimestampMicrosecondType>();
    let clamped = times.unary::<_, TimestampMicrosecondType>(|time| time.clamp(FIRST, LAST));
    Arc::new(clamped.with_data_type(column.data_type().clone()))
}

#[cfg(test)]
mod tests {
    use arrow_array::TimestampMicrosecondArray;

    use super::*;

    #[test]
    fn times_beyond_the_calendar_become_its_ends() {
        let times = TimestampMicrosecondArray::from(vec![Some(i64::MIN), None, Some(FIRST), Some(7), Some(LAST + 1)]);
        let column: ArrayRef = Arc::new(times.with_timezone("UTC"));
        let rows = readable(RecordBatch::try_from_iter([("time", column)]).unwrap()).unwrap();
        let wanted = TimestampMicrosecondArray::from(vec![Some(FIRST), None, Some(FIRST), Some(7), Some(LAST)]);
        assert_eq!(rows.column(0).as_ref(), &wanted.with_timezone("UTC") as &dyn arrow_array::Array);
        assert_eq!(readable(rows.clone()).unwrap(), rows);
    }
}
