//! The thread that says that this host lives and what it runs, and listens to the others.
//!
//! Nothing waits for it, and a log that is away only makes it late.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use phronis_core::alert::{self, Alert};
use phronis_core::delivery::{Append, Delivery};
use phronis_core::id::Position;
use phronis_core::partition::{CONTROL_TOPIC, Topics};
use phronis_core::plugin::Severity;
use phronis_core::records::{Records, RecordsBuilder};
use phronis_core::{PluginId, StreamId, Time};
use phronis_log::{Log, Result, Sink, Ticket};
use serde_json::json;
use tokio::sync::broadcast;

use super::Hosts;
use super::record::{self, Me, Record};
use super::roster::{Change, Taken};
use crate::agents::Registry;
use crate::breakers::Breakers;
use crate::clock::{now_ms, now_us, rest};
use crate::live;
use crate::plugins::Board;
use crate::readiness::{Fatal, Gate};
use crate::whole::{Place, Whole};

/// How often a host says that it lives.
const EVERY: Duration = Duration::from_secs(5);

/// Between two words when what runs changes quickly, as it does at the start.
const AT_MOST_EVERY: Duration = Duration::from_millis(250);

/// How often versions are compared, and the silent let go.
const COMPARE_EVERY: Duration = Duration::from_millis(500);

/// How long the last word may take.
const LAST_WORD: Duration = Duration::from_secs(2);

/// First and longest pause after a failed read.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// The rule of the alert that hosts run different versions.
const DIFFER_RULE: &str = "versions-differ";

/// What says and listens.
pub(crate) struct Beat {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) me: Arc<Me>,
    pub(crate) hosts: Arc<Hosts>,
    /// Learns of halts from the same topic.
    pub(crate) agents: Arc<Registry>,
    /// Learn of other hosts' breakers from the same topic.
    pub(crate) breakers: Arc<Breakers>,
    pub(crate) topics: BTreeMap<StreamId, Topics>,
    pub(crate) board: Arc<Board>,
    pub(crate) live: broadcast::Sender<Arc<live::Event>>,
    pub(crate) claimed_at: Arc<AtomicI64>,
    pub(crate) should_stop: Arc<AtomicBool>,
}

/// What the thread remembers between two turns.
#[derive(Default)]
struct Memory {
    said_at: Option<Instant>,
    /// The board's revision that was said last.
    revision: Option<u64>,
    under_way: Option<Ticket>,
    compared_at: Option<Instant>,
    /// Whether all that was said before this host began was read.
    is_current: bool,
    is_away: bool,
    /// Plugins whose versions are counted in a metric.
    counted: BTreeSet<PluginId>,
    /// Alerts that wait for the log, and the one that is on its way.
    alerts: VecDeque<Delivery>,
    alert_under_way: Option<Ticket>,
    events: u64,
}

impl Beat {
    /// Goes on until told to stop, then says that this host ended.
    pub(crate) fn run(self, gate: &Gate) {
        if !gate.wait(&self.should_stop) {
            return;
        }
        self.hosts.roster().take_own(self.word(), Some(self.claimed_at.load(Ordering::Relaxed)));
        let mut memory = Memory::default();
        let mut control = None;
        let mut before = None;
        let mut backoff = BACKOFF.0;
        while !self.should_stop.load(Ordering::Relaxed) {
            self.say_if_due(&mut memory);
            match self.listen(&mut control, before.as_ref(), &mut memory, gate) {
                Ok(()) => {
                    backoff = BACKOFF.0;
                    memory.is_away = false;
                }
                Err(error) => {
                    if !std::mem::replace(&mut memory.is_away, true) {
                        tracing::warn!(%error, "what other hosts run cannot be read, trying again");
                    }
                    before = control.take().map(Whole::into_place).or(before);
                    rest(backoff, &self.should_stop);
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
            }
            self.compare_if_due(&mut memory);
            self.alert(&mut memory);
        }
        self.say_the_end();
    }

    fn listen(
        &self,
        control: &mut Option<Whole>,
        before: Option<&Place>,
        memory: &mut Memory,
        gate: &Gate,
    ) -> Result<()> {
        let whole = match control {
            Some(whole) => whole,
            None => {
                let mut whole = Whole::open(self.log.as_ref(), CONTROL_TOPIC)?;
                self.agents.begins_anew();
                if whole.was_remade(self.log.as_ref(), before)? {
                    tracing::warn!("the topic {CONTROL_TOPIC} was made anew: hosts say again what they know");
                    self.hosts.roster().restart();
                }
                whole.read_to_end(self.log.as_ref(), &self.should_stop, |records| self.hear(&records, memory, gate))?;
                memory.is_current = true;
                self.agents.is_current();
                control.insert(whole)
            }
        };
        if let Some(records) = whole.next(self.log.as_ref())? {
            self.hear(&records, memory, gate);
        }
        Ok(())
    }

    fn hear(&self, records: &Records, memory: &Memory, gate: &Gate) {
        self.agents.hear(records);
        self.breakers.hear(records, &self.me.node.id);
        let now = now_ms();
        let mut roster = self.hosts.roster();
        for said in record::said(records) {
            // What was said before this host began was not heard just now.
            let at = said.record.as_ref().map_or(now, |record| record.at.0 / 1000);
            let heard_at = if memory.is_current { now } else { at.min(now) };
            match roster.take(said, heard_at) {
                Taken::Fine => {}
                Taken::Double(other) => tracing::warn!(
                    node_id = %other.node_id, other = %other.place(), code = %phronis_core::code::NODE_ID_TAKEN,
                    "another process runs with this host's node id: give each host one of its own",
                ),
                Taken::Replaced(other) => {
                    gate.fail(Fatal::NodeIdTaken { node_id: other.node_id.clone(), holder: other.place() });
                }
            }
        }
    }

    fn word(&self) -> Record {
        self.me.record(record::running(&self.board), now_ms())
    }

    fn say_if_due(&self, memory: &mut Memory) {
        if let Some(outcome) = memory.under_way.as_mut().map(Ticket::try_wait) {
            match outcome {
                // One at a time: a log that is away gets no queue of them.
                None => return,
                Some(Ok(_)) => {}
                Some(Err(error)) => tracing::debug!(%error, "a sign of life was not taken"),
            }
            memory.under_way = None;
        }
        let revision = self.board.revision();
        let since = memory.said_at.map_or(EVERY, |at| at.elapsed());
        let has_changed = memory.revision != Some(revision) && since >= AT_MOST_EVERY;
        if since < EVERY && !has_changed {
            return;
        }
        let word = self.word();
        match self.sink.try_submit(record::delivery(&self.me.node.id, Some(&word), now_ms())) {
            Ok(ticket) => memory.under_way = Some(ticket),
            Err(error) => tracing::debug!(%error, "a sign of life was not taken"),
        }
        self.hosts.roster().take_own(word, None);
        memory.said_at = Some(Instant::now());
        memory.revision = Some(revision);
    }

    fn compare_if_due(&self, memory: &mut Memory) {
        if memory.compared_at.is_some_and(|at| at.elapsed() < COMPARE_EVERY) {
            return;
        }
        memory.compared_at = Some(Instant::now());
        let now = now_ms();
        let mut roster = self.hosts.roster();
        roster.expire(now);
        let versions = roster.versions();
        let changes = roster.compare(now);
        drop(roster);
        for gone in memory.counted.iter().filter(|plugin| !versions.contains_key(*plugin)) {
            metrics::gauge!("phronis_plugin_versions", "plugin" => gone.to_string()).set(0);
        }
        for (plugin, count) in &versions {
            let count = u32::try_from(*count).unwrap_or(u32::MAX);
            metrics::gauge!("phronis_plugin_versions", "plugin" => plugin.to_string()).set(count);
        }
        memory.counted = versions.into_keys().collect();
        for change in changes {
            memory.events += 1;
            memory.alerts.extend(self.alert_of(&change));
            self.tell(change, memory.events);
        }
    }

    /// The alert that versions differ: from one of the hosts concerned.
    fn alert_of(&self, change: &Change) -> Option<Delivery> {
        let Change { plugin, is_consistent, digests } = change;
        if *is_consistent || digests.keys().next() != Some(&self.me.node.id) {
            return None;
        }
        let topics = self.topics.get(&plugin.stream)?;
        let now = now_us();
        let by = alert::Plugin { name: plugin.name.clone(), version: String::new(), digest: String::new() };
        let place = Position { topic: &self.me.node.id, partition: -1, offset: now };
        let alert = Alert {
            message: format!("hosts have run different versions of {plugin} for a while: {}", spread(digests)),
            severity: Severity::Warning,
            attributes: [("hosts".to_owned(), json!(digests))].into_iter().collect(),
            ..Alert::by_host(&plugin.stream, &topics.raw, by, DIFFER_RULE, place, Time(now))
        };
        let (mut text, mut records) = (Vec::new(), RecordsBuilder::default());
        alert.write_json(&mut text);
        records.push(now / 1000, None, Some(&text), &[]);
        let append = Append { topic: Arc::clone(&topics.alerts), partition: 0, records: records.finish() };
        Some(Delivery { appends: vec![append], commits: Vec::new() })
    }

    /// Writes the alerts that wait, one after the other; what the log does not take is tried again.
    fn alert(&self, memory: &mut Memory) {
        if let Some(ticket) = &mut memory.alert_under_way {
            match ticket.try_wait() {
                None => return,
                Some(Ok(_)) => drop(memory.alerts.pop_front()),
                Some(Err(error)) => tracing::debug!(%error, "an alert about versions was not taken, trying again"),
            }
            memory.alert_under_way = None;
        }
        if let Some(next) = memory.alerts.front() {
            memory.alert_under_way = self.sink.try_submit(next.clone()).ok();
        }
    }

    fn tell(&self, change: Change, number: u64) {
        let Change { plugin, is_consistent, digests } = change;
        let hosts = json!(digests).to_string();
        let what = if is_consistent {
            tracing::info!(%plugin, %hosts, "all hosts run the same version again");
            "versions-agree"
        } else {
            tracing::warn!(%plugin, %hosts, "hosts run different versions: bring the same file to all of them");
            "versions-differ"
        };
        let facts = json!({
            "change": what, "plugin": plugin.to_string(), "hosts": digests,
            "at": Time::from_millis(now_ms()).to_string(),
        });
        let event = live::Event {
            kind: live::Kind::Plugin,
            stream: plugin.stream,
            id: format!("hosts-{number}").into(),
            json: facts.to_string().into(),
        };
        // Nobody listening is fine.
        drop(self.live.send(Arc::new(event)));
    }

    /// Others need not wait until it is plain that this host is gone.
    fn say_the_end(&self) {
        let ended = self.sink.try_submit(record::delivery(&self.me.node.id, None, now_ms()));
        let until = Instant::now() + LAST_WORD;
        let Ok(mut ticket) = ended else { return };
        while ticket.try_wait().is_none() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Which host runs what, in words.
fn spread(digests: &BTreeMap<String, Option<String>>) -> String {
    let one = |(host, digest): (&String, &Option<String>)| {
        let digest = digest.as_deref().map_or("none", |digest| digest.get(..12).unwrap_or(digest));
        format!("{host} {digest}")
    };
    digests.iter().map(one).collect::<Vec<_>>().join(", ")
}
