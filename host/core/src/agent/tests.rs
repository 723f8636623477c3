//! What must hold of halts, whatever hosts hear in whatever order.

use proptest::prelude::*;

use super::*;

fn record(state: State, version: u64) -> Record {
    Record {
        tenant: "default".parse().unwrap(),
        scope: Scope::Agent("a1".into()),
        state,
        version,
        reason: "too many calls".into(),
        actor: "ann".into(),
        cause: None,
        cause_at: None,
        at: Time(1_000),
        expires_at: None,
        is_replicated: true,
    }
}

fn records() -> impl Strategy<Value = Record> {
    let texts = prop::sample::select(vec!["", "a", "b"]);
    (0..4_u64, any::<bool>(), texts.clone(), texts, 0..3_i64, prop::option::of(0..3_i64), any::<bool>(), 0..3_u8)
        .prop_map(|(version, is_halted, reason, actor, at, expires_at, is_replicated, cause)| Record {
            version,
            state: if is_halted { State::Halted } else { State::Running },
            reason: reason.to_owned(),
            actor: actor.to_owned(),
            at: Time(at),
            expires_at: expires_at.map(Time),
            is_replicated,
            cause: (cause > 0).then_some(Id([cause; 16])),
            cause_at: (cause > 1).then_some(Time(cause.into())),
            ..record(State::Running, 0)
        })
}

proptest! {
    #[test]
    fn hosts_agree_in_whatever_order_they_hear(a in records(), b in records(), c in records()) {
        let both = merge(a.clone(), b.clone());
        prop_assert_eq!(&both, &merge(b.clone(), a.clone()));
        prop_assert_eq!(merge(both.clone(), c.clone()), merge(a.clone(), merge(b.clone(), c)));
        prop_assert_eq!(&merge(a.clone(), a.clone()), &a);
        prop_assert_eq!(&merge(both.clone(), a.clone()), &both);
        prop_assert_eq!(both.version, a.version.max(b.version));
        if a.version == b.version && a.state != b.state {
            prop_assert_eq!(both.state, State::Halted);
        }
    }

    #[test]
    fn an_acknowledged_halt_reaches_the_store_whatever_that_has(ours in records(), theirs in prop::option::of(records())) {
        let ours = Record { state: State::Halted, is_replicated: false, ..ours };
        match write_back(&ours, theirs.as_ref(), false) {
            WriteBack::Set(told, expected) => {
                prop_assert_eq!(expected, theirs.as_ref().map_or(0, |theirs| theirs.version));
                prop_assert!(told.is_same_change(&ours) && told.is_replicated);
                prop_assert!(told.version > expected);
            }
            WriteBack::Nothing => {
                let theirs = theirs.unwrap();
                prop_assert!(theirs.state == State::Halted && lasts(&theirs) >= lasts(&ours));
            }
        }
        prop_assert_eq!(write_back(&ours, Some(&record(State::Running, 9)), true), WriteBack::Nothing);
    }

    #[test]
    fn what_is_replicated_never_goes_over_a_higher_version(ours in records(), theirs in records()) {
        let ours = Record { is_replicated: true, ..ours };
        if let WriteBack::Set(told, expected) = write_back(&ours, Some(&theirs), false) {
            prop_assert_eq!((told.version, expected), (ours.version, theirs.version));
            prop_assert!(ours.version > theirs.version);
        }
    }

    #[test]
    fn a_record_reads_as_it_was_written(record in records()) {
        let json = serde_json::to_string(&record).unwrap();
        prop_assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
    }
}

#[test]
fn the_highest_version_wins_then_the_halt_then_the_longer_one() {
    use State::{Halted, Running};
    let until = |record: Record, at: i64| Record { expires_at: Some(Time(at)), ..record };
    for (one, other, wins) in [
        (record(Halted, 1), record(Running, 2), record(Running, 2)),
        (record(Halted, 2), record(Running, 2), record(Halted, 2)),
        (record(Running, 2), record(Halted, 1), record(Running, 2)),
        (until(record(Halted, 1), 5), record(Halted, 1), record(Halted, 1)),
        (until(record(Halted, 1), 5), until(record(Halted, 1), 6), until(record(Halted, 1), 6)),
        (
            Record { is_replicated: false, ..record(Halted, 1) },
            record(Halted, 1),
            Record { is_replicated: true, ..record(Halted, 1) },
        ),
    ] {
        assert_eq!(merge(one, other), wins);
    }
}

#[test]
fn a_halt_ends_at_its_time_and_not_before() {
    let halt = Record { expires_at: Some(Time(10)), ..record(State::Halted, 1) };
    for (now, is_halted) in [(0, true), (9, true), (10, false), (11, false)] {
        assert_eq!(halt.is_halted(Time(now)), is_halted, "{now}");
        assert_eq!(halt.is_expired(Time(now)), !is_halted, "{now}");
    }
    assert!(record(State::Halted, 1).is_halted(Time(i64::MAX)));
    let running = Record { expires_at: Some(Time(1)), ..record(State::Running, 1) };
    assert!(!running.is_halted(Time(0)) && !running.is_expired(Time(5)));
}

#[test]
fn a_reset_that_never_heard_of_a_halt_does_not_end_it() {
    let ours = Record { is_replicated: false, ..record(State::Halted, 5) };
    let reset = record(State::Running, 8);
    let WriteBack::Set(told, expected) = write_back(&ours, Some(&reset), false) else { panic!("must be told") };
    assert_eq!((told.version, told.state, expected), (9, State::Halted, 8));
    assert_eq!(write_back(&ours, Some(&reset), true), WriteBack::Nothing, "who reset had heard of it");
}

#[test]
fn keys_are_written_as_the_control_topic_has_them() {
    for (key, text) in [
        (Key::agent("acme".parse().unwrap(), "a/b c"), "agents/acme/a/b c"),
        (Key::tenant("acme".parse().unwrap()), "tenants/acme"),
    ] {
        assert_eq!(key.to_string(), text);
        assert_eq!(Key::parse(text), Some(key));
    }
    for other in ["hosts/a", "agents/x", "agents/No/x", "tenants/", "breakers/a/b/c/d"] {
        assert_eq!(Key::parse(other), None, "{other}");
    }
}

#[test]
fn the_json_is_as_its_readers_expect_it() {
    let json = serde_json::to_value(record(State::Halted, 3)).unwrap();
    let expected = serde_json::json!({
        "tenant": "default", "agent": "a1", "state": "halted", "version": 3, "reason": "too many calls", "actor": "ann",
        "cause": null, "cause_at": null, "at": "1970-01-01T00:00:00.001000Z", "expires_at": null, "is_replicated": true,
    });
    assert_eq!(json, expected);
    let whole: Record = serde_json::from_str(
        r#"{"tenant":"t","agent":null,"state":"running","version":1,"reason":"","actor":"","at":"2024-11-22T12:00:00Z","new":1}"#,
    )
    .unwrap();
    assert_eq!(whole.scope, Scope::Tenant);
    assert!(serde_json::from_str::<Record>(r#"{"tenant":"t","state":"halted"}"#).is_err());
}

#[test]
fn names_that_no_agent_can_have_are_refused() {
    assert!(check_name("billing-7").is_ok() && check_name(&"x".repeat(1024)).is_ok() && check_name("ä/ b").is_ok());
    for bad in ["", "a\nb", &"x".repeat(1025)] {
        assert!(check_name(bad).is_err(), "{bad:?}");
    }
}
