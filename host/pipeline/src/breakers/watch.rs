//! The thread that moves the breakers' time on and tells of their changes: log line, metric, live listeners,
//! `phronis.control`, and for a trip an alert.
//!
//! What it writes waits in a queue while the log is away; a worker never waits for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use phronis_core::alert;
use phronis_core::breaker::{State, Transition, Why};
use phronis_core::code;
use phronis_core::delivery::{Append, Delivery};
use phronis_core::partition::Topics;
use phronis_core::records::{RecordsBuilder, TopicName};
use phronis_core::{PluginId, StreamId};
use phronis_log::{Log, Sink, Ticket};
use phronis_store::Store;
use phronis_store::{audit, breakers};
use serde_json::Value;
use tokio::sync::broadcast;

use super::{Breakers, Kept, lock, tell};
use crate::clock::{now_ms, now_us};
use crate::live;
use crate::plugins::Board;
use crate::whole::Whole;

/// How often time moves on: how late a breaker may be half-open, and how old the counts of workers may be.
const EVERY: Duration = Duration::from_millis(100);

/// Between two tries to write.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Changes that wait to be written while the log is away.
const BACKLOG: usize = 1000;

/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What watches.
pub(crate) struct Watch {
    pub(crate) breakers: Arc<Breakers>,
    pub(crate) board: Arc<Board>,
    pub(crate) topics: BTreeMap<StreamId, Topics>,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) store: Store,
    pub(crate) live: broadcast::Sender<Arc<live::Event>>,
    pub(crate) node_id: String,
    pub(crate) should_stop: Arc<AtomicBool>,
    /// What waits for the store.
    pub(crate) rows: Arc<Mutex<Rows>>,
}

/// Rows of breakers on their way into the store: the last of each plugin, so that a slow store makes no queue.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    latest: BTreeMap<PluginId, breakers::Row>,
    /// Whether somebody writes them.
    is_written: bool,
}

/// What the thread remembers between two turns.
#[derive(Default)]
struct Memory {
    waiting: VecDeque<Delivery>,
    under_way: Option<Ticket>,
    /// Not before.
    write_at: Option<Instant>,
    is_away: bool,
    is_host_suspected: bool,
    events: u64,
    /// Rows that were counted in the metric.
    refused: BTreeMap<PluginId, u64>,
}

impl Watch {
    /// Goes on until told to stop.
    pub(crate) fn run(self) {
        let Some(woken) = lock(&self.breakers.woken).take() else { return };
        let mut memory = Memory::default();
        while !self.should_stop.load(Ordering::Relaxed) {
            if woken.recv_timeout(EVERY) == Err(mpsc::RecvTimeoutError::Disconnected) {
                return;
            }
            self.turn(&mut memory);
        }
        let until = Instant::now() + LAST_WORDS;
        self.turn(&mut memory);
        while (memory.under_way.is_some() || !memory.waiting.is_empty()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
            self.write(&mut memory);
        }
    }

    fn turn(&self, memory: &mut Memory) {
        let now = self.breakers.clock().now();
        let all = self.breakers.all();
        for kept in &all {
            kept.shared.tick(now);
        }
        for kept in &all {
            for change in kept.shared.take_news() {
                self.tell(kept, &change, memory);
            }
            self.measure(kept, memory);
        }
        self.watch_host(memory);
        self.write(memory);
    }

    fn tell(&self, kept: &Kept, change: &Transition, memory: &mut Memory) {
        let plugin = &kept.id;
        let window = lock(&kept.policy).settings.window;
        let sentence = tell::sentence(change, kept.clock, window);
        let facts = tell::facts(kept, change, &self.node_id);
        let numbers = facts.get("trip").unwrap_or(&Value::Null);
        match change.why {
            Why::Tripped(reason) => {
                tracing::error!(%plugin, code = %code::BREAKER_OPEN, numbers = %numbers, "{sentence}");
                let labels = [("plugin", plugin.to_string()), ("reason", reason.as_str().to_owned())];
                metrics::counter!("phronis_breaker_trips_total", &labels).increment(1);
            }
            Why::WouldTrip(_) | Why::Suppressed(_) | Why::Restored => {
                tracing::warn!(%plugin, numbers = %numbers, "{sentence}");
            }
            Why::Waited | Why::Recovered | Why::Override | Why::Renewed => tracing::info!(%plugin, "{sentence}"),
        }
        memory.events += 1;
        let event = live::Event {
            kind: live::Kind::Breaker,
            stream: plugin.stream.clone(),
            id: format!("breaker-{}", memory.events).into(),
            json: facts.to_string().into(),
        };
        // Nobody listening is fine.
        drop(self.live.send(Arc::new(event)));
        self.keep(tell::row(kept, &facts, &self.node_id), tell::entry(kept, change, &self.node_id, &sentence, &facts));
        let mut appends = vec![append(tell::topic(), Some(&tell::key(plugin, &self.node_id)), &facts.to_string())];
        if matches!(change.why, Why::Tripped(_)) {
            appends.extend(self.alert(kept, change, sentence));
        }
        memory.push(Delivery { appends, commits: Vec::new() });
    }

    /// Writes a change into the store, beside this thread: a store that is away holds nobody up.
    /// The row says the last state, so one that could not be written is made good by the next.
    fn keep(&self, row: breakers::Row, entry: audit::Entry) {
        self.store.queue_audit(entry);
        let mut waiting = lock(&self.rows);
        waiting.latest.insert(row.plugin.clone(), row);
        if std::mem::replace(&mut waiting.is_written, true) {
            return;
        }
        drop(waiting);
        let (store, waiting) = (self.store.clone(), Arc::clone(&self.rows));
        self.store.spawn(async move {
            loop {
                let rows = lock(&waiting).take();
                if rows.is_empty() {
                    return;
                }
                if let Err(error) = store.save_breakers(&rows).await {
                    tracing::debug!(%error, "the state of breakers was not stored");
                }
            }
        });
    }

    fn alert(&self, kept: &Kept, change: &Transition, sentence: String) -> Option<Append> {
        let topics = self.topics.get(&kept.id.stream)?;
        let active = self.board.plugins().into_iter().find(|plugin| plugin.id == kept.id).and_then(|p| p.active);
        let (version, digest) = active.map_or_else(Default::default, |active| (active.version, active.digest));
        let plugin = alert::Plugin { name: kept.id.name.clone(), version, digest };
        let alert = tell::alert(kept, change, &self.node_id, plugin, &topics.raw, sentence);
        Some(alerted(topics, &alert))
    }

    fn measure(&self, kept: &Kept, memory: &mut Memory) {
        let state = match kept.shared.view(kept.now()).state {
            State::Closed => 0,
            State::HalfOpen => 1,
            State::Open => 2,
        };
        metrics::gauge!("phronis_breaker_state", "plugin" => kept.id.to_string()).set(state);
        let refused = kept.refused_rows.load(Ordering::Relaxed);
        let counted = memory.refused.entry(kept.id.clone()).or_default();
        let new = refused.saturating_sub(std::mem::replace(counted, refused));
        if new > 0 {
            metrics::counter!("phronis_breaker_refused_rows_total", "plugin" => kept.id.to_string()).increment(new);
        }
    }

    /// Says when the host comes under suspicion, and when that is over.
    fn watch_host(&self, memory: &mut Memory) {
        let mut guard = self.breakers.guard.lock().unwrap_or_else(PoisonError::into_inner);
        guard.tick(self.breakers.clock().now());
        let is_suspected = guard.suspected_since().is_some();
        drop(guard);
        if is_suspected == std::mem::replace(&mut memory.is_host_suspected, is_suspected) {
            return;
        }
        metrics::gauge!("phronis_breaker_host_suspected").set(f64::from(u8::from(is_suspected)));
        if is_suspected {
            tracing::error!(code = %code::HOST_SUSPECTED, "{}", tell::SUSPECTED);
            let now = now_us();
            let alert = |(stream, topics): (&StreamId, &Topics)| {
                tell::suspicion(stream, topics, &self.node_id, now).map(|alert| alerted(topics, &alert))
            };
            memory.push(Delivery { appends: self.topics.iter().filter_map(alert).collect(), commits: Vec::new() });
        } else {
            tracing::info!("this host is not suspected any more: breakers open again as before");
        }
    }

    /// Writes one after the other, so that the order holds; what the log does not take is tried again.
    fn write(&self, memory: &mut Memory) {
        loop {
            if let Some(ticket) = &mut memory.under_way {
                match ticket.try_wait() {
                    None => return,
                    Some(Ok(_)) => {
                        memory.waiting.pop_front();
                        memory.is_away = false;
                        memory.write_at = None;
                    }
                    Some(Err(error)) => memory.trouble(&error),
                }
                memory.under_way = None;
            }
            if memory.write_at.is_some_and(|at| Instant::now() < at) {
                return;
            }
            let Some(next) = memory.waiting.front() else { return };
            match self.sink.try_submit(next.clone()) {
                Ok(ticket) => memory.under_way = Some(ticket),
                Err(error) => {
                    memory.trouble(&error);
                    return;
                }
            }
        }
    }
}

impl Rows {
    /// What waits; with nothing left, whoever wrote it is done.
    fn take(&mut self) -> Vec<breakers::Row> {
        self.is_written = !self.latest.is_empty();
        std::mem::take(&mut self.latest).into_values().collect()
    }
}

impl Memory {
    /// Something more to be written.
    fn push(&mut self, delivery: Delivery) {
        if self.waiting.len() >= BACKLOG {
            tracing::warn!("changes of breakers cannot be written, the oldest is forgotten");
            self.waiting.pop_front();
            // What is under way was the oldest.
            self.under_way = None;
        }
        self.waiting.push_back(delivery);
    }

    fn trouble(&mut self, error: &phronis_log::Error) {
        if !std::mem::replace(&mut self.is_away, true) {
            tracing::warn!(%error, "changes of breakers cannot be written yet, trying again");
        }
        self.write_at = Some(Instant::now() + RETRY_EVERY);
    }
}

impl Breakers {
    /// Opens what was open when this host ended, for the rest of its time. Called before work begins.
    /// What `phronis.control` says holds; of a breaker that it does not know (any more), the store's row.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(crate) fn restore(
        &self,
        log: &dyn Log,
        store: &Store,
        node_id: &str,
        should_stop: &AtomicBool,
    ) -> phronis_log::Result<()> {
        let mut last = BTreeMap::new();
        let mut control = Whole::open(log, &tell::topic())?;
        control.read_to_end(log, should_stop, |records| {
            let own = tell::said(&records).into_iter().filter(|(_, node, _)| node == node_id);
            last.extend(own.map(|(plugin, _, said)| (plugin, said)));
        })?;
        match store.wait(store.load_breakers(node_id)) {
            Ok(rows) => rows.into_iter().filter_map(tell::of_row).for_each(|(plugin, said)| {
                last.entry(plugin).or_insert(None).get_or_insert(said);
            }),
            Err(error) => tracing::debug!(%error, "the stored states of breakers are not known"),
        }
        for (plugin, said) in last {
            let Some(said) = said.filter(|said| said.state != State::Closed) else { continue };
            // What was half-open is tried again at once; what a person keeps open stands in the settings.
            let remaining = said.retry_at.map_or(0, |at| at.0.saturating_sub(now_us()));
            let remaining = Duration::from_micros(u64::try_from(remaining).unwrap_or(0));
            let kept = self.of(&plugin);
            let trip = said.trip.map(|trip| trip.trip(self.clock));
            kept.shared.restore(self.clock.now(), remaining, said.trips, trip);
        }
        Ok(())
    }
}

fn alerted(topics: &Topics, alert: &alert::Alert) -> Append {
    let (mut json, mut records) = (Vec::new(), RecordsBuilder::default());
    alert.write_json(&mut json);
    records.push(now_ms(), None, Some(&json), &[]);
    Append { topic: Arc::clone(&topics.alerts), partition: 0, records: records.finish() }
}

fn append(topic: TopicName, key: Option<&str>, value: &str) -> Append {
    let mut records = RecordsBuilder::default();
    records.push(now_ms(), key.map(str::as_bytes), Some(value.as_bytes()), &[]);
    Append { topic, partition: 0, records: records.finish() }
}
