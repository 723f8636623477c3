//! Shows what runs: orders a stream's plugins, keeps the good ones on the shelf, publishes the lineup.
//!
//! Workers and readers see nothing of a plugin before it was here.

use std::sync::Arc;

use phronis_core::plugin::Kind;
use phronis_core::{PluginId, StreamId};

use super::super::entry::{Entry, Rules};
use super::super::order::{self, Order, Place};
use super::super::shelf::Good;
use super::super::{Lineup, Placed};
use super::Control;
use crate::clock::now_ms;
use crate::status;

impl Control {
    /// Orders a stream's plugins, leaves out those that do not fit, and shows the result to workers and readers.
    pub(super) fn publish_stream(&mut self, stream: &StreamId) {
        let Some(rules) = self.rules.get(stream).cloned() else { return };
        for entry in self.entries.values_mut().filter(|entry| entry.id.stream == *stream) {
            entry.misfit = None;
        }
        let order = loop {
            let wishes: Vec<_> = self.running(stream).map(|version| version.wish()).collect();
            match order::order(&rules.contract, &wishes) {
                Ok(order) => break order,
                Err((name, problem)) => {
                    let id = PluginId { stream: stream.clone(), name };
                    tracing::warn!(plugin = %id, code = %problem.code, reason = %problem.message, "plugin bypassed");
                    self.entry(&id).misfit = Some(status::Refusal {
                        code: problem.code,
                        message: problem.message,
                        at: now_ms(),
                        digest: None,
                    });
                }
            }
        };
        if self.is_settled(stream) {
            self.keep_good(stream);
        }
        if self.is_settled(stream) {
            self.ready.insert(stream.clone());
        }
        let lineup = self.lineup(stream, order, &rules);
        self.board.publish_lineup(stream, lineup);
        for entry in self.entries.values().filter(|e| e.id.stream == *stream && e.file_digest.is_some()) {
            let good = self.shelf.all(&entry.id).cloned().collect();
            self.board.publish_plugin(status::Plugin { good, ..entry.status(&rules) }, &entry.counters);
        }
    }

    /// Whether nothing of a stream is still being loaded for the first time.
    pub(super) fn is_settled(&self, stream: &StreamId) -> bool {
        let mut entries = self.entries.values().filter(|e| e.id.stream == *stream && e.file_digest.is_some());
        self.is_open && self.is_scan_done && entries.all(|e| !e.is_loading || e.active.is_some())
    }

    /// Puts what runs well on the shelf, and takes from it where the newest version does not fit beside the others.
    fn keep_good(&mut self, stream: &StreamId) {
        let mut misfits = Vec::new();
        for entry in self.entries.values_mut().filter(|entry| entry.id.stream == *stream) {
            let Some(active) = &entry.active else { continue };
            if entry.misfit.is_some() {
                misfits.push((entry.id.clone(), active.component.digest().to_owned()));
                continue;
            }
            let good = Good {
                digest: active.component.digest().to_owned(),
                version: active.component.manifest().version.clone(),
                params: entry.settings.params.clone(),
                limits: entry.settings.limits.clone(),
            };
            match self.shelf.put(&entry.id, good, entry.unshelved.as_deref()) {
                Ok(()) => entry.unshelved = None,
                Err(error) => {
                    tracing::error!(plugin = %entry.id, %error, "the shelf of good versions cannot be written")
                }
            }
        }
        for (id, digest) in misfits {
            if self.shelf.good(&id).is_some_and(|good| good.digest != digest) {
                let entry = self.entry(&id);
                entry.active = None;
                entry.refusal = entry.misfit.take();
                self.fall_back(&id);
            }
        }
    }

    fn lineup(&self, stream: &StreamId, order: Order, rules: &Rules) -> Lineup {
        let entries = || self.entries.values().filter(|e| e.id.stream == *stream && e.file_digest.is_some());
        let place = |place: &Place, kind: Kind| {
            let version = entries().find(|e| e.id.name == place.name)?.active.as_ref()?;
            (version.component.kind() == kind)
                .then(|| Placed { version: Arc::clone(version), columns: place.columns.clone().into() })
        };
        let is_bypassed = |e: &&Entry| e.active.is_none() || e.misfit.is_some();
        let bypassed: Vec<_> = entries().filter(is_bypassed).map(|e| e.id.name.clone()).collect();
        Lineup {
            enrichers: order.enrichers.iter().filter_map(|p| place(p, Kind::Enricher)).collect(),
            detectors: order.detectors.iter().filter_map(|p| place(p, Kind::Detector)).collect(),
            added: order.added,
            // Once it runs, a stream does not stop for a newcomer that is being compiled.
            is_ready: self.ready.contains(stream),
            is_held: rules.holds_when_missing && !bypassed.is_empty(),
            bypassed,
        }
    }
}
