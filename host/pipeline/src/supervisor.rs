//! Starts the branches, keeps the workers alive, and ends everything in order.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use phronis_core::StreamId;
use phronis_core::partition::{CONFIG_TOPIC, Topics};
use phronis_core::records::TopicName;
use phronis_engine::Engine;
use phronis_engine::watch::Watcher;
use phronis_log::{Log, PollLimits, Position, Reader, Retention, TopicSpec};
use tokio::sync::broadcast;

use crate::handle::{Handle, Shared};
use crate::ingest::Ingest;
use crate::plugins::{self, Board, Mailbox, Message};
use crate::stream::{self, Stream};
use crate::worker::Worker;
use crate::{Error, Result, live, status};

/// How long a worker that failed to start, or panicked, stays down.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Bounds of one read of `phronis.config`.
const CONFIG_READ: PollLimits = PollLimits { records: 1000, bytes: 1 << 20 };

/// How long a read of `phronis.config` waits; also how soon its reader notices that it should stop.
const CONFIG_WAIT: Duration = Duration::from_millis(200);

/// What a pipeline should be.
#[derive(Debug, Clone)]
pub struct Options {
    /// The streams.
    pub streams: Vec<stream::Options>,
    /// Where plugin files are dropped.
    pub plugins_dir: PathBuf,
    /// Where the last good versions are kept.
    pub state_dir: PathBuf,
}

/// A running pipeline.
#[derive(Debug)]
pub struct Pipeline {
    handle: Handle,
    should_stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    control: JoinHandle<()>,
    watcher: Watcher,
}

impl Pipeline {
    /// Makes the topics, reads the live settings, and starts all branches.
    ///
    /// # Errors
    /// When the log, the state folder or the plugins folder cannot be used. What was started is stopped again.
    pub fn start(options: Options, log: Arc<dyn Log>, engine: Engine) -> Result<Self> {
        create_topics(log.as_ref(), &options.streams)?;
        let should_stop = Arc::new(AtomicBool::new(false));
        let (live, _) = broadcast::channel(live::BACKLOG);
        let board = Arc::new(Board::new(options.streams.iter().map(|stream| stream.id.clone())));
        let (mailbox, messages) = mpsc::channel();

        let config: TopicName = CONFIG_TOPIC.into();
        let mut config_reader = log.reader(&config, 0, Position::Earliest)?;
        let max_component_bytes = engine.max_component_bytes();
        let loader = plugins::start_loader(engine, mailbox.clone()).map_err(Error::Thread)?;
        let mut control = plugins::Control::new(plugins::Parts {
            rules: options.streams.iter().map(|s| (s.id.clone(), plugins::Rules::of(s))).collect(),
            board: Arc::clone(&board),
            live: live.clone(),
            log: Arc::clone(&log),
            config_topic: config,
            shelf_dir: options.state_dir.clone(),
            loader,
        })?;
        while let Some(records) = config_reader.next(CONFIG_READ, Duration::ZERO)? {
            control.config_changed(&records);
        }
        let control = spawn("plugins", move || control.run(&messages))?;

        let mut threads = vec![follow_config(config_reader, mailbox.clone(), Arc::clone(&should_stop))?];
        let mut streams: BTreeMap<StreamId, (Arc<Stream>, Ingest)> = BTreeMap::new();
        for options in options.streams {
            for partition in 0..options.partitions {
                let topic = Arc::clone(&options.topics.alerts);
                let stop = Arc::clone(&should_stop);
                threads.push(live::follow(Arc::clone(&log), options.id.clone(), topic, partition, live.clone(), stop)?);
            }
            let ingest = Ingest::new(options.clone(), log.as_ref())?;
            let stream = Arc::new(Stream::new(options));
            for member in 0..stream.options.workers.min(stream.options.partitions) {
                let parts = (Arc::clone(&stream), Arc::clone(&board), Arc::clone(&log), Arc::clone(&should_stop));
                let name = format!("{}-{member}", stream.options.id);
                threads.push(spawn(&name, move || keep_working(member, parts))?);
            }
            streams.insert(stream.options.id.clone(), (stream, ingest));
        }
        let watcher = watch(options.plugins_dir, max_component_bytes, mailbox.clone())?;
        let handle = Handle { shared: Arc::new(Shared { streams, board, mailbox, live, log }) };
        Ok(Self { handle, should_stop, threads, control, watcher })
    }

    /// The pipeline as others see it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stops polling, makes what is in flight durable, and ends all threads. Blocks until done.
    pub fn stop(self) {
        self.should_stop.store(true, Ordering::Relaxed);
        drop(self.watcher);
        // A control thread that is gone already needs no message.
        drop(self.handle.shared.mailbox.send(Message::Stop));
        for thread in self.threads.into_iter().chain([self.control]) {
            if thread.join().is_err() {
                tracing::error!("a thread of the pipeline panicked");
            }
        }
    }
}

fn create_topics(log: &dyn Log, streams: &[stream::Options]) -> Result<()> {
    log.create_topic(&TopicSpec {
        name: CONFIG_TOPIC.into(),
        partitions: 1,
        retention: Retention { compact: true, ..Retention::default() },
    })?;
    for stream in streams {
        let Topics { raw, processed, alerts, dlq, state, .. } = &stream.topics;
        let retentions = [
            (raw, stream.retention),
            (processed, stream.retention),
            (alerts, stream.retention),
            (dlq, stream.letters_retention),
            (state, stream.retention),
        ];
        for (name, retention) in retentions {
            log.create_topic(&TopicSpec { name: Arc::clone(name), partitions: stream.partitions, retention })?;
        }
    }
    Ok(())
}

/// Runs a worker, and a new one when it panics: a bug must not stop a stream for ever, nor go unseen.
fn keep_working(member: i32, parts: (Arc<Stream>, Arc<Board>, Arc<dyn Log>, Arc<AtomicBool>)) {
    let (stream, board, log, should_stop) = parts;
    while !should_stop.load(Ordering::Relaxed) {
        let run = || {
            Worker::new(Arc::clone(&stream), Arc::clone(&board), Arc::clone(&log), member, Arc::clone(&should_stop))
                .map(Worker::run)
        };
        let detail = match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the worker panicked; this is a fault of the host".to_owned(),
        };
        tracing::error!(stream = %stream.options.id, member, %detail, "worker down, starting it again");
        stream.set_condition(status::StreamState::Blocked, Some(detail));
        thread::sleep(RESTART_PAUSE);
    }
}

fn follow_config(
    mut reader: Box<dyn Reader>,
    mailbox: Mailbox,
    should_stop: Arc<AtomicBool>,
) -> Result<JoinHandle<()>> {
    spawn("config", move || {
        while !should_stop.load(Ordering::Relaxed) {
            match reader.next(CONFIG_READ, CONFIG_WAIT) {
                Ok(Some(records)) => {
                    if mailbox.send(Message::Config(Box::new(records))).is_err() {
                        return;
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "live settings cannot be read, the last ones stay in force");
                    thread::sleep(RESTART_PAUSE);
                }
            }
        }
    })
}

fn watch(dir: PathBuf, max_component_bytes: usize, mailbox: Mailbox) -> Result<Watcher> {
    // Notifications name files by their whole path.
    let dir = std::path::absolute(&dir).unwrap_or(dir);
    let (sender, changes) = mpsc::channel();
    spawn("plugin-files", move || {
        for change in changes {
            if mailbox.send(Message::File(change)).is_err() {
                return;
            }
        }
    })?;
    Watcher::start(&dir, max_component_bytes, sender)
        .map_err(|error| Error::PluginsFolder { path: dir, reason: error.to_string() })
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map_err(Error::Thread)
}
