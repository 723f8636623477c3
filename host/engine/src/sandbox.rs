//! What the host keeps for one instance while its guest runs: limits, log, the time that it sees, its dice.
//!
//! Nothing here reaches outside of the instance but the log.

use phronis_core::plugin::Limits;
use sha2::{Digest as _, Sha256};
use wasmtime::ResourceLimiter;

use crate::log::{Lines, Log};
use crate::settings::{TABLE_ELEMENTS, TABLES};
use crate::wit::LogLevel;

/// The data of a store.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) guard: Guard,
    pub(crate) log: Log,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
    /// The event time, in microseconds since 1970: the only time that a guest sees.
    pub(crate) now: i64,
    pub(crate) dice: Dice,
}

impl Sandbox {
    pub(crate) fn new(limits: &Limits, log: Log, seed: [u8; 32]) -> Self {
        let guard = Guard { most: usize::try_from(limits.memory).unwrap_or(usize::MAX), held: 0, refused: false };
        Self { guard, log, stdout: Lines::default(), stderr: Lines::default(), now: 0, dice: Dice(seed, 0) }
    }

    /// Writes what the guest printed without ending the line.
    pub(crate) fn flush(&mut self) {
        self.stdout.flush(LogLevel::Info, &self.log);
        self.stderr.flush(LogLevel::Warn, &self.log);
    }
}

/// Refuses memory over the limit, and remembers that it did.
#[derive(Debug)]
pub(crate) struct Guard {
    /// The limit of all linear memories together, in bytes.
    pub(crate) most: usize,
    /// What they hold, in bytes.
    pub(crate) held: usize,
    /// Whether the guest was refused memory since the flag was last cleared.
    pub(crate) refused: bool,
}

impl ResourceLimiter for Guard {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current);
        let fits = self.held.saturating_add(more) <= self.most && maximum.is_none_or(|most| desired <= most);
        if fits {
            self.held += more;
        } else {
            self.refused = true;
        }
        Ok(fits)
    }

    fn table_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS && maximum.is_none_or(|most| desired <= most))
    }

    fn instances(&self) -> usize {
        32
    }

    fn tables(&self) -> usize {
        TABLES as usize
    }

    fn memories(&self) -> usize {
        TABLES as usize
    }
}

/// Random numbers that are the same for the same plugin every time: SHA-256 of seed and counter.
#[derive(Debug)]
pub(crate) struct Dice([u8; 32], u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        let hash = Sha256::new().chain_update(self.0).chain_update(self.1.to_le_bytes()).finalize();
        self.1 = self.1.wrapping_add(1);
        let mut number = [0; 8];
        number.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
        u64::from_le_bytes(number)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend(self.roll().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}
