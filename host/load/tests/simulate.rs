//! The simulator keeps its promises about what is normal, faulty and malformed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops where something is wrong"
)]

use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::Value;

use phronis_load::simulate::{Agents, Event, Expect, Fault, FaultKind, Malformation, Sensors, Settings, Times};

const EVENTS: usize = 60_000;

fn settings(seed: u64) -> Settings {
    Settings { seed, malformed: 0.02, ..Settings::default() }
}

fn json(event: &Event) -> Value {
    serde_json::from_slice(&event.bytes).unwrap()
}

fn celsius(event: &Value) -> f64 {
    let value = event["value"].as_f64().unwrap();
    if event["unit"] == "F" { (value - 32.0) / 1.8 } else { value }
}

/// What a fault list must say, counted from the events alone.
fn check_faults(events: &[Event], faults: &[Fault]) {
    for fault in faults {
        let part: Vec<_> = events
            .iter()
            .filter(|event| event.key == fault.key && (fault.from_seq..=fault.to_seq).contains(&event.seq))
            .collect();
        assert!(!part.is_empty() && part.iter().all(|event| event.fault == Some(fault.kind)), "{fault:?}");
        assert_eq!(part.iter().filter(|event| event.is_fault).count() as u64, fault.over, "{fault:?}");
        if fault.kind.severity().is_none() {
            assert_eq!(fault.over, 0, "{fault:?}");
        }
    }
    let covered: u64 = faults.iter().map(|fault| fault.to_seq - fault.from_seq + 1).sum();
    assert_eq!(covered, events.iter().filter(|event| event.fault.is_some()).count() as u64);
    assert_eq!(
        faults.iter().map(|fault| fault.over).sum::<u64>(),
        events.iter().filter(|event| event.is_fault).count() as u64
    );
}

/// Each key counts without a gap and its time never runs back.
fn check_order(events: &[Event]) {
    let mut next: HashMap<&str, (u64, i64)> = HashMap::new();
    for event in events {
        let (seq, time) = next.entry(&event.key).or_default();
        assert_eq!(event.seq, *seq, "{}", event.key);
        assert!(event.time_ms >= *time);
        (*seq, *time) = (*seq + 1, event.time_ms);
    }
    assert!(events.iter().map(|event| event.at).is_sorted());
}

#[test]
fn a_threshold_between_warm_and_hot_finds_all_faults_and_nothing_else() {
    for seed in 0..5 {
        let mut sensors = Sensors::new(settings(seed));
        let events: Vec<_> = sensors.by_ref().take(EVENTS).collect();
        check_order(&events);
        check_faults(&events, sensors.faults());
        for event in events.iter().filter(|event| event.expect == Expect::Delivered) {
            let shown = json(event);
            assert_eq!((shown["sensor_id"].as_str(), shown["seq"].as_u64()), (Some(&*event.key), Some(event.seq)));
            assert_eq!(shown["ts"].as_i64(), Some(event.time_ms));
            let value = celsius(&shown);
            assert_eq!(value > 90.0, event.is_fault, "{shown}");
            match event.fault {
                None => assert!((20.0..Sensors::NORMAL_BELOW).contains(&value), "{shown}"),
                Some(_) => assert!(!(82.1..96.9).contains(&value), "{shown}"),
            }
        }
        for kind in [FaultKind::Overheat, FaultKind::Spike, FaultKind::Stuck, FaultKind::DropOut] {
            assert!(sensors.faults().iter().any(|fault| fault.kind == kind), "{kind:?}");
        }
        for fault in sensors.faults() {
            match fault.kind {
                FaultKind::Spike => assert!(fault.over > 0 && fault.peak >= 110.0),
                FaultKind::DropOut => assert!(fault.peak > 0.0 && fault.from_seq == fault.to_seq),
                FaultKind::Stuck => {
                    let part = events.iter().filter(|event| {
                        event.key == fault.key && event.seq >= fault.from_seq && event.seq <= fault.to_seq
                    });
                    let values: std::collections::HashSet<_> =
                        part.map(|event| json(event)["value"].to_string()).collect();
                    assert_eq!(values.len(), 1);
                }
                _ => {}
            }
        }
    }
}

#[test]
fn runaway_agents_cost_or_call_more_than_any_other() {
    let mut agents = Agents::new(settings(3));
    let events: Vec<_> = agents.by_ref().take(EVENTS).collect();
    check_order(&events);
    check_faults(&events, agents.faults());
    for event in events.iter().filter(|event| event.expect == Expect::Delivered) {
        let shown = json(event);
        let (cost, calls) =
            (shown["metadata"]["cost_usd"].as_f64().unwrap(), shown["metadata"]["calls_per_minute"].as_u64().unwrap());
        assert_eq!(shown["agent_id"], *event.key);
        assert_eq!(shown["metadata"]["seq"].as_u64(), Some(event.seq));
        assert_eq!(cost >= Agents::FAULT_COST_FROM, event.fault == Some(FaultKind::CostExplosion));
        assert_eq!(calls >= Agents::FAULT_CALLS_FROM, event.fault == Some(FaultKind::CallStorm));
        assert!(event.is_fault || (cost < Agents::NORMAL_COST_BELOW && calls < Agents::NORMAL_CALLS_BELOW));
    }
    for kind in [FaultKind::CostExplosion, FaultKind::CallStorm] {
        assert!(agents.faults().iter().any(|fault| fault.kind == kind), "{kind:?}");
    }
}

#[test]
fn malformed_events_are_wrong_in_the_way_that_they_say() {
    let sensors = Sensors::new(settings(7)).take(EVENTS);
    let agents = Agents::new(settings(7)).take(EVENTS);
    let mut seen: HashMap<(bool, Malformation), u32> = HashMap::new();
    for event in sensors.chain(agents) {
        let Expect::Refused(malformation) = event.expect else {
            assert_eq!(event.expect.code(), None);
            continue;
        };
        let is_sensor = event.key.starts_with('S');
        *seen.entry((is_sensor, malformation)).or_default() += 1;
        assert!(!event.is_fault && event.expect.code().is_some());
        let shown = serde_json::from_slice::<Value>(&event.bytes);
        match (malformation, is_sensor) {
            (Malformation::Truncated, _) => assert!(shown.is_err()),
            (Malformation::WrongType, true) => assert!(shown.unwrap()["value"].is_string()),
            (Malformation::WrongType, false) => assert!(shown.unwrap()["status"].is_number()),
            (Malformation::MissingField, true) => assert!(shown.unwrap().get("value").is_none()),
            (Malformation::MissingField, false) => assert!(shown.unwrap().get("agent_id").is_none()),
            (Malformation::OutOfRange, true) => assert!(shown.unwrap()["value"].as_f64().unwrap() > 1e5),
            (Malformation::OutOfRange, false) => {
                assert!(shown.unwrap()["metadata"]["cost_usd"].as_f64().unwrap() < 0.0)
            }
        }
    }
    assert_eq!(seen.len(), 8);
    let count: u32 = seen.values().sum();
    assert!((1_800..=3_000).contains(&count), "about two in a hundred, outside of faults: {count}");
}

#[test]
fn a_run_is_what_its_settings_say() {
    let plain =
        Settings { fault_every: None, malformed: 0.0, fahrenheit: 0.0, times: Times::Rfc3339, ..Settings::default() };
    let mut sensors = Sensors::new(plain.clone());
    let events: Vec<_> = sensors.by_ref().take(5_001).collect();
    assert!(sensors.faults().is_empty());
    assert!(
        events
            .iter()
            .all(|event| event.fault.is_none() && event.expect == Expect::Delivered && json(event)["unit"] == "C")
    );
    let last = events.last().unwrap();
    assert_eq!(last.at.as_secs(), 5, "1000 events a second");
    assert_eq!(json(last)["ts"], "2026-01-01T00:00:05Z");
    assert_eq!(json(&Agents::new(plain.clone()).next().unwrap())["timestamp"], "2026-01-01T00:00:00Z");
    let alone = Sensors::new(Settings { keys: 0, per_second: 0.0, fault_every: Some(0), ..plain });
    assert_eq!(
        alone.take(100).filter(|event| &*event.key == "S0001").count(),
        100,
        "strange settings still give events"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_seed_others(seed: u64, keys in 1_u32..20, share in 0.0..0.5) {
        let settings = |seed| Settings { seed, keys, malformed: share, fault_every: Some(70), ..Settings::default() };
        let run = |seed| (Sensors::new(settings(seed)).take(500).collect::<Vec<_>>(), Agents::new(settings(seed)).take(500).collect::<Vec<_>>());
        prop_assert_eq!(run(seed), run(seed));
        let others = run(seed ^ 1);
        prop_assert_ne!(run(seed).0, others.0);
        prop_assert_ne!(run(seed).1, others.1);
    }
}
