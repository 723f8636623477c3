//! The clock of deadlines: a thread that counts epochs, one a millisecond, and sleeps while no guest runs.
//!
//! Started with the first call. Apart from the engine so that the races between going idle and the next call stand in
//! one small file.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// One epoch.
const TICK: Duration = Duration::from_millis(1);

/// How long without a call until the thread sleeps; it then costs nothing.
const IDLE_AFTER: u32 = 100;

/// At most so many epochs pass at one wake-up: a process that was stopped for an hour does not kill its guests.
const CATCH_UP: u128 = 4;

/// Counts epochs of one engine.
#[derive(Debug)]
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: OnceLock<Option<Thread>>,
    engine: wasmtime::Engine,
}

#[derive(Debug, Default)]
struct Shared {
    running: AtomicUsize,
    parked: AtomicBool,
}

/// A call in progress; epochs pass while one exists.
#[derive(Debug)]
pub(crate) struct Running<'a>(&'a Shared);

impl Ticker {
    pub(crate) fn new(engine: &wasmtime::Engine) -> Self {
        Self { shared: Arc::default(), thread: OnceLock::new(), engine: engine.clone() }
    }

    /// Makes epochs pass until the answer is dropped.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started: without it no deadline would hold, so no guest may run.
    pub(crate) fn run(&self) -> Result<Running<'_>, &'static str> {
        self.shared.running.fetch_add(1, SeqCst);
        let running = Running(&self.shared);
        let thread = self.thread.get_or_init(|| {
            let (shared, engine) = (Arc::downgrade(&self.shared), self.engine.weak());
            let spawned = std::thread::Builder::new().name("engine-ticker".to_owned());
            spawned.spawn(move || tick(&shared, &engine)).ok().map(|handle| handle.thread().clone())
        });
        let Some(thread) = thread else { return Err("the deadline thread cannot be started") };
        if self.shared.parked.load(SeqCst) {
            thread.unpark();
        }
        Ok(running)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        if let Some(Some(thread)) = self.thread.get() {
            thread.unpark();
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

fn tick(shared: &Weak<Shared>, engine: &wasmtime::EngineWeak) {
    let mut idle = 0;
    let mut last = Instant::now();
    loop {
        std::thread::sleep(TICK);
        let (Some(shared), Some(engine)) = (shared.upgrade(), engine.upgrade()) else { return };
        let passed = last.elapsed().as_millis().min(CATCH_UP);
        if passed > 0 {
            last = Instant::now();
            (0..passed).for_each(|_| engine.increment_epoch());
        }
        idle = if shared.running.load(SeqCst) == 0 { idle + 1 } else { 0 };
        if idle >= IDLE_AFTER {
            park(shared, engine);
            idle = 0;
            last = Instant::now();
        }
    }
}

/// Sleeps until the next call. A call that begins between the two looks at `running` sees `parked` and wakes us.
fn park(shared: Arc<Shared>, engine: wasmtime::Engine) {
    shared.parked.store(true, SeqCst);
    let weak = Arc::downgrade(&shared);
    let begun = shared.running.load(SeqCst) > 0;
    drop((shared, engine));
    if !begun && weak.strong_count() > 0 {
        std::thread::park();
    }
    if let Some(shared) = weak.upgrade() {
        shared.parked.store(false, SeqCst);
    }
}
