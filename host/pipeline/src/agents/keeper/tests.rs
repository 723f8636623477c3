//! What the keeper does in one turn, by clocks that the tests set.

use phronis_core::agent::Scope;

use super::super::Halt;
use super::super::tests::{Room, block, halt, key};
use super::*;

fn keeper(room: &Room) -> Keeper {
    Keeper { registry: Arc::clone(&room.registry), should_stop: Arc::default() }
}

/// Seconds of the wall clock.
fn wall(seconds: i64) -> Time {
    Time(seconds * 1_000_000)
}

fn halted(version: u64, until: i64) -> Record {
    Record {
        tenant: "default".parse().unwrap(),
        scope: Scope::Agent("a".to_owned()),
        state: State::Halted,
        version,
        reason: "it loops".to_owned(),
        actor: "ann".to_owned(),
        cause: None,
        cause_at: None,
        at: wall(0),
        expires_at: Some(wall(until)),
        is_replicated: true,
    }
}

#[test]
fn no_clock_that_jumps_ends_a_halt_early() {
    let room = Room::new();
    let (keeper, mut memory, begin) = (keeper(&room), Memory::default(), Instant::now());
    let mut holds = |at_wall: i64, at_steady: u64| {
        keeper.let_go(&mut memory, wall(at_wall), begin + Duration::from_secs(at_steady));
        room.state("a") == State::Halted
    };
    room.registry.take(halted(1, 1000));
    assert!(holds(0, 0));
    assert!(holds(5000, 999), "the wall clock was set ahead");
    assert!(holds(-5000, 1001), "and back");
    assert!(holds(999, 9000));
    assert!(!holds(1000, 9001), "both say so");
    assert!(!holds(10, 9002), "what is over stays over");

    // Halted anew, for a while that ends before the other did: the wall clock is still back.
    room.registry.take(halted(2, 500));
    assert!(holds(10, 9010));
    assert!(holds(600, 9499));
    assert!(!holds(600, 9500));

    // Of two that hold, the one that the store does not know yet lasts longer.
    room.registry.take(Record { is_replicated: false, ..halted(3, 2000) });
    room.registry.take(halted(4, 1000));
    assert!(holds(900, 20_000));
    assert!(holds(5000, 20_200), "the wall clock was set ahead");
    assert!(!holds(5000, 21_100));
}

#[test]
fn a_slow_store_is_asked_about_one_word_a_turn_and_told_of_one_end() {
    let room = Room::new();
    let keeper = keeper(&room);
    for agent in ["a", "b", "c"] {
        room.halt(halt(agent)).unwrap();
    }
    for agent in ["x", "y"] {
        room.halt(Halt { expires_at: Some(wall(1)), ..halt(agent) }).unwrap();
    }
    let keys = |agents: &[&str]| agents.iter().map(|agent| key(agent)).collect::<BTreeSet<Key>>();
    let left = || {
        let work = room.registry.lock();
        (work.unsure.clone(), work.over.clone())
    };
    {
        let mut work = room.registry.lock();
        (work.unsure, work.over) = (keys(&["a", "b", "c"]), keys(&["x", "y"]));
    }
    block(keeper.make_sure(Duration::ZERO)).unwrap();
    assert_eq!(left(), (keys(&["b", "c"]), keys(&["y"])));
    assert_eq!(room.history("x").first(), Some(&(State::Running, "phronis".to_owned())));
    block(keeper.make_sure(Duration::MAX)).unwrap();
    assert_eq!(left(), (keys(&[]), keys(&[])));
}

#[test]
fn a_reset_that_the_store_has_and_nobody_was_told_is_learned() {
    let room = Room::new();
    let keeper = keeper(&room);
    let halted = room.halt(halt("a")).unwrap().record;
    // Its call was given up, and carried out.
    let reset = Record { state: State::Running, version: 2, actor: "bob".to_owned(), ..Record::clone(&halted) };
    block(room.registry.store.set_agent(&reset, 1)).unwrap();
    {
        let mut work = room.registry.lock();
        work.unsaid.clear();
        work.unsure.insert(key("a"));
    }
    block(keeper.make_sure(Duration::ZERO)).unwrap();
    assert_eq!(room.state("a"), State::Running);
    assert!(room.registry.lock().unsaid.contains(&key("a")), "other hosts hear of it");
    let audit = block(room.registry.store.audit(&phronis_store::audit::Filter::default(), 10, None)).unwrap();
    assert_eq!(audit.items.first().map(|entry| entry.action.as_str()), Some("agent.reset"));
}
