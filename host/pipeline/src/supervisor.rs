//! Starts the branches, keeps the workers alive, and ends everything in order.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use phronis_core::StreamId;
use phronis_core::partition::{CONFIG_TOPIC, Topics};
use phronis_engine::Engine;
use phronis_engine::watch::Watcher;
use phronis_log::{Follower, Log, Sink};
use phronis_store::Store;
use tokio::runtime::Runtime;
use tokio::sync::broadcast;

use crate::agents::{Keeper, OnHalted, Registry, Trip};
use crate::archive;
use crate::breakers::{Breakers, Watch};
use crate::handle::{Handle, Shared};
use crate::hosts::{Beat, Claim, Hosts, Me};
use crate::ingest::Ingest;
use crate::ingest::partitions::{self, Partitions};
use crate::lasting::keep_going;
use crate::opening::{Opening, say_for_workers};
use crate::plugins::{self, Board, Mailbox, Message};
use crate::readiness::{Fatal, Gate};
use crate::retry::{self, Letters};
use crate::stream::{self, Stream, lag};
use crate::worker::Worker;
use crate::{Error, Node, Result, Role, TopicPolicy, live, status, topics};

/// How long a worker that failed to start, or panicked, stays down: events wait for it.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// How long the archive's runtime may take to end, when nobody waits for it any more.
const ARCHIVE_END: Duration = Duration::from_secs(1);

/// How long the start waits for the log: as long as a near one needs. One that is away is waited for in the background.
const FIRST_TRY: Duration = Duration::from_secs(2);

/// What a pipeline should be.
#[derive(Debug, Clone)]
pub struct Options {
    /// This host among those that share the log.
    pub node: Node,
    /// Which branches run here.
    pub roles: BTreeSet<Role>,
    /// What to do about topics that are not there.
    pub topics: TopicPolicy,
    /// The streams.
    pub streams: Vec<stream::Options>,
    /// Where plugin files are dropped.
    pub plugins_dir: PathBuf,
    /// Where the last good versions are kept.
    pub state_dir: PathBuf,
    /// Where this host keeps its own copy of who is halted.
    pub agents_file: PathBuf,
    /// What is kept beside the log.
    pub store: Store,
    /// The archive, where one is kept.
    pub archive: Option<archive::Options>,
}

/// A running pipeline.
#[derive(Debug)]
pub struct Pipeline {
    handle: Handle,
    running: Running,
}

/// What must end when the pipeline does.
#[derive(Debug)]
struct Running {
    should_stop: Arc<AtomicBool>,
    gate: Arc<Gate>,
    mailbox: Mailbox,
    /// Wakes the thread that counts partitions.
    wake: mpsc::SyncSender<()>,
    watcher: Option<Watcher>,
    threads: Vec<JoinHandle<()>>,
    /// Ends after the workers, so that what they leave at the end is archived too.
    archive: Option<Archiving>,
    /// The sign of life: others must not take this host for gone while its workers still deliver.
    beat: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

/// The archive's branches.
#[derive(Debug)]
struct Archiving {
    /// Where storage and catalog are asked.
    runtime: Runtime,
    should_stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Pipeline {
    /// Starts all branches. They begin to work when the log answers, the topics are there, and the live settings were read;
    /// where that takes longer than a moment it goes on in the background, and [`Handle::checks`] says what is missing.
    ///
    /// # Errors
    /// When the state folder or the plugins folder cannot be used, or the log says what only a person can change.
    /// What was started is stopped again.
    pub fn start(options: Options, log: Arc<dyn Log>, engine: Engine) -> Result<Self> {
        let (mailbox, messages) = mpsc::channel();
        let (wake, woken) = mpsc::sync_channel(1);
        let should_stop = Arc::new(AtomicBool::new(false));
        let gate = Arc::new(Gate::new());
        let mut running =
            Running { should_stop, gate, mailbox, wake, watcher: None, threads: Vec::new(), archive: None, beat: None };
        match running.begin(options, log, engine, messages, woken) {
            Ok(handle) => Ok(Self { handle, running }),
            Err(error) => {
                running.end();
                Err(error)
            }
        }
    }

    /// The pipeline as others see it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stops polling, makes what is in flight durable, and ends all threads. Blocks until done.
    pub fn stop(self) {
        self.running.end();
    }
}

impl Running {
    fn begin(
        &mut self,
        options: Options,
        log: Arc<dyn Log>,
        engine: Engine,
        messages: mpsc::Receiver<Message>,
        woken: mpsc::Receiver<()>,
    ) -> Result<Handle> {
        let Options {
            node,
            roles,
            topics: policy,
            streams: wanted,
            plugins_dir,
            state_dir,
            agents_file,
            store,
            archive,
        } = options;
        let archive = archive.map(|archive| self.open_archive(archive, &wanted, &store)).transpose()?;
        let (live, _) = broadcast::channel(live::BACKLOG);
        let breakers = Arc::new(Breakers::new());
        let board = Arc::new(Board::new(wanted.iter().map(|stream| stream.id.clone())));
        let gate = Arc::clone(&self.gate);
        let needed = topics(&wanted);
        let named: BTreeMap<StreamId, Topics> =
            wanted.iter().map(|stream| (stream.id.clone(), stream.topics.clone())).collect();
        let node_id = node.id.clone();
        let rules = wanted.iter().map(|stream| (stream.id.clone(), plugins::Rules::of(stream))).collect();
        let me = Arc::new(Me::new(node, roles.clone(), wanted.iter().map(|stream| stream.id.clone()).collect()));
        // One way in for the little that the host itself writes.
        let sink: Arc<dyn Sink> = log.sink()?.into();
        let claim = Claim::new(Arc::clone(&log), Arc::clone(&sink), Arc::clone(&me));
        let hosts = Arc::new(Hosts::new(&me));
        let agents =
            Registry::open(agents_file, me.incarnation.clone(), store.clone(), Arc::clone(&sink), live.clone());
        let agents = Arc::new(agents);
        self.keep_agents(&agents)?;
        self.say_that_it_lives(Arc::clone(&gate), |should_stop| Beat {
            log: Arc::clone(&log),
            sink: Arc::clone(&sink),
            me,
            hosts: Arc::clone(&hosts),
            agents: Arc::clone(&agents),
            breakers: Arc::clone(&breakers),
            topics: BTreeMap::clone(&named),
            board: Arc::clone(&board),
            live: live.clone(),
            claimed_at: Arc::clone(&claim.claimed_at),
            should_stop,
        })?;

        let mut alerts = BTreeMap::new();
        let mut counted = Vec::new();
        let mut streams = BTreeMap::new();
        for options in wanted {
            alerts.insert(Arc::clone(&options.topics.alerts), options.id.clone());
            let ingest = match roles.contains(&Role::Serve) {
                true => {
                    let raw = Arc::clone(&options.topics.raw);
                    let partitions = Arc::new(Partitions::new(raw, options.partitions, self.wake.clone()));
                    counted.push(Arc::clone(&partitions));
                    Some(Ingest::new(options.clone(), Arc::clone(&log), partitions)?)
                }
                false => None,
            };
            let tenant = agents.tenant(&options.id.tenant);
            streams.insert(
                options.id.clone(),
                (Arc::new(Stream::new(options, tenant).noting_starts_in(&state_dir.join("starts"))), ingest),
            );
        }
        let followed = roles.contains(&Role::Alert).then(|| alerts.keys().cloned().collect::<Vec<_>>());
        let (opened, waiting) = mpsc::channel();
        let opening = Opening {
            log: Arc::clone(&log),
            policy,
            topics: needed,
            streams: processed(&streams, &roles),
            alerts: followed.map(|topics| (topics, opened)),
            counted: counted.clone(),
            claim,
            breakers: Arc::clone(&breakers),
            store: store.clone(),
            node_id: node_id.clone(),
            gate: Arc::clone(&gate),
            mailbox: self.mailbox.clone(),
            should_stop: Arc::clone(&self.should_stop),
        };
        self.spawn("config", move || opening.run())?;
        gate.tried(FIRST_TRY)?;

        let max_component_bytes = engine.max_component_bytes();
        let shelved = plugins::Shelved { engine: engine.clone(), dir: state_dir.clone() };
        let loader = plugins::start_loader(engine, self.mailbox.clone()).map_err(Error::Thread)?;
        let control = plugins::Control::new(plugins::Parts {
            rules,
            board: Arc::clone(&board),
            breakers: Arc::clone(&breakers),
            live: live.clone(),
            log: Arc::clone(&log),
            sink: Arc::clone(&sink),
            config_topic: CONFIG_TOPIC.into(),
            shelf_dir: state_dir,
            loader,
            archive: archive.clone(),
            should_stop: Arc::clone(&self.should_stop),
        })?;
        self.spawn("plugins", move || control.run(&messages))?;
        let watch = Watch {
            breakers: Arc::clone(&breakers),
            board: Arc::clone(&board),
            topics: named,
            sink,
            store: store.clone(),
            live: live.clone(),
            node_id: node_id.clone(),
            should_stop: Arc::clone(&self.should_stop),
            rows: Arc::default(),
        };
        self.spawn("breakers", move || watch.run())?;
        self.count_partitions(&log, counted, woken, &gate)?;
        self.follow_alerts(&log, alerts, waiting, &live, &roles)?;
        self.trip_agents(&streams, &log, &agents, &gate, &roles)?;
        let worked = processed(&streams, &roles);
        for stream in &worked {
            self.work(stream, &board, &log, &gate, &agents)?;
        }
        let letters = self.keep_time(&streams, &breakers, &log, &store, &gate, &roles)?;
        if let Some(archive) = archive.as_ref().filter(|_| roles.contains(&Role::Archive)) {
            self.keep_archive(&streams, archive, &board, &log, &gate, &node_id)?;
        }
        self.threads.push(lag::watch(Arc::clone(&log), worked, Arc::clone(&self.should_stop)).map_err(Error::Thread)?);
        self.watch(plugins_dir, max_component_bytes)?;
        Ok(Handle {
            shared: Arc::new(Shared {
                roles,
                streams,
                board,
                shelved,
                breakers,
                mailbox: self.mailbox.clone(),
                live,
                log,
                store,
                gate,
                hosts,
                letters,
                agents,
                archive,
            }),
        })
    }

    fn say_that_it_lives(&mut self, gate: Arc<Gate>, beat: impl FnOnce(Arc<AtomicBool>) -> Beat) -> Result<()> {
        let should_stop = Arc::new(AtomicBool::new(false));
        let beat = beat(Arc::clone(&should_stop));
        self.beat = Some((should_stop, spawn("hosts", &self.gate, move || beat.run(&gate))?));
        Ok(())
    }

    fn count_partitions(
        &mut self,
        log: &Arc<dyn Log>,
        counted: Vec<Arc<Partitions>>,
        woken: mpsc::Receiver<()>,
        gate: &Arc<Gate>,
    ) -> Result<()> {
        if counted.is_empty() {
            return Ok(());
        }
        let (log, gate, stop) = (Arc::clone(log), Arc::clone(gate), Arc::clone(&self.should_stop));
        self.spawn("partitions", move || partitions::keep_counting(log.as_ref(), &counted, &woken, &gate, &stop))
    }

    fn follow_alerts(
        &mut self,
        log: &Arc<dyn Log>,
        topics: BTreeMap<phronis_core::records::TopicName, StreamId>,
        opened: mpsc::Receiver<Box<dyn Follower>>,
        events: &broadcast::Sender<Arc<live::Event>>,
        roles: &BTreeSet<Role>,
    ) -> Result<()> {
        if !roles.contains(&Role::Alert) {
            return Ok(());
        }
        let should_stop = Arc::clone(&self.should_stop);
        let branch = live::Branch { log: Arc::clone(log), topics, events: events.clone(), should_stop };
        self.spawn("alerts", move || branch.run(&opened))
    }

    /// Starts the workers of a stream; they wait at the gate.
    fn work(
        &mut self,
        stream: &Arc<Stream>,
        board: &Arc<Board>,
        log: &Arc<dyn Log>,
        gate: &Arc<Gate>,
        agents: &Arc<Registry>,
    ) -> Result<()> {
        for member in 0..stream.options.workers.min(stream.options.partitions) {
            let parts = (Arc::clone(stream), Arc::clone(board), Arc::clone(log), Arc::clone(&self.should_stop));
            let (gate, agents) = (Arc::clone(gate), Arc::clone(agents));
            let must_know = stream.options.on_halted != OnHalted::Pass;
            self.spawn(&format!("{}-{member}", stream.options.id), move || {
                // No event of a halted agent may slip through because the host has just begun.
                if gate.wait(&parts.3) && (!must_know || agents.wait_until_known(&parts.3)) {
                    keep_working(member, parts);
                }
            })?;
        }
        Ok(())
    }

    /// Starts the retry branch of each stream; it waits at the gate. The answer is what it shares with the handle.
    fn keep_time(
        &mut self,
        streams: &BTreeMap<StreamId, (Arc<Stream>, Option<Ingest>)>,
        breakers: &Arc<Breakers>,
        log: &Arc<dyn Log>,
        store: &Store,
        gate: &Arc<Gate>,
        roles: &BTreeSet<Role>,
    ) -> Result<BTreeMap<StreamId, Arc<Letters>>> {
        let mut all = BTreeMap::new();
        for (id, (stream, _)) in streams {
            let letters = Arc::new(Letters::new(id.clone(), Some(store.clone())));
            all.insert(id.clone(), Arc::clone(&letters));
            if !roles.contains(&Role::Retry) {
                continue;
            }
            let (stream, log, should_stop) = (Arc::clone(stream), Arc::clone(log), Arc::clone(&self.should_stop));
            let breakers = Arc::clone(breakers);
            let told = Arc::clone(&breakers);
            let is_open: retry::IsOpen = Arc::new(move |plugin| breakers.is_open(plugin));
            let ranges: retry::Ranges = Arc::new(move |plugin, letters, late| told.set_ranges(plugin, letters, late));
            let parts = retry::Parts { stream, letters, log, is_open, ranges, should_stop };
            let gate = Arc::clone(gate);
            self.spawn(&format!("{id}-retry"), move || {
                if gate.wait(&parts.should_stop) {
                    retry::keep_time(&parts);
                }
            })?;
        }
        Ok(all)
    }

    /// The archive's own runtime: what encodes files must not hold up those who serve HTTP.
    fn open_archive(
        &mut self,
        options: archive::Options,
        streams: &[stream::Options],
        store: &Store,
    ) -> Result<Arc<archive::Shared>> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).thread_name("archive").on_thread_start(phronis_archive::step_back).enable_all();
        let runtime = builder.build().map_err(Error::Thread)?;
        let pointers = archive::StorePointers(store.clone());
        let shared = archive::Shared::new(options, streams.len(), Some(Arc::new(pointers)), runtime.handle().clone());
        let shared = Arc::new(shared);
        shared.learn_columns(streams.iter().map(|stream| stream.id.clone()).collect());
        shared.open_beside();
        self.archive = Some(Archiving { runtime, should_stop: Arc::default(), threads: Vec::new() });
        Ok(shared)
    }

    /// Starts the archive branch of each stream; it waits at the gate.
    fn keep_archive(
        &mut self,
        streams: &BTreeMap<StreamId, (Arc<Stream>, Option<Ingest>)>,
        archive: &Arc<archive::Shared>,
        board: &Arc<Board>,
        log: &Arc<dyn Log>,
        gate: &Arc<Gate>,
        node_id: &str,
    ) -> Result<()> {
        let Some(archiving) = &mut self.archive else { return Ok(()) };
        for (id, (stream, _)) in streams {
            let parts = archive::Parts {
                stream: Arc::clone(stream),
                shared: Arc::clone(archive),
                board: Arc::clone(board),
                log: Arc::clone(log),
                node_id: node_id.to_owned(),
                should_stop: Arc::clone(&archiving.should_stop),
            };
            let gate = Arc::clone(gate);
            archiving.threads.push(spawn(&format!("{id}-archive"), &self.gate, move || {
                phronis_archive::step_back();
                if gate.wait(&parts.should_stop) {
                    archive::keep(&parts);
                }
            })?);
        }
        Ok(())
    }

    /// Starts what keeps the copies of who is halted.
    fn keep_agents(&mut self, agents: &Arc<Registry>) -> Result<()> {
        let keeper = Keeper { registry: Arc::clone(agents), should_stop: Arc::clone(&self.should_stop) };
        self.spawn("agents", move || keeper.run())?;
        let (agents, should_stop) = (Arc::clone(agents), Arc::clone(&self.should_stop));
        self.spawn("agents-file", move || agents.keep_file(&should_stop))
    }

    /// Starts what halts agents because alerts say so, where plugins may.
    fn trip_agents(
        &mut self,
        streams: &BTreeMap<StreamId, (Arc<Stream>, Option<Ingest>)>,
        log: &Arc<dyn Log>,
        agents: &Arc<Registry>,
        gate: &Arc<Gate>,
        roles: &BTreeSet<Role>,
    ) -> Result<()> {
        let may_halt = |stream: &&Arc<Stream>| !stream.options.may_halt.is_empty() && roles.contains(&Role::Alert);
        for stream in streams.values().map(|(stream, _)| stream).filter(may_halt) {
            let trip = Trip {
                log: Arc::clone(log),
                stream: stream.options.id.clone(),
                alerts: Arc::clone(&stream.options.topics.alerts),
                registry: Arc::clone(agents),
                should_stop: Arc::clone(&self.should_stop),
            };
            let gate = Arc::clone(gate);
            self.spawn(&format!("halts-{}", stream.options.id), move || trip.run(&gate))?;
        }
        Ok(())
    }

    fn watch(&mut self, dir: PathBuf, max_component_bytes: usize) -> Result<()> {
        // Notifications name files by their whole path.
        let dir = std::path::absolute(&dir).unwrap_or(dir);
        let (sender, changes) = mpsc::channel();
        let mailbox = self.mailbox.clone();
        // Ends when the watcher does.
        spawn("plugin-files", &self.gate, move || {
            for change in changes {
                if mailbox.send(Message::File(change)).is_err() {
                    return;
                }
            }
        })?;
        let watcher = Watcher::start(&dir, max_component_bytes, sender)
            .map_err(|error| Error::PluginsFolder { path: dir, reason: error.to_string() })?;
        self.watcher = Some(watcher);
        Ok(())
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        self.threads.push(spawn(name, &self.gate, run)?);
        Ok(())
    }

    fn end(self) {
        self.should_stop.store(true, Ordering::Relaxed);
        drop(self.watcher);
        // Threads that are gone already need no message.
        drop(self.mailbox.send(Message::Stop));
        self.wake.try_send(()).ok();
        join(self.threads);
        if let Some(Archiving { runtime, should_stop, threads }) = self.archive {
            should_stop.store(true, Ordering::Relaxed);
            join(threads);
            runtime.shutdown_timeout(ARCHIVE_END);
        }
        if let Some((should_stop, beat)) = self.beat {
            should_stop.store(true, Ordering::Relaxed);
            join([beat]);
        }
    }
}

fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a thread of the pipeline panicked");
        }
    }
}

/// The streams that workers of this host process.
fn processed(streams: &BTreeMap<StreamId, (Arc<Stream>, Option<Ingest>)>, roles: &BTreeSet<Role>) -> Vec<Arc<Stream>> {
    if roles.contains(&Role::Process) {
        return streams.values().map(|(stream, _)| Arc::clone(stream)).collect();
    }
    for (stream, _) in streams.values() {
        let detail = format!("this host does not process, its roles are: {}", Role::list(roles));
        say_for_workers(stream, status::StreamState::Stopped, Some(detail));
    }
    Vec::new()
}

/// Runs a worker, and a new one when it panics: a bug must not stop a stream for ever, nor go unseen.
fn keep_working(member: i32, parts: (Arc<Stream>, Arc<Board>, Arc<dyn Log>, Arc<AtomicBool>)) {
    let (stream, board, log, should_stop) = parts;
    let run = || {
        Worker::new(Arc::clone(&stream), Arc::clone(&board), Arc::clone(&log), member, Arc::clone(&should_stop))
            .and_then(Worker::run)
    };
    keep_going(
        (RESTART_PAUSE, RESTART_PAUSE),
        &should_stop,
        || run().map_err(|error| error.to_string()),
        |detail| {
            tracing::error!(stream = %stream.options.id, member, %detail, "worker down, starting it again");
            stream.set_condition(member, status::StreamState::Blocked, Some(detail));
        },
    );
}

/// A thread. What may fail in it begins anew by itself; a panic that comes through to here ends the host, since nobody else
/// does what the thread did, and nobody would miss it.
fn spawn(name: &str, gate: &Arc<Gate>, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let (gate, thread) = (Arc::clone(gate), name.to_owned());
    let guarded = move || {
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            gate.fail(Fatal::Panicked { thread });
        }
    };
    thread::Builder::new().name(name.to_owned()).spawn(guarded).map_err(Error::Thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_panics_ends_the_host() {
        let gate = Arc::new(Gate::new());
        spawn("fine", &gate, || {}).unwrap().join().unwrap();
        assert!(gate.tried(Duration::ZERO).is_ok());
        spawn("broken", &gate, || panic!("a fault")).unwrap().join().unwrap();
        let why = gate.tried(Duration::ZERO).unwrap_err().to_string();
        assert!(why.contains("`broken` panicked"), "{why}");
    }
}
