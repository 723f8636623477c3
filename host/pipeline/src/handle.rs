//! The pipeline as others see it: a cheap handle that never blocks the data path.

use std::collections::BTreeMap;
use std::sync::Arc;

use phronis_core::contract::Contract;
use phronis_core::{PluginId, StreamId};
use phronis_log::Log;
use tokio::sync::{broadcast, oneshot};

use crate::clock::now_ms;
use crate::ingest::{self, Ingest};
use crate::plugins::{self, Board, Mailbox, Message};
use crate::stream::Stream;
use crate::{live, status};

/// A handle of a running pipeline.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

/// What all handles share.
pub(crate) struct Shared {
    pub(crate) streams: BTreeMap<StreamId, (Arc<Stream>, Ingest)>,
    pub(crate) board: Arc<Board>,
    pub(crate) mailbox: Mailbox,
    pub(crate) live: broadcast::Sender<Arc<live::Event>>,
    pub(crate) log: Arc<dyn Log>,
}

impl Handle {
    /// All streams, by name.
    ///
    /// Asks the log for its offsets: a short blocking read.
    pub fn streams(&self) -> Vec<status::Stream> {
        let topics = self.shared.log.topics().unwrap_or_default();
        self.shared.streams.values().map(|(stream, _)| self.stream_status(stream, &topics)).collect()
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
        let log = match self.shared.log.topics() {
            Ok(topics) => status::Check { name: "log".into(), is_ok: true, detail: format!("{} topics", topics.len()) },
            Err(error) => status::Check { name: "log".into(), is_ok: false, detail: error.to_string() },
        };
        let streams = self.shared.streams.values().map(|(stream, _)| {
            let (state, detail) = stream.condition();
            status::Check {
                name: format!("stream {}", stream.options.id),
                is_ok: state == status::StreamState::Running,
                detail: detail.unwrap_or_else(|| format!("{state:?}").to_lowercase()),
            }
        });
        std::iter::once(log).chain(streams).collect()
    }

    /// The event log.
    pub fn log(&self) -> Arc<dyn Log> {
        Arc::clone(&self.shared.log)
    }

    fn stream_status(&self, stream: &Stream, topics: &[phronis_log::TopicInfo]) -> status::Stream {
        let options = &stream.options;
        let (state, detail) = stream.condition();
        let raw = topics.iter().find(|topic| topic.name == options.topics.raw);
        let committed = self.shared.log.committed(&stream.group, &options.topics.raw).unwrap_or_default();
        let mut committed = committed.into_iter();
        let mut lag_records = 0;
        let mut oldest: Option<i64> = None;
        for (partition, info) in (0i32..).zip(raw.map(|raw| raw.partitions.as_slice()).unwrap_or_default()) {
            let committed = committed.next().flatten().unwrap_or(info.earliest).max(info.earliest);
            let lag = u64::try_from(info.latest.saturating_sub(committed)).unwrap_or(0);
            lag_records += lag;
            if lag > 0 {
                let at = self.timestamp_at(&options.topics.raw, partition, committed);
                oldest = oldest.into_iter().chain(at).min();
            }
        }
        let lag_seconds = oldest.map_or(0.0, |at| {
            std::time::Duration::from_millis(u64::try_from(now_ms().saturating_sub(at)).unwrap_or(0)).as_secs_f64()
        });
        status::Stream {
            id: options.id.clone(),
            topics: options.topics.clone(),
            partitions: options.partitions,
            state,
            detail,
            counts: stream.counts.snapshot(),
            lag_records,
            lag_seconds,
        }
    }

    fn timestamp_at(&self, topic: &str, partition: i32, offset: i64) -> Option<i64> {
        let mut reader = self.shared.log.reader(topic, partition, phronis_log::Position::Offset(offset)).ok()?;
        let one = phronis_log::PollLimits { records: 1, bytes: 1 };
        let records = reader.next(one, std::time::Duration::ZERO).ok()??;
        records.body.timestamps.values().first().copied()
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("streams", &self.shared.streams.keys()).finish_non_exhaustive()
    }
}
