//! The control thread: takes messages one by one, decides, publishes.
//!
//! It must never judge an event and never be waited for by a worker.

mod publish;
mod records;
mod settle;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use phronis_core::records::TopicName;
use phronis_core::{PluginId, StreamId, code};
use phronis_engine::watch;
use phronis_log::{Log, Sink};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::broadcast;

use super::entry::{Candidate, Entry, Rules, Settings};
use super::loader::{Load, Loaded};
use super::settings;
use super::shelf::Shelf;
use super::{Board, Message, Problem, Version};
use crate::breakers::Breakers;
use crate::clock::now_ms;
use crate::{archive, live, status};

/// How often a settings file that the log could not take is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// What the control thread is made of.
pub(crate) struct Parts {
    pub(crate) rules: BTreeMap<StreamId, Rules>,
    pub(crate) board: Arc<Board>,
    pub(crate) breakers: Arc<Breakers>,
    pub(crate) live: broadcast::Sender<Arc<live::Event>>,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) config_topic: TopicName,
    pub(crate) shelf_dir: PathBuf,
    pub(crate) loader: mpsc::Sender<Load>,
    /// Which columns are archived, where this host archives.
    pub(crate) archive: Option<Arc<archive::Shared>>,
    pub(crate) should_stop: Arc<AtomicBool>,
}

/// The control thread's state.
pub(crate) struct Control {
    rules: BTreeMap<StreamId, Rules>,
    board: Arc<Board>,
    breakers: Arc<Breakers>,
    live: broadcast::Sender<Arc<live::Event>>,
    log: Arc<dyn Log>,
    sink: Arc<dyn Sink>,
    config_topic: TopicName,
    shelf: Shelf,
    loader: mpsc::Sender<Load>,
    archive: Option<Arc<archive::Shared>>,
    should_stop: Arc<AtomicBool>,
    entries: BTreeMap<PluginId, Entry>,
    is_scan_done: bool,
    /// Whether the live settings were read: before, nothing is put in force and no file is published.
    is_open: bool,
    /// Streams that may run.
    ready: BTreeSet<StreamId>,
    events: u64,
}

impl Control {
    pub(crate) fn new(parts: Parts) -> Result<Self, crate::Error> {
        let shelf = Shelf::open(&parts.shelf_dir)
            .map_err(|source| crate::Error::StateFolder { path: parts.shelf_dir.clone(), source })?;
        Ok(Self {
            rules: parts.rules,
            board: parts.board,
            breakers: parts.breakers,
            live: parts.live,
            log: parts.log,
            sink: parts.sink,
            config_topic: parts.config_topic,
            shelf,
            loader: parts.loader,
            archive: parts.archive,
            should_stop: parts.should_stop,
            entries: BTreeMap::new(),
            is_scan_done: false,
            is_open: false,
            ready: BTreeSet::new(),
            events: 0,
        })
    }

    /// Takes messages until told to stop.
    pub(crate) fn run(mut self, messages: &mpsc::Receiver<Message>) {
        self.publish_all();
        loop {
            let message = match messages.recv_timeout(RETRY_EVERY) {
                Ok(message) => message,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    self.try_again();
                    continue;
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            };
            match message {
                Message::File(change) => self.file_changed(change),
                Message::Loaded(loaded) => self.loaded(loaded),
                Message::Config(records) => self.config_changed(&records),
                Message::Opened => self.opened(),
                Message::ConfigRemade => self.config_remade(),
                Message::Change(change, reply) => {
                    let answer = self.change(change);
                    // The asker may have gone; the change stands.
                    drop(reply.send(answer));
                }
                Message::Stop => return,
            }
        }
    }

    /// The live settings are known: what was found in the meantime is put in force.
    fn opened(&mut self) {
        self.is_open = true;
        // One after the other, as if each had been loaded just now: those to come count as being loaded.
        let is_waiting = |entry: &&mut Entry| entry.candidate.is_some() && entry.active.is_none();
        let mut waiting = BTreeSet::new();
        for entry in self.entries.values_mut().filter(is_waiting) {
            entry.is_loading = true;
            waiting.insert(entry.id.clone());
        }
        let ids: Vec<_> = self.entries.keys().cloned().collect();
        for id in ids {
            if waiting.contains(&id) {
                self.entry(&id).is_loading = false;
            }
            self.settle(&id);
            self.fall_back(&id);
            self.settle_waiting(&id.stream);
        }
        self.publish_all();
    }

    fn file_changed(&mut self, change: watch::Change) {
        match change {
            watch::Change::Component { id, bytes, .. } => self.component_found(id, bytes.into()),
            watch::Change::Settings { id, text, .. } => self.settings_found(id, &text),
            watch::Change::Removed { id, what } => self.removed(id, what),
            watch::Change::Refused { id, what, refusal, .. } => self.unreadable(id, what, refusal),
            watch::Change::BadPath { path, reason } => {
                tracing::warn!(path = %path.display(), %reason, code = %code::BAD_PLUGIN_PATH, "plugin file ignored");
            }
            watch::Change::ScanDone => {
                self.is_scan_done = true;
                self.publish_all();
            }
        }
    }

    fn component_found(&mut self, id: PluginId, bytes: Arc<[u8]>) {
        if !self.is_known(&id) {
            return;
        }
        let digest = hex_digest(&bytes);
        let entry = self.entry(&id);
        entry.file_digest = Some(digest.clone());
        entry.candidate = None;
        if entry.active.as_ref().is_some_and(|active| active.component.digest() == digest) {
            entry.is_loading = false;
            entry.refusal = None;
        } else {
            entry.is_loading = true;
            self.load(Load { id: id.clone(), bytes, is_fallback: false });
        }
        self.publish(&id);
    }

    fn load(&self, load: Load) {
        if self.loader.send(load).is_err() {
            tracing::error!("the plugin loader is gone, plugins cannot be loaded any more: restart the host");
        }
    }

    fn loaded(&mut self, loaded: Loaded) {
        let Loaded { id, bytes, is_fallback, result } = loaded;
        let digest = hex_digest(&bytes);
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let is_stale = !is_fallback && entry.file_digest.as_deref() != Some(&digest);
        if is_stale || entry.file_digest.is_none() {
            return;
        }
        entry.is_loading = false;
        match result {
            Ok(component) => {
                entry.candidate = Some(Candidate { component, bytes });
                self.settle(&id);
            }
            Err(problem) => self.refuse(&id, &problem, (!is_fallback).then_some(digest)),
        }
        if !is_fallback {
            self.fall_back(&id);
        }
        self.publish(&id);
        self.settle_waiting(&id.stream);
    }

    /// Loads the last good version from the shelf where nothing runs.
    fn fall_back(&mut self, id: &PluginId) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let Some(good) = self.shelf.good(id) else { return };
        let is_wanted = self.is_open && entry.file_digest.is_some() && entry.active.is_none() && !entry.is_loading;
        if !is_wanted || entry.file_digest.as_ref() == Some(&good.digest) {
            return;
        }
        match self.shelf.component(&good.digest) {
            Ok(bytes) => {
                entry.is_loading = true;
                self.load(Load { id: id.clone(), bytes: bytes.into(), is_fallback: true });
            }
            Err(error) => tracing::error!(plugin = %id, %error, "the last good version cannot be read"),
        }
    }

    fn settings_found(&mut self, id: PluginId, text: &str) {
        if !self.is_known(&id) {
            return;
        }
        let digest = hex_digest(text.as_bytes());
        let parsed = settings::parse_file(text);
        let entry = self.entry(&id);
        entry.file = parsed.as_ref().ok().map(|wanted| (digest.clone(), wanted.clone()));
        if entry.published.as_ref() == Some(&digest) {
            // Back to the text that was published: what was refused in between is over.
            entry.unpublished = None;
            if !entry.is_newest_bad {
                entry.settings_refusal = None;
            }
            self.publish(&id);
            return;
        }
        match parsed {
            Ok(wanted) => {
                entry.unpublished = Some((digest, wanted));
                self.settle(&id);
            }
            Err(message) => {
                entry.unpublished = None;
                self.refuse_settings(&id, &Problem { code: code::SETTINGS_INVALID, message });
            }
        }
        self.publish(&id);
    }

    /// A file is there and was not read: what ran goes on.
    fn unreadable(&mut self, id: PluginId, what: watch::What, refusal: phronis_engine::Refusal) {
        if !self.is_known(&id) {
            return;
        }
        if what == watch::What::Component {
            let entry = self.entry(&id);
            entry.file_digest = Some(String::new());
            entry.candidate = None;
            entry.is_loading = false;
        }
        let problem = Problem { code: refusal.code, message: refusal.message };
        match what {
            watch::What::Component => self.refuse(&id, &problem, None),
            watch::What::Settings => self.refuse_settings(&id, &problem),
        }
        self.fall_back(&id);
        self.publish(&id);
    }

    fn removed(&mut self, id: PluginId, what: watch::What) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if what == watch::What::Settings {
            entry.file = None;
            entry.unpublished = None;
            entry.settings_refusal = None;
            self.publish(&id);
            return;
        }
        entry.file_digest = None;
        entry.candidate = None;
        entry.is_loading = false;
        entry.refusal = None;
        entry.settings_refusal = None;
        entry.unshelved = None;
        entry.misfit = None;
        entry.breaker.set_live(false);
        if entry.active.take().is_some() {
            tracing::info!(plugin = %id, "plugin removed");
            self.say(&id, live::Kind::Plugin, json!({"change": "removed"}));
        }
        if let Err(error) = self.shelf.remove(&id) {
            tracing::error!(plugin = %id, %error, "the shelf of good versions cannot be written");
        }
        self.publish(&id);
    }

    fn put_in_force(&mut self, id: &PluginId, version: Version, settings: Settings) {
        let digest = version.component.digest().to_owned();
        let entry = self.entry(id);
        let is_swap = entry.active.as_ref().is_none_or(|active| active.component.digest() != digest);
        let has_changed =
            is_swap || entry.active.as_ref().is_none_or(|a| a.params != version.params || a.limits != version.limits);
        if let Some(candidate) = entry.candidate.take_if(|candidate| candidate.component.digest() == digest) {
            entry.unshelved = Some(candidate.bytes);
        }
        if entry.file_digest.as_ref() == Some(&digest) {
            entry.refusal = None;
        }
        let has_breaker_changed = entry.settings.over != settings.over
            || entry.active.as_ref().is_some_and(|active| active.policy != version.policy);
        version.breaker.set_live(true);
        version.breaker.apply(&version.policy, settings.over.as_ref());
        if entry.active.is_some() && (is_swap || entry.active.as_ref().is_some_and(|a| a.params != version.params)) {
            if let Some(active) = &entry.active {
                active.is_retired.store(true, Ordering::Relaxed);
            }
            version.breaker.renew();
        }
        let manifest = version.component.manifest();
        let facts = json!({
            "change": if is_swap { "active" } else { "settings" },
            "version": manifest.version, "digest": digest,
            "params": version.params, "breaker": version.policy.written(), "override": settings.over,
            "revision": settings.params_origin.revision.max(settings.limits_origin.revision),
        });
        if is_swap {
            entry.active_since = now_ms();
            tracing::info!(plugin = %id, version = %manifest.version, digest = %short(&digest), "plugin active");
            metrics::counter!("phronis_plugin_swaps_total", "plugin" => id.to_string(), "result" => "active")
                .increment(1);
        } else if has_changed {
            tracing::info!(plugin = %id, params = %version.params, source = %settings.params_origin.source, "plugin settings in force");
        }
        entry.settings = settings;
        entry.active = Some(Arc::new(version));
        if has_changed || has_breaker_changed {
            let kind = if is_swap { live::Kind::Plugin } else { live::Kind::Config };
            self.say(id, kind, facts);
        }
    }

    /// The newest component does not run, and this is why.
    fn refuse(&mut self, id: &PluginId, problem: &Problem, digest: Option<String>) {
        let refusal = self.refused(id, problem, digest);
        self.entry(id).refusal = Some(refusal);
    }

    /// The newest settings are not in force, and this is why.
    fn refuse_settings(&mut self, id: &PluginId, problem: &Problem) {
        let refusal = self.refused(id, problem, None);
        self.entry(id).settings_refusal = Some(refusal);
    }

    fn refused(&mut self, id: &PluginId, problem: &Problem, digest: Option<String>) -> status::Refusal {
        tracing::warn!(plugin = %id, code = %problem.code, reason = %problem.message, "plugin change refused, what ran goes on");
        metrics::counter!("phronis_plugin_swaps_total", "plugin" => id.to_string(), "result" => "refused").increment(1);
        let facts = json!({"change": "refused", "code": problem.code, "message": problem.message, "digest": digest});
        self.say(id, live::Kind::Plugin, facts);
        status::Refusal { code: problem.code, message: problem.message.clone(), at: now_ms(), digest }
    }

    fn say(&mut self, id: &PluginId, kind: live::Kind, mut facts: Value) {
        if let Some(facts) = facts.as_object_mut() {
            facts.insert("plugin".into(), id.to_string().into());
            facts.insert("at".into(), phronis_core::time::Time::from_millis(now_ms()).to_string().into());
        }
        self.events += 1;
        let event = live::Event {
            kind,
            stream: id.stream.clone(),
            id: self.events.to_string().into(),
            json: facts.to_string().into(),
        };
        // Nobody listening is fine.
        drop(self.live.send(Arc::new(event)));
    }

    fn is_known(&self, id: &PluginId) -> bool {
        let is_known = self.rules.contains_key(&id.stream);
        if !is_known {
            tracing::warn!(plugin = %id, code = %code::UNKNOWN_STREAM_FOLDER, "there is no stream {} in the configuration, the plugin is ignored", id.stream);
        }
        is_known
    }

    fn entry(&mut self, id: &PluginId) -> &mut Entry {
        let breaker = || self.breakers.of(id);
        self.entries.entry(id.clone()).or_insert_with(|| Entry::new(id.clone(), breaker()))
    }

    fn running(&self, stream: &StreamId) -> impl Iterator<Item = &Arc<Version>> {
        let entries = self.entries.values().filter(move |e| e.id.stream == *stream && e.misfit.is_none());
        entries.filter_map(|entry| entry.active.as_ref())
    }

    fn publish_all(&mut self) {
        let streams: Vec<_> = self.rules.keys().cloned().collect();
        for stream in streams {
            self.publish_stream(&stream);
        }
    }

    fn publish(&mut self, id: &PluginId) {
        self.publish_stream(&id.stream);
        if self.entries.get(id).is_some_and(|entry| entry.file_digest.is_none()) {
            self.board.remove_plugin(id);
        }
    }
}

fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        text.push_str(&format!("{byte:02x}"));
        text
    })
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
