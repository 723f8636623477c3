//! What a batch is run for: records of raw for the first time, or letters that come back.
//!
//! A letter runs only what it waits for: a detector's letter that detector, and nothing of its event is delivered again;
//! any other letter goes from the gate to the end. Enrichers run where somebody reads their columns.

use phronis_core::Name;
use phronis_core::contract::Source;
use phronis_core::letter::Returned;

use crate::plugins::{Lineup, Placed};

/// What a batch is run for.
#[derive(Debug, Default)]
pub(crate) struct Course {
    pub(crate) aim: Aim,
    pub(crate) letters: Letters,
}

/// How far a batch goes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) enum Aim {
    /// To the end: events are delivered.
    #[default]
    Delivery,
    /// To this detector alone: its events were delivered long ago.
    Detector(Name),
}

/// The letters that a batch comes from.
#[derive(Debug, Default)]
pub(crate) enum Letters {
    /// None: its records come from raw, for the first time.
    #[default]
    None,
    /// One for each record of the batch, in its order.
    Each(Vec<Returned>),
    /// One for all records of the batch.
    Range {
        letter: Box<Returned>,
        /// Some of its records are gone: it goes on as a letter about those.
        is_partial: bool,
    },
}

impl Course {
    /// Which enrichers run, in the lineup's order.
    pub(crate) fn enrichers(&self, lineup: &Lineup) -> Vec<bool> {
        let Aim::Detector(name) = &self.aim else { return vec![true; lineup.enrichers.len()] };
        let detector = lineup.detectors.iter().find(|placed| placed.version.id.name == *name);
        let mut read: Vec<usize> = detector.map(added).unwrap_or_default();
        let mut end = lineup.added.len();
        let mut runs: Vec<bool> = Vec::with_capacity(lineup.enrichers.len());
        // Backwards: an enricher reads what those before it add.
        for enricher in lineup.enrichers.iter().rev() {
            let own = end.saturating_sub(enricher.version.adds.len())..end;
            end = own.start;
            let is_read = read.iter().any(|column| own.contains(column));
            if is_read {
                read.extend(added(enricher));
            }
            runs.push(is_read);
        }
        runs.reverse();
        runs
    }

    /// Whether a detector runs.
    pub(crate) fn judges(&self, detector: &Name) -> bool {
        match &self.aim {
            Aim::Delivery => true,
            Aim::Detector(name) => name == detector,
        }
    }

    /// Whether events are delivered.
    pub(crate) fn delivers(&self) -> bool {
        self.aim == Aim::Delivery
    }

    /// The letter that brings a record back.
    pub(crate) fn returned(&self, row: usize) -> Option<&Returned> {
        match &self.letters {
            Letters::Each(letters) => letters.get(row),
            Letters::Range { letter, .. } => Some(letter),
            Letters::None => None,
        }
    }

    /// The letter of a record, where each has its own.
    pub(crate) fn letter(&self, row: usize) -> Option<&Returned> {
        match &self.letters {
            Letters::Each(letters) => letters.get(row),
            Letters::None | Letters::Range { .. } => None,
        }
    }
}

/// The added columns that a plugin reads.
fn added(placed: &Placed) -> Vec<usize> {
    let index = |source: &Source| match source {
        Source::Added(index) => Some(*index),
        _ => None,
    };
    placed.columns.iter().filter_map(|column| index(&column.source)).collect()
}
