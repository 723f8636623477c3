//! Breakers: a plugin that keeps failing is left alone for a while, and asked again carefully.
//!
//! # Signals
//! A worker reports one [`Outcome`] for each batch that it shows a plugin. What counts:
//! *hard failures* (a call that trapped, ran into its deadline, wanted too much memory, or answered against the contract),
//! once per original call and never for the parts that look for guilty rows;
//! *failed rows* (rows that the plugin gave no answer for; an error for a whole batch counts by its rows);
//! and *slow calls*, where a bound is set. Trouble of the host never gets here: who reports leaves it out.
//!
//! # What opens it, in this order
//! 1. deadlines one after the other ([`Settings::deadlines`]): each costs its whole deadline, so few are enough;
//! 2. hard failures in the window ([`Settings::failures`]);
//! 3. failed rows in the window: a count if one is set, else a share of at least so many rows ([`Rows`]);
//! 4. slow calls in the window, by share ([`Slow`]).
//!
//! # Recovery
//! It is *open* for [`Settings::open_for`], twice as long after each failed try (with jitter, up to [`Settings::open_most`]).
//! Then it is *half-open*: exactly [`Settings::probes`] batches pass. If all go well it closes; one that does not opens it again.
//! A permit that is not used is given back. When probes are on their way and do not end within [`Settings::probes_within`],
//! it opens again. A close that lasts for [`Settings::forgiven_after`] forgives earlier tries.
//!
//! # Who sees what
//! [`Machine`] decides: pure, time is an argument, one at a time. [`Shared`] is what workers hold: one atomic word that says
//! whether they may ask, and a [`Cell`] for each worker to count in, so that a healthy call costs a few nanoseconds.
//! The word carries a *generation*: a result that belongs to an earlier state changes nothing.
//! [`Guard`] looks at all breakers of a host: when most trip at once, the host is the suspect, not the plugins.

mod atomic;
mod guard;
mod machine;
mod outcome;
mod settings;
mod shared;
mod window;
mod word;

pub use guard::Guard;
pub use machine::{Machine, Transition, Trip, View, Why};
pub use outcome::{Counts, Outcome, Reason};
pub use settings::{Rows, Settings, Slow};
pub use shared::{Answer, Cell, Pass, Shared};

use serde::{Deserialize, Serialize};

/// What a breaker does right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The plugin is asked.
    Closed,
    /// The plugin is not asked.
    Open,
    /// A few batches try whether it can be asked again.
    HalfOpen,
}

impl State {
    /// As it stands in the API, in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Who decides what a breaker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It decides itself.
    #[default]
    Auto,
    /// A person keeps it open.
    ForcedOpen,
    /// A person keeps it closed.
    ForcedClosed,
    /// It counts and says what it would have done, and never opens.
    Shadow,
}

impl Mode {
    /// As it stands in the API and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
            Self::Shadow => "shadow",
        }
    }
}

#[cfg(test)]
mod tests;
