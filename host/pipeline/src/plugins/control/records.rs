//! `phronis.config`: takes over what others wrote there, and writes what is asked for here.
//!
//! The last record of a key is the truth. What cannot be read or is refused is told, and what was in force stays.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use phronis_core::delivery::{Append, Delivery};
use phronis_core::records::{Records, RecordsBuilder};
use phronis_core::{PluginId, code};
use phronis_log::{Error, Ticket};
use serde_json::{Value, json};

use super::super::entry::Settings;
use super::super::settings::{self, Record};
use super::super::{Applied, Change, ChangeError, Problem, Version, What};
use super::Control;
use crate::breakers::Override;
use crate::clock::now_ms;
use crate::live;
use crate::whole::settled;

/// How long a change waits for room in a busy log.
const ROOM: Duration = Duration::from_secs(2);

impl What {
    /// How to tell what is in force of what it changes.
    fn value(&self) -> fn(&Version, &Settings) -> Value {
        match self {
            Self::Params(_) => |version, _| version.params.clone(),
            Self::Limits(_) => |version, _| json!(version.limits),
            Self::Breaker(_) => |version, _| json!(version.policy.written()),
            Self::Override(_) => |_, settings| json!(settings.over),
        }
    }
}

impl Control {
    /// Takes over records of `phronis.config`. What was taken before is left out.
    pub(super) fn config_changed(&mut self, records: &Records) {
        for row in 0..records.len() {
            let (Some(key), Some(offset)) = (records.body.key(row), records.offsets.values().get(row).copied()) else {
                continue;
            };
            let Some(id) = settings::plugin_of(key) else {
                if key.starts_with(settings::KEY_PREFIX.as_bytes()) {
                    let key = String::from_utf8_lossy(key);
                    tracing::warn!(%key, offset, code = %code::SETTINGS_INVALID, "a record of live settings names no plugin: plugins/<tenant>/<stream>/<name>");
                }
                continue;
            };
            // Other hosts may have other streams: their plugins are nothing to this one.
            if !self.rules.contains_key(&id.stream) || self.entry(&id).taken.is_some_and(|taken| taken >= offset) {
                continue;
            }
            self.entry(&id).taken = Some(offset);
            let at = records.body.timestamps.values().get(row).copied().unwrap_or(0);
            match records.body.value(row).map(Record::parse).transpose() {
                Ok(record) => self.take_over(&id, record, offset, at),
                Err(error) => {
                    self.entry(&id).is_newest_bad = true;
                    let message = format!("the record at offset {offset} of {} is not valid: {error}", records.topic);
                    self.refuse_settings(&id, &Problem { code: code::SETTINGS_INVALID, message });
                }
            }
            self.publish(&id);
        }
    }

    /// Offsets begin again; what is in force stays until it is changed.
    pub(super) fn config_remade(&mut self) {
        for entry in self.entries.values_mut() {
            entry.taken = None;
        }
    }

    fn take_over(&mut self, id: &PluginId, record: Option<Record>, offset: i64, at: i64) {
        let is_awaited = self.is_open && self.is_scan_done;
        let entry = self.entry(id);
        entry.is_newest_bad = false;
        let record = match record {
            Some(record) => {
                entry.published = record.file_digest.clone().or_else(|| entry.published.take());
                entry.unpublished.take_if(|(digest, _)| Some(&*digest) == record.file_digest.as_ref());
                record
            }
            // Nothing is said of the file any more: it holds again.
            None => {
                entry.published = None;
                entry.unpublished = entry.file.clone();
                Record::tombstone()
            }
        };
        entry.newest = entry.newest.with(&record, offset, at);
        if is_awaited && entry.file_digest.is_none() {
            let message = "settings of a plugin that is not in the folder: they are kept for when it comes";
            tracing::warn!(plugin = %id, offset, source = %record.source, "{message}");
            self.say(id, live::Kind::Config, json!({"change": "waiting", "message": message, "revision": offset}));
        }
        self.settle(id);
    }

    /// Checks a change, writes it, and puts it in force.
    pub(super) fn change(&mut self, change: Change) -> Result<Applied, ChangeError> {
        let id = change.id.clone();
        let entry = self.entries.get(&id).ok_or_else(|| ChangeError::Unknown(id.clone()))?;
        let version = entry.version();
        if change.if_version.is_some_and(|expected| expected != version) {
            return Err(ChangeError::Changed { version });
        }
        let mut record = Record {
            params: None,
            limits: None,
            breaker: None,
            over: entry.settings.over.clone(),
            source: change.source,
            actor: change.actor,
            reason: change.reason,
            file_digest: entry.published.clone(),
        };
        let invalid =
            |message: String| ChangeError::Refused { code: code::SETTINGS_INVALID, message, problems: Vec::new() };
        let what = change.what;
        let value_of = what.value();
        match what {
            What::Params(Value::Object(params)) => record.params = Some(params),
            What::Params(_) => return Err(invalid("parameters are a JSON object".into())),
            What::Limits(limits) => {
                record.limits = Some(serde_json::from_value(limits).map_err(|e| invalid(format!("limits: {e}")))?);
            }
            What::Breaker(breaker) => {
                record.breaker = Some(serde_json::from_value(breaker).map_err(|e| invalid(format!("breaker: {e}")))?);
            }
            What::Override(over) => {
                record.over = over.map(|over| Override { actor: over.actor.or_else(|| record.actor.clone()), ..over });
            }
        }
        let wanted = entry.settings.with(&record, i64::MAX, now_ms());
        let (made, _) = self.try_newest(&id, &wanted)?;
        let value = value_of(&made, &wanted);
        if change.is_dry_run {
            return Ok(Applied { revision: None, version, value });
        }
        // The topic keeps the last record of a key: it must say all, not only what changed.
        let whole = Record {
            params: Some(wanted.params),
            limits: Some(wanted.limits),
            breaker: Some(wanted.breaker),
            ..record.clone()
        };
        let revision = self.write(&id, &whole)?;
        self.adopt(&id, made, &record, revision);
        self.publish(&id);
        Ok(Applied { revision: Some(revision), version: self.entry(&id).version(), value })
    }

    /// Writes a record to `phronis.config` and waits until it is durable, but never for ever.
    ///
    /// What is durable later all the same comes back as everyone's records do.
    pub(super) fn write(&self, id: &PluginId, record: &Record) -> Result<i64, Error> {
        if !self.is_open {
            return Err(Error::Unreachable { reason: "the live settings were not read yet".to_owned() });
        }
        self.log.health()?;
        let value = serde_json::to_vec(record).map_err(|e| Error::Invalid(e.to_string()))?;
        let mut records = RecordsBuilder::default();
        records.push(now_ms(), Some(settings::key(id).as_bytes()), Some(&value), &[]);
        let append = Append { topic: Arc::clone(&self.config_topic), partition: 0, records: records.finish() };
        let ticket = self.submit(&Delivery { appends: vec![append], commits: Vec::new() })?;
        Ok(settled(ticket, &self.should_stop)?.base_offsets.first().copied().unwrap_or(0))
    }

    fn submit(&self, delivery: &Delivery) -> Result<Ticket, Error> {
        let until = Instant::now() + ROOM;
        loop {
            match self.sink.try_submit(delivery.clone()) {
                Err(Error::Full { .. }) if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
                outcome => return outcome,
            }
        }
    }
}
