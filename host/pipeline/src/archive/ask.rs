//! How the branch asks the archive, which is slow, without losing its place in the group, which is not.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use phronis_archive::{Archive, Error, Kind, Pointers, TableName, plain_columns};
use phronis_core::StreamId;
use phronis_log::{Polled, Source};
use tokio::runtime::Handle;

use super::known::Known;
use super::{NOTHING, Options};
use crate::failpoint;
use crate::lasting::BACKOFF;

/// How often the group hears of its member meanwhile.
const KEEP_PLACE: Duration = Duration::from_secs(1);

/// How long something that is under way may take when the host ends. What it did not tell, the tables tell at the next start.
const LAST_WORDS: Duration = Duration::from_secs(15);

/// How long the start of a host waits for the archive's columns.
const COLUMNS_WITHIN: Duration = Duration::from_secs(3);

/// What all branches of a host share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    /// Streams among which the memory is divided.
    pub(super) streams: usize,
    pub(crate) known: Known,
    pointers: Option<Arc<dyn Pointers>>,
    archive: Mutex<Option<Archive>>,
    /// Why nothing is written, by table.
    troubles: Mutex<BTreeMap<String, String>>,
    /// Where the work of storage and catalog is done: no thread that serves HTTP.
    runtime: Handle,
}

impl Shared {
    pub(crate) fn new(options: Options, streams: usize, pointers: Option<Arc<dyn Pointers>>, runtime: Handle) -> Self {
        let (streams, known, archive, troubles) =
            (streams.max(1), Known::default(), Mutex::default(), Mutex::default());
        Self { options, streams, known, pointers, archive, troubles, runtime }
    }

    /// What is wrong with the tables that this host writes, in words.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.iter().map(|(table, detail)| format!("table {table}: {detail}")).collect()
    }

    /// Notes what is wrong with a table, or that nothing is.
    pub(super) fn note(&self, table: &TableName, trouble: Option<String>) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        match trouble {
            Some(detail) => troubles.insert(table.to_string(), detail),
            None => troubles.remove(&table.to_string()),
        };
    }

    /// The archive, once storage and catalog have answered.
    pub(crate) fn get(&self) -> Option<Archive> {
        self.archive.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The archive; asks storage and catalog when nobody did with success yet.
    pub(super) async fn archive(&self) -> Result<Archive, Error> {
        if let Some(archive) = self.get() {
            return Ok(archive);
        }
        let archive = Archive::open(&self.options.settings, self.pointers.clone()).await?.with_hook(failpoint::pass);
        *self.archive.lock().unwrap_or_else(PoisonError::into_inner) = Some(archive.clone());
        Ok(archive)
    }

    /// Learns which columns the streams have in the archive, and waits a moment for it: a plugin that would change one is then
    /// refused before the tables are open.
    pub(crate) fn learn_columns(self: &Arc<Self>, streams: Vec<StreamId>) {
        let shared = Arc::clone(self);
        let (told, heard) = mpsc::channel();
        self.runtime.spawn(async move {
            if let Err(error) = shared.ask_for_columns(streams).await {
                tracing::debug!(%error, "the columns of the archive are not known yet");
            }
            // Who asked may have stopped waiting.
            told.send(()).ok();
        });
        heard.recv_timeout(COLUMNS_WITHIN).ok();
    }

    async fn ask_for_columns(&self, streams: Vec<StreamId>) -> Result<(), Error> {
        let archive = self.archive().await?;
        for stream in streams {
            let table = TableName::new(&stream, Kind::Events).to_string();
            if let Some(table) = archive.catalog().load(&table).await? {
                self.known.learn(&stream, &plain_columns(&table));
            }
        }
        Ok(())
    }

    /// Does something on this thread that may be given up when the host ends.
    pub(super) fn block_on(&self, work: impl Future<Output = ()>, should_stop: &AtomicBool) {
        self.runtime.block_on(until_end(work, should_stop, Duration::ZERO, |_| {}));
    }

    /// Asks until they answer, so that those who only read find the archive open.
    pub(crate) fn open_beside(self: &Arc<Self>) {
        let shared = Arc::clone(self);
        self.runtime.spawn(async move {
            let mut pause = BACKOFF.0;
            while let Err(error) = shared.archive().await {
                // The branches say more, where they run.
                tracing::warn!(%error, code = %error.code(), "the archive cannot be opened yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(BACKOFF.1);
            }
        });
    }
}

/// One lane's way to ask, with the member whose place is to be kept.
pub(super) struct Asked<'a> {
    pub(super) shared: &'a Shared,
    pub(super) source: &'a mut dyn Source,
    pub(super) news: &'a mut VecDeque<Polled>,
    pub(super) should_stop: &'a AtomicBool,
}

impl Asked<'_> {
    /// Waits for an answer; none when the host ends before.
    pub(super) fn wait<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let Self { shared, source, news, should_stop } = self;
        let keep_place = |_: Instant| {
            // What is to be handed over is handed over when this is done: no further poll before.
            if news.is_empty() {
                match source.poll(NOTHING, Duration::ZERO) {
                    Ok(Polled::Idle) => {}
                    Ok(polled) => news.push_back(polled),
                    // The next poll of the branch tells it again.
                    Err(error) => tracing::debug!(%error, "the group of the archive branch"),
                }
            }
        };
        shared.runtime.block_on(until_end(work, should_stop, LAST_WORDS, keep_place))
    }
}

async fn until_end<T>(
    work: impl Future<Output = T>,
    should_stop: &AtomicBool,
    patience: Duration,
    mut meanwhile: impl FnMut(Instant),
) -> Option<T> {
    let mut work = std::pin::pin!(work);
    let mut told_to_stop: Option<Instant> = None;
    loop {
        match tokio::time::timeout(KEEP_PLACE, &mut work).await {
            Ok(outcome) => return Some(outcome),
            Err(_) if should_stop.load(Ordering::Relaxed) => {
                if told_to_stop.get_or_insert_with(Instant::now).elapsed() >= patience {
                    return None;
                }
            }
            Err(_) => meanwhile(Instant::now()),
        }
    }
}
