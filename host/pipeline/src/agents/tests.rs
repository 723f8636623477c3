//! A registry with a store in a file or none that answers, and a log that takes nothing: whatever is durable here is so without it.

use std::path::Path;
use std::sync::LazyLock;
use std::thread::JoinHandle;

use phronis_core::delivery::Delivery;
use phronis_log::Ticket;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

struct Deaf;

impl Sink for Deaf {
    fn submit(&self, _: Delivery) -> phronis_log::Result<Ticket> {
        Err(phronis_log::Error::Unreachable { reason: "no broker answers".to_owned() })
    }

    fn try_submit(&self, delivery: Delivery) -> phronis_log::Result<Ticket> {
        self.submit(delivery)
    }
}

/// A registry whose file is written.
pub(super) struct Room {
    pub(super) folder: TempDir,
    pub(super) registry: Arc<Registry>,
    should_stop: Arc<AtomicBool>,
    file: Option<JoinHandle<()>>,
}

impl Room {
    pub(super) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let store = phronis_store::conformance::local(folder.path());
        let file = folder.path().join("agents.halted");
        Self::of(folder, store, &file)
    }

    fn of(folder: TempDir, store: Store, file: &Path) -> Self {
        let (live, _) = broadcast::channel(16);
        let registry = Arc::new(Registry::open(file.to_owned(), "e".to_owned(), store, Arc::new(Deaf), live));
        let should_stop = Arc::new(AtomicBool::new(false));
        let (own, stop) = (Arc::clone(&registry), Arc::clone(&should_stop));
        let file = Some(std::thread::spawn(move || own.keep_file(&stop)));
        Self { folder, registry, should_stop, file }
    }

    pub(super) fn state(&self, agent: &str) -> State {
        self.registry.status(&key(agent)).state()
    }

    pub(super) fn halt(&self, halt: Halt) -> Result<Outcome, Refusal> {
        block(self.registry.halt(halt))
    }

    fn reset(&self, agent: &str) -> Result<Outcome, Refusal> {
        let (reason, actor) = ("mended".to_owned(), "bob".to_owned());
        block(self.registry.reset(Reset { key: key(agent), reason, actor, if_version: None }))
    }

    /// What was done, the newest first.
    pub(super) fn history(&self, agent: &str) -> Vec<(State, String)> {
        let past = block(self.registry.history(&key(agent), 100, None)).unwrap();
        past.items.into_iter().map(|record| (record.state, record.actor)).collect()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.should_stop.store(true, Ordering::Relaxed);
        if let Some(file) = self.file.take() {
            file.join().unwrap();
        }
    }
}

pub(super) fn block<T>(call: impl Future<Output = T>) -> T {
    RUNTIME.block_on(call)
}

pub(super) fn key(agent: &str) -> Key {
    Key::agent("default".parse().unwrap(), agent)
}

/// A halt by a person.
pub(super) fn halt(agent: &str) -> Halt {
    let (reason, actor) = ("it loops".to_owned(), "ann".to_owned());
    Halt { key: key(agent), reason, actor, cause: None, cause_at: None, expires_at: None, if_version: None }
}

/// A halt by the alert of this number, about a record of this time.
fn by_alert(agent: &str, alert: u8, at: i64) -> Halt {
    Halt { actor: "hot".to_owned(), cause: Some(Id([alert; 16])), cause_at: Some(Time(at)), ..halt(agent) }
}

#[test]
fn a_halt_by_an_alert_that_is_written_down_nowhere_is_begun_again_until_it_is() {
    let folder = TempDir::new().unwrap();
    let url = "postgres://phronis@127.0.0.1:9/phronis".parse().unwrap();
    let options = phronis_store::Options::Postgres(phronis_store::Postgres::new(url));
    let store = block(Store::open(&options)).unwrap();
    let gone = folder.path().join("gone");
    let room = Room::of(folder, store, &gone.join("agents.halted"));
    let begin = || room.registry.begin(by_alert("wild", 1, 7));
    let finish = |begun| block(room.registry.finish(begun));
    for _ in 0..2 {
        let begun = begin().unwrap();
        assert_eq!(room.state("wild"), State::Halted);
        assert!(begin().is_err(), "once in a batch");
        assert!(matches!(finish(begun), Err(Refusal::NotDurable(_))));
    }
    std::fs::create_dir(&gone).unwrap();
    let outcome = finish(begin().unwrap()).unwrap();
    assert_eq!((outcome.is_replicated, outcome.record.version), (false, 1), "the same halt, in the file");
    assert!(begin().is_err(), "it is durable");
}

#[test]
fn an_alert_halts_once_and_one_of_its_id_about_another_record_halts_too() {
    let room = Room::new();
    assert!(room.halt(by_alert("a", 1, 7)).unwrap().is_replicated);
    assert!(room.reset("a").unwrap().is_news);
    assert!(!room.halt(by_alert("a", 1, 7)).unwrap().is_news);
    assert_eq!(room.state("a"), State::Running);
    // Raw was made anew. Whether the clock of whoever wrote the record is right does not matter.
    for (at, halts) in [(8, 2), (6, 3), (i64::MAX, 4)] {
        let outcome = room.halt(by_alert("a", 1, at)).unwrap();
        assert!(outcome.is_news && outcome.is_replicated, "{at}");
        assert_eq!(room.state("a"), State::Halted, "{at}");
        assert_eq!(room.history("a").iter().filter(|(state, _)| *state == State::Halted).count(), halts);
        assert!(room.reset("a").unwrap().is_news);
    }

    // The next start of the host has the store alone.
    let file = room.folder.path().join("next.halted");
    let next = Room::of(TempDir::new().unwrap(), room.registry.store.clone(), &file);
    assert!(!next.halt(by_alert("a", 1, 8)).unwrap().is_news);
    assert_eq!(next.state("a"), State::Running, "the store knows that it was reset since");
    assert!(next.halt(by_alert("a", 1, 9)).unwrap().is_news);
    assert_eq!(next.state("a"), State::Halted);
}

#[test]
fn what_is_not_in_the_store_is_never_called_replicated() {
    let room = Room::new();
    room.halt(by_alert("a", 1, 7)).unwrap();
    // The event names another agent now.
    let outcome = room.halt(by_alert("b", 1, 7)).unwrap();
    assert!(!outcome.is_replicated && outcome.is_news);
    assert_eq!(room.state("b"), State::Halted);
}
