//! Opens the gate: tries until the log answers, the topics are there, the live settings were read,
//! and this host's node id is its own. Then the same thread follows the live settings.
//!
//! Nothing here judges events; workers begin when the gate is open.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use phronis_core::code;
use phronis_core::partition::{CONFIG_TOPIC, CONTROL_TOPIC};
use phronis_core::records::TopicName;
use phronis_log::{Error, Follower, Log, Start, TopicSpec};
use phronis_store::Store;

use crate::TopicPolicy;
use crate::breakers::Breakers;
use crate::clock::rest;
use crate::hosts::Claim;
use crate::ingest::partitions::Partitions;
use crate::plugins::{Mailbox, Message};
use crate::readiness::{Fatal, Gate, Reason};
use crate::status::StreamState;
use crate::stream::Stream;
use crate::whole::{Place, Whole};

/// First and longest pause between two tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// Topics that a message names one by one; of more it says how many.
const NAMED: usize = 5;

/// Why the gate stays shut.
pub(crate) enum Trouble {
    /// It may go away by itself, or by what someone does elsewhere.
    Wait(Reason),
    /// The host must end.
    End(Fatal),
    /// The host was told to stop.
    Stopped,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        if error.is_retriable() || matches!(error, Error::UnknownTopic(_) | Error::OutOfRange { .. }) {
            Self::Wait(Reason::from(&error))
        } else {
            Self::End(Fatal::Log(error))
        }
    }
}

/// Where the alert branch waits for its follower.
pub(crate) type Waiting = mpsc::Sender<Box<dyn Follower>>;

/// What it takes to open the gate.
pub(crate) struct Opening {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) policy: TopicPolicy,
    pub(crate) topics: Vec<TopicSpec>,
    /// The streams that wait at the gate.
    pub(crate) streams: Vec<Arc<Stream>>,
    /// Topics that the alert branch follows, and where it waits for the follower.
    pub(crate) alerts: Option<(Vec<TopicName>, Waiting)>,
    /// Where events that are taken are spread over partitions.
    pub(crate) counted: Vec<Arc<Partitions>>,
    pub(crate) claim: Claim,
    pub(crate) breakers: Arc<Breakers>,
    pub(crate) store: Store,
    pub(crate) node_id: String,
    pub(crate) gate: Arc<Gate>,
    pub(crate) mailbox: Mailbox,
    pub(crate) should_stop: Arc<AtomicBool>,
}

impl Opening {
    /// Opens the gate, then follows the live settings until told to stop.
    pub(crate) fn run(self) {
        let mut pause = BACKOFF.0;
        let config = loop {
            match self.attempt() {
                Ok(config) => break config,
                Err(Trouble::Wait(reason)) => {
                    self.stays_shut(reason);
                    rest(pause, &self.should_stop);
                    pause = (pause * 2).min(BACKOFF.1);
                }
                Err(Trouble::End(fatal)) => {
                    let error = crate::Error::from(fatal.clone());
                    tracing::error!(code = error.code().map(tracing::field::display), %error, "the host cannot begin to work");
                    self.gate.fail(fatal);
                    self.say(StreamState::Blocked, self.gate.reason().as_ref());
                    return;
                }
                Err(Trouble::Stopped) => return,
            }
            if self.should_stop.load(Ordering::Relaxed) {
                return;
            }
        };
        if self.gate.reason().is_some() {
            tracing::info!("the log answers and the topics are there: work begins");
        }
        self.say(StreamState::Starting, None);
        drop(self.mailbox.send(Message::Opened));
        self.gate.open();
        let Self { log, mailbox, should_stop, .. } = self;
        follow(config, log.as_ref(), &mailbox, &should_stop);
    }

    /// One try. Messages of the live settings that it sends twice do no harm.
    fn attempt(&self) -> Result<Whole, Trouble> {
        match self.policy {
            TopicPolicy::Create => self.create()?,
            TopicPolicy::Expect => self.expect()?,
        }
        let mut config = Whole::open(self.log.as_ref(), CONFIG_TOPIC)?;
        let read = config.read_to_end(self.log.as_ref(), &self.should_stop, |records| {
            // A control thread that is gone already needs no settings.
            drop(self.mailbox.send(Message::Config(Box::new(records))));
        });
        self.unless_stopped(read)?;
        for partitions in &self.counted {
            partitions.refresh(self.log.as_ref());
        }
        let alerts = match &self.alerts {
            Some((topics, waiting)) => Some((self.log.follow(topics, Start::Latest)?, waiting)),
            None => None,
        };
        self.claim
            .take(&self.should_stop, |reason| self.stays_shut(reason))
            .map_err(|trouble| self.or_stopped(trouble))?;
        let restored = self.breakers.restore(self.log.as_ref(), &self.store, &self.node_id, &self.should_stop);
        self.unless_stopped(restored)?;
        if let Some((follower, waiting)) = alerts {
            // The alert branch may have ended.
            drop(waiting.send(follower));
        }
        Ok(config)
    }

    fn create(&self) -> Result<(), Trouble> {
        for topic in &self.topics {
            match self.log.create_topic(topic) {
                // It has grown: keys were spread anew then, and nothing relies on the configured number.
                Err(Error::PartitionsDiffer { actual, wanted, .. }) if actual > wanted && !is_single(&topic.name) => {
                    tracing::warn!(topic = %topic.name, actual, wanted, code = %code::TOPICS_DIFFER, "the topic has more partitions than configured");
                }
                other => other?,
            }
        }
        Ok(())
    }

    fn expect(&self) -> Result<(), Trouble> {
        let (mut missing, mut differs) = (Vec::new(), None);
        // Topics of others are not asked about: one of theirs that is in trouble must hold up nobody here.
        for TopicSpec { name, .. } in &self.topics {
            match self.log.partitions(name) {
                Ok(actual) if is_single(name) && actual != 1 => {
                    differs = Some(format!("topic {name} has {actual} partitions and must have one: make it anew"));
                }
                Ok(_) => {}
                Err(Error::UnknownTopic(_)) => missing.push(&**name),
                Err(error) => return Err(error.into()),
            }
        }
        if !missing.is_empty() {
            return Err(Trouble::Wait(Reason { code: code::TOPICS_MISSING, message: missing_message(&missing) }));
        }
        match differs {
            Some(message) => Err(Trouble::Wait(Reason { code: code::TOPICS_DIFFER, message })),
            None => Ok(()),
        }
    }

    fn stays_shut(&self, reason: Reason) {
        self.say(StreamState::Blocked, Some(&reason));
        if self.gate.stays_shut(reason.clone()) {
            tracing::warn!(code = %reason.code, reason = %reason.message, "the host cannot begin to work yet, trying again");
        }
    }

    fn say(&self, state: StreamState, reason: Option<&Reason>) {
        for stream in &self.streams {
            say_for_workers(stream, state, reason.map(Reason::to_string));
        }
    }

    fn unless_stopped<T>(&self, outcome: phronis_log::Result<T>) -> Result<T, Trouble> {
        outcome.map_err(|error| self.or_stopped(error.into()))
    }

    /// What fails because the host was told to stop is no trouble.
    fn or_stopped(&self, trouble: Trouble) -> Trouble {
        if self.should_stop.load(Ordering::Relaxed) { Trouble::Stopped } else { trouble }
    }
}

/// What a stream does, said for its workers, which wait or are not there.
pub(crate) fn say_for_workers(stream: &Stream, state: StreamState, detail: Option<String>) {
    for worker in 0..stream.options.workers.min(stream.options.partitions) {
        stream.set_condition(worker, state, detail.clone());
    }
}

/// Passes on what others change, until told to stop.
fn follow(config: Whole, log: &dyn Log, mailbox: &Mailbox, should_stop: &AtomicBool) {
    let mut before = None;
    let mut config = Some(config);
    let mut pause = BACKOFF.0;
    while !should_stop.load(Ordering::Relaxed) {
        let read = match &mut config {
            Some(config) => config.next(log),
            None => reopen(log, before.as_ref(), mailbox).map(|whole| {
                tracing::info!("live settings can be read again");
                config = Some(whole);
                None
            }),
        };
        match read {
            Ok(records) => {
                pause = BACKOFF.0;
                if let Some(records) = records
                    && mailbox.send(Message::Config(Box::new(records))).is_err()
                {
                    return;
                }
            }
            Err(error) => {
                if let Some(failed) = config.take() {
                    tracing::warn!(code = %error.code(), %error, "live settings cannot be read, the last ones stay in force");
                    before = Some(failed.into_place());
                }
                rest(pause, should_stop);
                pause = (pause * 2).min(BACKOFF.1);
            }
        }
    }
}

/// Begins at the oldest record again: the control thread knows what it has seen.
fn reopen(log: &dyn Log, before: Option<&Place>, mailbox: &Mailbox) -> phronis_log::Result<Whole> {
    let whole = Whole::open(log, CONFIG_TOPIC)?;
    if whole.was_remade(log, before)? {
        tracing::warn!("the topic {CONFIG_TOPIC} was made anew, what is in force stays until it is changed");
        drop(mailbox.send(Message::ConfigRemade));
    }
    Ok(whole)
}

fn is_single(topic: &str) -> bool {
    [CONFIG_TOPIC, CONTROL_TOPIC].contains(&topic)
}

fn missing_message(missing: &[&str]) -> String {
    let named = missing.get(..NAMED.min(missing.len())).unwrap_or_default().join(", ");
    let more = match missing.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let (topics, are) = if missing.len() == 1 { ("topic", "is") } else { ("topics", "are") };
    format!("{topics} {named}{more} {are} missing: run `phronis topics create`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_topics_are_named_with_what_to_do() {
        assert_eq!(missing_message(&["t"]), "topic t is missing: run `phronis topics create`");
        assert_eq!(
            missing_message(&["a", "b", "c", "d", "e", "f", "g"]),
            "topics a, b, c, d, e and 2 more are missing: run `phronis topics create`"
        );
    }
}
