//! The operator: hears alerts over server-sent events and tells the first of each fault.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use phronis_tests::checker::Alert;
use phronis_tests::host::{Event, Listener, PATIENCE};

use crate::feed::{Feed, PROBE};
use crate::say::{Say, was_interrupted};

/// A sensor that was silent this long has a new fault; until then its alerts are one story.
const STORY: Duration = Duration::from_secs(2);

/// Time between two told alerts: people read them.
const PACE: Duration = Duration::from_millis(600);

/// How long an alert waits for its post's answer, which tells when it was sent.
const ANSWER: Duration = Duration::from_millis(500);

/// Hears and tells.
pub(crate) struct Watch {
    listener: Listener,
    /// Alerts whose post has no answer yet.
    pending: VecDeque<(Event, Alert)>,
    told: HashMap<String, Instant>,
    /// When the last alert was told, and how many sensors were passed over since the scene began.
    last: Option<Instant>,
    passed_over: u64,
    latencies: Vec<Duration>,
    version: String,
    /// Tells nothing and measures nothing any more.
    pub(crate) is_quiet: bool,
}

impl Watch {
    pub(crate) fn new(listener: Listener) -> Self {
        Self {
            listener,
            pending: VecDeque::new(),
            told: HashMap::new(),
            last: None,
            passed_over: 0,
            latencies: Vec::new(),
            version: String::new(),
            is_quiet: false,
        }
    }

    /// Tells for a while.
    pub(crate) fn tell(&mut self, say: &Say, feed: &Feed, span: Duration) {
        let until = Instant::now() + span;
        while Instant::now() < until && !was_interrupted() {
            self.step(say, feed);
        }
        let more = std::mem::take(&mut self.passed_over);
        if more > 0 {
            say.more(more);
        }
    }

    /// Tells until another version judges; gives the moment of its first alert.
    pub(crate) fn until_other_version(&mut self, say: &Say, feed: &Feed, before: &str) -> Option<Instant> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until && !was_interrupted() {
            if let Some(at) = self.step(say, feed)
                && self.version != before
            {
                return Some(at);
            }
        }
        None
    }

    /// The detector's version that spoke last.
    pub(crate) fn version(&self) -> String {
        self.version.clone()
    }

    /// Times from post to alert, in rising order.
    pub(crate) fn latencies(&self) -> Vec<Duration> {
        let mut all = self.latencies.clone();
        all.sort_unstable();
        all
    }

    /// Hears at most one event; gives its moment.
    fn step(&mut self, say: &Say, feed: &Feed) -> Option<Instant> {
        let heard = self.listener.within(Duration::from_millis(10)).filter(|event| event.kind == "alert");
        let at = heard.as_ref().map(|event| event.at);
        if let Some(event) = heard
            && let Some(alert) = Alert::parse(event.data.clone())
        {
            self.version = format!("{} {} ({})", alert.plugin, alert.version, short(&alert.digest));
            self.pending.push_back((event, alert));
        }
        while let Some((event, alert)) = self.pending.front() {
            let latency = feed.posted(alert.partition, alert.offset).map(|at| event.at.saturating_duration_since(at));
            if latency.is_none() && event.at.elapsed() < ANSWER {
                break;
            }
            if let Some((event, alert)) = self.pending.pop_front() {
                self.latencies.extend(latency.filter(|_| !self.is_quiet));
                self.story(say, &event, &alert, latency);
            }
        }
        at
    }

    /// The first alert of a fault is told, the others belong to the same story.
    fn story(&mut self, say: &Say, event: &Event, alert: &Alert, latency: Option<Duration>) {
        let key = alert.json.get("key").and_then(serde_json::Value::as_str).unwrap_or_default();
        if key == PROBE || self.is_quiet {
            return;
        }
        let before = self.told.insert(key.to_owned(), event.at);
        if before.is_some_and(|before| event.at.saturating_duration_since(before) <= STORY) {
            return;
        }
        if self.last.is_some_and(|last| event.at.saturating_duration_since(last) < PACE) {
            self.passed_over += 1;
            return;
        }
        self.last = Some(event.at);
        say.alert(alert, latency);
    }
}

/// The beginning of a digest: enough to tell two versions apart.
pub(crate) fn short(digest: &str) -> &str {
    digest.get(..8).unwrap_or(digest)
}
