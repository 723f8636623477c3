//! Brings what runs as near as possible to what is wanted: the newest component, the newest settings.
//!
//! Tries and decides; what was decided is put in force and published by the control thread's other rooms.

use phronis_core::{Code, PluginId, StreamId, code};

use super::super::entry::{Entry, Refused, Settings};
use super::super::settings::{Record, Wanted};
use super::super::{Problem, Version, order};
use super::Control;
use crate::clock::now_ms;

/// What keeps a settings file from being published for now.
const LOG_TROUBLE: [Code; 4] = [code::LOG_FAILED, code::LOG_FULL, code::LOG_UNREACHABLE, code::UNKNOWN_TOPIC];

impl Control {
    /// Brings what runs as near as possible to what is wanted: newest component, newest settings.
    pub(super) fn settle(&mut self, id: &PluginId) {
        let Some(entry) = self.entries.get(id).filter(|_| self.is_open) else { return };
        if entry.components().is_empty() {
            return;
        }
        // Where nothing fits, people hear what is wrong with what they asked for, not with what stands in for it.
        let mut of_file = None;
        if let Some((digest, wanted)) = entry.unpublished.clone() {
            match self.publish_file(id, digest, &wanted) {
                Ok(()) => return,
                Err(refused) => {
                    self.refuse_settings(id, &refused.problem);
                    of_file = Some(refused);
                }
            }
        }
        let Some(entry) = self.entries.get(id) else { return };
        let (newest, in_force) = (entry.newest.clone(), entry.settings.clone());
        let in_force = match (&entry.active, self.shelf.good(id)) {
            (None, Some(good)) => Settings { params: good.params.clone(), limits: good.limits.clone(), ..in_force },
            _ => in_force,
        };
        let newest = if entry.is_newest_bad { in_force.clone() } else { newest };
        match self.try_newest(id, &newest) {
            Ok((version, unfit)) => {
                let entry = self.entry(id);
                if entry.unpublished.is_none() && !entry.is_newest_bad {
                    entry.settings_refusal = None;
                }
                self.put_in_force(id, version, newest);
                self.refuse_candidate(id, unfit);
            }
            Err(refused) if newest.differs(&in_force) => match self.try_newest(id, &in_force) {
                Ok((version, unfit)) => {
                    self.refuse_settings(id, &refused.problem);
                    self.put_in_force(id, version, in_force);
                    self.refuse_candidate(id, unfit);
                }
                Err(_) => self.refuse_candidate(id, of_file.or(Some(refused))),
            },
            Err(refused) => self.refuse_candidate(id, of_file.or(Some(refused))),
        }
    }

    /// Says why the newest component does not run, if it does not.
    fn refuse_candidate(&mut self, id: &PluginId, refused: Option<Refused>) {
        let Some(refused) = refused else { return };
        let candidate = self.entry(id).candidate.as_ref().map(|candidate| candidate.component.digest().to_owned());
        self.refuse(id, &refused.problem, candidate);
    }

    /// Tries plugins of a stream again that waited for another one's columns.
    pub(super) fn settle_waiting(&mut self, stream: &StreamId) {
        let waits = |entry: &&Entry| {
            let code = entry.refusal.as_ref().map(|refusal| refusal.code);
            entry.id.stream == *stream
                && entry.candidate.is_some()
                && matches!(code, Some(code::FIELD_MISMATCH | code::COLUMN_CONFLICT))
        };
        let waiting: Vec<_> = self.entries.values().filter(waits).map(|entry| entry.id.clone()).collect();
        for id in waiting {
            let settings = self.entry(&id).newest.clone();
            if let Ok((version, None)) = self.try_newest(&id, &settings) {
                self.put_in_force(&id, version, settings);
                self.publish(&id);
            }
        }
    }

    /// Publishes settings files that the log could not take.
    pub(super) fn try_again(&mut self) {
        if self.log.health().is_err() {
            return;
        }
        let is_waiting = |entry: &&Entry| {
            entry.unpublished.is_some()
                && entry.settings_refusal.as_ref().is_some_and(|r| LOG_TROUBLE.contains(&r.code))
        };
        let waiting: Vec<_> = self.entries.values().filter(is_waiting).map(|entry| entry.id.clone()).collect();
        for id in waiting {
            self.settle(&id);
            self.publish(&id);
        }
    }

    /// Publishes a settings file, once it is known to be good.
    fn publish_file(&mut self, id: &PluginId, digest: String, wanted: &Wanted) -> Result<(), Refused> {
        let record = Record {
            params: Some(wanted.params.clone().unwrap_or_default()),
            limits: Some(wanted.limits.clone().unwrap_or_default()),
            breaker: Some(wanted.breaker.clone().unwrap_or_default()),
            over: self.entry(id).newest.over.clone(),
            source: "file".into(),
            actor: None,
            reason: None,
            file_digest: Some(digest),
        };
        let settings = self.entry(id).newest.with(&record, i64::MAX, now_ms());
        let (version, unfit) = self.try_newest(id, &settings)?;
        match self.write(id, &record) {
            Ok(revision) => {
                self.adopt(id, version, &record, revision);
                self.refuse_candidate(id, unfit);
            }
            Err(error) => {
                let message = format!("the settings file could not be published: {error}");
                return Err(Refused { problem: Problem { code: error.code(), message }, fields: Vec::new() });
            }
        }
        Ok(())
    }

    /// Takes over a record that this thread wrote itself.
    pub(super) fn adopt(&mut self, id: &PluginId, version: Version, record: &Record, revision: i64) {
        let entry = self.entry(id);
        entry.taken = entry.taken.max(Some(revision));
        entry.is_newest_bad = false;
        entry.newest = entry.newest.with(record, revision, now_ms());
        entry.published = record.file_digest.clone().or_else(|| entry.published.clone());
        entry.unpublished = None;
        entry.settings_refusal = None;
        let settings = entry.settings.with(record, revision, now_ms());
        self.put_in_force(id, version, settings);
    }

    /// Makes a version of the newest component, or else of the one that runs; with the latter comes why the newest is not it.
    ///
    /// So a component that does not fit never keeps an operator from changing the one that runs.
    pub(super) fn try_newest(&self, id: &PluginId, settings: &Settings) -> Result<(Version, Option<Refused>), Refused> {
        let components = self.entries.get(id).map(Entry::components).unwrap_or_default();
        let mut unfit = None;
        for component in &components {
            match self.try_version(id, component, settings) {
                Ok(version) => return Ok((version, unfit)),
                Err(refused) => unfit = unfit.or(Some(refused)),
            }
        }
        Err(unfit.unwrap_or_else(|| Refused {
            problem: Problem { code: code::NOT_FOUND, message: format!("{id} has no component that can be loaded") },
            fields: Vec::new(),
        }))
    }

    /// Makes a version and sees whether it fits beside the stream's other plugins.
    fn try_version(
        &self,
        id: &PluginId,
        component: &phronis_engine::Component,
        settings: &Settings,
    ) -> Result<Version, Refused> {
        let unknown = || Refused {
            problem: Problem {
                code: code::UNKNOWN_STREAM_FOLDER,
                message: format!("there is no stream {}", id.stream),
            },
            fields: Vec::new(),
        };
        let rules = self.rules.get(&id.stream).ok_or_else(unknown)?;
        let entry = self.entries.get(id).ok_or_else(unknown)?;
        let version = entry.build(component, settings, rules)?;
        if let Some(archive) = &self.archive
            && let Some(message) = version.adds.iter().find_map(|added| archive.known.why_not(&id.stream, added))
        {
            return Err(Refused { problem: Problem { code: code::ARCHIVE_COLUMN, message }, fields: Vec::new() });
        }
        let is_running = entry.active.is_some() && entry.misfit.is_none();
        // While the others are still being loaded, what is missing may come.
        if is_running || self.is_settled(&id.stream) {
            let mut wishes: Vec<_> =
                self.running(&id.stream).filter(|other| other.id != *id).map(|other| other.wish()).collect();
            wishes.push(version.wish());
            if let Err((name, mut problem)) = order::order(&rules.contract, &wishes) {
                if name != id.name {
                    problem.message = format!("{name} could not run any more: {}", problem.message);
                }
                return Err(Refused { problem, fields: Vec::new() });
            }
        }
        Ok(version)
    }
}
