//! Halting and resetting.
//!
//! A halt holds here before anything else is tried, and is acknowledged when the store has it,
//! or else when this host's file or the control topic has it: then it is written back later.
//! A reset is acknowledged, and in force, only after the store has it; while the store is away it is refused.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use phronis_core::Id;
use phronis_core::Time;
use phronis_core::agent::{Key, Record, State};
use phronis_store::agents::Set;
use phronis_store::audit;
use serde_json::json;
use tokio::time::timeout;

use super::{Registry, control, now, truth};
use crate::clock::now_ms;
use crate::failpoint;

/// How long others may have to wait for a halt because the store is slow: after this they are told that it is not stored yet.
const STORE_FIRST: Duration = Duration::from_millis(50);

/// How long the file and the control topic may take.
const COPIES: Duration = Duration::from_secs(2);

/// Who lets go of halts whose time is over.
pub(super) const BY_ITSELF: &str = "phronis";

/// A halt that someone wants.
#[derive(Debug, Clone)]
pub struct Halt {
    /// Whom.
    pub key: Key,
    /// Why.
    pub reason: String,
    /// Who wants it.
    pub actor: String,
    /// The alert that it follows from.
    pub cause: Option<Id>,
    /// The time of the record that the alert is about.
    pub cause_at: Option<Time>,
    /// When it ends by itself.
    pub expires_at: Option<Time>,
    /// Only if this is still the number of the last word.
    pub if_version: Option<u64>,
}

/// A reset that someone wants.
#[derive(Debug, Clone)]
pub struct Reset {
    /// Whom.
    pub key: Key,
    /// Why.
    pub reason: String,
    /// Who wants it.
    pub actor: String,
    /// Only if this is still the number of the last word.
    pub if_version: Option<u64>,
}

/// What holds after a change.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The last word.
    pub record: Arc<Record>,
    /// Whether the store has it; else it is written back when the store returns.
    pub is_replicated: bool,
    /// Whether this request changed anything.
    pub is_news: bool,
}

/// Why a change was not made.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Nothing was ever said of the agent.
    #[error("nothing is known of it")]
    Unknown,
    /// Someone else changed it meanwhile, or it is not as the request presumes.
    #[error("its last word is number {}, said by {}: {}", .0.version, .0.actor, .0.reason)]
    Changed(Box<Record>),
    /// The store is away, and only it can say that nothing speaks against a reset.
    #[error("{0}; what is halted stays halted until the store answers")]
    StoreAway(phronis_store::Error),
    /// In force on this host, and nowhere written down.
    #[error("halted on this host until it ends, but written down nowhere: {0}")]
    NotDurable(String),
    /// Not known yet who is halted.
    #[error("this host does not know yet who is halted")]
    NotKnown,
}

/// A halt that holds here and is not acknowledged yet.
#[derive(Debug)]
pub(crate) struct Begun {
    record: Record,
    /// The number for the file.
    number: u64,
    begun: Instant,
}

impl Registry {
    /// Halts an agent: in force here when this returns or is dropped, durable when it returns well.
    pub(crate) async fn halt(&self, halt: Halt) -> Result<Outcome, Refusal> {
        if let Some(expected) = halt.if_version {
            return self.halt_if(halt, expected).await;
        }
        match self.begin(halt) {
            Ok(begun) => self.finish(begun).await,
            Err(outcome) => Ok(outcome),
        }
    }

    /// Puts a halt in force on this host; an outcome when there is nothing to do.
    pub(crate) fn begin(&self, halt: Halt) -> Result<Begun, Outcome> {
        let entry = self.memory.entry(&halt.key);
        if let (Some(cause), Some(entry)) = (halt.cause, &entry) {
            // One alert of many: the first has halted the agent for good. Or this very one has, and someone has reset it since.
            let held = entry.halt().filter(|held| held.expires_at.is_none());
            if let (Some(_), Some(pending)) = (held, &entry.pending)
                && self.lock().unwritten.remove(&halt.key)
            {
                // Memory alone has it: it is written down before the alert counts as read.
                return Ok(Begun { record: Record::clone(pending), number: self.touch_file(), begun: Instant::now() });
            }
            let was_handled = self.lock().handled.contains(&(cause, halt.cause_at));
            if let Some(word) = held.or_else(|| was_handled.then_some(&entry.record)) {
                let is_replicated = word.is_replicated;
                return Err(Outcome { record: Arc::clone(word), is_replicated, is_news: false });
            }
        }
        let version = entry.map_or(0, |entry| entry.record.version.max(pending_version(&entry)));
        let record = record(halt, version.saturating_add(1));
        self.take(record.clone());
        self.lock().handled.extend(record.cause.map(|cause| (cause, record.cause_at)));
        Ok(Begun { record, number: self.touch_file(), begun: Instant::now() })
    }

    /// Makes a halt durable that holds here already.
    pub(crate) async fn finish(&self, begun: Begun) -> Result<Outcome, Refusal> {
        let Begun { record, number, begun } = begun;
        failpoint::pass("halt-begun");
        let mut storing = pin!(self.store_halt(&record));
        let stored = match timeout(STORE_FIRST, &mut storing).await {
            Ok(stored) => stored,
            // A slow store keeps nobody waiting: other hosts hear of it now.
            Err(_) => tokio::join!(&mut storing, self.say(&record)).0,
        };
        let outcome = match stored {
            Ok(known) => {
                failpoint::pass("halt-stored");
                self.adopt(&record, known.clone());
                let (said, filed) = tokio::join!(self.say(&known), self.file_has(number, COPIES));
                for trouble in [said, filed].into_iter().filter_map(Result::err) {
                    tracing::warn!(key = %known.key(), trouble, "a halt is in the store, and not in all of its copies yet");
                }
                failpoint::pass("halt-told");
                self.note("agent.halt", &known).await;
                Ok(Outcome { is_news: known.is_same_change(&record), record: Arc::new(known), is_replicated: true })
            }
            Err(error) => {
                let (said, filed) = tokio::join!(self.say(&record), self.file_has(number, COPIES));
                self.lock().unsure.insert(record.key());
                tracing::warn!(
                    key = %record.key(), %error, code = %error.code(),
                    "halted without the store: it is told when it answers"
                );
                match (said, filed) {
                    (Err(said), Err(filed)) => {
                        self.lock().unwritten.insert(record.key());
                        Err(Refusal::NotDurable(format!("{error}; {said}; {filed}")))
                    }
                    _ => Ok(Outcome { record: Arc::new(record.clone()), is_replicated: false, is_news: true }),
                }
            }
        };
        metrics::histogram!("phronis_agent_halt_seconds").record(begun.elapsed());
        outcome
    }

    /// Halts only what is still at this version: the store is asked first, so that nobody is halted whom the request did not mean.
    async fn halt_if(&self, halt: Halt, expected: u64) -> Result<Outcome, Refusal> {
        let known = self.memory.entry(&halt.key);
        match self.store.agent(&halt.key).await {
            Ok(current) => {
                if let Some(current) =
                    current.filter(|current| known.as_ref().is_none_or(|known| known.record.version < current.version))
                {
                    self.take(current);
                }
            }
            Err(error) => tracing::debug!(%error, "the number of an agent's last word is that of memory"),
        }
        let entry = self.memory.entry(&halt.key);
        let stands_at = entry.as_ref().map_or(0, |entry| entry.record.version);
        if let Some(entry) = entry.filter(|_| stands_at != expected) {
            return Err(Refusal::Changed(Box::new(Record::clone(&entry.record))));
        }
        if stands_at != expected {
            return Err(Refusal::Unknown);
        }
        match self.begin(halt) {
            Ok(begun) => self.finish(begun).await,
            Err(outcome) => Ok(outcome),
        }
    }

    /// Lets an agent act again.
    pub(crate) async fn reset(&self, reset: Reset) -> Result<Outcome, Refusal> {
        let Reset { key, reason, actor, if_version } = reset;
        let current = self.settle(&key).await.map_err(Refusal::StoreAway)?;
        let Some(current) = current else { return Err(Refusal::Unknown) };
        if if_version.is_some_and(|expected| expected != current.version) {
            return Err(Refusal::Changed(Box::new(current)));
        }
        if current.state == State::Running {
            return Ok(Outcome { record: Arc::new(current), is_replicated: true, is_news: false });
        }
        let running = Record {
            state: State::Running,
            version: current.version.saturating_add(1),
            reason,
            actor,
            cause: None,
            cause_at: None,
            at: now(),
            expires_at: None,
            ..current.clone()
        };
        let set = self.store.set_agent(&running, current.version).await.map_err(|error| {
            // It may be there all the same: the keeper asks.
            self.lock().unsure.insert(key);
            Refusal::StoreAway(error)
        })?;
        match set {
            Set::Stored => {}
            // Whoever resets must know what halts the agent.
            Set::Stale(other) => {
                let other = other.map_or(current, |other| *other);
                self.take(other.clone());
                return Err(Refusal::Changed(Box::new(other)));
            }
            Set::Handled => return Err(Refusal::Changed(Box::new(current))),
        }
        failpoint::pass("reset-stored");
        self.take(running.clone());
        let number = self.touch_file();
        let (said, filed) = tokio::join!(self.say(&running), self.file_has(number, COPIES));
        for trouble in [said, filed].into_iter().filter_map(Result::err) {
            tracing::warn!(key = %running.key(), trouble, "a reset is in the store, and not in all of its copies yet");
        }
        self.note("agent.reset", &running).await;
        Ok(Outcome { record: Arc::new(running), is_replicated: true, is_news: true })
    }

    /// Brings the store and memory together; the answer is what the store has then.
    pub(super) async fn settle(&self, key: &Key) -> phronis_store::Result<Option<Record>> {
        let entry = self.memory.entry(key);
        let words = entry.into_iter().flat_map(|entry| [Some(entry.record), entry.pending]).flatten();
        let words: Vec<Arc<Record>> = words.collect();
        let mut current = None;
        for word in words {
            let (known, is_news) = truth::settle(&self.store, &word).await?;
            if let Some(known) = known {
                self.adopt(&word, known.clone());
                // Also what the store has and nobody has told: a call that was given up may have been carried out.
                if is_news || !known.is_same_change(&word) {
                    self.lock().unsaid.insert(key.clone());
                    self.note(action(&known), &known).await;
                }
                current = Some(known);
            }
        }
        if current.is_none() {
            current = self.store.agent(key).await?;
            current.clone().map(|current| self.take(current));
        }
        Ok(current)
    }

    /// The store has `known`, and with it our word, or one that goes before it.
    fn adopt(&self, word: &Record, known: Record) {
        let change = self.memory.alter(&word.key(), |entry| {
            if let Some(entry) = entry {
                entry.settle(word, known);
            }
        });
        if let Some(change) = change {
            self.tell(&word.tenant, &change);
            // Whoever wrote it into the store may have ended before it told the other hosts.
            self.lock().unsaid.insert(word.key());
        }
    }

    async fn store_halt(&self, record: &Record) -> phronis_store::Result<Record> {
        let told = Record { is_replicated: true, ..record.clone() };
        match self.store.set_agent(&told, record.version.saturating_sub(1)).await? {
            Set::Stored => Ok(told),
            Set::Stale(_) | Set::Handled => {
                let (known, _) = truth::settle(&self.store, record).await?;
                // An alert that has halted before, and an agent of whom nothing is known: what is not there is not stored.
                known.ok_or_else(|| phronis_store::Error::Failed {
                    doing: "storing a halt",
                    source: Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(
                        "the history has a halt by this alert, and nothing is known of this agent",
                    )),
                })
            }
        }
    }

    /// Says a word on the control topic; what fails is said again later.
    pub(super) async fn say(&self, record: &Record) -> Result<(), String> {
        let said = async {
            let ticket = self.sink.try_submit(control::delivery(std::iter::once(record), now_ms()))?;
            ticket.durable().await
        };
        let outcome = match timeout(COPIES, said).await {
            Ok(outcome) => outcome.map(drop).map_err(|error| error.to_string()),
            Err(_) => Err(format!("the log did not answer within {COPIES:?}")),
        };
        if outcome.is_err() {
            self.lock().unsaid.insert(record.key());
        }
        outcome
    }

    /// A row of the audit. The history of the agent has the change in any case.
    pub(super) async fn note(&self, action: &str, record: &Record) {
        let entry = audit::Entry {
            id: format!("{}/{}", record.key(), record.version),
            at: record.at,
            actor: record.actor.clone(),
            action: action.to_owned(),
            subject: record.key().to_string(),
            tenant: Some(record.tenant.clone()),
            reason: Some(record.reason.clone()),
            facts: json!({ "version": record.version, "cause": record.cause, "expires_at": record.expires_at }),
        };
        if let Err(error) = self.store.append_audit(std::slice::from_ref(&entry)).await {
            tracing::warn!(%error, subject = entry.subject, action, "a row of the audit was not written");
        }
    }

    /// The changes of an agent, newest first.
    pub(crate) async fn history(
        &self,
        key: &Key,
        limit: u32,
        cursor: Option<i64>,
    ) -> phronis_store::Result<phronis_store::Page<Record>> {
        self.store.agent_history(key, limit, cursor).await
    }
}

fn pending_version(entry: &super::memory::Entry) -> u64 {
    entry.pending.as_ref().map_or(0, |pending| pending.version)
}

/// What was done by a word, as the audit has it.
fn action(word: &Record) -> &'static str {
    match word.state {
        State::Halted => "agent.halt",
        State::Running if word.actor == BY_ITSELF => "agent.expire",
        State::Running => "agent.reset",
    }
}

fn record(halt: Halt, version: u64) -> Record {
    let Halt { key, reason, actor, cause, cause_at, expires_at, if_version: _ } = halt;
    Record {
        tenant: key.tenant,
        scope: key.scope,
        state: State::Halted,
        version,
        reason,
        actor,
        cause,
        cause_at,
        at: now(),
        expires_at,
        is_replicated: false,
    }
}
