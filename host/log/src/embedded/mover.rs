//! Moves the WAL into the file while the writer goes on writing.
//!
//! A checkpoint syncs twice; on the writer's thread every delivery behind it would wait for that.
//! SQLite lets another connection do it at the same time. Only the writer can let the WAL begin anew,
//! which is quick once nearly all of it was moved.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use super::{Durability, db};
use crate::{Error, Result};

/// A thread that checkpoints when it is asked to; it ends with its last order when this is dropped.
pub(super) struct Mover {
    orders: Option<SyncSender<()>>,
    is_busy: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mover {
    pub(super) fn start(folder: &Path, durability: Durability) -> Result<Self> {
        let connection = db::open_writer(folder, durability)?;
        let (orders, inbox) = sync_channel::<()>(1);
        let is_busy = Arc::new(AtomicBool::new(false));
        let busy = Arc::clone(&is_busy);
        let run = move || {
            for () in inbox {
                let moved = connection
                    .prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")
                    .and_then(|mut statement| statement.query_row([], |_| Ok(())));
                if let Err(error) = moved {
                    tracing::debug!(%error, "the WAL could not be moved meanwhile, the writer does it");
                }
                busy.store(false, Ordering::Release);
            }
        };
        let thread = thread::Builder::new().name("log-mover".into()).spawn(run);
        let thread = thread.map_err(|error| Error::Failed {
            doing: "starting a thread of the log".to_owned(),
            source: Arc::new(error),
        })?;
        Ok(Self { orders: Some(orders), is_busy, thread: Some(thread) })
    }

    /// Has the WAL moved as far as it is now. False when the last order is not done yet.
    pub(super) fn order(&self) -> bool {
        if self.is_busy.swap(true, Ordering::AcqRel) {
            return false;
        }
        self.orders.as_ref().is_some_and(|orders| orders.try_send(()).is_ok())
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that moves the WAL panicked");
        }
    }
}
