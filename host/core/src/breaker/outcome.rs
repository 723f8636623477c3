//! What a batch did to a plugin, and what adds up to a reason to open.

use std::ops::{AddAssign, SubAssign};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How the plugin answered one batch. One report a batch; calls are the original ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Calls that were answered as the contract says.
    pub ok: u32,
    /// Calls answered by an error for all rows. They count by their rows.
    pub error: u32,
    /// Calls that trapped.
    pub trap: u32,
    /// Calls that ran into the deadline.
    pub deadline: u32,
    /// Calls that wanted more memory than the limit.
    pub memory: u32,
    /// Calls whose answer broke the contract.
    pub bad_output: u32,
    /// Rows that were shown.
    pub rows: u32,
    /// Rows that the plugin gave no answer for, by its own word: not those of a hard failure.
    pub failed_rows: u32,
    /// Time in the guest.
    pub busy: Duration,
}

impl Outcome {
    /// Original calls.
    #[inline]
    pub fn calls(&self) -> u32 {
        self.ok.saturating_add(self.error).saturating_add(self.hard())
    }

    /// Calls that failed for reasons of the plugin's code.
    #[inline]
    pub fn hard(&self) -> u32 {
        [self.trap, self.deadline, self.memory, self.bad_output].into_iter().fold(0, u32::saturating_add)
    }

    /// Whether nothing of it needs the machine's attention: all calls answered, no row failed.
    #[inline]
    pub fn is_clean(&self) -> bool {
        self.error == 0 && self.hard() == 0 && self.failed_rows == 0
    }

    /// Whether a call took longer than so many nanoseconds, in the mean.
    #[inline]
    pub fn is_slower_than(&self, nanos: u128) -> bool {
        // A product, not a quotient: this is asked after every healthy call.
        self.busy.as_nanos() > nanos * u128::from(self.calls().max(1))
    }
}

/// What was counted in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Original calls.
    pub calls: u64,
    /// Calls answered by an error for all rows.
    pub error: u64,
    /// Calls that trapped.
    pub trap: u64,
    /// Calls that ran into the deadline.
    pub deadline: u64,
    /// Calls that wanted more memory than the limit.
    pub memory: u64,
    /// Calls whose answer broke the contract.
    pub bad_output: u64,
    /// Calls that took longer than the bound.
    pub slow: u64,
    /// Rows that were shown.
    pub rows: u64,
    /// Rows without an answer.
    pub failed_rows: u64,
}

impl Counts {
    /// Calls that failed for reasons of the plugin's code.
    pub fn hard(&self) -> u64 {
        self.trap + self.deadline + self.memory + self.bad_output
    }

    /// What an outcome adds.
    pub fn of(outcome: &Outcome, is_slow: bool) -> Self {
        let calls = u64::from(outcome.calls());
        Self {
            calls,
            error: outcome.error.into(),
            trap: outcome.trap.into(),
            deadline: outcome.deadline.into(),
            memory: outcome.memory.into(),
            bad_output: outcome.bad_output.into(),
            slow: if is_slow { calls } else { 0 },
            rows: outcome.rows.into(),
            failed_rows: outcome.failed_rows.into(),
        }
    }

    fn parts(&mut self) -> [&mut u64; 9] {
        let Self { calls, error, trap, deadline, memory, bad_output, slow, rows, failed_rows } = self;
        [calls, error, trap, deadline, memory, bad_output, slow, rows, failed_rows]
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, mut other: Self) {
        self.parts().into_iter().zip(other.parts()).for_each(|(to, from)| *to = to.saturating_add(*from));
    }
}

impl SubAssign for Counts {
    fn sub_assign(&mut self, mut other: Self) {
        self.parts().into_iter().zip(other.parts()).for_each(|(to, from)| *to = to.saturating_sub(*from));
    }
}

/// Which rule opened a breaker (or would have).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Deadlines one after the other.
    Deadlines,
    /// Hard failures in the window.
    Failures,
    /// Failed rows in the window.
    Rows,
    /// Slow calls in the window.
    Slow,
    /// A probe failed.
    Probe,
    /// Probes were begun and did not end.
    ProbesTimeout,
}

impl Reason {
    /// As it stands in the API, in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deadlines => "deadlines",
            Self::Failures => "failures",
            Self::Rows => "rows",
            Self::Slow => "slow",
            Self::Probe => "probe",
            Self::ProbesTimeout => "probes_timeout",
        }
    }
}
