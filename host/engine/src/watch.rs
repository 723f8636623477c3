//! Watches the plugins folder, `<dir>/<tenant>/<stream>/<name>.wasm` and `<name>.toml`, and says what changed.
//!
//! A file counts when its writer has closed it, or when it was renamed into place. A look at the whole folder every five
//! seconds is the net for what no event told (network file systems, a queue that overflowed, a folder that was moved in
//! with its files); it takes a file only when two looks saw the same size, time and inode. A deletion counts after two
//! seconds, because editors replace files by deleting them.
//!
//! Limit of the promise: a writer that pauses for over a minute without closing, or one on another machine, can show a
//! half-written file. It is then refused, and taken when it is whole.

mod folder;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use phronis_core::PluginId;

use crate::error::{Error, Refusal};
use folder::Folder;

/// Between two looks at the whole folder.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Between two looks while a file waits for its second one.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// After a folder appeared or vanished, the whole is looked at so soon: its files may have come without events.
const LOOK_SOON: Duration = Duration::from_millis(200);

/// Between two looks at the root's own inode and at deletions that are due.
const TICK: Duration = Duration::from_millis(250);

/// How long the first scan waits for files that someone may still be writing.
const LONGEST_SCAN: Duration = Duration::from_secs(10);

/// Something changed in the plugins folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A `.wasm` is there, or has new bytes.
    Component {
        /// The plugin.
        id: PluginId,
        /// The file.
        path: PathBuf,
        /// All of it.
        bytes: Vec<u8>,
    },
    /// A `.toml` is there, or has a new text.
    Settings {
        /// The plugin.
        id: PluginId,
        /// The file.
        path: PathBuf,
        /// All of it.
        text: String,
    },
    /// A file is there that is not even read: too large, a symlink, not a regular file, not UTF-8.
    Refused {
        /// The plugin.
        id: PluginId,
        /// Which of its files.
        what: What,
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        refusal: Refusal,
    },
    /// A file is gone.
    Removed {
        /// The plugin.
        id: PluginId,
        /// Which of its files.
        what: What,
    },
    /// A `.wasm` or `.toml` lies where it belongs to no plugin.
    BadPath {
        /// The file or folder.
        path: PathBuf,
        /// Why, and where it would belong.
        reason: String,
    },
    /// Every file that lay in the folder at the start was reported; those still being written are waited for up to 10 s.
    ScanDone,
}

/// One of the two files of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    /// `<name>.wasm`
    Component,
    /// `<name>.toml`
    Settings,
}

/// A thread that watches; it ends when this is dropped or nobody listens any more.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Begins to watch. The folder need not exist yet.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started. Without a notification service of the system it still works, by looking.
    pub fn start(dir: impl Into<PathBuf>, max_component_bytes: usize, sender: Sender<Change>) -> Result<Self, Error> {
        let dir = dir.into();
        let stop = Arc::new(AtomicBool::new(false));
        let (path, stopped) = (dir.clone(), Arc::clone(&stop));
        let spawned = std::thread::Builder::new()
            .name("plugin-watcher".to_owned())
            .spawn(move || watch(&path, max_component_bytes, &sender, &stopped));
        match spawned {
            Ok(thread) => Ok(Self { stop, thread: Some(thread) }),
            Err(e) => Err(Error::Watch { path: dir, reason: e.to_string() }),
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It ends within a tick; a panic in it was printed already.
            thread.join().ok();
        }
    }
}

/// Between two ticks while closed files wait to be read.
const TICK_CLOSED: Duration = Duration::from_millis(5);

/// The system's notifications for the root as it is now.
struct Notifications {
    _watcher: RecommendedWatcher,
    root: (u64, u64),
}

fn watch(dir: &Path, most: usize, changes: &Sender<Change>, stop: &AtomicBool) {
    let (sender, events) = mpsc::channel();
    let mut folder = Folder::new(dir.to_owned(), most);
    let mut notifications: Option<Notifications> = None;
    let mut next_look = Instant::now();
    let scan_ends_by = Instant::now() + LONGEST_SCAN;
    let mut is_scan_done = false;
    while !stop.load(Ordering::Relaxed) {
        let root = folder::inode(dir);
        if notifications.as_ref().map(|n| n.root) != root {
            notifications = root.and_then(|root| subscribe(dir, root, sender.clone()));
            next_look = Instant::now();
        }
        let now = Instant::now();
        let mut found = Vec::new();
        if now >= next_look {
            folder.look(now, &mut found);
            if !is_scan_done && (!folder.is_unsettled() || now >= scan_ends_by) {
                is_scan_done = true;
                found.push(Change::ScanDone);
            }
            next_look = now + if folder.is_unsettled() { LOOK_AGAIN } else { LOOK_EVERY };
        }
        folder.take_closed(now, &mut found);
        folder.bury(now, &mut found);
        let tick = if folder.has_closed() { TICK_CLOSED } else { TICK };
        let wait = tick.min(next_look.saturating_duration_since(now));
        match events.recv_timeout(wait) {
            Ok(event) => {
                for event in std::iter::once(event).chain(events.try_iter()) {
                    if take(&mut folder, &event) {
                        next_look = next_look.min(Instant::now() + LOOK_SOON);
                    }
                    if event.is_some_and(|event| event.kind.is_remove() && event.paths.iter().any(|p| p == dir)) {
                        notifications = None;
                    }
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if found.into_iter().any(|change| changes.send(change).is_err()) {
            return;
        }
    }
}

fn subscribe(dir: &Path, root: (u64, u64), sender: Sender<Option<notify::Event>>) -> Option<Notifications> {
    let handler = move |event: notify::Result<notify::Event>| {
        // Nobody listens any more: the watcher is being dropped.
        sender.send(event.ok()).ok();
    };
    let subscribed = notify::recommended_watcher(handler)
        .and_then(|mut watcher| watcher.watch(dir, RecursiveMode::Recursive).map(|()| watcher));
    match subscribed {
        Ok(watcher) => Some(Notifications { _watcher: watcher, root }),
        Err(error) => {
            tracing::warn!(%error, dir = %dir.display(), "no notifications for the plugins folder; it is looked at every 5 s");
            None
        }
    }
}

/// Takes one notification; says whether the whole folder must be looked at soon.
fn take(folder: &mut Folder, event: &Option<notify::Event>) -> bool {
    let now = Instant::now();
    let Some(event) = event.as_ref().filter(|event| !event.need_rescan()) else {
        return true;
    };
    let mut look = false;
    for path in &event.paths {
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                folder.closed(path, now);
                look |= path.is_dir();
            }
            EventKind::Create(_) if path.is_dir() => look = true,
            EventKind::Create(_) if !folder::will_be_closed(path) => look = true,
            EventKind::Create(_) | EventKind::Modify(ModifyKind::Data(_)) => folder.written(path, now),
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                folder.gone(path, now);
                look = true;
            }
            _ => {}
        }
    }
    look
}
