//! Compiles and checks components one at a time, off the control thread and off the data path.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;

use phronis_core::{PluginId, code};
use phronis_engine::{Component, Engine};

use super::shelf::component_path;
use super::{Mailbox, Message, Problem};

/// A component to load.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) id: PluginId,
    pub(crate) bytes: Arc<[u8]>,
    /// Whether this is the last good version from the shelf, not the file in the folder.
    pub(crate) is_fallback: bool,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) id: PluginId,
    pub(crate) bytes: Arc<[u8]>,
    pub(crate) is_fallback: bool,
    pub(crate) result: Result<Component, Problem>,
}

/// Loads versions from the shelf for somebody who waits for them, on that one's own thread.
#[derive(Clone)]
pub(crate) struct Shelved {
    pub(crate) engine: Engine,
    pub(crate) dir: PathBuf,
}

impl Shelved {
    /// A version that is kept; the caller knows that it is.
    ///
    /// # Errors
    /// It is not there any more, or does not load.
    pub(crate) fn load(&self, digest: &str) -> Result<Component, Problem> {
        let read = std::fs::read(component_path(&self.dir, digest));
        let bytes = read.map_err(|error| Problem {
            code: code::LETTER_VERSION_GONE,
            message: format!("the version {digest} cannot be read from the shelf: {error}"),
        })?;
        load_one(&self.engine, &bytes)
    }
}

/// Starts the loader; it ends when the sender is dropped.
pub(crate) fn start(engine: Engine, mailbox: Mailbox) -> std::io::Result<mpsc::Sender<Load>> {
    let (sender, receiver) = mpsc::channel::<Load>();
    thread::Builder::new().name("plugin-loader".into()).spawn(move || {
        let mut waiting: Vec<Load> = Vec::new();
        while let Ok(first) = receiver.recv() {
            waiting.push(first);
            while let Some(load) = next(&mut waiting, &receiver) {
                let result = load_one(&engine, &load.bytes);
                let loaded = Loaded { id: load.id, bytes: load.bytes, is_fallback: load.is_fallback, result };
                if mailbox.send(Message::Loaded(loaded)).is_err() {
                    return;
                }
            }
        }
    })?;
    Ok(sender)
}

/// The next one in turn; of several for one plugin only the newest.
fn next(waiting: &mut Vec<Load>, receiver: &mpsc::Receiver<Load>) -> Option<Load> {
    for load in receiver.try_iter() {
        waiting.retain(|other| other.id != load.id);
        waiting.push(load);
    }
    (!waiting.is_empty()).then(|| waiting.remove(0))
}

/// Hostile input goes in here: a panic of a compiler must not take the host's plugins with it.
fn load_one(engine: &Engine, bytes: &[u8]) -> Result<Component, Problem> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine.load(bytes))) {
        Ok(Ok(component)) => Ok(component),
        Ok(Err(refusal)) => Err(Problem { code: refusal.code, message: refusal.message }),
        Err(_) => Err(Problem { code: code::COMPILE_FAILED, message: "the component made the checker panic".into() }),
    }
}
