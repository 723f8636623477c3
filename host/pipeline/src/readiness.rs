//! Whether the host may work yet, and whether it must end.
//!
//! The gate is shut until the log answered, the topics are there, and the live settings were read:
//! workers wait at it, `/readyz` says why it is shut. Who opens it is in `opening`.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use phronis_core::{Code, code};
use tokio::sync::watch;

use crate::Error;

/// How soon those who wait at the gate notice that they should stop.
const NOTICE: Duration = Duration::from_millis(100);

/// Why the host does not work yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reason {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl From<&phronis_log::Error> for Reason {
    fn from(error: &phronis_log::Error) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}

/// Why the host must end.
#[derive(Debug, Clone)]
pub(crate) enum Fatal {
    NodeIdTaken { node_id: String, holder: String },
    Log(phronis_log::Error),
    Panicked { thread: String },
}

impl From<Fatal> for Error {
    fn from(fatal: Fatal) -> Self {
        match fatal {
            Fatal::NodeIdTaken { node_id, holder } => Self::NodeIdTaken { node_id, holder },
            Fatal::Log(error) => Self::Log(error),
            Fatal::Panicked { thread } => Self::Host(format!("its thread `{thread}` panicked")),
        }
    }
}

/// What workers wait at.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    fatal: watch::Sender<Option<Fatal>>,
}

#[derive(Debug, Default)]
struct State {
    is_open: bool,
    /// Whether opening it was tried to the end at least once.
    was_tried: bool,
    reason: Option<Reason>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), fatal: watch::Sender::new(None) }
    }

    pub(crate) fn open(&self) {
        *self.lock() = State { is_open: true, was_tried: true, reason: None };
        self.changed.notify_all();
    }

    /// Says why it stays shut; true when that is news. The same trouble in other words, with another time in them, is none.
    pub(crate) fn stays_shut(&self, reason: Reason) -> bool {
        let mut state = self.lock();
        let is_news = state.reason.as_ref().is_none_or(|known| known.code != reason.code);
        *state = State { is_open: false, was_tried: true, reason: Some(reason) };
        self.changed.notify_all();
        is_news
    }

    /// Says that the host must end.
    pub(crate) fn fail(&self, fatal: Fatal) {
        let error = Error::from(fatal.clone());
        let code = error.code().unwrap_or(code::INTERNAL);
        // Before the state, so that whoever sees that it was tried finds it.
        self.fatal.send_replace(Some(fatal));
        *self.lock() =
            State { is_open: false, was_tried: true, reason: Some(Reason { code, message: error.to_string() }) };
        self.changed.notify_all();
    }

    pub(crate) fn is_open(&self) -> bool {
        self.lock().is_open
    }

    /// Why it is shut, as far as that is known.
    pub(crate) fn reason(&self) -> Option<Reason> {
        self.lock().reason.clone()
    }

    /// Waits until it is open; false when told to stop before.
    pub(crate) fn wait(&self, should_stop: &AtomicBool) -> bool {
        let mut state = self.lock();
        while !state.is_open {
            if should_stop.load(Ordering::Relaxed) {
                return false;
            }
            let waited = self.changed.wait_timeout(state, NOTICE);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        !should_stop.load(Ordering::Relaxed)
    }

    /// Waits until opening it was tried once, for so long at most.
    ///
    /// # Errors
    /// The host must end.
    pub(crate) fn tried(&self, patience: Duration) -> Result<(), Error> {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        while !state.was_tried {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        let fatal = self.fatal.borrow().clone();
        fatal.map_or(Ok(()), |fatal| Err(fatal.into()))
    }

    /// Resolves when the host must end; else never.
    pub(crate) async fn fatal(&self) -> Error {
        let mut fatal = self.fatal.subscribe();
        loop {
            let seen = fatal.borrow_and_update().clone();
            if let Some(seen) = seen {
                return seen.into();
            }
            if fatal.changed().await.is_err() {
                // The pipeline is gone: nothing can go wrong with it any more.
                std::future::pending::<()>().await;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn workers_wait_until_the_gate_opens_and_a_reason_is_news_once() {
        let gate = Arc::new(Gate::new());
        let reason = |code, message: &str| Reason { code, message: message.to_owned() };
        for (code, message, is_news) in [
            (code::TOPICS_MISSING, "topics t and u are missing", true),
            (code::TOPICS_MISSING, "topic t is missing", false),
            (code::LOG_UNREACHABLE, "nobody answers", true),
            (code::TOPICS_MISSING, "topic t is missing", true),
        ] {
            assert_eq!(gate.stays_shut(reason(code, message)), is_news, "{message}");
        }
        assert_eq!(gate.reason().map(|reason| reason.to_string()).as_deref(), Some("topic t is missing (PH3007)"));
        assert!(gate.tried(Duration::from_secs(60)).is_ok());
        let worker = {
            let gate = Arc::clone(&gate);
            std::thread::spawn(move || gate.wait(&AtomicBool::new(false)))
        };
        gate.open();
        assert!(worker.join().unwrap());
        assert_eq!(gate.reason(), None);
        assert!(!Gate::new().wait(&AtomicBool::new(true)));
    }

    #[tokio::test]
    async fn who_must_end_hears_why() {
        let gate = Gate::new();
        gate.fail(Fatal::NodeIdTaken { node_id: "a".into(), holder: "pid 7 on b".into() });
        assert!(matches!(gate.tried(Duration::from_secs(60)), Err(Error::NodeIdTaken { .. })));
        assert_eq!(gate.fatal().await.code(), Some(code::NODE_ID_TAKEN));
    }
}
