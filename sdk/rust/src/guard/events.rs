//! Tells the host of calls: TOOL_CALL events in batches, from a thread of its own, for which no tool waits.
//!
//! When the queue is full the oldest event goes, since the newest tell of an agent that runs away, and is counted.
//! An event may arrive twice when an answer was lost; its `call_id` tells.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;

use super::options::{Place, jittered};

/// Events of one request: at most 0.5 MB, far below the host's limit for a body.
const BATCH: usize = 500;
/// How long the first event of a batch waits for others: a host syncs its disk once a request.
const LINGER: Duration = Duration::from_millis(10);
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest pause between two attempts, and the pause after a refusal that a person has to lift.
const MOST: Duration = Duration::from_secs(5);
const REFUSED: Duration = Duration::from_secs(10);

/// One call that ended.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) agent: String,
    tool: String,
    calls_in_minute: u64,
    pub(super) at_ms: i64,
    pub(super) latency_ms: f64,
    pub(super) outcome: &'static str,
    pub(super) tokens: Option<u64>,
    pub(super) input_tokens: Option<u64>,
    pub(super) output_tokens: Option<u64>,
}

impl Event {
    pub(super) fn new(agent: String, tool: String, calls_in_minute: u64) -> Self {
        let (tokens, input_tokens, output_tokens) = (None, None, None);
        let outcome = "ok";
        Self { agent, tool, calls_in_minute, at_ms: 0, latency_ms: 0.0, outcome, tokens, input_tokens, output_tokens }
    }

    /// As the contract of the stream `agents` wants it.
    fn line(&self, call_id: &str) -> String {
        let mut metadata = json!({
            "call_id": call_id,
            "tool": self.tool,
            "outcome": self.outcome,
            "calls_in_minute": self.calls_in_minute,
            "latency_ms": (self.latency_ms * 1000.0).round() / 1000.0,
        });
        let given =
            [("tokens", self.tokens), ("input_tokens", self.input_tokens), ("output_tokens", self.output_tokens)];
        if let Some(metadata) = metadata.as_object_mut() {
            for (name, count) in given.into_iter().filter_map(|(name, count)| Some((name, count?))) {
                metadata.insert(name.to_owned(), count.into());
            }
        }
        let status = if self.outcome == "halted" { "halted" } else { "running" };
        let whole = json!({
            "agent_id": self.agent, "event_type": "TOOL_CALL", "status": status, "timestamp": self.at_ms,
            "metadata": metadata,
        });
        format!("{whole}\n")
    }
}

/// What became of events.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) posted: u64,
    pub(super) waiting: usize,
    pub(super) dropped: u64,
    pub(super) trouble: Option<String>,
}

/// The queue and the thread that empties it.
#[derive(Debug)]
pub(super) struct Poster(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    place: Place,
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Event>,
    in_flight: usize,
    posted: u64,
    dropped: u64,
    trouble: Option<String>,
    is_closed: bool,
}

/// What became of one attempt.
enum Outcome {
    Taken,
    /// Never to be taken.
    Refused(String),
    /// To be tried again; without a time, after a growing pause.
    Later(String, Option<Duration>),
}

impl Poster {
    pub(super) fn start(place: &Place, size: usize) -> Self {
        let shared = Arc::new(Shared { place: place.clone(), size, state: Mutex::default(), changed: Condvar::new() });
        let own = Arc::clone(&shared);
        let started = std::thread::Builder::new().name("phronis-guard-events".to_owned()).spawn(move || own.run());
        if let Err(error) = started {
            let mut state = shared.lock();
            state.trouble = Some(format!("no thread can be started: {error}"));
            state.is_closed = true;
        }
        Self(shared)
    }

    /// Takes an event. Waits for nothing but the queue's own lock.
    pub(super) fn put(&self, event: Event) {
        let mut state = self.0.lock();
        if state.is_closed {
            state.dropped += 1;
            return;
        }
        if state.queue.len() >= self.0.size {
            state.queue.pop_front();
            state.dropped += 1;
        }
        state.queue.push_back(event);
        drop(state);
        self.0.changed.notify_all();
    }

    pub(super) fn counts(&self) -> Counts {
        let state = self.0.lock();
        Counts {
            posted: state.posted,
            waiting: state.queue.len() + state.in_flight,
            dropped: state.dropped,
            trouble: state.trouble.clone(),
        }
    }

    /// Waits until all is sent or given up. Gives whether it is.
    pub(super) fn flush(&self, at_most: Duration) -> bool {
        let is_busy = |state: &mut State| !state.queue.is_empty() || state.in_flight > 0;
        let waited = self.0.changed.wait_timeout_while(self.0.lock(), at_most, is_busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Sends what is there within the time, and ends.
    pub(super) fn stop(&self, at_most: Duration) {
        self.flush(at_most);
        self.0.lock().is_closed = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn run(&self) {
        let client = self.place.client(TIMEOUT, TIMEOUT, Some(TIMEOUT * 2));
        let (random, mut number) = (RandomState::new().build_hasher().finish(), 0_u64);
        loop {
            let waiting = self.changed.wait_while(self.lock(), |state| state.queue.is_empty() && !state.is_closed);
            let state = waiting.unwrap_or_else(PoisonError::into_inner);
            if state.is_closed {
                return;
            }
            let lingering =
                self.changed.wait_timeout_while(state, LINGER, |state| state.queue.len() < BATCH && !state.is_closed);
            let mut state = lingering.unwrap_or_else(PoisonError::into_inner).0;
            let count = state.queue.len().min(BATCH);
            let batch: Vec<Event> = state.queue.drain(..count).collect();
            state.in_flight = count;
            drop(state);
            let body: String = batch
                .iter()
                .map(|event| {
                    number += 1;
                    event.line(&format!("{random:016x}-{number}"))
                })
                .collect();
            self.send_until_done(&client, &body, count);
        }
    }

    fn send_until_done(&self, client: &ureq::Agent, body: &str, count: usize) {
        let mut failures = 0;
        loop {
            let outcome = self.send(client, body);
            let mut state = self.lock();
            match outcome {
                Outcome::Taken => {
                    state.posted += count as u64;
                    state.trouble = None;
                    break self.done(state);
                }
                Outcome::Refused(why) => {
                    state.dropped += count as u64;
                    state.trouble = Some(why);
                    break self.done(state);
                }
                Outcome::Later(why, pause) => {
                    state.trouble = Some(why);
                    let growing = Duration::from_millis(100).saturating_mul(1 << failures.min(10)).min(MOST);
                    failures += 1_u32;
                    let pause = pause.unwrap_or_else(|| jittered(growing));
                    let waited = self.changed.wait_timeout_while(state, pause, |state| !state.is_closed);
                    let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
                    if state.is_closed {
                        state.dropped += count as u64;
                        break self.done(state);
                    }
                }
            }
        }
    }

    fn done(&self, mut state: MutexGuard<'_, State>) {
        state.in_flight = 0;
        drop(state);
        self.changed.notify_all();
    }

    fn send(&self, client: &ureq::Agent, body: &str) -> Outcome {
        let origin = &self.place.origin;
        let mut request =
            client.post(&self.place.post).header("content-type", "application/x-ndjson").header("x-phronis", "1");
        if let Some(key) = &self.place.api_key {
            request = request.header("x-api-key", key);
        }
        let mut response = match request.send(body) {
            Ok(response) => response,
            Err(error) => return Outcome::Later(format!("{origin} takes no events: {error}"), None),
        };
        let status = response.status().as_u16();
        let asked = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        // Read to its end, so that the connection can be used again.
        let answer = response.body_mut().with_config().limit(1 << 20).read_to_string().unwrap_or_default();
        match status {
            200 | 202 => Outcome::Taken,
            300..=399 | 401 | 403 | 404 => {
                let detail = "check the key (role write), the stream and the tenant";
                Outcome::Later(format!("{origin} takes no events ({status}): {detail}"), Some(REFUSED))
            }
            408 | 429 | 500.. => {
                let pause = asked.map(|asked| Duration::from_secs(asked).min(MOST));
                Outcome::Later(format!("{origin} takes no events for now ({status})"), pause)
            }
            _ => {
                let answer: String = answer.chars().take(300).collect();
                Outcome::Refused(format!("{origin} refuses events ({status}): {answer}"))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
