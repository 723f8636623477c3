//! A delivery under way, and the ways to wait for its end.
//!
//! A thread that must also do something else waits for so long only; a task awaits it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

use phronis_core::delivery::Receipt;
use tokio::sync::oneshot;

use crate::{Error, Result};

/// A delivery under way. Dropping it does not undo the delivery.
#[derive(Debug)]
pub struct Ticket(oneshot::Receiver<Result<Receipt>>);

impl Ticket {
    /// A ticket and the way to fulfil it.
    pub fn new() -> (oneshot::Sender<Result<Receipt>>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(receiver))
    }

    /// Blocks until the delivery is durable or failed.
    pub fn wait(self) -> Result<Receipt> {
        self.0.blocking_recv().unwrap_or(Err(Error::Closed))
    }

    /// Blocks until the delivery is durable or failed, or the time is up; the ticket is good for one outcome.
    pub fn wait_until(&mut self, until: Instant) -> Option<Result<Receipt>> {
        if let Some(outcome) = self.try_wait() {
            return Some(outcome);
        }
        if Instant::now() >= until {
            return None;
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(outcome) = Pin::new(&mut self.0).poll(&mut context) {
                return Some(outcome.unwrap_or(Err(Error::Closed)));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            std::thread::park_timeout(left);
        }
    }

    /// Waits until the delivery is durable or failed.
    ///
    /// # Cancel safety
    /// Cancelling loses only the answer; the delivery goes on.
    pub async fn durable(self) -> Result<Receipt> {
        self.0.await.unwrap_or(Err(Error::Closed))
    }

    /// The outcome, if it is there already.
    pub fn try_wait(&mut self) -> Option<Result<Receipt>> {
        match self.0.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(Error::Closed)),
        }
    }
}

/// Wakes the thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_waits_is_woken_by_the_outcome_and_given_back_the_ticket_when_the_time_is_up() {
        let (sender, mut ticket) = Ticket::new();
        assert!(ticket.wait_until(Instant::now()).is_none());
        assert!(ticket.wait_until(Instant::now() + Duration::from_millis(1)).is_none());
        let waits = std::thread::spawn(move || ticket.wait_until(Instant::now() + Duration::from_secs(3600)));
        sender.send(Ok(Receipt::default())).unwrap();
        assert_eq!(waits.join().unwrap().unwrap().unwrap(), Receipt::default());
        let (sender, mut ticket) = Ticket::new();
        drop(sender);
        assert!(matches!(ticket.wait_until(Instant::now()), Some(Err(Error::Closed))));
    }
}
