//! Looks rows up in a table: a scan of the key columns, pruned to the partitions and offsets in doubt.
//!
//! All doubts of one flush make one scan. What tells files apart is their statistics, so no file without such offsets is opened.

use std::collections::{BTreeMap, HashSet};

use arrow_array::RecordBatch;
use futures::TryStreamExt;
use iceberg::expr::{Predicate, Reference};
use iceberg::spec::Datum;
use iceberg::table::Table;

use crate::known::{Doubt, Keys};
use crate::spec::column;
use crate::{Error, Result};

/// Ranges of offsets that a scan asks for. Each is evaluated for each file; more would cost more than the rows that they spare.
const MOST_RANGES: usize = 64;

/// The keys, among those in doubt, that a table has.
pub(crate) async fn look_up(table: &Table, keys: &Keys, doubts: &[Doubt]) -> Result<HashSet<u128>> {
    let mut found = HashSet::new();
    let Some(predicate) = predicate(doubts) else { return Ok(found) };
    if table.metadata().current_snapshot().is_none() {
        return Ok(found);
    }
    let wanted: HashSet<u128> = doubts.iter().map(|doubt| doubt.key).collect();
    let failed = |error| Error::of("looking rows up in a table of the archive", table.metadata().location(), error);
    let scan = table.scan().select(keys.names()).with_filter(predicate).build().map_err(failed)?;
    let mut batches = scan.to_arrow().await.map_err(failed)?;
    while let Some(rows) = batches.try_next().await.map_err(failed)? {
        let columns = keys.of(&rows).map_err(Error::Rows)?;
        for row in 0..rows.num_rows() {
            let Some(origin) = columns.origin(row) else { continue };
            let key = columns.key(origin, row);
            if wanted.contains(&key) {
                found.insert(key);
            }
        }
    }
    Ok(found)
}

/// All rows of a table as it is now, in no order: for tests, and for tables that fit into memory.
///
/// # Errors
/// When storage fails, or the table is not as it should be.
pub async fn read_back(table: &Table) -> Result<Vec<RecordBatch>> {
    let failed = |error| Error::of("reading a table of the archive", table.metadata().location(), error);
    let scan = table.scan().build().map_err(failed)?;
    scan.to_arrow().await.map_err(failed)?.try_collect().await.map_err(failed)
}

/// Asks for the partitions and ranges of offsets in doubt; `None` when there is no doubt.
fn predicate(doubts: &[Doubt]) -> Option<Predicate> {
    let mut offsets: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    for doubt in doubts {
        offsets.entry(doubt.partition).or_default().push(doubt.offset);
    }
    let most = (MOST_RANGES / offsets.len().max(1)).max(1);
    offsets
        .into_iter()
        .map(|(partition, offsets)| {
            let within = ranges(offsets, most)
                .into_iter()
                .map(|(first, last)| {
                    let offset = || Reference::new(column::OFFSET);
                    offset()
                        .greater_than_or_equal_to(Datum::long(first))
                        .and(offset().less_than_or_equal_to(Datum::long(last)))
                })
                .reduce(Predicate::or)
                .unwrap_or(Predicate::AlwaysFalse);
            Reference::new(column::PARTITION).equal_to(Datum::int(partition)).and(within)
        })
        .reduce(Predicate::or)
}

/// Offsets as at most so many ranges, parted at the widest gaps.
fn ranges(mut offsets: Vec<i64>, most: usize) -> Vec<(i64, i64)> {
    offsets.sort_unstable();
    offsets.dedup();
    let mut gaps: Vec<(u64, i64)> = offsets
        .windows(2)
        .filter_map(|pair| match pair {
            [one, next] if next.abs_diff(*one) > 1 => Some((next.abs_diff(*one), *next)),
            _ => None,
        })
        .collect();
    gaps.sort_unstable_by_key(|(width, _)| std::cmp::Reverse(*width));
    let begins: HashSet<i64> = gaps.into_iter().take(most.saturating_sub(1)).map(|(_, next)| next).collect();
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for offset in offsets {
        match ranges.last_mut() {
            Some((_, last)) if !begins.contains(&offset) => *last = offset,
            _ => ranges.push((offset, offset)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_parted_at_the_widest_gaps() {
        let offsets = vec![100, 1, 2, 3, 10, 11, 101];
        assert_eq!(ranges(offsets.clone(), 9), [(1, 3), (10, 11), (100, 101)]);
        assert_eq!(ranges(offsets.clone(), 2), [(1, 11), (100, 101)]);
        assert_eq!(ranges(offsets, 1), [(1, 101)]);
        assert_eq!(ranges(Vec::new(), 4), []);
    }
}
