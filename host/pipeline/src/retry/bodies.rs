//! Reads letters again, by their offsets: the index keeps none of their bytes.

use std::time::Duration;

use phronis_core::records::Records;
use phronis_log::{Error, Log, PollLimits, Position, Reader, Result};

/// Offsets between two wanted ones that are read over rather than jumped over.
const NEAR: i64 = 2048;

/// How long one read waits: a new consumer of Kafka needs some round trips.
const WAIT: Duration = Duration::from_secs(1);

/// Reads that bring nothing before what is wanted is taken for gone: the last offsets may be no records.
const TRIES: u32 = 3;

/// Shows the records at these offsets (rising); the answer are those that are not there.
///
/// # Errors
/// The log does not answer.
pub(crate) fn read_letters(
    log: &dyn Log,
    topic: &str,
    partition: i32,
    offsets: &[i64],
    mut show: impl FnMut(&Records, usize),
) -> Result<Vec<i64>> {
    let mut gone = Vec::new();
    let mut wanted = offsets.iter().copied().peekable();
    let mut reader: Option<Box<dyn Reader>> = None;
    while let Some(next) = wanted.peek().copied() {
        let is_near = |reader: &dyn Reader| (0..NEAR).contains(&(next.saturating_sub(reader.position())));
        let mut open = match reader.take().filter(|reader| is_near(reader.as_ref())) {
            Some(open) => open,
            None => match log.reader(topic, partition, Position::Offset(next)) {
                Ok(open) => open,
                Err(Error::OutOfRange { earliest, latest, .. }) => {
                    let is_gone = |offset: &i64| *offset < earliest || *offset >= latest;
                    while let Some(offset) = wanted.next_if(is_gone) {
                        gone.push(offset);
                    }
                    continue;
                }
                Err(error) => return Err(error),
            },
        };
        let Some(records) = next_records(open.as_mut(), offsets, next)? else {
            gone.push(next);
            wanted.next();
            continue;
        };
        for (row, offset) in records.offsets.values().iter().enumerate() {
            while let Some(missing) = wanted.next_if(|wanted| wanted < offset) {
                gone.push(missing);
            }
            if wanted.next_if_eq(offset).is_some() {
                show(&records, row);
            }
        }
        reader = Some(open);
    }
    Ok(gone)
}

fn next_records(reader: &mut dyn Reader, offsets: &[i64], next: i64) -> Result<Option<Records>> {
    // No more than what is wanted of this neighbourhood, so that one letter does not cost a thousand.
    let end = offsets.partition_point(|offset| *offset < next.saturating_add(NEAR));
    let near = end.checked_sub(1).and_then(|at| offsets.get(at)).copied();
    let span = near.unwrap_or(next).saturating_sub(reader.position()).saturating_add(1);
    let limits = PollLimits { records: usize::try_from(span).unwrap_or(1).clamp(1, 2048), bytes: 4 << 20 };
    for _ in 0..TRIES {
        match reader.next(limits, WAIT) {
            Ok(Some(records)) => return Ok(Some(records)),
            Ok(None) => {}
            Err(Error::OutOfRange { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
