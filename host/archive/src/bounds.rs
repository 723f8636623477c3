//! What a table's manifests say about a data file's columns, from what Parquet counted while it was written.
//!
//! Bounds may be wider than the values are, never narrower: a reader leaves out files by them.

use std::collections::{HashMap, HashSet};

use iceberg::spec::{Datum, PrimitiveType, Schema, Type};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::statistics::Statistics;

/// Counts and bounds by the id of the column.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    pub(crate) sizes: HashMap<i32, u64>,
    pub(crate) values: HashMap<i32, u64>,
    pub(crate) nulls: HashMap<i32, u64>,
    pub(crate) lower: HashMap<i32, Datum>,
    pub(crate) upper: HashMap<i32, Datum>,
}

impl Bounds {
    /// Those of a file whose columns have the ids of a schema.
    pub(crate) fn of(schema: &Schema, metadata: &ParquetMetaData) -> Self {
        let mut bounds = Self::default();
        // A row group without a bound has values that nobody knows: then the file has no bound.
        let mut open = HashSet::new();
        for chunk in metadata.row_groups().iter().flat_map(|group| group.columns()) {
            let info = chunk.column_descr().self_type().get_basic_info();
            if !info.has_id() {
                continue;
            }
            bounds.add(info.id(), schema, chunk, &mut open);
        }
        for (id, is_lower) in open {
            if is_lower {
                bounds.lower.remove(&id)
            } else {
                bounds.upper.remove(&id)
            };
        }
        bounds
    }

    fn add(&mut self, id: i32, schema: &Schema, chunk: &ColumnChunkMetaData, open: &mut HashSet<(i32, bool)>) {
        let count = |number: i64| u64::try_from(number).unwrap_or_default();
        *self.sizes.entry(id).or_default() += count(chunk.compressed_size());
        // What stands in lists is not counted by rows, and no reader prunes by it.
        if chunk.column_descr().max_rep_level() > 0 {
            return;
        }
        let values = count(chunk.num_values());
        *self.values.entry(id).or_default() += values;
        let nulls = chunk.statistics().and_then(Statistics::null_count_opt);
        if let Some(nulls) = nulls {
            *self.nulls.entry(id).or_default() += nulls;
        }
        if nulls == Some(values) {
            return;
        }
        let Some(Type::Primitive(kind)) = schema.field_by_id(id).map(|field| field.field_type.as_ref()) else { return };
        for is_lower in [true, false] {
            let Some(bound) = chunk.statistics().and_then(|found| datum(kind, found, is_lower)) else {
                open.insert((id, is_lower));
                continue;
            };
            let side = if is_lower { &mut self.lower } else { &mut self.upper };
            let wider = |old: &Datum| if is_lower { bound < *old } else { bound > *old };
            if side.get(&id).is_none_or(wider) {
                side.insert(id, bound);
            }
        }
    }
}

/// One bound of a column chunk. Texts are shortened by Parquet so that they stay bounds.
fn datum(kind: &PrimitiveType, statistics: &Statistics, is_lower: bool) -> Option<Datum> {
    macro_rules! bound {
        ($values:expr) => {
            if is_lower { $values.min_opt() } else { $values.max_opt() }
        };
    }
    Some(match (kind, statistics) {
        (PrimitiveType::Boolean, Statistics::Boolean(values)) => Datum::bool(*bound!(values)?),
        (PrimitiveType::Int, Statistics::Int32(values)) => Datum::int(*bound!(values)?),
        (PrimitiveType::Date, Statistics::Int32(values)) => Datum::date(*bound!(values)?),
        (PrimitiveType::Long, Statistics::Int64(values)) => Datum::long(*bound!(values)?),
        (PrimitiveType::Timestamp, Statistics::Int64(values)) => Datum::timestamp_micros(*bound!(values)?),
        (PrimitiveType::Timestamptz, Statistics::Int64(values)) => Datum::timestamptz_micros(*bound!(values)?),
        (PrimitiveType::Float, Statistics::Float(values)) => Datum::float(*bound!(values)?),
        (PrimitiveType::Double, Statistics::Double(values)) => Datum::double(*bound!(values)?),
        (PrimitiveType::String, Statistics::ByteArray(values)) => Datum::string(bound!(values)?.as_utf8().ok()?),
        (PrimitiveType::Binary, Statistics::ByteArray(values)) => Datum::binary(bound!(values)?.data().to_vec()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
    use arrow_schema::{DataType, Field, Schema as ArrowSchema};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;
    use proptest::prelude::*;

    use super::*;
    use crate::schema;

    type Value = (Option<i64>, Option<f64>, Option<String>);

    /// The bounds of a file with row groups of `group` rows, whose texts are shortened to 4 bytes.
    fn bounds(rows: &[Value], group: usize) -> Bounds {
        let plain = ArrowSchema::new(vec![
            Field::new("whole", DataType::Int64, true),
            Field::new("number", DataType::Float64, true),
            Field::new("text", DataType::Utf8, true),
        ]);
        let table = schema::create(&plain).unwrap();
        let (columns, _) = schema::written(&table, &plain);
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| row.1).collect::<Float64Array>()),
            Arc::new(rows.iter().map(|row| row.2.as_deref()).collect::<StringArray>()),
        ];
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(group))
            .set_statistics_truncate_length(Some(4))
            .build();
        let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&columns), Some(properties)).unwrap();
        writer.write(&RecordBatch::try_new(columns, arrays).unwrap()).unwrap();
        Bounds::of(&table, &writer.finish().unwrap())
    }

    #[test]
    fn a_shortened_text_of_one_row_group_does_not_leave_the_bound_to_another() {
        let text = |text: &str| (None, None, Some(text.to_owned()));
        let bounds = bounds(&[text("zzzzzzzz"), text("b")], 1);
        assert!(bounds.upper[&3] > Datum::string("zzzzzzzz"));
        assert_eq!(bounds.lower[&3], Datum::string("b"));
        assert_eq!((bounds.values[&1], bounds.nulls[&1]), (2, 2));
        assert!(!bounds.upper.contains_key(&1), "only nulls");
    }

    #[test]
    fn a_text_that_nothing_short_is_above_bounds_as_it_is() {
        let highest = "\u{10ffff}".repeat(3);
        let bounds = bounds(&[(None, None, Some(highest.clone())), (None, None, Some("a".to_owned()))], 1);
        assert_eq!(bounds.upper[&3], Datum::string(highest));
        assert_eq!(bounds.lower[&3], Datum::string("a"));
    }

    proptest! {
        #[test]
        fn every_value_is_within_the_bounds(
            rows in prop::collection::vec((any::<Option<i64>>(), prop::option::of(prop::num::f64::ANY), any::<Option<String>>()), 1..40),
            group in 1_usize..9,
        ) {
            let bounds = bounds(&rows, group);
            let within = |id: i32, value: Datum| {
                bounds.lower.get(&id).is_none_or(|lower| *lower <= value) && bounds.upper.get(&id).is_none_or(|upper| value <= *upper)
            };
            for (whole, number, text) in rows {
                prop_assert!(whole.is_none_or(|value| within(1, Datum::long(value))));
                prop_assert!(number.is_none_or(|value| value.is_nan() || within(2, Datum::double(value))));
                prop_assert!(text.is_none_or(|value| within(3, Datum::string(value))));
            }
        }
    }
}
