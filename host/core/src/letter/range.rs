//! A range letter: one letter for many records of one partition that a plugin was not shown, because its breaker was open.
//!
//! It keeps where the records stand in raw instead of the records: the plugin judges them when its breaker closes,
//! as long as raw still has them. Its envelope is a [`Letter`]'s (the first record is its origin), `phronis-range` says how many
//! records it stands for, and its value says which: `{"offsets": [[from, to), …]}`, runs of exactly the offsets concerned.
//! It has no due time of its own: it is due when the plugin's breaker is not open any more.

use std::ops;

use serde::{Deserialize, Serialize};

use super::{Letter, Origin, Plugin, RANGE, Stage};
use crate::code;
use crate::id::Id;
use crate::name::StreamId;
use crate::records::{Headers, HeadersBuilder};
use crate::time::Time;

/// Longest text of a run: two numbers of 19 digits, brackets and commas.
const RUN_BYTES: usize = 43;

/// Bytes of the value around the runs.
const FRAME_BYTES: usize = r#"{"offsets":[]}"#.len();

/// One letter about many records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The envelope. Its origin is the first record.
    pub letter: Letter,
    /// The records.
    pub offsets: Offsets,
}

impl Range {
    /// The first letter about `offsets`, which are in the partition of `first`, the record at the first of them.
    pub fn new(
        stream: &StreamId,
        stage: Stage,
        plugin: Plugin,
        first: Origin,
        offsets: Offsets,
        message: &str,
        now: Time,
    ) -> Self {
        let id = Id::of_range(stream, stage, &plugin.name, first.position());
        let letter =
            Letter::new(stream, stage, Some(plugin), first, code::BREAKER_OPEN, message, Headers::default(), now);
        Self { letter: Letter { id, ..letter }, offsets }
    }

    /// Writes the headers. The record has no key; its value is [`Offsets::to_json`].
    pub fn write(&self, out: &mut HeadersBuilder) {
        self.letter.write(Headers::default(), out);
        out.push(RANGE, self.offsets.records().to_string().as_bytes());
    }

    /// Reads a record of a dlq or retry topic; `None` when it is no range letter, or not as one should be.
    pub fn read(headers: Headers<'_>, value: &[u8]) -> Option<Self> {
        let records: u64 = str::from_utf8(headers.last(RANGE)?).ok()?.parse().ok()?;
        let letter = Letter::read(headers)?;
        let offsets = Offsets::parse(value)?;
        let is_whole =
            offsets.records() == records && offsets.first() == letter.origin.offset && letter.plugin.is_some();
        is_whole.then_some(Self { letter, offsets })
    }
}

/// Offsets of one partition, at least one, as runs that rise and do not touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offsets(Vec<ops::Range<i64>>);

#[derive(Serialize, Deserialize)]
struct Value {
    offsets: Vec<[i64; 2]>,
}

impl Offsets {
    /// Runs of offsets that rise; `None` when there are none. An offset that does not rise is left out.
    pub fn of(offsets: impl IntoIterator<Item = i64>) -> Option<Self> {
        let mut runs: Vec<ops::Range<i64>> = Vec::new();
        for offset in offsets {
            let Some(end) = offset.checked_add(1) else { continue };
            match runs.last_mut() {
                Some(run) if offset < run.end => {}
                Some(run) if offset == run.end => run.end = end,
                _ => runs.push(offset..end),
            }
        }
        (!runs.is_empty()).then_some(Self(runs))
    }

    /// The runs: from, and the first after.
    pub fn runs(&self) -> &[ops::Range<i64>] {
        &self.0
    }

    /// The first offset.
    pub fn first(&self) -> i64 {
        self.0.first().map_or(0, |run| run.start)
    }

    /// The offset after the last one.
    pub fn end(&self) -> i64 {
        self.0.last().map_or(0, |run| run.end)
    }

    /// How many offsets.
    pub fn records(&self) -> u64 {
        self.0.iter().map(|run| run.end.abs_diff(run.start)).sum()
    }

    /// Whether an offset is among them.
    pub fn contains(&self, offset: i64) -> bool {
        let at = self.0.partition_point(|run| run.end <= offset);
        self.0.get(at).is_some_and(|run| run.start <= offset)
    }

    /// Cuts them into parts whose JSON has at most about `bytes` bytes, at least one run each.
    pub fn split(self, bytes: usize) -> impl Iterator<Item = Self> {
        let runs = (bytes.saturating_sub(FRAME_BYTES) / RUN_BYTES).max(1);
        let mut left = self.0;
        std::iter::from_fn(move || {
            if left.is_empty() {
                return None;
            }
            let rest = left.split_off(runs.min(left.len()));
            Some(Self(std::mem::replace(&mut left, rest)))
        })
    }

    /// A range letter's value.
    pub fn to_json(&self) -> Vec<u8> {
        let value = Value { offsets: self.0.iter().map(|run| [run.start, run.end]).collect() };
        // Numbers in arrays: this cannot fail.
        serde_json::to_vec(&value).unwrap_or_default()
    }

    /// Reads a range letter's value; `None` when it is none, or its runs do not rise.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let Value { offsets } = serde_json::from_slice(value).ok()?;
        let mut after = None;
        for &[from, to] in &offsets {
            if from < 0 || to <= from || after.is_some_and(|after| from <= after) {
                return None;
            }
            after = Some(to);
        }
        after.map(|_| Self(offsets.into_iter().map(|[from, to]| from..to).collect()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Kind;
    use super::*;
    use crate::records::RecordsBuilder;

    fn range(offsets: &[i64]) -> Range {
        let origin = Origin { topic: "phronis.raw.events".into(), partition: 3, offset: offsets[0], timestamp: 7 };
        let plugin = Plugin { name: "hot".parse().unwrap(), version: "1.0".into(), digest: "ab12".into() };
        let stream = "acme.pumps".parse().unwrap();
        let offsets = Offsets::of(offsets.iter().copied()).unwrap();
        Range::new(&stream, Stage::Detect, plugin, origin, offsets, "its breaker is open", Time(9))
    }

    fn written(range: &Range, value: &[u8]) -> crate::records::NewRecords {
        let (mut headers, mut records) = (HeadersBuilder::default(), RecordsBuilder::default());
        range.write(&mut headers);
        records.push(0, None, Some(value), headers.as_bytes());
        records.finish()
    }

    #[test]
    fn what_is_written_is_read_back_by_those_who_know_ranges_and_by_those_who_know_letters() {
        let range = range(&[4, 5, 6, 9]);
        let json = range.offsets.to_json();
        assert_eq!(json, br#"{"offsets":[[4,7],[9,10]]}"#);
        let records = written(&range, &json);
        assert_eq!(Kind::of(records.headers(0)), Kind::Range);
        assert_eq!(Range::read(records.headers(0), &json), Some(range.clone()));
        assert_eq!(Letter::read(records.headers(0)), Some(range.letter.clone()));
        assert_eq!((range.letter.code, range.letter.due_at), (code::BREAKER_OPEN, None));
        let single = Id::of_letter(
            &range.letter.stream,
            Stage::Detect,
            range.letter.plugin.as_ref().map(|plugin| &plugin.name),
            range.letter.origin.position(),
        );
        assert_ne!(range.letter.id, single, "the letter of the first record alone is another letter");
    }

    #[test]
    fn what_is_not_a_range_is_refused() {
        let range = range(&[4, 5]);
        let read = |value: &[u8]| Range::read(written(&range, value).headers(0), value);
        for bad in [
            &b""[..],
            b"null",
            br#"{"offsets":[]}"#,
            br#"{"offsets":[[4,4]]}"#,
            br#"{"offsets":[[4,5],[5,6]]}"#,
            br#"{"offsets":[[6,7],[4,5]]}"#,
            br#"{"offsets":[[-1,1]]}"#,
            // Another number of records, or another first record, than the headers say.
            br#"{"offsets":[[4,7]]}"#,
            br#"{"offsets":[[5,7]]}"#,
        ] {
            assert_eq!(read(bad), None, "{}", String::from_utf8_lossy(bad));
        }
        assert!(read(br#"{"offsets":[[4,6]]}"#).is_some());
    }

    proptest! {
        #[test]
        fn runs_hold_exactly_the_offsets(mut offsets in proptest::collection::btree_set(0i64..200, 1..80), bytes in 0usize..400) {
            let set = Offsets::of(offsets.iter().copied()).unwrap();
            prop_assert_eq!(set.records(), offsets.len() as u64);
            prop_assert_eq!(Offsets::parse(&set.to_json()), Some(set.clone()));
            for offset in -1..201 {
                prop_assert_eq!(set.contains(offset), offsets.contains(&offset));
            }
            for part in set.split(bytes) {
                prop_assert!(part.runs().len() == 1 || part.to_json().len() <= bytes);
                for offset in part.runs().iter().cloned().flatten() {
                    prop_assert!(offsets.remove(&offset));
                }
            }
            prop_assert!(offsets.is_empty());
        }
    }
}
