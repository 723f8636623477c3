//! The stages of one batch: `Raw → Checked → Judged → Delivery → Receipt`.
//!
//! A stage takes one of these and makes the next. It does not know its neighbours; `worker.rs` names the order.
//! `Raw` is [`Records`](phronis_core::records::Records), `Checked` is [`Checked`], the last two stand in `phronis_core::delivery`.

pub(crate) mod again;
pub(crate) mod course;
pub(crate) mod deduplicate;
pub(crate) mod deliver;
pub(crate) mod detect;
pub(crate) mod enrich;
pub(crate) mod halt;
pub(crate) mod order;
pub(crate) mod select;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::ArrayRef;
use phronis_core::PluginId;
use phronis_core::decode::Checked;
use phronis_core::letter::Stage;
use phronis_core::plugin::{FailureKind, Finding, RowFailure};

use crate::plugins::{Placed, Version};

/// A batch on its way through the plugins: a `Checked` batch with what the plugins have said so far.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) checked: Checked,
    /// The columns that enrichers added, in the lineup's order, each as long as the events.
    pub(crate) added: Vec<ArrayRef>,
    /// Events that do not reach `processed`, and why.
    pub(crate) leaving: BTreeMap<u32, Leaving>,
    pub(crate) found: Vec<Found>,
    pub(crate) debts: Vec<Debt>,
    /// Events that are delivered although their agent is halted: (event, agent).
    pub(crate) halted: Vec<(u32, String)>,
    /// Events that a detector was not shown: (event, plugin).
    pub(crate) skipped: Vec<(u32, Arc<Version>)>,
    /// Events that passed a plugin whose breaker is open: (event, plugin).
    pub(crate) bypassed: Vec<(u32, Arc<Version>)>,
    /// Events that wait for a plugin whose breaker is open.
    pub(crate) ranges: Vec<Waiting>,
    /// Latest event time seen in the partition.
    pub(crate) watermark: i64,
    pub(crate) times: Times,
}

/// When a batch passed its stages, in microseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Times {
    pub(crate) polled: i64,
    pub(crate) checked: i64,
    pub(crate) judged: i64,
}

/// Why an event goes no further.
#[derive(Debug)]
pub(crate) enum Leaving {
    /// A rule drops it.
    Dropped { by: Arc<str>, reason: String },
    /// Its agent is halted, and the stream wants none of it: it becomes a letter. Without an agent, its whole tenant is.
    Halted { agent: String },
    /// An enricher has no answer for it: it becomes a letter.
    Failed { plugin: Arc<Version>, failure: RowFailure },
    /// An enricher's breaker is open: a range letter stands for it.
    Waits,
    /// An earlier event of its key, at this offset, was not delivered: it becomes a letter that waits for that one.
    Behind { offset: i64 },
    /// It is larger than its topic takes: it becomes a letter. Only where order must be kept; else delivery finds that out.
    TooLarge { bytes: usize },
    /// It was answered for before this host began, and nothing more is said.
    Known,
}

/// Events that a plugin was not shown, because its breaker is open; they become one range letter.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) plugin: Arc<Version>,
    pub(crate) stage: Stage,
    /// Rising.
    pub(crate) events: Vec<u32>,
}

/// A batch cannot be judged now, or ever.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stopped {
    /// A plugin's breaker is open, and its events wait for it.
    #[error("a breaker is open")]
    Held,
    /// A fault of the host.
    #[error(transparent)]
    Failed(#[from] arrow_schema::ArrowError),
}

/// A finding of a detector.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) event: u32,
    pub(crate) by: Placed,
    pub(crate) finding: Finding,
}

/// An event that a detector has no answer for: it is delivered, and a letter exists until it is judged.
#[derive(Debug)]
pub(crate) struct Debt {
    pub(crate) event: u32,
    pub(crate) plugin: Arc<Version>,
    pub(crate) failure: RowFailure,
}

impl Judged {
    /// Takes findings back that are too much for the log: their detectors owe a judgement.
    pub(crate) fn refuse_findings(&mut self) {
        let mut owing: BTreeMap<(u32, PluginId), Arc<Version>> = BTreeMap::new();
        for found in self.found.drain(..) {
            owing.insert((found.event, found.by.version.id.clone()), found.by.version);
        }
        for ((event, _), plugin) in owing {
            let failure = RowFailure {
                row: event as usize,
                kind: FailureKind::BadOutput,
                message: "more findings about one event than the log can take at once".into(),
            };
            self.debts.push(Debt { event, plugin, failure });
        }
    }

    pub(crate) fn new(checked: Checked, watermark: i64, times: Times) -> Self {
        Self {
            checked,
            added: Vec::new(),
            leaving: BTreeMap::new(),
            found: Vec::new(),
            debts: Vec::new(),
            halted: Vec::new(),
            skipped: Vec::new(),
            bypassed: Vec::new(),
            ranges: Vec::new(),
            watermark,
            times,
        }
    }
}
