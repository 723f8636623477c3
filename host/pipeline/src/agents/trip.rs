//! Halts agents because alerts say so: a member of the group `phronis.<tenant>.<stream>.halts` on the stream's alerts topic.
//!
//! The host that wrote an alert has decided whether it may halt; here is only done what it says.
//! The offset moves on when a halt is durable, so that none is lost with a host, and the store knows by the alert's id
//! and the time of its record which have halted before, so that none halts twice. A halt holds on this host before anything is written.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use phronis_core::agent::{Key, TEXT_BYTES, check_name};
use phronis_core::delivery::{Commit, Delivery};
use phronis_core::records::{Records, TopicName};
use phronis_core::text::bounded;
use phronis_core::{Id, StreamId, Time};
use phronis_log::{Error, Log, Member, PollLimits, Polled, Start, Subscription};
use serde::Deserialize;

use super::Registry;
use super::change::{Begun, Halt};
use crate::lasting::keep_going;
use crate::readiness::Gate;
use crate::whole::settled;

/// Bounds of one read.
const READ: PollLimits = PollLimits { records: 1024, bytes: 1 << 20 };

/// How long a read waits; also how soon the thread notices that it should stop.
const WAIT: Duration = Duration::from_millis(200);

/// How often the offset is moved over alerts that halt nobody: they may be read again at no cost.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// First and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Reads the alerts of a stream for those that halt.
pub(crate) struct Trip {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) stream: StreamId,
    pub(crate) alerts: TopicName,
    pub(crate) registry: Arc<Registry>,
    pub(crate) should_stop: Arc<AtomicBool>,
}

/// What is asked of an alert.
#[derive(Debug, Deserialize)]
struct Alert<'a> {
    id: Id,
    #[serde(default)]
    halt: bool,
    #[serde(borrow)]
    rule: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(borrow)]
    agent: Option<Cow<'a, str>>,
    plugin: Plugin<'a>,
    #[serde(default)]
    origin: Option<Origin>,
}

/// The record that an alert is about.
#[derive(Debug, Deserialize)]
struct Origin {
    timestamp: Time,
}

#[derive(Debug, Deserialize)]
struct Plugin<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

/// How far the group is, and how far it may be moved.
#[derive(Debug, Clone, Copy)]
struct Place {
    committed: i64,
    done: i64,
}

impl Trip {
    /// Goes on until told to stop.
    pub(crate) fn run(self, gate: &Gate) {
        if !gate.wait(&self.should_stop) {
            return;
        }
        let run = || self.follow().map_err(|error| error.to_string());
        keep_going(BACKOFF, &self.should_stop, run, |detail| {
            tracing::warn!(stream = %self.stream, %detail, "alerts that halt agents cannot be read, trying again");
        });
    }

    /// The group of all hosts that halt for this stream. Of its own: a host has one member of a name in each group.
    fn group(&self) -> Arc<str> {
        format!("phronis.{}.{}.halts", self.stream.tenant, self.stream.stream).into()
    }

    /// A membership, from joining to the first failure: whoever comes next begins where the group stands.
    fn follow(&self) -> phronis_log::Result<()> {
        let mut member = self.log.join(&Subscription {
            group: self.group(),
            topics: vec![Arc::clone(&self.alerts)],
            beside: Vec::new(),
            member: 0,
            members: 1,
            start: Start::Earliest,
            exactly_once: false,
        })?;
        let mut places = BTreeMap::new();
        let mut committed_at = Instant::now();
        while !self.should_stop.load(Ordering::Relaxed) {
            let mut must_commit = committed_at.elapsed() >= COMMIT_EVERY;
            match member.source.poll(READ, WAIT) {
                Ok(Polled::Records(records)) => {
                    must_commit |= self.halt_all(&records)?;
                    if let (Some(place), Some(next)) = (places.get_mut(&records.partition), records.next_offset()) {
                        let place: &mut Place = place;
                        place.done = next;
                    }
                }
                Ok(Polled::Assigned(partitions)) => {
                    let places_of = |(_, partition, at)| (partition, Place { committed: at, done: at });
                    places.extend(partitions.into_iter().map(places_of));
                }
                Ok(Polled::Revoked(partitions)) => {
                    self.commit(&member, &mut places)?;
                    forget(&mut places, &partitions);
                }
                Ok(Polled::Lost(partitions)) => forget(&mut places, &partitions),
                Ok(Polled::Idle) => {}
                Err(Error::OutOfRange { partition, earliest, offset, .. }) => {
                    self.step_over(&mut member, &mut places, partition, offset, earliest)?;
                }
                Err(error) => return Err(error),
            }
            if must_commit {
                self.commit(&member, &mut places)?;
                committed_at = Instant::now();
            }
        }
        self.commit(&member, &mut places)
    }

    /// Moves the group over what is done, and waits until it has moved.
    fn commit(&self, member: &Member, places: &mut BTreeMap<i32, Place>) -> phronis_log::Result<()> {
        let behind = places.iter().filter(|(_, place)| place.done > place.committed);
        let commits: Vec<Commit> = behind
            .map(|(partition, place)| Commit {
                group: self.group(),
                topic: Arc::clone(&self.alerts),
                partition: *partition,
                from: place.committed,
                next: place.done,
            })
            .collect();
        if commits.is_empty() {
            return Ok(());
        }
        // At the end of the host it is waited for all the same, as long as the log answers.
        settled(member.sink.submit(Delivery { appends: Vec::new(), commits })?, &AtomicBool::new(false))?;
        places.values_mut().for_each(|place| place.committed = place.done);
        Ok(())
    }

    /// Alerts that were deleted before they were read: nobody can say whom they would have halted.
    fn step_over(
        &self,
        member: &mut Member,
        places: &mut BTreeMap<i32, Place>,
        partition: i32,
        offset: i64,
        earliest: i64,
    ) -> phronis_log::Result<()> {
        tracing::error!(
            stream = %self.stream, topic = %self.alerts, partition, from = offset, to = earliest,
            "alerts were deleted before it was seen whether they halt someone: make the retention longer"
        );
        if let Some(place) = places.get_mut(&partition) {
            place.done = earliest.max(place.committed);
        }
        self.commit(member, places)?;
        member.source.rewind(&self.alerts, partition).map(drop)
    }

    /// Halts whom these alerts halt; true when there was one. Returns when all of it is durable.
    fn halt_all(&self, records: &Records) -> phronis_log::Result<bool> {
        // All are in force before the first is written down.
        let begun: Vec<Begun> = (0..records.len())
            .filter_map(|row| self.registry.begin(self.halt_of(records.body.value(row)?)?).ok())
            .collect();
        if begun.is_empty() {
            return Ok(false);
        }
        let registry = &self.registry;
        let unwritten = registry.store.wait(async {
            let mut writing = tokio::task::JoinSet::new();
            for begun in begun {
                let registry = Arc::clone(registry);
                writing.spawn(async move { registry.finish(begun).await.map(drop) });
            }
            writing.join_all().await.into_iter().find_map(Result::err)
        });
        match unwritten {
            None => Ok(true),
            // Read again: nothing but memory knows of it.
            Some(refusal) => Err(Error::Unreachable { reason: refusal.to_string() }),
        }
    }

    /// What an alert asks for, if it halts.
    fn halt_of(&self, value: &[u8]) -> Option<Halt> {
        let alert = match serde_json::from_slice::<Alert<'_>>(value) {
            Ok(alert) => alert,
            Err(error) => {
                tracing::warn!(stream = %self.stream, %error, "an alert cannot be read: nobody can say whether it halts");
                return None;
            }
        };
        if !alert.halt {
            return None;
        }
        let refused = |reason: &str| {
            metrics::counter!("phronis_agent_halts_refused_total", "stream" => self.stream.to_string()).increment(1);
            tracing::error!(stream = %self.stream, alert = %alert.id, reason, "an alert wants to halt an agent and cannot");
        };
        let Some(agent) = alert.agent.as_deref() else {
            refused("its event names no agent: the contract must say which field does");
            return None;
        };
        if let Err(reason) = check_name(agent) {
            refused(reason);
            return None;
        }
        let reason = format!("{}: {}", alert.rule, alert.message);
        Some(Halt {
            key: Key::agent(self.stream.tenant.clone(), agent),
            reason: bounded(&reason, TEXT_BYTES).to_owned(),
            actor: format!("plugin {}/{}/{}", self.stream.tenant, self.stream.stream, alert.plugin.name),
            cause: Some(alert.id),
            cause_at: alert.origin.map(|origin| origin.timestamp),
            expires_at: None,
            if_version: None,
        })
    }
}

/// Partitions that are another host's now.
fn forget(places: &mut BTreeMap<i32, Place>, partitions: &[(TopicName, i32)]) {
    places.retain(|partition, _| !partitions.iter().any(|(_, gone)| gone == partition));
}
