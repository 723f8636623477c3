//! Letters that come back: what each batch of a retry topic is to run, and what of it cannot run.
//!
//! Only hosts write to a retry topic, but nothing here trusts that: what is no letter is told and passed over,
//! and a letter that is not this stream's, or that waits for a plugin that is gone, is parked with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use phronis_core::letter::order::Order;
use phronis_core::letter::{Kind, Letter, Offsets, Omitted, Range, Returned, Stage, original_headers};
use phronis_core::records::{Headers, HeadersBuilder, NewRecords, Records, RecordsBuilder, TopicName};
use phronis_core::{Code, Name, StreamId, code};

use super::course::{Aim, Course, Letters};
use crate::plugins::Lineup;

/// What a batch of a retry topic asks for.
#[derive(Debug, Default)]
pub(crate) struct Sorted {
    /// What runs, in this order.
    pub(crate) runs: Vec<(Course, Records)>,
    /// What cannot run.
    pub(crate) parked: Vec<Parked>,
    /// Records that are no letters.
    pub(crate) ignored: u64,
}

/// A letter that cannot run now.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) returned: Returned,
    pub(crate) code: Code,
    pub(crate) message: String,
    /// What it stands for, when it is a range letter.
    pub(crate) offsets: Option<Offsets>,
    /// What it keeps of its record: one record.
    pub(crate) record: NewRecords,
}

/// Where letters run.
pub(crate) struct Home<'a> {
    pub(crate) stream: &'a StreamId,
    pub(crate) raw: &'a TopicName,
    pub(crate) partition: i32,
    pub(crate) lineup: &'a Lineup,
    /// What holds later events back, where the stream keeps the order of each key.
    pub(crate) order: Option<&'a Order>,
}

/// A letter with its record, on its way into a run.
struct Row {
    returned: Returned,
    /// Its own key, value and headers: one record.
    record: NewRecords,
}

/// Records of raw at these offsets, in order; what is gone from the log is missing.
pub(crate) type Fetch<'a, E> = dyn FnMut(&Offsets) -> Result<Records, E> + 'a;

/// Sorts a batch out. Letters that do not hold their records get them from raw.
pub(crate) fn sort_out<E>(records: &Records, home: &Home<'_>, fetch: &mut Fetch<'_, E>) -> Result<Sorted, E> {
    let mut sorted = Sorted::default();
    let mut rows: BTreeMap<Option<Name>, Vec<Row>> = BTreeMap::new();
    let mut hollow = Vec::new();
    let mut seen = BTreeSet::new();
    for row in 0..records.len() {
        let (headers, value) = (records.body.headers(row), records.body.value(row));
        let kind = Kind::of(headers);
        let Some(returned) = Returned::read(headers).filter(|_| kind.is_letter()) else {
            sorted.ignored += 1;
            continue;
        };
        if !seen.insert(returned.at) || home.is_answered(&returned, records.body.key(row)) {
            continue;
        }
        let offsets = if kind == Kind::Range { value.and_then(Offsets::parse) } else { None };
        let record = own(records, row, headers);
        if let Some((code, message)) = home.why_not(&returned.letter, kind == Kind::Range, offsets.as_ref()) {
            sorted.parked.push(Parked { returned, code, message, offsets, record });
            continue;
        }
        let aim = aim(&returned.letter);
        match offsets {
            Some(offsets) => sorted.range(returned, offsets, aim, record, fetch)?,
            None if returned.letter.omitted != Omitted::default() => {
                hollow.push((aim, Row { returned, record }));
            }
            None => rows.entry(detector(&aim)).or_default().push(Row { returned, record }),
        }
    }
    for (aim, row) in sorted.fill(hollow, fetch)? {
        rows.entry(detector(&aim)).or_default().push(row);
    }
    for (detector, rows) in rows {
        let aim = detector.map_or(Aim::Delivery, Aim::Detector);
        sorted.runs.push(home.run(aim, rows));
    }
    Ok(sorted)
}

impl Sorted {
    /// A range letter: what is still in raw runs, what is gone is parked.
    fn range<E>(
        &mut self,
        returned: Returned,
        offsets: Offsets,
        aim: Aim,
        record: NewRecords,
        fetch: &mut Fetch<'_, E>,
    ) -> Result<(), E> {
        let found = fetch(&offsets)?;
        let there: BTreeSet<i64> = found.offsets.values().iter().copied().collect();
        let gone = Offsets::of(offsets.runs().iter().cloned().flatten().filter(|offset| !there.contains(offset)));
        let is_partial = gone.is_some();
        if let Some(gone) = gone {
            let message = format!("{} of {} records are gone from raw", gone.records(), offsets.records());
            let (returned, offsets) = (returned.clone(), Some(gone));
            self.parked.push(Parked { returned, code: code::RANGE_GONE, message, offsets, record });
        }
        if !found.is_empty() {
            self.runs.push((Course { aim, letters: Letters::Range { letter: Box::new(returned), is_partial } }, found));
        }
        Ok(())
    }

    /// Letters that were too large to keep their records get them back.
    fn fill<E>(&mut self, hollow: Vec<(Aim, Row)>, fetch: &mut Fetch<'_, E>) -> Result<Vec<(Aim, Row)>, E> {
        let mut filled = Vec::with_capacity(hollow.len());
        for (aim, mut row) in hollow {
            let Some(offsets) = Offsets::of([row.returned.letter.origin.offset]) else { continue };
            let found = fetch(&offsets)?;
            if found.is_empty() {
                let message = "its record is gone from raw".to_owned();
                let Row { returned, record } = row;
                self.parked.push(Parked { returned, code: code::RANGE_GONE, message, offsets: None, record });
            } else {
                row.record = found.body.slice(0, 1);
                filled.push((aim, row));
            }
        }
        Ok(filled)
    }
}

impl Home<'_> {
    /// Whether a letter ended, or has another attempt, since it was moved: later events of its key may be delivered.
    fn is_answered(&self, returned: &Returned, key: Option<&[u8]>) -> bool {
        let holds = matches!(returned.letter.stage, Stage::Gate | Stage::Enrich | Stage::Deliver | Stage::Order);
        let is_known = holds && (key.is_some() || returned.letter.omitted.key.is_some());
        self.order.is_some_and(|order| is_known && !order.is_outstanding(returned.at))
    }

    /// Why a letter cannot run here.
    fn why_not(&self, letter: &Letter, is_range: bool, offsets: Option<&Offsets>) -> Option<(Code, String)> {
        let foreign = |what: String| Some((code::LETTER_FOREIGN, what));
        if letter.stream != *self.stream {
            return foreign(format!("it is a letter of stream {}", letter.stream));
        }
        if letter.origin.topic != *self.raw || letter.origin.partition != self.partition {
            let (topic, partition) = (&letter.origin.topic, letter.origin.partition);
            return foreign(format!("its record comes from {topic}/{partition}"));
        }
        if is_range && offsets.is_none() {
            return foreign("it does not say which records it is about".to_owned());
        }
        let placed = match letter.stage {
            Stage::Gate | Stage::Deliver | Stage::Halt | Stage::Order => return None,
            Stage::Enrich => &self.lineup.enrichers,
            Stage::Detect => &self.lineup.detectors,
        };
        let Some(plugin) = &letter.plugin else { return foreign("it names no plugin".to_owned()) };
        let is_there = placed.iter().any(|placed| placed.version.id.name == plugin.name);
        (!is_there).then(|| (code::PLUGIN_GONE, format!("the stream has no plugin `{}` now", plugin.name)))
    }

    /// A run of letters with one aim, in the order of their records.
    fn run(&self, aim: Aim, mut rows: Vec<Row>) -> (Course, Records) {
        rows.sort_by_key(|row| row.returned.letter.origin.offset);
        let mut records = RecordsBuilder::with_capacity(rows.len(), 0);
        let mut offsets = Vec::with_capacity(rows.len());
        let mut headers = HeadersBuilder::default();
        for Row { returned, record } in &rows {
            headers.clear();
            headers.extend(record.headers(0));
            let origin = &returned.letter.origin;
            offsets.push(origin.offset);
            records.push(origin.timestamp, record.key(0), record.value(0), headers.as_bytes());
        }
        let letters = Letters::Each(rows.into_iter().map(|row| row.returned).collect());
        let records = Records {
            topic: Arc::clone(self.raw),
            partition: self.partition,
            offsets: offsets.into(),
            body: records.finish(),
        };
        (Course { aim, letters }, records)
    }
}

/// A range letter as it is written when it takes its own place: the same letter about these records.
pub(crate) fn narrowed(letter: &Letter, offsets: Offsets) -> Range {
    let mut letter = letter.clone();
    letter.origin.offset = offsets.first();
    Range { letter, offsets }
}

/// What a letter waits for.
fn aim(letter: &Letter) -> Aim {
    match (letter.stage, &letter.plugin) {
        (Stage::Detect, Some(plugin)) => Aim::Detector(plugin.name.clone()),
        _ => Aim::Delivery,
    }
}

fn detector(aim: &Aim) -> Option<Name> {
    match aim {
        Aim::Delivery => None,
        Aim::Detector(name) => Some(name.clone()),
    }
}

/// A record of a retry topic as the record of raw that it was.
pub(crate) fn own(records: &Records, row: usize, headers: Headers<'_>) -> NewRecords {
    let mut original = HeadersBuilder::default();
    original_headers(headers, &mut original);
    let mut one = RecordsBuilder::default();
    one.push(0, records.body.key(row), records.body.value(row), original.as_bytes());
    one.finish()
}
