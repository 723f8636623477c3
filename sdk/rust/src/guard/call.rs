//! One call of a tool, from its begin to the moment in which it is dropped.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use super::events::Event;
use super::time::wall_micros;
use super::{Guard, Halted};

/// A call that is running. Dropped, it tells the host how long it took.
#[derive(Debug)]
pub struct Call {
    guard: Guard,
    started: Instant,
    event: Option<Event>,
}

impl Call {
    pub(super) fn new(guard: Guard, agent: &str, tool: &str, calls_in_minute: u64) -> Self {
        let (agent, tool) = (agent.to_owned(), tool.chars().take(super::NAME).collect());
        Self { guard, started: Instant::now(), event: Some(Event::new(agent, tool, calls_in_minute)) }
    }

    /// Why the agent may not go on, if a halt came since the call began.
    pub fn halted(&mut self) -> Option<Halted> {
        let event = self.event.as_mut()?;
        let halted = self.guard.halt_of(&event.agent)?;
        event.outcome = "halted";
        Some(halted)
    }

    /// Ends when the agent is halted: race it against an asynchronous tool, which is cancelled by being dropped.
    /// Works with every executor. [`Call::halted`] then says so, and notes it for the host.
    pub fn until_halted(&self) -> UntilHalted {
        let agent = self.event.as_ref().map(|event| event.agent.clone()).unwrap_or_default();
        UntilHalted { guard: self.guard.clone(), agent, number: self.guard.0.cache.waiter() }
    }

    /// Says how many tokens the call used in all.
    pub fn tokens(&mut self, tokens: u64) {
        if let Some(event) = &mut self.event {
            event.tokens = Some(tokens);
        }
    }

    /// Says how many tokens went in and came out.
    pub fn usage(&mut self, input: u64, output: u64) {
        if let Some(event) = &mut self.event {
            (event.input_tokens, event.output_tokens) = (Some(input), Some(output));
            event.tokens = Some(input.saturating_add(output));
        }
    }

    /// Says that the tool failed.
    pub fn failed(&mut self) {
        if let Some(event) = &mut self.event {
            event.outcome = "error";
        }
    }
}

/// A halt to come, of [`Call::until_halted`].
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct UntilHalted {
    guard: Guard,
    agent: String,
    number: u64,
}

impl Future for UntilHalted {
    type Output = Halted;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Halted> {
        let halted = match self.guard.is_forked() {
            // Nobody would wake it.
            true => self.guard.halt_of(&self.agent),
            false => self.guard.0.cache.halt_or_wait(&self.agent, self.number, context.waker()),
        };
        halted.map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for UntilHalted {
    fn drop(&mut self) {
        if !self.guard.is_forked() {
            self.guard.0.cache.forget(self.number);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Some(mut event) = self.event.take() else { return };
        event.latency_ms = self.started.elapsed().as_secs_f64() * 1000.0;
        event.at_ms = wall_micros() / 1000;
        if std::thread::panicking() {
            event.outcome = "error";
        }
        if let Some(poster) = self.guard.poster() {
            poster.put(event);
        }
    }
}
