//! One host of several: its room stays when its process ends.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::host::{Host, Room};

/// A host that runs, or ran.
#[derive(Debug)]
pub struct Node {
    room: Room,
    host: Option<Host>,
    /// What it said before it was started again.
    past: String,
}

impl Node {
    pub(super) fn new(room: Room) -> Self {
        Self { room, host: None, past: String::new() }
    }

    /// Its folders.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// Its process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn host(&self) -> anyhow::Result<&Host> {
        self.host.as_ref().context("the host does not run")
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start(&mut self) -> anyhow::Result<()> {
        self.let_go();
        self.host = Some(Host::start(&self.room)?);
        Ok(())
    }

    /// Starts it, with further arguments, and waits until it answers at all.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn start_unready(&mut self, more: &[&str]) -> anyhow::Result<()> {
        self.let_go();
        self.host = Some(Host::start_unready(&self.room, more)?);
        Ok(())
    }

    /// Kills it from wherever it stands.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.host()?.kill()?;
        self.let_go();
        Ok(())
    }

    /// Lets it end in order.
    ///
    /// # Errors
    /// When it does not, or says that something went wrong.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let end = self.host.as_mut().context("the host does not run")?.end()?;
        self.let_go();
        ensure!(end.success(), "the host ended with {end}: {}", self.last_words());
        Ok(())
    }

    /// Tells it to end, and waits until it does, in order or hard; the answer is its exit code.
    ///
    /// # Errors
    /// When it does not.
    pub fn end(&mut self) -> anyhow::Result<Option<i32>> {
        let end = self.host.as_mut().context("the host does not run")?.end()?;
        self.let_go();
        Ok(end.code())
    }

    /// Waits until it ends by itself; the answer is its exit code, and what it said.
    ///
    /// # Errors
    /// When it does not.
    pub fn ends(&mut self) -> anyhow::Result<(Option<i32>, String)> {
        let end = self.host.as_mut().context("the host does not run")?.ended()?;
        self.let_go();
        Ok((end.code(), self.said()))
    }

    /// All that it ever said.
    pub fn said(&self) -> String {
        let now = self.host.as_ref().map(Host::said).unwrap_or_default();
        self.past.clone() + &now
    }

    /// The partitions that its process owns, by what that has said.
    pub fn owned(&self) -> BTreeSet<i32> {
        let said = self.host.as_ref().map(Host::said).unwrap_or_default();
        let mut owned = BTreeSet::new();
        for line in said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let text = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or_default();
            let numbers = text("partitions").split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
            let numbers: BTreeSet<i32> = numbers.collect();
            match text("message") {
                "partitions taken over" => owned.extend(numbers),
                gone if gone == "partitions handed over" || gone.starts_with("lost partitions") => {
                    owned.retain(|number| !numbers.contains(number));
                }
                _ => {}
            }
        }
        owned
    }

    /// The end of it.
    pub fn last_words(&self) -> String {
        let said = self.said();
        let from = (said.len().saturating_sub(4000)..said.len()).find(|at| said.is_char_boundary(*at));
        format!("\n--- {}\n{}", self.room.folder().display(), said.get(from.unwrap_or_default()..).unwrap_or(&said))
    }

    fn let_go(&mut self) {
        if let Some(host) = self.host.take() {
            self.past.push_str(&host.said());
        }
    }
}
