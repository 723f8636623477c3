//! The pipeline as others see it: a cheap handle that never blocks the data path.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use phronis_core::contract::Contract;
use phronis_core::partition::Topics;
use phronis_core::{PluginId, StreamId, code};
use phronis_log::Log;
use phronis_store::Store;
use tokio::sync::{broadcast, oneshot};

use crate::agents::{self, Registry};
use crate::breakers::{self, Breakers};
use crate::hosts::{self, Hosts};
use crate::ingest::{self, Ingest};
use crate::plugins::{self, Board, Mailbox, Message, Shelved};
use crate::readiness::Gate;
use crate::retry::Letters;
use crate::stream::{Stream, lag};
use crate::{Error, Role, archive, live, status};

/// A handle of a running pipeline.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

/// What all handles share.
pub(crate) struct Shared {
    pub(crate) roles: BTreeSet<Role>,
    /// The streams, and the ways in where this host takes events.
    pub(crate) streams: BTreeMap<StreamId, (Arc<Stream>, Option<Ingest>)>,
    pub(crate) board: Arc<Board>,
    /// Versions of plugins that do not run any more and are kept.
    pub(crate) shelved: Shelved,
    pub(crate) breakers: Arc<Breakers>,
    pub(crate) mailbox: Mailbox,
    pub(crate) live: broadcast::Sender<Arc<live::Event>>,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) store: Store,
    pub(crate) gate: Arc<Gate>,
    pub(crate) hosts: Arc<Hosts>,
    /// The letters of each stream, as far as this host owns them.
    pub(crate) letters: BTreeMap<StreamId, Arc<Letters>>,
    pub(crate) agents: Arc<Registry>,
    pub(crate) archive: Option<Arc<archive::Shared>>,
}

impl Handle {
    /// All streams, by name.
    ///
    /// Asks the log for its offsets: a short blocking read; while the log is away, what was known last.
    pub fn streams(&self) -> Vec<status::Stream> {
        self.shared.streams.values().map(|(stream, _)| self.stream_status(stream)).collect()
    }

    /// The topics of all streams, by stream; asks nobody.
    pub fn topics(&self) -> Vec<(StreamId, Topics)> {
        let streams = self.shared.streams.values();
        streams.map(|(stream, _)| (stream.options.id.clone(), stream.options.topics.clone())).collect()
    }

    /// A stream's contract.
    pub fn contract(&self, stream: &StreamId) -> Option<Arc<Contract>> {
        self.shared.streams.get(stream).map(|(stream, _)| Arc::clone(&stream.options.contract))
    }

    /// Cuts a request body into events, checks them for the answer, and hands them to the log.
    ///
    /// Takes CPU time in proportion to the body: call it off the async threads for large bodies.
    ///
    /// # Errors
    /// None of the body's events was taken.
    pub fn ingest(&self, stream: &StreamId, body: &[u8], form: ingest::Form) -> Result<ingest::Pending, ingest::Error> {
        let (_, ingest) =
            self.shared.streams.get(stream).ok_or_else(|| ingest::Error::UnknownStream(stream.clone()))?;
        let Some(ingest) = ingest else {
            return Err(ingest::Error::NotServed { roles: Role::list(&self.shared.roles) });
        };
        if !self.shared.gate.is_open() {
            // The log is asked first: that it cannot be reached says more than that work has not begun.
            self.shared.log.health()?;
            let reason = self.shared.gate.reason();
            let (code, reason) = reason.map_or_else(
                || (code::LOG_UNREACHABLE, "the host has not begun to work yet".to_owned()),
                |reason| (reason.code, reason.message),
            );
            return Err(ingest::Error::NotReady { code, reason });
        }
        ingest.take(body, form)
    }

    /// All plugins, by id.
    pub fn plugins(&self) -> Vec<status::Plugin> {
        self.shared.board.plugins()
    }

    /// One plugin.
    pub fn plugin(&self, id: &PluginId) -> Option<status::Plugin> {
        self.plugins().into_iter().find(|plugin| plugin.id == *id)
    }

    /// All breakers of this host, by plugin.
    pub fn breakers(&self) -> Vec<breakers::Status> {
        self.shared.breakers.all().iter().map(|kept| kept.status()).collect()
    }

    /// One plugin's breaker.
    pub fn breaker(&self, id: &PluginId) -> Option<breakers::Status> {
        self.shared.breakers.get(id).map(|kept| kept.status())
    }

    /// All live hosts that share the log, by node id.
    pub fn hosts(&self) -> Vec<hosts::Host> {
        self.shared.hosts.all()
    }

    /// What a plugin runs as on all hosts that process its stream.
    pub fn spread(&self, plugin: &PluginId) -> hosts::Spread {
        self.shared.hosts.spread(plugin)
    }

    /// Who is halted, and how that is changed.
    pub fn agents(&self) -> agents::Agents {
        agents::Agents::new(
            Arc::clone(&self.shared.agents),
            self.shared.streams.keys().map(|stream| stream.tenant.clone()),
        )
    }

    /// Changes a plugin's parameters or limits: checked, written to `phronis.config`, applied.
    ///
    /// # Errors
    /// Nothing changed.
    ///
    /// # Cancel safety
    /// Cancelling loses only the answer.
    pub async fn change(&self, change: plugins::Change) -> Result<plugins::Applied, plugins::ChangeError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.shared.mailbox.send(Message::Change(change, reply));
        sent.map_err(|_| plugins::ChangeError::Closed)?;
        answer.await.unwrap_or(Err(plugins::ChangeError::Closed))
    }

    /// Everything that happens from now on. A receiver that is too slow is told how many it missed.
    pub fn live(&self) -> broadcast::Receiver<Arc<live::Event>> {
        self.shared.live.subscribe()
    }

    /// What `/readyz` looks at.
    pub fn checks(&self) -> Vec<status::Check> {
        let health = self.shared.log.health().map_err(|error| format!("{error} ({})", error.code()));
        let trouble = match (health, self.shared.gate.reason()) {
            (Err(error), _) => Some(error),
            (Ok(()), Some(reason)) => Some(reason.to_string()),
            (Ok(()), None) if !self.shared.gate.is_open() => Some("the host has not begun to work yet".to_owned()),
            (Ok(()), None) => None,
        };
        let log = status::Check {
            name: "log".into(),
            is_ok: trouble.is_none(),
            detail: trouble.unwrap_or_else(|| "answers".to_owned()),
        };
        // While the log is away, that says it all.
        let is_unknown = self.shared.gate.is_open() && !self.shared.agents.is_known();
        let agents = is_unknown.then(|| status::Check {
            name: "agents".into(),
            is_ok: false,
            detail: format!("it is not known yet who is halted ({})", code::AGENTS_UNKNOWN),
        });
        let processed = self.shared.streams.values().filter(|_| self.shared.roles.contains(&Role::Process));
        let streams = processed.map(|(stream, _)| {
            let (state, detail) = stream.condition();
            status::Check {
                name: format!("stream {}", stream.options.id),
                is_ok: state == status::StreamState::Running,
                detail: detail.unwrap_or_else(|| format!("{state:?}").to_lowercase()),
            }
        });
        std::iter::once(log).chain(agents).chain(streams).collect()
    }

    /// Resolves when the pipeline must end because of something that only a person can change; else never.
    ///
    /// # Cancel safety
    /// Cancelling loses nothing.
    pub async fn fatal(&self) -> Error {
        self.shared.gate.fatal().await
    }

    /// The archive, where one is configured and has answered.
    pub fn archive(&self) -> Option<phronis_archive::Archive> {
        self.shared.archive.as_ref()?.get()
    }

    /// What is wrong with the archive: nothing of it keeps an event from being judged.
    pub fn archive_troubles(&self) -> Vec<status::Check> {
        let troubles = self.shared.archive.iter().flat_map(|archive| archive.troubles());
        troubles.map(|detail| status::Check { name: "archive".to_owned(), is_ok: false, detail }).collect()
    }

    /// The event log.
    pub fn log(&self) -> Arc<dyn Log> {
        Arc::clone(&self.shared.log)
    }

    /// What is kept beside the log.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    fn stream_status(&self, stream: &Stream) -> status::Stream {
        let options = &stream.options;
        let (state, detail) = stream.condition();
        let partitions = lag::measure(self.shared.log.as_ref(), stream);
        status::Stream {
            id: options.id.clone(),
            topics: options.topics.clone(),
            state,
            detail,
            counts: stream.counts.snapshot(),
            lag_records: partitions.iter().map(|partition| partition.lag_records).sum(),
            lag_seconds: partitions.iter().map(|partition| partition.lag_seconds).fold(0.0, f64::max),
            partitions,
        }
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("streams", &self.shared.streams.keys()).finish_non_exhaustive()
    }
}
