//! The word that all workers of a plugin share: state, permits and generation in one atomic number.
//!
//! Asking it is one load while the breaker is closed. Only the machine, under its lock, sets a state;
//! workers only take permits and give them back, and a set in between makes theirs void.
//! `tests/breaker_word.rs` includes this file with loom's atomics: it uses nothing but `super::atomic`.

use super::atomic::{AtomicU64, Ordering};

const STATE_BITS: u32 = 2;
const PERMIT_BITS: u32 = 14;
const STATE_MASK: u64 = (1 << STATE_BITS) - 1;
const PERMIT_ONE: u64 = 1 << STATE_BITS;
const PERMIT_MASK: u64 = ((1 << PERMIT_BITS) - 1) << STATE_BITS;
const GENERATION_SHIFT: u32 = STATE_BITS + PERMIT_BITS;

/// Most permits that the word can hold.
pub(super) const MOST_PERMITS: u64 = PERMIT_MASK >> STATE_BITS;

/// The states, as they stand in the word.
pub(super) const CLOSED: u64 = 0;
pub(super) const OPEN: u64 = 1;
pub(super) const HALF_OPEN: u64 = 2;

/// What the word said at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen(u64);

impl Seen {
    #[inline]
    pub(super) fn state(self) -> u64 {
        self.0 & STATE_MASK
    }

    #[inline]
    pub(super) fn permits(self) -> u64 {
        (self.0 & PERMIT_MASK) >> STATE_BITS
    }

    #[inline]
    pub(super) fn generation(self) -> u64 {
        self.0 >> GENERATION_SHIFT
    }
}

/// The word.
#[derive(Debug)]
pub(super) struct Word(AtomicU64);

impl Word {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(CLOSED))
    }

    #[inline]
    pub(super) fn load(&self) -> Seen {
        Seen(self.0.load(Ordering::Acquire))
    }

    /// Sets another state, with its permits; whoever still acts on the one before is too late. Only under the machine's lock.
    pub(super) fn set(&self, state: u64, permits: u64, generation: u64) {
        let permits = permits.min(MOST_PERMITS) << STATE_BITS;
        // A swap, not a store: it takes its place after every permit that was taken before.
        self.0.swap(state & STATE_MASK | permits | generation << GENERATION_SHIFT, Ordering::AcqRel);
    }

    /// Takes one permit of a half-open state; the generation that it belongs to, or none when there is none to take.
    pub(super) fn acquire(&self) -> Option<u64> {
        let taken = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            (word & STATE_MASK == HALF_OPEN && word & PERMIT_MASK != 0).then(|| word - PERMIT_ONE)
        });
        taken.ok().map(|word| Seen(word).generation())
    }

    /// Gives a permit back that was not used; one of an earlier generation is void.
    pub(super) fn release(&self, generation: u64) {
        // A refusal means that the state has changed since: nothing is owed then.
        let _void = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            let is_same = word & STATE_MASK == HALF_OPEN && Seen(word).generation() == generation;
            (is_same && word & PERMIT_MASK != PERMIT_MASK).then(|| word + PERMIT_ONE)
        });
    }
}
