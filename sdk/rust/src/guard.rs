//! Refuses the tool calls of agents that Phronis halted, and tells the host of each call (feature `guard`).
//!
//! For programs that run agents, not for plugins. A guard hears of halts on one long-lived stream and keeps them in
//! memory, so that a check asks nobody; calls are posted in batches by a thread of their own, for which no tool waits.
//! The protocol and what is promised: `docs/guard.md`.
//!
//! ```no_run
//! use phronis_sdk::guard::{Guard, Options};
//!
//! # fn search(_: &str) -> String { String::new() }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let guard = Guard::connect(Options::new("http://127.0.0.1:8000"))?;
//! let found = guard.call("researcher-7", "search", || search("weather in Oslo"))?;
//! # drop(found);
//! # Ok(())
//! # }
//! ```
//!
//! A call that lasts, or is asynchronous, holds a [`Call`], which knows of a halt that comes meanwhile:
//!
//! ```no_run
//! # use phronis_sdk::guard::{Guard, Options};
//! # fn step() -> Option<u64> { None }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let options = Options { api_key: Some("…".to_owned()), ..Options::new("https://phronis.example.com") };
//! let guard = Guard::connect(options)?;
//! let mut call = guard.begin("researcher-7", "crawl")?;
//! let mut tokens = 0;
//! while let Some(used) = step() {
//!     tokens += used;
//!     if let Some(halted) = call.halted() {
//!         return Err(halted.into());
//!     }
//! }
//! call.tokens(tokens);
//! # Ok(())
//! # }
//! ```
//!
//! [`Call::until_halted`] is the same as a future, to be raced against an asynchronous tool.
//!
//! A process that forks without `exec` connects a new guard in the child: threads do not survive a fork. Until then the child's copy
//! answers by its policy as if it had never heard the host, since nobody listens for it any more.

mod cache;
mod call;
mod events;
mod feed;
mod minutes;
mod options;
mod sse;
#[cfg(test)]
mod tests;
mod time;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use call::{Call, UntilHalted};
pub use options::{Error, Options, WhenUnreachable};

use cache::Cache;
use events::Poster;
use feed::Feed;
use minutes::Minutes;
use options::Place;

/// Characters of an agent's name: the limit of the contract of the stream `agents`.
const NAME: usize = 256;

/// Why a copy in a forked process knows nothing.
const FORKED: &str = "this process was forked, and threads do not survive that: connect a new guard after fork";

/// How long the last guard that is dropped waits for events that are not sent yet.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The agent may not call tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halted {
    /// Which agent.
    pub agent_id: String,
    /// Why, in the words of who halted it, or why the guard itself refuses.
    pub reason: String,
    /// Who halted it; none when the guard refuses since it does not know the host's state.
    pub actor: Option<String>,
    /// When it was halted, as the host wrote it.
    pub at: Option<String>,
}

impl std::fmt::Display for Halted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "agent {:?} is halted", self.agent_id)?;
        if let Some(actor) = &self.actor {
            write!(f, " by {actor}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for Halted {}

/// A guard at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Whether the host's stream is open.
    pub is_connected: bool,
    /// Time since the host was last heard; none: never.
    pub age: Option<Duration>,
    /// Whether what is known is older than it may be, or nothing is known.
    pub is_stale: bool,
    /// How many agents are halted.
    pub halted: usize,
    /// Whether everything of the tenant is halted.
    pub tenant_is_halted: bool,
    /// Why the host is not heard.
    pub trouble: Option<String>,
    /// Calls that were refused.
    pub refused: u64,
    /// Events that the host took.
    pub events_posted: u64,
    /// Events that wait to be sent.
    pub events_waiting: usize,
    /// Events that were given up: the queue was full, or the host will not take them.
    pub events_dropped: u64,
    /// Why events are not taken.
    pub events_trouble: Option<String>,
}

/// Refuses the tool calls of halted agents. Cheap to clone; all clones share one connection.
#[derive(Debug, Clone)]
pub struct Guard(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cache: Arc<Cache>,
    feed: Feed,
    poster: Option<Poster>,
    minutes: Minutes,
    patience: Duration,
    refused: AtomicU64,
    /// The process whose threads listen and post.
    process: u32,
}

impl Guard {
    /// Makes a guard and lets it listen. Does not wait for the host: the first check does.
    ///
    /// # Errors
    /// When an option cannot be: a URL that is none, a name with a slash.
    pub fn connect(options: Options) -> Result<Self, Error> {
        Self::connect_as(options, std::process::id())
    }

    fn connect_as(options: Options, process: u32) -> Result<Self, Error> {
        let place = Place::new(&options)?;
        let cache = Arc::new(Cache::new(options.when_unreachable, options.stale_after));
        Ok(Self(Arc::new(Inner {
            feed: Feed::start(&place, Arc::clone(&cache)),
            poster: options.post_events.then(|| Poster::start(&place, options.queue_size)),
            minutes: Minutes::default(),
            patience: options.patience,
            refused: AtomicU64::new(0),
            process,
            cache,
        })))
    }

    /// Whether the agent may call tools now. The first check of all waits for the host's first word.
    ///
    /// # Errors
    /// [`Halted`] when it may not.
    pub fn check(&self, agent: &str) -> Result<(), Halted> {
        let outcome = self.decide(agent);
        if outcome.is_err() {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    /// Runs a tool if the agent may, and tells the host of the call.
    ///
    /// # Errors
    /// [`Halted`] when it may not; then the tool did not run.
    pub fn call<T>(&self, agent: &str, tool: &str, run: impl FnOnce() -> T) -> Result<T, Halted> {
        let call = self.begin(agent, tool)?;
        let result = run();
        drop(call);
        Ok(result)
    }

    /// Begins a call if the agent may; it ends when the [`Call`] is dropped.
    ///
    /// # Errors
    /// [`Halted`] when it may not.
    pub fn begin(&self, agent: &str, tool: &str) -> Result<Call, Halted> {
        self.check(agent)?;
        let calls_in_minute = if self.is_forked() { 0 } else { self.0.minutes.note(agent, time::monotonic_seconds()) };
        Ok(Call::new(self.clone(), agent, tool, calls_in_minute))
    }

    /// What the guard knows, and how old that is.
    pub fn state(&self) -> State {
        if self.is_forked() {
            return self.unknown();
        }
        let known = self.0.cache.shown();
        let events = self.0.poster.as_ref().map(Poster::counts).unwrap_or_default();
        State {
            is_connected: self.0.feed.is_connected(),
            age: known.age,
            is_stale: known.is_stale,
            halted: known.halted,
            tenant_is_halted: known.tenant_is_halted,
            trouble: known.trouble,
            refused: self.0.refused.load(Ordering::Relaxed),
            events_posted: events.posted,
            events_waiting: events.waiting,
            events_dropped: events.dropped,
            events_trouble: events.trouble,
        }
    }

    /// Waits until all events are taken by the host or given up. Gives whether they are.
    pub fn flush(&self, at_most: Duration) -> bool {
        !self.is_forked() && self.0.poster.as_ref().is_none_or(|poster| poster.flush(at_most))
    }

    fn decide(&self, agent: &str) -> Result<(), Halted> {
        // A name that is too long in characters is so in bytes; most are not, and need no counting.
        if agent.is_empty() || (agent.len() > NAME && agent.chars().count() > NAME) {
            let reason = format!("an agent's name has 1 to {NAME} characters");
            return Err(Halted { agent_id: agent.chars().take(NAME).collect(), reason, actor: None, at: None });
        }
        if self.is_forked() {
            return self.0.cache.check_unheard(agent, FORKED);
        }
        if !self.0.feed.is_settled() {
            self.0.feed.wait(self.0.patience);
        }
        self.0.cache.check(agent)
    }

    /// Why a call that runs may not go on, if it may not. A future that waits is woken by the feed, which a fork does not have.
    fn halt_of(&self, agent: &str) -> Option<Halted> {
        let checked = if self.is_forked() { self.decide(agent) } else { self.0.cache.check(agent) };
        checked.err()
    }

    /// Whether this is a copy in another process than the one that connected. Nothing of it may be waited for there,
    /// not even a lock: whoever held it at the fork is gone. Asking for one's own id is the cheapest call of the system.
    fn is_forked(&self) -> bool {
        self.0.is_forked()
    }

    /// The state of a copy in a forked process.
    fn unknown(&self) -> State {
        State {
            is_connected: false,
            age: None,
            is_stale: true,
            halted: 0,
            tenant_is_halted: false,
            trouble: Some(FORKED.to_owned()),
            refused: self.0.refused.load(Ordering::Relaxed),
            events_posted: 0,
            events_waiting: 0,
            events_dropped: 0,
            events_trouble: Some(FORKED.to_owned()),
        }
    }

    fn poster(&self) -> Option<&Poster> {
        self.0.poster.as_ref().filter(|_| !self.is_forked())
    }
}

impl Inner {
    fn is_forked(&self) -> bool {
        std::process::id() != self.process
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.is_forked() {
            return;
        }
        self.feed.stop();
        if let Some(poster) = &self.poster {
            poster.stop(LAST_WORDS);
        }
    }
}
