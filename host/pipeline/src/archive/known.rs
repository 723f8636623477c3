//! Which columns the archive has of each stream, for those who would change one: a column keeps its type for ever.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use arrow_schema::{DataType, Schema};
use phronis_core::StreamId;
use phronis_core::plugin::Added;

/// Columns by stream, as far as this host has opened their tables.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<BTreeMap<StreamId, BTreeMap<String, DataType>>>);

impl Known {
    /// A table of events was opened with these columns.
    pub(super) fn learn(&self, stream: &StreamId, schema: &Schema) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let columns = known.entry(stream.clone()).or_default();
        for field in schema.fields() {
            columns.insert(field.name().clone(), field.data_type().clone());
        }
    }

    /// Why a column cannot be archived, in words.
    pub(crate) fn why_not(&self, stream: &StreamId, added: &Added) -> Option<String> {
        let name = &added.name;
        if name.starts_with(super::rows::PREFIX) {
            return Some(format!("column `{name}` cannot be archived: names with `phronis_` are the archive's own"));
        }
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let archived = known.get(stream)?.get(name)?;
        let wanted = super::rows::archived(added.of_type);
        (!is_same(archived, &wanted)).then(|| {
            format!(
                "column `{name}` is archived as {archived} and would become {}: an archived column keeps its type; \
                 give it another name",
                added.of_type.name()
            )
        })
    }
}

/// Whether two columns have one type; what items of lists are called does not matter.
fn is_same(one: &DataType, other: &DataType) -> bool {
    match (one, other) {
        (DataType::List(one), DataType::List(other)) => is_same(one.data_type(), other.data_type()),
        (DataType::Timestamp(unit, zone), DataType::Timestamp(other_unit, other_zone)) => {
            unit == other_unit && zone.is_some() == other_zone.is_some()
        }
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use phronis_core::plugin::FieldType;

    use super::*;

    #[test]
    fn an_archived_column_keeps_its_type() {
        let stream: StreamId = "sensors".parse().unwrap();
        let known = Known::default();
        let added = |name: &str, of_type| Added { name: name.into(), of_type };
        assert_eq!(known.why_not(&stream, &added("level", FieldType::Integer)), None, "nothing is known yet");
        let fields = vec![arrow_schema::Field::new("level", DataType::Utf8, true)];
        known.learn(&stream, &Schema::new(fields));
        assert_eq!(known.why_not(&stream, &added("level", FieldType::Text)), None);
        assert_eq!(known.why_not(&stream, &added("level", FieldType::Binary)), None, "bytes are archived as text");
        let why = known.why_not(&stream, &added("level", FieldType::Integer)).unwrap();
        assert!(why.contains("`level` is archived as Utf8 and would become integer"), "{why}");
        assert_eq!(known.why_not(&"agents".parse().unwrap(), &added("level", FieldType::Integer)), None);
        assert!(known.why_not(&stream, &added("phronis_x", FieldType::Text)).is_some());
    }
}
