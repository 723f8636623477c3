//! Rows of a flush in the order of their files: by partition, and by event time within it.
//!
//! Rows that come in order are handed on as they are; else each is copied once, a chunk at a time, so that no second copy of all exists.

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{RecordBatch, TimestampMicrosecondArray};
use arrow_schema::ArrowError;
use arrow_select::interleave::interleave_record_batch;

use crate::spec::{Span, column};

/// Rows in order. All batches have the same columns.
#[derive(Debug)]
pub(crate) struct Sorted {
    batches: Vec<RecordBatch>,
    /// Time, batch and row; `None` when the rows are in order as they stand.
    order: Option<Vec<Place>>,
    /// What was taken: of the order, or (batch, row).
    at: (usize, usize),
    span: Span,
}

type Place = (i64, u32, u32);

impl Sorted {
    /// Sorts batches, which may be empty.
    ///
    /// # Errors
    /// In words, when there is no column of event time, or it has nulls.
    pub(crate) fn new(batches: Vec<RecordBatch>, span: Span) -> Result<Self, String> {
        let batches: Vec<RecordBatch> = batches.into_iter().filter(|batch| batch.num_rows() > 0).collect();
        let times = batches.iter().map(times).collect::<Result<Vec<_>, _>>()?;
        let order = (!is_sorted(&times)).then(|| sort(&times));
        Ok(Self { batches, order, at: (0, 0), span })
    }

    /// The partition value of the next row.
    pub(crate) fn partition(&self) -> Option<i64> {
        self.time().map(|time| self.span.of(time))
    }

    fn time(&self) -> Option<i64> {
        match &self.order {
            Some(order) => order.get(self.at.0).map(|place| place.0),
            None => times(self.batches.get(self.at.0)?).ok()?.values().get(self.at.1).copied(),
        }
    }

    /// The next rows, all of one partition, at most so many (more than 0).
    pub(crate) fn take(&mut self, most: usize) -> Result<Option<RecordBatch>, ArrowError> {
        let Some(partition) = self.partition() else { return Ok(None) };
        // The first time that is not of this partition any more.
        let end = partition.saturating_add(1).saturating_mul(self.span.micros());
        let is_last = end == i64::MAX;
        match &self.order {
            Some(order) => {
                let rest = order.get(self.at.0..).unwrap_or_default();
                let rest = rest.get(..most.min(rest.len())).unwrap_or_default();
                let count = if is_last { rest.len() } else { rest.partition_point(|place| place.0 < end) };
                let places: Vec<(usize, usize)> =
                    rest.iter().take(count).map(|place| (place.1 as usize, place.2 as usize)).collect();
                let batches: Vec<&RecordBatch> = self.batches.iter().collect();
                self.at.0 += count;
                interleave_record_batch(&batches, &places).map(Some)
            }
            None => {
                let Some(batch) = self.batches.get(self.at.0) else { return Ok(None) };
                let all = times(batch).map_err(ArrowError::SchemaError)?;
                let rest = all.values().get(self.at.1..).unwrap_or_default();
                let rest = rest.get(..most.min(rest.len())).unwrap_or_default();
                let count = if is_last { rest.len() } else { rest.partition_point(|time| *time < end) };
                let rows = batch.slice(self.at.1, count);
                self.at.1 += count;
                if self.at.1 >= batch.num_rows() {
                    self.at = (self.at.0 + 1, 0);
                }
                Ok(Some(rows))
            }
        }
    }
}

fn times(batch: &RecordBatch) -> Result<&TimestampMicrosecondArray, String> {
    use arrow_array::Array;

    let found = batch.column_by_name(column::EVENT_TIME);
    let times = found.and_then(|array| array.as_primitive_opt::<TimestampMicrosecondType>());
    let times = times.ok_or_else(|| format!("there is no column `{}` of timestamps", column::EVENT_TIME))?;
    if times.null_count() > 0 {
        return Err(format!("the column `{}` has nulls", column::EVENT_TIME));
    }
    Ok(times)
}

fn is_sorted(times: &[&TimestampMicrosecondArray]) -> bool {
    let mut last = i64::MIN;
    times.iter().all(|times| {
        let values = times.values();
        let is_next = values.first().is_none_or(|first| last <= *first) && values.is_sorted();
        last = values.last().copied().unwrap_or(last);
        is_next
    })
}

/// A stable sort: what it is given are few runs that ascend, one or a few a batch, which it finds and merges.
fn sort(times: &[&TimestampMicrosecondArray]) -> Vec<Place> {
    let mut order = Vec::with_capacity(times.iter().map(|times| times.values().len()).sum());
    for (batch, times) in (0_u32..).zip(times) {
        order.extend((0_u32..).zip(times.values()).map(|(row, time)| (*time, batch, row)));
    }
    order.sort_by_key(|place| place.0);
    order
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array};
    use proptest::prelude::*;

    use super::*;

    fn batch(times: &[i64], first: i64) -> RecordBatch {
        let count = i64::try_from(times.len()).unwrap();
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC"));
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(first..first + count));
        RecordBatch::try_from_iter([(column::EVENT_TIME, times), ("number", numbers)]).unwrap()
    }

    /// What comes out, as (partition, time, number).
    fn drain(batches: Vec<RecordBatch>, most: usize) -> Vec<(i64, i64, i64)> {
        let mut sorted = Sorted::new(batches, Span::Day).unwrap();
        let mut out = Vec::new();
        while let Some(partition) = sorted.partition() {
            let rows = sorted.take(most).unwrap().unwrap();
            assert!((1..=most).contains(&rows.num_rows()));
            let numbers = rows.column(1).as_primitive::<arrow_array::types::Int64Type>();
            let times = times(&rows).unwrap().values();
            out.extend(times.iter().zip(numbers.values()).map(|(time, number)| (partition, *time, *number)));
        }
        assert!(sorted.take(most).unwrap().is_none());
        out
    }

    fn check(lists: &[Vec<i64>], most: usize) {
        let (mut batches, mut expected, mut first) = (Vec::new(), Vec::new(), 0);
        for list in lists {
            batches.push(batch(list, first));
            expected.extend(list.iter().zip(first..).map(|(time, number)| (Span::Day.of(*time), *time, number)));
            first += i64::try_from(list.len()).unwrap();
        }
        expected.sort_by_key(|row| row.1);
        assert_eq!(drain(batches, most), expected);
    }

    #[test]
    fn the_ends_of_time_are_partitions_like_others() {
        check(&[vec![i64::MAX, i64::MIN, 0, -1, i64::MAX - 1]], 2);
        check(&[vec![i64::MIN, -1, 0, i64::MAX]], 2);
    }

    proptest! {
        #[test]
        fn rows_come_in_order_whole_and_one_partition_at_a_time(
            lists in prop::collection::vec(prop::collection::vec(-300_000_000_000_i64..300_000_000_000, 0..40), 0..6),
            is_sorted: bool,
            most in 1_usize..9,
        ) {
            let mut lists = lists;
            if is_sorted {
                let mut all: Vec<i64> = lists.concat();
                all.sort_unstable();
                let mut rest = all.as_slice();
                for list in &mut lists {
                    let (head, tail) = rest.split_at(list.len());
                    *list = head.to_vec();
                    rest = tail;
                }
            }
            check(&lists, most);
        }
    }
}
