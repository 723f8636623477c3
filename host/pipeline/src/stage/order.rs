//! Order by key: what waits because an earlier event of its key was not delivered. The decisions stand in `core::letter::order`.
//!
//! Called again whenever more events turn out to stay behind: after the gate, after the enrichers, and when a processed
//! event is too large. Each call looks at the whole batch anew, so that the last one is right for all.

use phronis_core::letter::Stage;
use phronis_core::letter::order::{Bounds, Fate, Key, Order, Turn, Verdict, key};

use super::{Judged, Leaving};

/// Bytes that a letter has beside its record, about.
const LETTER: usize = 768;

/// A record that would have to wait, and finds no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full {
    pub(crate) row: usize,
    pub(crate) key: Key,
}

/// Makes wait what must. Nothing is decided about the records from the one on that finds no room.
pub(crate) fn hold(judged: &mut Judged, order: &Order, bounds: Bounds, comes_back: bool) -> Result<(), Full> {
    let mut turn = Turn::new(order, bounds, comes_back);
    let mut known = Vec::new();
    let (mut event, mut refused) = (0, 0);
    for row in 0..judged.checked.records.len() {
        let checked = &judged.checked;
        let is_refused = checked.rejected.get(refused).is_some_and(|rejection| rejection.row as usize == row);
        let is_event = !is_refused && event < checked.events.len() && checked.events.record(event) == row;
        let index = u32::try_from(event).unwrap_or(u32::MAX);
        (refused, event) = (refused + usize::from(is_refused), event + usize::from(is_event));
        let fate = match judged.leaving.get(&index).filter(|_| is_event) {
            Some(Leaving::Known) => continue,
            Some(Leaving::Dropped { .. } | Leaving::Halted { .. }) => Fate::Leaves,
            Some(Leaving::Failed { .. } | Leaving::TooLarge { .. } | Leaving::Waits) => Fate::Stays,
            Some(Leaving::Behind { .. }) | None if is_event => Fate::Goes,
            _ => Fate::Stays,
        };
        let (body, offset) = (&checked.records.body, checked.records.offsets.values().get(row).copied());
        let key_of = body.key(row).map(key);
        let sizes = [body.key(row), body.value(row)].map(|part| part.map_or(0, <[u8]>::len));
        let bytes = sizes.iter().sum::<usize>() + body.headers(row).bytes() + LETTER;
        match turn.next(key_of, offset.unwrap_or(-1), bytes, fate) {
            Verdict::AsItIs => {}
            Verdict::Waits(behind) => drop(judged.leaving.insert(index, Leaving::Behind { offset: behind })),
            Verdict::Known if is_event => drop(judged.leaving.insert(index, Leaving::Known)),
            Verdict::Known => known.push(row),
            Verdict::Full => return Err(Full { row, key: key_of.unwrap_or_default() }),
        }
    }
    judged.checked.rejected.retain(|rejection| !known.contains(&(rejection.row as usize)));
    Ok(())
}

/// Takes back what detectors said of events that are not delivered after all: they are asked again when these come back.
pub(crate) fn withdraw(judged: &mut Judged) {
    let Judged { leaving, found, debts, ranges, .. } = judged;
    found.retain(|found| !leaving.contains_key(&found.event));
    debts.retain(|debt| !leaving.contains_key(&debt.event));
    for waiting in ranges.iter_mut().filter(|waiting| waiting.stage == Stage::Detect) {
        waiting.events.retain(|event| !leaving.contains_key(event));
    }
}
