//! Raw records and what became of each.

use phronis_core::records::Records;

use super::{Report, Source};

/// What became of a raw record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Delivered,
    GateLetter,
    EnrichLetter,
    DeliverLetter,
    HaltLetter,
    OrderLetter,
    Dropped,
}

/// What a producer wrote; each may be null.
pub(super) type KeyAndValue<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// All of raw, in memory: batches share their bytes.
pub(super) struct Raw {
    partitions: Vec<Partition>,
    may_repeat: bool,
}

#[derive(Default)]
struct Partition {
    batches: Vec<Batch>,
}

struct Batch {
    records: Records,
    outcomes: Vec<Option<Outcome>>,
}

impl Raw {
    pub(super) fn read(source: &impl Source, topic: &str, may_repeat: bool) -> anyhow::Result<Self> {
        let mut partitions: Vec<Partition> = Vec::new();
        source.each_batch(topic, &mut |records| {
            let index = usize::try_from(records.partition).unwrap_or_default();
            while partitions.len() <= index {
                partitions.push(Partition::default());
            }
            if let Some(partition) = partitions.get_mut(index) {
                partition.batches.push(Batch { records: records.clone(), outcomes: vec![None; records.len()] });
            }
        })?;
        Ok(Self { partitions, may_repeat })
    }

    pub(super) fn count(&self) -> u64 {
        self.partitions.iter().flat_map(|partition| &partition.batches).map(|batch| batch.records.len() as u64).sum()
    }

    fn place(&self, partition: i32, offset: i64) -> Option<(usize, usize, usize)> {
        let p = usize::try_from(partition).ok()?;
        let batches = &self.partitions.get(p)?.batches;
        let after =
            batches.partition_point(|b| b.records.offsets.values().first().is_some_and(|first| *first <= offset));
        let b = after.checked_sub(1)?;
        let row = batches.get(b)?.records.offsets.values().binary_search(&offset).ok()?;
        Some((p, b, row))
    }

    /// Key and value of a record.
    pub(super) fn get(&self, partition: i32, offset: i64) -> Option<KeyAndValue<'_>> {
        let (p, b, row) = self.place(partition, offset)?;
        let body = &self.partitions.get(p)?.batches.get(b)?.records.body;
        Some((body.key(row), body.value(row)))
    }

    /// What became of a record so far.
    pub(super) fn outcome(&self, partition: i32, offset: i64) -> Option<Outcome> {
        let (p, b, row) = self.place(partition, offset)?;
        self.partitions.get(p)?.batches.get(b)?.outcomes.get(row).copied().flatten()
    }

    /// Notes a record's outcome and says whether it counts: a repeat that may be does not.
    /// Any other second outcome, and one of a record that is not there, is wrong.
    pub(super) fn note(&mut self, partition: i32, offset: i64, outcome: Outcome, report: &mut Report) -> bool {
        let place = self.place(partition, offset);
        let slot = place.and_then(|(p, b, row)| self.partitions.get_mut(p)?.batches.get_mut(b)?.outcomes.get_mut(row));
        match slot {
            None => report.wrong(|| format!("{outcome:?} names {partition}/{offset}, which is not in raw")),
            Some(Some(before)) if *before == outcome && self.may_repeat => {
                report.repeated += 1;
                return false;
            }
            Some(Some(before)) => {
                let before = *before;
                report.wrong(|| format!("{partition}/{offset} is {before:?} and {outcome:?}"));
            }
            Some(slot) => *slot = Some(outcome),
        }
        true
    }

    /// Whether a delivery may stand in the log more than once.
    pub(super) fn may_repeat(&self) -> bool {
        self.may_repeat
    }

    /// Rows that a host called durable must be there.
    pub(super) fn must_hold(&self, partition: i32, first: i64, count: u64, report: &mut Report) {
        let last = first.saturating_add(i64::try_from(count).unwrap_or(i64::MAX));
        for offset in first..last {
            if self.place(partition, offset).is_none() {
                report.wrong(|| format!("{partition}/{offset} was acknowledged and is not in raw"));
            }
        }
    }

    pub(super) fn all_must_have_an_outcome(&self, report: &mut Report) {
        for batch in self.partitions.iter().flat_map(|partition| &partition.batches) {
            for (offset, outcome) in batch.records.offsets.values().iter().zip(&batch.outcomes) {
                if outcome.is_none() {
                    let partition = batch.records.partition;
                    report.wrong(|| format!("{partition}/{offset} is lost: it has no outcome"));
                }
            }
        }
    }
}
