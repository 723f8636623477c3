//! Puts rows in the order of days, partitions and offsets. Pure.
//!
//! Rows of a file are sorted by event time; those of one partition are then nearly in the order of their offsets.
//! So rows are dealt out to their day and partition first, and each heap is sorted only where it is not in order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{ArrowError, SchemaRef};
use arrow_select::interleave::interleave;

use super::{DAY, UNDECODED};

/// Rows of one partition, by offset.
#[derive(Debug)]
pub struct Stretch {
    /// The partition of raw that they came from.
    pub partition: i32,
    /// Their offsets in raw, rising.
    pub offsets: Int64Array,
    /// Their event times, in microseconds since 1970.
    pub event_times: Int64Array,
    /// The columns that were asked for, in that order.
    pub columns: Vec<ArrayRef>,
}

/// Rows of a stretch. So many that calls cost little, and few enough that their columns stay in a core's cache.
const ROWS: usize = 8192;

/// Partitions whose heap is remembered; higher ones are looked up.
const NEAR: usize = 4096;

/// Offset, batch, row.
type Place = (i64, u32, u32);

/// A day's rows: where they lie, in order. Columns are gathered as the stretches are asked for.
#[derive(Debug)]
pub struct Day {
    /// Days since 1970.
    pub day: i64,
    /// Rows without an event behind them: foreign records, and what could not be decoded.
    pub left_out: u64,
    /// The rows of each partition, by offset.
    heaps: Vec<(i32, Vec<Place>)>,
    batches: Arc<[RecordBatch]>,
    /// Where the columns that were asked for stand.
    places: Arc<[usize]>,
}

impl Day {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.heaps.iter().map(|(_, heap)| heap.len()).sum()
    }

    /// Whether an event is among the rows.
    pub fn has(&self, partition: i32, offset: i64) -> bool {
        let heap = self.heaps.binary_search_by_key(&partition, |(partition, _)| *partition);
        let heap = heap.ok().and_then(|at| self.heaps.get(at));
        heap.is_some_and(|(_, heap)| heap.binary_search_by_key(&offset, |place| place.0).is_ok())
    }

    /// The rows, by partition and offset; each stretch is of one partition.
    ///
    /// # Errors
    /// More than 2 GiB of text in one stretch.
    pub fn stretches(&self) -> impl Iterator<Item = Result<Stretch, ArrowError>> {
        let parts =
            self.heaps.iter().flat_map(|(partition, heap)| heap.chunks(ROWS).map(move |part| (*partition, part)));
        parts.map(|(partition, part)| stretch(partition, part, &self.batches, &self.places))
    }
}

/// The rows of batches, by day.
pub(super) fn days(
    schema: &SchemaRef,
    batches: Vec<RecordBatch>,
    columns: &[String],
    range: &Range<i64>,
    only: Option<&(String, String)>,
) -> Result<Vec<Day>, ArrowError> {
    let places = columns.iter().map(|name| schema.index_of(name)).collect::<Result<Arc<[usize]>, _>>()?;
    let only = only.map(|(name, text)| Ok::<_, ArrowError>((schema.index_of(name)?, text.as_str()))).transpose()?;
    let undecoded = schema.index_of(UNDECODED).ok();
    let batches: Arc<[RecordBatch]> = batches.into();
    let mut dealt = Dealt::default();
    for (number, batch) in (0_u32..).zip(batches.iter()) {
        dealt.take(number, batch, range, only, undecoded)?;
    }
    let mut days: BTreeMap<i64, Day> = BTreeMap::new();
    let day_of =
        |day| Day { day, left_out: 0, heaps: Vec::new(), batches: Arc::clone(&batches), places: Arc::clone(&places) };
    for (day, rows) in dealt.left_out {
        days.entry(day).or_insert_with(|| day_of(day)).left_out = rows;
    }
    dealt.heaps.sort_unstable_by_key(|(key, _)| *key);
    for ((day, partition), mut heap) in dealt.heaps {
        if !heap.is_sorted_by_key(|place| place.0) {
            // Stable, and fast on runs that rise.
            heap.sort_by_key(|place| place.0);
        }
        days.entry(day).or_insert_with(|| day_of(day)).heaps.push((partition, heap));
    }
    Ok(days.into_values().collect())
}

/// Rows, dealt out to their days and partitions.
#[derive(Default)]
struct Dealt {
    heaps: Vec<((i64, i32), Vec<Place>)>,
    index: BTreeMap<(i64, i32), usize>,
    /// For each low partition, the day of its last row and where that heap is: rows are mostly of one day.
    near: Vec<Option<(i64, usize)>>,
    left_out: BTreeMap<i64, u64>,
}

impl Dealt {
    fn take(
        &mut self,
        number: u32,
        batch: &RecordBatch,
        range: &Range<i64>,
        only: Option<(usize, &str)>,
        undecoded: Option<usize>,
    ) -> Result<(), ArrowError> {
        let keys = Keys::of(batch)?;
        let texts = only.map(|(place, text)| (batch.column(place).as_string::<i32>(), text));
        let undecoded = undecoded.map(|place| batch.column(place)).filter(|column| column.null_count() < column.len());
        for (row, at) in (0_u32..).zip(0..batch.num_rows()) {
            let (partition, offset, time) = keys.at(at);
            let is_other =
                |(texts, text): (&arrow_array::StringArray, &str)| texts.is_null(at) || texts.value(at) != text;
            if !range.contains(&time) || texts.is_some_and(is_other) {
                continue;
            }
            let day = time.div_euclid(DAY);
            let Some(offset) = offset.filter(|_| undecoded.is_none_or(|column| column.is_null(at))) else {
                *self.left_out.entry(day).or_default() += 1;
                continue;
            };
            if let Some((_, heap)) = self.heap(day, partition) {
                heap.push((offset, number, row));
            }
        }
        Ok(())
    }

    fn heap(&mut self, day: i64, partition: i32) -> Option<&mut ((i64, i32), Vec<Place>)> {
        let slot = usize::try_from(partition).ok().filter(|slot| *slot < NEAR);
        let near = slot.and_then(|slot| self.near.get(slot)).copied().flatten();
        let at = match near {
            Some((of_day, at)) if of_day == day => at,
            _ => {
                let next = self.heaps.len();
                let at = *self.index.entry((day, partition)).or_insert(next);
                if at == next {
                    self.heaps.push(((day, partition), Vec::new()));
                }
                if let Some(slot) = slot {
                    self.near.resize(self.near.len().max(slot + 1), None);
                    if let Some(near) = self.near.get_mut(slot) {
                        *near = Some((day, at));
                    }
                }
                at
            }
        };
        self.heaps.get_mut(at)
    }
}

/// The columns that order rows.
struct Keys<'a> {
    partitions: &'a [i32],
    offsets: &'a Int64Array,
    times: &'a [i64],
}

impl<'a> Keys<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self, ArrowError> {
        let wrong = || {
            ArrowError::SchemaError(
                "the columns of partition, offset and event time are not as they should be".to_owned(),
            )
        };
        let partitions = batch.column(0).as_primitive_opt::<Int32Type>().ok_or_else(wrong)?.values();
        let offsets = batch.column(1).as_primitive_opt::<Int64Type>().ok_or_else(wrong)?;
        let times = batch.column(2).as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(wrong)?.values();
        Ok(Self { partitions, offsets, times })
    }

    fn at(&self, row: usize) -> (i32, Option<i64>, i64) {
        let partition = self.partitions.get(row).copied().unwrap_or_default();
        let offset = self.offsets.is_valid(row).then(|| self.offsets.value(row));
        (partition, offset, self.times.get(row).copied().unwrap_or_default())
    }
}

fn stretch(partition: i32, part: &[Place], batches: &[RecordBatch], places: &[usize]) -> Result<Stretch, ArrowError> {
    // A part is of few batches: only those are handed to the kernel, which looks at each of them.
    let mut used: Vec<u32> = part.iter().map(|place| place.1).collect();
    used.sort_unstable();
    used.dedup();
    let rows: Vec<(usize, usize)> =
        part.iter().map(|(_, batch, row)| (used.binary_search(batch).unwrap_or_default(), *row as usize)).collect();
    let from: Vec<&RecordBatch> = used.iter().filter_map(|batch| batches.get(*batch as usize)).collect();
    let gathered = |place: usize| -> Result<ArrayRef, ArrowError> {
        if let ([batch], true) = (from.as_slice(), rows.windows(2).all(|pair| matches!(pair, [a, b] if a.1 + 1 == b.1)))
        {
            return Ok(batch.column(place).slice(rows.first().map_or(0, |row| row.1), rows.len()));
        }
        let arrays: Vec<&dyn Array> = from.iter().map(|batch| batch.column(place).as_ref()).collect();
        interleave(&arrays, &rows)
    };
    let times = gathered(2)?;
    Ok(Stretch {
        partition,
        offsets: Int64Array::from_iter_values(part.iter().map(|place| place.0)),
        event_times: Int64Array::new(times.as_primitive::<TimestampMicrosecondType>().values().clone(), None),
        columns: places.iter().map(|place| gathered(*place)).collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use arrow_array::{BinaryArray, Int32Array, StringArray, TimestampMicrosecondArray};
    use proptest::prelude::*;

    use super::*;

    /// Partition, offset, time, and whether it could be decoded; the text is the offset.
    type Row = (i32, Option<i64>, i64, bool);

    fn batch(rows: &[Row]) -> RecordBatch {
        let text = |row: &Row| row.1.map(|offset| format!("{}/{offset}", row.0));
        let undecoded: BinaryArray = rows.iter().map(|row| (!row.3).then_some(b"x".as_slice())).collect();
        let columns: [(&str, ArrayRef); 5] = [
            ("phronis_partition", Arc::new(rows.iter().map(|row| row.0).collect::<Int32Array>())),
            ("phronis_offset", Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>())),
            ("phronis_event_time", Arc::new(rows.iter().map(|row| Some(row.2)).collect::<TimestampMicrosecondArray>())),
            ("text", Arc::new(rows.iter().map(text).collect::<StringArray>())),
            (UNDECODED, Arc::new(undecoded)),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
    }

    fn read(batches: &[RecordBatch], range: Range<i64>) -> Vec<Day> {
        let schema = batches.first().map_or_else(|| batch(&[]).schema(), RecordBatch::schema);
        days(&schema, batches.to_vec(), &["text".to_owned()], &range, None).unwrap()
    }

    fn rows(days: &[Day]) -> Vec<(i64, i32, i64, i64, String)> {
        let mut out = Vec::new();
        for day in days {
            for stretch in day.stretches() {
                let stretch = stretch.unwrap();
                let texts = stretch.columns[0].as_string::<i32>();
                assert!(texts.len() <= ROWS);
                for row in 0..texts.len() {
                    let (offset, time) = (stretch.offsets.value(row), stretch.event_times.value(row));
                    out.push((day.day, stretch.partition, offset, time, texts.value(row).to_owned()));
                }
            }
        }
        out
    }

    #[test]
    fn rows_without_an_event_are_counted_and_left_out() {
        let batch =
            batch(&[(0, Some(1), 5, true), (0, None, 6, true), (0, Some(2), 7, false), (0, Some(3), DAY, true)]);
        let days = read(&[batch], 0..DAY + 1);
        assert_eq!(rows(&days).len(), 2);
        assert_eq!(days.iter().map(|day| (day.day, day.left_out)).collect::<Vec<_>>(), [(0, 2), (1, 0)]);
    }

    proptest! {
        #[test]
        fn the_order_is_day_partition_offset_however_rows_lie(
            lists in prop::collection::vec(prop::collection::vec((0..3_i32, -2 * DAY..2 * DAY), 0..60), 0..5),
        ) {
            let mut next = [0_i64; 3];
            let mut expected = Vec::new();
            let batches: Vec<RecordBatch> = lists.iter().map(|list| {
                let mut rows: Vec<Row> = list.iter().map(|(partition, time)| {
                    let slot = &mut next[usize::try_from(*partition).unwrap()];
                    *slot += 1;
                    (*partition, Some(*slot), *time, true)
                }).collect();
                for (partition, offset, time, _) in &rows {
                    if (-DAY..DAY).contains(time) {
                        let offset = offset.unwrap();
                        expected.push((time.div_euclid(DAY), *partition, offset, *time, format!("{partition}/{offset}")));
                    }
                }
                rows.sort_by_key(|row| row.2);
                batch(&rows)
            }).collect();
            expected.sort();
            prop_assert_eq!(rows(&read(&batches, -DAY..DAY)), expected);
        }
    }
}
