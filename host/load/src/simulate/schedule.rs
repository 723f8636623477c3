//! When faults happen: one in each stretch of a key's turns, somewhere in its middle.

use super::{FaultKind, chance::Chance};

/// The shortest stretch that has room for a fault and normal turns around it.
const SHORTEST: u64 = 64;

/// A fault at work in a turn of a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Active {
    pub(super) kind: FaultKind,
    /// Turns since it began, from 0.
    pub(super) turn: u64,
    /// Turns that it lasts.
    pub(super) turns: u64,
    /// Chance that belongs to this fault.
    pub(super) chance: Chance,
}

/// Faults of all keys.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    chance: Chance,
    stretch: Option<u64>,
    kinds: &'static [Planned],
}

/// A kind of fault and how many turns it lasts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Planned {
    pub(super) kind: FaultKind,
    pub(super) shortest: u64,
    pub(super) longest: u64,
}

impl Schedule {
    pub(super) fn new(seed: u64, fault_every: Option<u64>, kinds: &'static [Planned]) -> Self {
        Self { chance: Chance::new(seed ^ 0xfa17), stretch: fault_every.map(|every| every.max(SHORTEST)), kinds }
    }

    /// The fault of a key in its turn, if there is one.
    pub(super) fn active(&self, key: u32, turn: u64) -> Option<Active> {
        let stretch = self.stretch?;
        let chance = self.chance.of(u64::from(key)).of(turn / stretch);
        let count = self.kinds.len() as u64;
        // Kinds go round, so that a short run of a few keys sees each of them.
        let pick = (u64::from(key) + turn / stretch + self.chance.below(count)) % count.max(1);
        let planned = self.kinds.get(usize::try_from(pick).ok()?)?;
        let room = planned.longest.min(stretch / 2);
        let turns = planned.shortest + chance.of(1).below(room.saturating_sub(planned.shortest) + 1);
        let begins = stretch / 4 + chance.of(2).below((stretch / 2).saturating_sub(turns) + 1);
        let since = (turn % stretch).checked_sub(begins)?;
        (since < turns).then(|| Active { kind: planned.kind, turn: since, turns, chance: chance.of(3) })
    }
}

/// Faults of a run so far, as they are seen from outside.
#[derive(Debug, Default)]
pub(super) struct Truth {
    faults: Vec<super::Fault>,
    /// For each key, the fault that is going on.
    open: Vec<Option<usize>>,
}

impl Truth {
    pub(super) fn new(keys: usize) -> Self {
        Self { faults: Vec::new(), open: vec![None; keys] }
    }

    pub(super) fn faults(&self) -> &[super::Fault] {
        &self.faults
    }

    /// Takes note of an event, and of the end of a fault when it has none.
    pub(super) fn note(&mut self, key: u32, event: &super::Event, active: Option<Active>, value: f64) {
        let Some(open) = self.open.get_mut(key as usize) else { return };
        let Some(active) = active else {
            *open = None;
            return;
        };
        let index = match *open {
            Some(index) => index,
            None => {
                self.faults.push(super::Fault {
                    key: std::sync::Arc::clone(&event.key),
                    kind: active.kind,
                    from_seq: event.seq,
                    to_seq: event.seq,
                    over: 0,
                    peak: value,
                });
                self.faults.len() - 1
            }
        };
        *open = Some(index);
        if let Some(fault) = self.faults.get_mut(index) {
            fault.to_seq = event.seq;
            fault.over += u64::from(event.is_fault);
            fault.peak = fault.peak.max(value);
        }
    }
}
