//! Which rows are new, which are known, and which must be looked up in the table.
//!
//! A row's key is its origin (partition and offset) with the key columns of its table.
//! What the table's progress says decides nearly always; a set of what the present plan holds decides most of the rest.
//! Nothing here reads the table: see [`crate::lookup`].

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::DataType;
use roaring::RoaringTreemap;

use crate::spec::column;

/// What tells rows apart. Random keys of the hash are drawn for each table, so nobody can prepare a collision of 128 bits.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    columns: Vec<String>,
    low: RandomState,
    high: RandomState,
}

/// A row that may be in the table already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Doubt {
    /// The row in its batch.
    pub(crate) row: u32,
    /// The partition of its origin.
    pub(crate) partition: i32,
    /// The offset of its origin.
    pub(crate) offset: i64,
    /// Its key.
    pub(crate) key: u128,
}

/// What a batch is: the rows that the plan does not hold yet, and those among them that are in doubt.
#[derive(Debug)]
pub(crate) struct Sifted {
    /// Which rows to keep; `None` keeps all.
    pub(crate) keep: Option<BooleanArray>,
    /// By row of what is kept.
    pub(crate) doubts: Vec<Doubt>,
}

/// What the present plan holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Tables whose key is the origin alone, by partition of the origin.
    offsets: BTreeMap<i32, RoaringTreemap>,
    /// Tables with more key columns.
    keys: HashSet<u128>,
    /// The greatest offset by partition of the origin.
    high: BTreeMap<i32, i64>,
}

impl Keys {
    /// Keys of origin and these columns.
    pub(crate) fn new(columns: Vec<String>) -> Self {
        Self { columns, low: RandomState::new(), high: RandomState::new() }
    }

    /// All columns that make a key.
    pub(crate) fn names(&self) -> Vec<&str> {
        [column::PARTITION, column::OFFSET].into_iter().chain(self.columns.iter().map(String::as_str)).collect()
    }

    fn is_origin_alone(&self) -> bool {
        self.columns.is_empty()
    }

    /// The keys of a batch, which has their columns.
    ///
    /// # Errors
    /// In words: a column is missing or cannot be a key.
    pub(crate) fn of<'a>(&'a self, rows: &'a RecordBatch) -> Result<KeyColumns<'a>, String> {
        let find = |name: &str| rows.column_by_name(name).ok_or_else(|| format!("there is no key column `{name}`"));
        let partitions = find(column::PARTITION)?.as_primitive_opt::<Int32Type>();
        let offsets = find(column::OFFSET)?.as_primitive_opt::<Int64Type>();
        let (Some(partitions), Some(offsets)) = (partitions, offsets) else {
            return Err(format!("`{}` is not an int, or `{}` not a long", column::PARTITION, column::OFFSET));
        };
        let mut others = Vec::new();
        for name in &self.columns {
            let values = find(name)?;
            if !matches!(values.data_type(), DataType::Utf8 | DataType::Int32 | DataType::Int64) {
                return Err(format!(
                    "key column `{name}` is {}: a text or an integer can be a key",
                    values.data_type()
                ));
            }
            others.push(values);
        }
        Ok(KeyColumns { keys: self, partitions, offsets, others })
    }
}

/// The columns of a batch that make keys.
#[derive(Debug)]
pub(crate) struct KeyColumns<'a> {
    keys: &'a Keys,
    partitions: &'a arrow_array::Int32Array,
    offsets: &'a arrow_array::Int64Array,
    others: Vec<&'a ArrayRef>,
}

impl KeyColumns<'_> {
    /// Where a row comes from, unless it comes from nowhere.
    pub(crate) fn origin(&self, row: usize) -> Option<(i32, i64)> {
        if self.partitions.is_null(row) || self.offsets.is_null(row) {
            return None;
        }
        Some((self.partitions.value(row), self.offsets.value(row)))
    }

    /// The key of a row from this origin.
    pub(crate) fn key(&self, (partition, offset): (i32, i64), row: usize) -> u128 {
        if self.keys.is_origin_alone() {
            return u128::from(partition.cast_unsigned()) << 64 | u128::from(offset.cast_unsigned());
        }
        let bytes = |value: &dyn Fn(&RandomState) -> u64| {
            u128::from(value(&self.keys.high)) << 64 | u128::from(value(&self.keys.low))
        };
        bytes(&|state| {
            use std::hash::{Hash, Hasher};
            let mut hasher = state.build_hasher();
            (partition, offset).hash(&mut hasher);
            for values in &self.others {
                values.is_null(row).hash(&mut hasher);
                if values.is_null(row) {
                    continue;
                }
                match values.data_type() {
                    DataType::Utf8 => values.as_string::<i32>().value(row).hash(&mut hasher),
                    DataType::Int32 => i64::from(values.as_primitive::<Int32Type>().value(row)).hash(&mut hasher),
                    _ => values.as_primitive::<Int64Type>().value(row).hash(&mut hasher),
                }
            }
            hasher.finish()
        })
    }

    /// When a batch of whole partition `source` only goes up from above `high`: its first and last offset.
    fn ascending(&self, source: i32, high: Option<i64>) -> Option<(i64, i64)> {
        if self.partitions.null_count() > 0 || self.offsets.null_count() > 0 {
            return None;
        }
        let offsets = self.offsets.values();
        let (first, last) = (*offsets.first()?, *offsets.last()?);
        let is_above = high.is_none_or(|high| first > high);
        let is_own = || self.partitions.values().iter().all(|partition| *partition == source);
        (is_above && first >= 0 && offsets.is_sorted_by(|one, next| one < next) && is_own()).then_some((first, last))
    }
}

impl Held {
    /// Takes a batch of a partition of the source, of which the table has origins up to `archived`.
    pub(crate) fn sift(&mut self, source: i32, archived: Option<i64>, columns: &KeyColumns<'_>) -> Sifted {
        let high = self.high.get(&source).copied().max(archived);
        if columns.keys.is_origin_alone()
            && let Some((first, last)) = columns.ascending(source, high)
        {
            let held = self.offsets.entry(source).or_default();
            // All are above what is held, so this only fails if that were not true, and then inserts nothing wrong.
            held.extend(columns.offsets.values().iter().map(|offset| offset.cast_unsigned()));
            debug_assert!(held.min() <= Some(first.cast_unsigned()));
            self.high.insert(source, last);
            return Sifted { keep: None, doubts: Vec::new() };
        }
        self.sift_each(source, archived, columns)
    }

    fn sift_each(&mut self, source: i32, archived: Option<i64>, columns: &KeyColumns<'_>) -> Sifted {
        let rows = columns.offsets.len();
        let (mut keep, mut doubts, mut kept) = (Vec::with_capacity(rows), Vec::new(), 0_u32);
        for row in 0..rows {
            let Some((partition, offset)) = columns.origin(row) else {
                keep.push(true);
                kept += 1;
                continue;
            };
            let key = columns.key((partition, offset), row);
            let is_fresh = if columns.keys.is_origin_alone() {
                self.offsets.entry(partition).or_default().insert(offset.cast_unsigned())
            } else {
                self.keys.insert(key)
            };
            keep.push(is_fresh);
            if !is_fresh {
                continue;
            }
            if partition != source || archived.is_some_and(|archived| offset <= archived) {
                doubts.push(Doubt { row: kept, partition, offset, key });
            }
            let high = self.high.entry(partition).or_insert(offset);
            *high = offset.max(*high);
            kept += 1;
        }
        let is_all = kept as usize == rows;
        Sifted { keep: (!is_all).then(|| BooleanArray::from(keep)), doubts }
    }

    /// How many keys it remembers one by one.
    pub(crate) fn keys(&self) -> usize {
        self.keys.len()
    }

    /// The greatest origin offset of a partition that the plan holds.
    pub(crate) fn high(&self, partition: i32) -> Option<i64> {
        self.high.get(&partition).copied()
    }
}
