//! The kill switch on whole pipelines: what was halted stays halted, whatever is lost or away, and nobody is let go by a guess.

use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;

use phronis_core::Time;
use phronis_core::agent::{Key, Record, State};
use phronis_pipeline::agents::{Agents, Halt, Outcome, Refusal, Reset};
use phronis_pipeline::{Options, Pipeline};
use phronis_store::Store;
use phronis_store::agents::Set;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::room::{Room, eventually};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

fn key(agent: &str) -> Key {
    Key::agent("default".parse().unwrap(), agent)
}

fn halt(agents: &Agents, agent: &str) -> Result<Outcome, Refusal> {
    halt_until(agents, agent, None)
}

fn halt_until(agents: &Agents, agent: &str, expires_at: Option<Time>) -> Result<Outcome, Refusal> {
    let (reason, actor) = ("it loops".to_owned(), "ann".to_owned());
    let key = key(agent);
    RUNTIME.block_on(agents.halt(Halt {
        key,
        reason,
        actor,
        cause: None,
        cause_at: None,
        expires_at,
        if_version: None,
    }))
}

fn reset(agents: &Agents, agent: &str, if_version: Option<u64>) -> Result<Outcome, Refusal> {
    let (reason, actor) = ("it is mended".to_owned(), "bob".to_owned());
    RUNTIME.block_on(agents.reset(Reset { key: key(agent), reason, actor, if_version }))
}

fn state(agents: &Agents, agent: &str) -> Option<State> {
    agents.status(&key(agent)).ok().map(|status| status.state())
}

fn history(store: &Store, agent: &str) -> Vec<(State, String)> {
    let page = RUNTIME.block_on(store.agent_history(&key(agent), 100, None)).unwrap();
    page.items.into_iter().map(|record| (record.state, record.actor)).collect()
}

/// A host, and the kill switch of it, when it knows who is halted.
fn start(room: &Room, options: Options) -> (Pipeline, Agents) {
    let pipeline = room.start(options);
    let agents = pipeline.handle().agents();
    eventually("it knows who is halted", || state(&agents, "nobody").is_some());
    (pipeline, agents)
}

/// A database that never answers: the discard port of this machine.
fn away() -> Store {
    let url = "postgres://phronis@127.0.0.1:9/phronis".parse().unwrap();
    let options = phronis_store::Options::Postgres(phronis_store::Postgres::new(url));
    RUNTIME.block_on(Store::open(&options)).unwrap()
}

fn without_store(room: &Room, node: &str) -> Options {
    Options { store: away(), ..room.options(node) }
}

fn remove(path: &Path) {
    std::fs::remove_file(path).unwrap();
    // What SQLite keeps beside its file belongs to it.
    for beside in ["-wal", "-shm"] {
        drop(std::fs::remove_file(format!("{}{beside}", path.display())));
    }
}

#[test]
fn what_was_halted_stays_halted_whichever_copies_are_lost() {
    let room = Room::new();
    let (pipeline, agents) = start(&room, room.options("a"));
    assert_eq!(state(&agents, "a1"), Some(State::Running));
    let outcome = halt(&agents, "a1").unwrap();
    assert!(outcome.is_replicated && outcome.is_news && outcome.record.version == 1);
    assert_eq!(state(&agents, "a1"), Some(State::Halted));
    pipeline.stop();
    drop(agents);

    let (file, database) = (room.folder.path().join("a/agents.halted"), room.folder.path().join("a/store.sqlite"));
    let none: &[&Path] = &[];
    for lost in [none, &[&file], &[&database], &[&file, &database]] {
        lost.iter().for_each(|path| remove(path));
        let options = room.options("a");
        let truth = options.store.clone();
        let (pipeline, agents) = start(&room, options);
        assert_eq!(state(&agents, "a1"), Some(State::Halted), "without {lost:?}, from the first answer on");
        eventually("all copies have it again", || RUNTIME.block_on(truth.halts()).unwrap().len() == 1 && file.exists());
        pipeline.stop();
    }
    std::fs::write(&file, "phronis-agents 1 3 00\nabc").unwrap();
    let (pipeline, agents) = start(&room, without_store(&room, "a"));
    assert_eq!(state(&agents, "a1"), Some(State::Halted), "a damaged file, and no store");
    pipeline.stop();
}

#[test]
fn without_the_store_halts_hold_and_are_written_back_and_nobody_is_reset() {
    let room = Room::new();
    let (pipeline, agents) = start(&room, room.options("a"));
    halt(&agents, "old").unwrap();
    pipeline.stop();

    let (pipeline, agents) = start(&room, without_store(&room, "a"));
    assert_eq!(state(&agents, "old"), Some(State::Halted));
    let outcome = halt(&agents, "new").unwrap();
    assert!(!outcome.is_replicated && outcome.is_news);
    for agent in ["old", "new"] {
        assert!(matches!(reset(&agents, agent, None), Err(Refusal::StoreAway(_))));
        assert_eq!(state(&agents, agent), Some(State::Halted));
    }
    pipeline.stop();

    // Meanwhile someone who never heard of it resets it elsewhere.
    let elsewhere = room.options("a").store;
    let mut word = agents.status(&key("new")).unwrap().record.unwrap().as_ref().clone();
    (word.state, word.version, word.actor, word.is_replicated) = (State::Running, 7, "eve".to_owned(), true);
    RUNTIME.block_on(elsewhere.set_agent(&word, 0)).unwrap();

    let (pipeline, agents) = start(&room, room.options("a"));
    assert_eq!(state(&agents, "new"), Some(State::Halted), "the store knows only of the reset");
    eventually("it is written back", || history(&elsewhere, "new").first() == Some(&(State::Halted, "ann".to_owned())));
    let status = agents.status(&key("new")).unwrap();
    eventually("memory knows", || agents.status(&key("new")).unwrap().version() == 8);
    assert_eq!(status.state(), State::Halted);
    let outcome = reset(&agents, "new", Some(8)).unwrap();
    assert_eq!((outcome.record.version, outcome.is_replicated), (9, true));
    assert_eq!(state(&agents, "new"), Some(State::Running));
    assert_eq!(state(&agents, "old"), Some(State::Halted));
    pipeline.stop();
    let (pipeline, agents) = start(&room, room.options("a"));
    // A file that was written late may hold it for a moment: the store knows better.
    eventually("a reset stays one", || state(&agents, "new") == Some(State::Running));
    pipeline.stop();
}

#[test]
fn two_operators_at_once_do_not_undo_each_other_unseen() {
    let room = Room::new();
    let (pipeline, agents) = start(&room, room.options("a"));
    assert!(matches!(reset(&agents, "never-seen", None), Err(Refusal::Unknown)));
    halt(&agents, "a1").unwrap();
    halt(&agents, "a1").unwrap();
    let Err(Refusal::Changed(current)) = reset(&agents, "a1", Some(1)) else { panic!("must be refused") };
    assert_eq!((current.version, current.state), (2, State::Halted));
    assert!(reset(&agents, "a1", Some(2)).unwrap().is_news);
    assert!(!reset(&agents, "a1", None).unwrap().is_news, "it runs already");
    let again = Halt {
        key: key("a1"),
        reason: "again".into(),
        actor: "ann".into(),
        cause: None,
        cause_at: None,
        expires_at: None,
        if_version: Some(1),
    };
    assert!(matches!(RUNTIME.block_on(agents.halt(again)), Err(Refusal::Changed(_))));
    assert_eq!(state(&agents, "a1"), Some(State::Running), "a halt that is refused halts nobody");
    pipeline.stop();
}

#[test]
fn every_host_knows_and_any_of_them_resets() {
    let room = Room::new();
    let (first, a) = start(&room, room.options("a"));
    let (second, b) = start(&room, room.options("b"));
    let mut watch = b.watch(&"default".parse().unwrap()).unwrap();
    halt(&a, "a1").unwrap();
    eventually("the other host knows", || state(&b, "a1") == Some(State::Halted));
    let change = watch.changes.try_recv().unwrap();
    assert_eq!((change.version, change.agent.as_deref(), change.state), (1, Some("a1"), State::Halted));
    // Its own SQLite has never heard of it.
    assert!(reset(&b, "a1", None).unwrap().is_news);
    eventually("the first host knows", || state(&a, "a1") == Some(State::Running));
    assert_eq!(watch.changes.try_recv().unwrap().state, State::Running);
    first.stop();
    second.stop();
}

#[test]
fn a_host_that_was_down_answers_nobody_before_it_heard_of_the_halts_of_others() {
    let room = Room::new();
    start(&room, room.options("a")).0.stop();
    // Its own file and its own store say that nobody is halted. Meanwhile another host halts.
    let (other, b) = start(&room, room.options("b"));
    halt(&b, "a1").unwrap();
    other.stop();
    let (pipeline, agents) = start(&room, room.options("a"));
    assert_eq!(state(&agents, "a1"), Some(State::Halted), "from the first answer on");
    pipeline.stop();
}

#[test]
fn a_host_whose_log_and_store_are_away_answers_with_what_it_knew() {
    let room = Room::new();
    let (pipeline, agents) = start(&room, room.options("a"));
    halt(&agents, "a1").unwrap();
    pipeline.stop();
    room.away.is_away.store(true, Ordering::Relaxed);
    let (pipeline, agents) = start(&room, without_store(&room, "a"));
    assert_eq!(state(&agents, "a1"), Some(State::Halted));
    assert_eq!(state(&agents, "a2"), Some(State::Running));
    pipeline.stop();
}

#[test]
fn a_reset_that_only_the_store_has_is_told_by_the_next_start() {
    let room = Room::new();
    let (first, a) = start(&room, room.options("a"));
    let (second, b) = start(&room, room.options("b"));
    let halted = halt(&a, "a1").unwrap().record;
    eventually("the other host knows", || state(&b, "a1") == Some(State::Halted));
    first.stop();
    drop(a);
    // As a host leaves it that is killed as soon as the store has its reset.
    let options = room.options("a");
    let running = Record { state: State::Running, version: halted.version + 1, ..Record::clone(&halted) };
    assert!(matches!(RUNTIME.block_on(options.store.set_agent(&running, halted.version)).unwrap(), Set::Stored));
    // Without its file it reads the halt from the control topic first, and then asks the store.
    remove(&room.folder.path().join("a/agents.halted"));
    let (first, _a) = start(&room, options);
    eventually("the other host knows that as well", || state(&b, "a1") == Some(State::Running));
    first.stop();
    second.stop();
}

#[test]
fn a_halt_ends_by_itself_and_that_is_written_down() {
    let room = Room::new();
    let options = room.options("a");
    let truth = options.store.clone();
    let (pipeline, agents) = start(&room, options);
    let mut watch = agents.watch(&"default".parse().unwrap()).unwrap();
    let soon = std::time::SystemTime::now() + std::time::Duration::from_millis(300);
    let soon = soon.duration_since(std::time::UNIX_EPOCH).unwrap().as_micros();
    halt_until(&agents, "short", Some(Time(i64::try_from(soon).unwrap()))).unwrap();
    halt_until(&agents, "long", Some(Time(i64::MAX))).unwrap();
    eventually("it is let go", || state(&agents, "short") == Some(State::Running));
    // It was halted before, however late this machine is: the end of a halt is told after its beginning.
    let mut short = Vec::new();
    while let Ok(change) = watch.changes.try_recv() {
        short.extend(Some(change.state).filter(|_| change.agent.as_deref() == Some("short")));
    }
    assert_eq!(short, [State::Halted, State::Running]);
    let told = [(State::Running, "phronis".to_owned()), (State::Halted, "ann".to_owned())];
    eventually("that is written down", || history(&truth, "short") == told);
    assert_eq!(state(&agents, "long"), Some(State::Halted));
    pipeline.stop();
}

#[test]
fn an_alert_halts_its_agent_once() {
    let room = Room::new();
    let options = || {
        let mut options = room.options("a");
        options.streams[0].may_halt.insert("hot".parse().unwrap());
        options
    };
    let alert = |id: &str, agent: Option<&str>, halt: bool| {
        let value = json!({
            "id": id.repeat(32), "rule": "too-many", "message": "501 calls in a minute", "agent": agent, "halt": halt,
            "plugin": {"name": "hot"}, "severity": "critical",
        });
        room.append("phronis.alerts", "k", Some(&value.to_string()));
    };
    let (pipeline, agents) = start(&room, options());
    alert("1", Some("calm"), false);
    alert("2", None, true);
    alert("3", Some("wild"), true);
    alert("4", Some("wild"), true);
    // What comes after it was read: the fourth alert was heard before the reset.
    alert("8", Some("last"), true);
    eventually("all of them were read", || state(&agents, "last") == Some(State::Halted));
    eventually("the alert halts", || state(&agents, "wild") == Some(State::Halted));
    let halt = agents.status(&key("wild")).unwrap().halt.unwrap();
    assert_eq!(
        (halt.reason.as_str(), halt.actor.as_str()),
        ("too-many: 501 calls in a minute", "plugin default/sensors/hot")
    );
    assert_eq!(halt.cause.unwrap().to_string(), "3".repeat(32));
    assert_eq!(state(&agents, "calm"), Some(State::Running));
    eventually("the store has it", || agents.status(&key("wild")).unwrap().record.unwrap().is_replicated);
    reset(&agents, "wild", None).unwrap();

    // Read again, on this host and on the next one, it does nothing; another does.
    for other in ["5", "6"] {
        alert("3", Some("wild"), true);
        alert(other, Some(other), true);
        eventually("the next alert halts", || state(&agents, other) == Some(State::Halted));
        assert_eq!(state(&agents, "wild"), Some(State::Running));
    }
    pipeline.stop();
    let options = options();
    let truth = options.store.clone();
    let (pipeline, agents) = start(&room, options);
    alert("3", Some("wild"), true);
    alert("7", Some("7"), true);
    eventually("the next alert halts", || state(&agents, "7") == Some(State::Halted));
    eventually("the store has said so", || state(&agents, "wild") == Some(State::Running));
    let halts = history(&truth, "wild").iter().filter(|(state, _)| *state == State::Halted).count();
    assert_eq!(halts, 1);
    pipeline.stop();
}

#[test]
fn an_alert_about_a_raw_that_was_made_anew_halts_although_one_of_its_id_has() {
    let room = Room::new();
    let mut options = room.options("a");
    options.streams[0].may_halt.insert("hot".parse().unwrap());
    let truth = options.store.clone();
    let (pipeline, agents) = start(&room, options);
    let alert = |id: &str, agent: &str, at: &str| {
        let value = json!({
            "id": id.repeat(32), "rule": "too-many", "message": "501 calls in a minute", "agent": agent, "halt": true,
            "plugin": {"name": "hot"}, "origin": {"topic": "phronis.raw.events", "partition": 0, "offset": 3, "timestamp": at},
        });
        room.append("phronis.alerts", "k", Some(&value.to_string()));
    };
    let (first, second) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
    alert("3", "wild", first);
    eventually("the alert halts", || {
        agents.status(&key("wild")).unwrap().record.is_some_and(|word| word.is_replicated)
    });
    reset(&agents, "wild", None).unwrap();
    alert("3", "wild", first);
    alert("4", "last", first);
    eventually("both were read", || state(&agents, "last") == Some(State::Halted));
    assert_eq!(state(&agents, "wild"), Some(State::Running), "the same alert halts once");
    alert("3", "wild", second);
    eventually("the other alert halts", || state(&agents, "wild") == Some(State::Halted));
    eventually("the store has it", || history(&truth, "wild").len() == 3);
    pipeline.stop();
}
