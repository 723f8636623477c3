//! Live events as an operator sees them: server-sent events, each with the moment of its arrival.

use std::io::{BufRead as _, BufReader};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{Host, PATIENCE};

/// Something that a host told.
#[derive(Debug, Clone)]
pub struct Event {
    /// `alert`, `plugin`, `config`, …
    pub kind: String,
    /// Its id.
    pub id: String,
    /// What it says.
    pub data: Value,
    /// When it arrived.
    pub at: Instant,
}

/// Listens until the host ends.
#[derive(Debug)]
pub struct Listener {
    events: Receiver<Event>,
}

impl Host {
    /// Listens to live events; returns once the host has answered, so that what happens next is heard.
    ///
    /// # Errors
    /// When the host refuses.
    pub fn listen(&self, query: &str) -> anyhow::Result<Listener> {
        let http = reqwest::blocking::Client::builder().timeout(None).build()?;
        let response =
            http.get(format!("{}/v1/events{query}", self.base())).header("accept", "text/event-stream").send()?;
        ensure!(response.status().is_success(), "{}: {}", response.status(), response.text()?);
        let (sender, events) = channel();
        std::thread::spawn(move || {
            let mut event = Event { kind: String::new(), id: String::new(), data: Value::Null, at: Instant::now() };
            for line in BufReader::new(response).lines() {
                let Ok(line) = line else { return };
                match line.split_once(':').map(|(name, value)| (name, value.trim_start())) {
                    Some(("event", kind)) => event.kind = kind.to_owned(),
                    Some(("id", id)) => event.id = id.to_owned(),
                    Some(("data", data)) => event.data = serde_json::from_str(data).unwrap_or_default(),
                    _ if line.is_empty() && !event.data.is_null() => {
                        event.at = Instant::now();
                        if sender.send(event.clone()).is_err() {
                            return;
                        }
                        event.data = Value::Null;
                    }
                    _ => {}
                }
            }
        });
        Ok(Listener { events })
    }
}

impl Listener {
    /// The next event of a kind; others are skipped.
    ///
    /// # Errors
    /// When none comes within [`PATIENCE`], or the host is gone.
    pub fn next(&self, kind: &str) -> anyhow::Result<Event> {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left).with_context(|| format!("no {kind} came"))?;
            if event.kind == kind {
                return Ok(event);
            }
        }
    }

    /// The next event of any kind; `None` when none comes in time, or the host is gone.
    pub fn within(&self, wait: Duration) -> Option<Event> {
        self.events.recv_timeout(wait).ok()
    }
}
