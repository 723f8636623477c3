//! Made-up events whose truth is known: which are faults, and which the gate must refuse.
//!
//! The same seed gives the same bytes. Time is virtual: each event says when it happens, the caller paces it.
//! Normal readings stay clearly below the thresholds that ship with Phronis and faults go clearly over them,
//! so that a run can be counted as found, missed and false.

mod agents;
mod chance;
mod malformed;
mod schedule;
mod sensors;

use std::{sync::Arc, time::Duration};

use phronis_core::{Code, plugin::Severity};

pub use agents::Agents;
pub use malformed::Malformation;
pub use sensors::Sensors;

/// What a simulation is made of. Both simulators take it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Decides everything that looks like chance.
    pub seed: u64,
    /// How many sensors or agents there are, at least one.
    pub keys: u32,
    /// Events a second of virtual time, all keys together.
    pub per_second: f64,
    /// Virtual time of the first event, in milliseconds since 1970-01-01T00:00:00Z.
    pub start_ms: i64,
    /// One fault a key in so many of its events, 64 at least; `None`: no faults.
    pub fault_every: Option<u64>,
    /// Share of events that the gate must refuse, 0 to 1. None of them is part of a fault.
    pub malformed: f64,
    /// Length of the curve that the values follow; a day, or less to see it in a short run.
    pub day: Duration,
    /// How event times are written.
    pub times: Times,
    /// Share of the sensors that measure in °F, 0 to 1. Agents have no unit.
    pub fahrenheit: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            keys: 50,
            per_second: 1_000.0,
            start_ms: 1_767_225_600_000,
            fault_every: Some(400),
            malformed: 0.0,
            day: Duration::from_secs(24 * 60 * 60),
            times: Times::EpochMs,
            fahrenheit: 0.25,
        }
    }
}

/// How event times are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// Milliseconds since 1970, a number.
    EpochMs,
    /// RFC 3339 in UTC, a text.
    Rfc3339,
}

/// An event, and the truth about it that its bytes do not tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The sensor or the agent.
    pub key: Arc<str>,
    /// Number of the event within its key, from 0, without gaps.
    pub seq: u64,
    /// Virtual time since the start of the run.
    pub at: Duration,
    /// The same in milliseconds since 1970, as it stands in the event.
    pub time_ms: i64,
    /// One line of JSON text.
    pub bytes: Vec<u8>,
    /// Whether a threshold that looks at this event alone must find it.
    pub is_fault: bool,
    /// The fault that the event is part of, also where it stays below the threshold.
    pub fault: Option<FaultKind>,
    /// What must become of it.
    pub expect: Expect,
}

/// What must become of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// It passes the gate.
    Delivered,
    /// The gate refuses it.
    Refused(Malformation),
}

impl Expect {
    /// The code of the letter, where there must be one.
    pub fn code(self) -> Option<Code> {
        match self {
            Self::Delivered => None,
            Self::Refused(malformation) => Some(malformation.code()),
        }
    }
}

/// A fault that was put into a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// Whose it is.
    pub key: Arc<str>,
    /// What happens.
    pub kind: FaultKind,
    /// Its first event.
    pub from_seq: u64,
    /// Its last event; of a fault that is still going on, the last so far.
    pub to_seq: u64,
    /// Events that a threshold must find; none where [`FaultKind::severity`] is none.
    pub over: u64,
    /// The highest value: °C, USD a call, or calls a minute; of a drop-out, seconds of silence.
    pub peak: f64,
}

/// What can happen to a sensor or an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// A sensor climbs over the threshold, stays there and cools down.
    Overheat,
    /// A few readings far over the threshold.
    Spike,
    /// A sensor repeats one value. No threshold sees it.
    Stuck,
    /// A sensor is silent. No threshold sees it.
    DropOut,
    /// An agent's calls become a hundred times as expensive.
    CostExplosion,
    /// An agent calls without end.
    CallStorm,
}

impl FaultKind {
    /// How bad it is for a threshold; `None` where only a detector with memory can see it.
    pub fn severity(self) -> Option<Severity> {
        match self {
            Self::Overheat | Self::Spike => Some(Severity::Warning),
            Self::CostExplosion | Self::CallStorm => Some(Severity::Critical),
            Self::Stuck | Self::DropOut => None,
        }
    }
}

/// Writes an event time.
fn time_text(time_ms: i64, times: Times) -> String {
    match (times, jiff::Timestamp::from_millisecond(time_ms)) {
        (Times::Rfc3339, Ok(time)) => format!("\"{time}\""),
        _ => time_ms.to_string(),
    }
}
