//! Cases about agents.

use phronis_core::agent::{Key, Record, Scope, State};
use phronis_core::{Id, Time};

use super::Hosts;
use crate::agents::Set;

fn halt(agent: &str, version: u64) -> Record {
    Record {
        tenant: "acme".parse().unwrap(),
        scope: Scope::Agent(agent.to_owned()),
        state: State::Halted,
        version,
        reason: format!("too many calls, {version}"),
        actor: "ops".to_owned(),
        cause: None,
        cause_at: None,
        at: Time(1_000_000 + i64::try_from(version).unwrap()),
        expires_at: None,
        is_replicated: true,
    }
}

fn reset(agent: &str, version: u64) -> Record {
    Record { state: State::Running, ..halt(agent, version) }
}

pub(super) async fn come_back_whole(hosts: Hosts) {
    let agent =
        Record { cause: Some(Id([7; 16])), cause_at: Some(Time(-6)), expires_at: Some(Time(-5)), ..halt("a1", 1) };
    let tenant = Record { scope: Scope::Tenant, ..halt("", 1) };
    assert_eq!(hosts.one.agent(&agent.key()).await.unwrap(), None);
    for record in [&agent, &tenant] {
        assert_eq!(hosts.one.set_agent(record, 0).await.unwrap(), Set::Stored);
        assert_eq!(hosts.other.agent(&record.key()).await.unwrap().as_ref(), Some(record));
    }
    let other_tenant = Key { tenant: "zeta".parse().unwrap(), ..agent.key() };
    assert_eq!(hosts.other.agent(&other_tenant).await.unwrap(), None);
    assert_eq!(hosts.other.halts().await.unwrap(), [agent, tenant]);
}

pub(super) async fn race(hosts: Hosts) {
    assert_eq!(hosts.one.set_agent(&halt("a1", 1), 0).await.unwrap(), Set::Stored);
    for version in 1..20 {
        let (mine, yours) = (reset("a1", version + 1), halt("a1", version + 1));
        let (one, other) = tokio::join!(hosts.one.set_agent(&mine, version), hosts.other.set_agent(&yours, version));
        let (one, other) = (one.unwrap(), other.unwrap());
        let winner = if one == Set::Stored { mine } else { yours };
        let loser = if one == Set::Stored { other } else { one };
        assert_eq!(loser, Set::Stale(Some(Box::new(winner.clone()))));
        assert_eq!(hosts.one.agent(&winner.key()).await.unwrap(), Some(winner));
    }
    let history = hosts.one.agent_history(&halt("a1", 1).key(), 100, None).await.unwrap().items;
    let versions: Vec<u64> = history.iter().map(|record| record.version).collect();
    assert_eq!(versions, (1..=20).rev().collect::<Vec<_>>(), "who lost left no row");
}

pub(super) async fn stale(hosts: Hosts) {
    assert_eq!(hosts.one.set_agent(&halt("a1", 3), 2).await.unwrap(), Set::Stale(None));
    assert_eq!(hosts.one.set_agent(&halt("a1", 1), 0).await.unwrap(), Set::Stored);
    let there = Set::Stale(Some(Box::new(halt("a1", 1))));
    assert_eq!(hosts.other.set_agent(&reset("a1", 1), 0).await.unwrap(), there);
    assert_eq!(hosts.other.set_agent(&reset("a1", 8), 7).await.unwrap(), there);
    assert_eq!(hosts.other.agent_history(&halt("a1", 1).key(), 10, None).await.unwrap().items.len(), 1);
}

pub(super) async fn causes_are_unique(hosts: Hosts) {
    let caused = |record: Record| Record { cause: Some(Id([1; 16])), cause_at: Some(Time(5)), ..record };
    let (one, other) = (caused(halt("a1", 1)), caused(halt("a1", 1)));
    let (one, other) = tokio::join!(hosts.one.set_agent(&one, 0), hosts.other.set_agent(&other, 0));
    let mut sets = [one.unwrap(), other.unwrap()];
    sets.sort_by_key(|set| *set != Set::Stored);
    assert_eq!(sets, [Set::Stored, Set::Handled]);
    assert_eq!(hosts.one.set_agent(&caused(reset("a1", 2)), 1).await.unwrap(), Set::Stored, "a reset keeps its cause");
    assert_eq!(hosts.one.set_agent(&caused(halt("a1", 3)), 2).await.unwrap(), Set::Handled);
    assert_eq!(hosts.one.agent(&halt("a1", 1).key()).await.unwrap().unwrap().version, 2, "the reset holds");
    assert_eq!(hosts.one.set_agent(&caused(halt("a2", 1)), 0).await.unwrap(), Set::Handled);
    assert_eq!(hosts.one.agent(&halt("a2", 1).key()).await.unwrap(), None);
}

pub(super) async fn another_record(hosts: Hosts) {
    let by = |record: Record, cause_at: Option<i64>| Record {
        cause: Some(Id([1; 16])),
        cause_at: cause_at.map(Time),
        ..record
    };
    let set = async |record: Record| hosts.one.set_agent(&record, record.version - 1).await.unwrap();
    assert_eq!(set(by(halt("a1", 1), Some(5))).await, Set::Stored);
    assert_eq!(set(reset("a1", 2)).await, Set::Stored);
    assert_eq!(set(by(halt("a1", 3), Some(5))).await, Set::Handled);
    // Earlier or later: clocks may be wrong, and a halt too many is better than one too few.
    assert_eq!(set(by(halt("a1", 3), Some(4))).await, Set::Stored);
    assert_eq!(set(reset("a1", 4)).await, Set::Stored);
    assert_eq!(set(by(halt("a1", 5), Some(6))).await, Set::Stored);
    assert_eq!(hosts.other.agent(&halt("a1", 5).key()).await.unwrap(), Some(by(halt("a1", 5), Some(6))));
    assert_eq!(set(by(halt("a1", 6), None)).await, Set::Handled, "whose record is not known");

    // A halt of which it was not noted is of every record that was there before.
    let old = |record: Record, cause_at: Option<i64>| Record { cause: Some(Id([2; 16])), ..by(record, cause_at) };
    let at = halt("a2", 1).at.0;
    assert_eq!(set(old(halt("a2", 1), None)).await, Set::Stored);
    assert_eq!(set(reset("a2", 2)).await, Set::Stored);
    assert_eq!(set(old(halt("a2", 3), Some(at))).await, Set::Handled);
    assert_eq!(set(old(halt("a2", 3), Some(at + 1))).await, Set::Stored);
}

pub(super) async fn listing(hosts: Hosts) {
    for agent in ["a1", "a2", "a3"] {
        assert_eq!(hosts.one.set_agent(&halt(agent, 1), 0).await.unwrap(), Set::Stored);
    }
    assert_eq!(hosts.other.set_agent(&reset("a2", 2), 1).await.unwrap(), Set::Stored);
    assert_eq!(hosts.one.halts().await.unwrap(), [halt("a1", 1), halt("a3", 1)]);
}

pub(super) async fn strange_names(hosts: Hosts) {
    let long = "n".repeat(20_000);
    let longer = format!("{long}n");
    let names = ["", "\0", "\u{1}", "\u{1}0", "a\0b", "'; DROP TABLE agents; --", "Ä 🦀\n", "$1", &long, &longer];
    for name in names {
        let record = Record { reason: name.to_owned(), actor: name.to_owned(), ..halt(name, 1) };
        assert_eq!(hosts.one.set_agent(&record, 0).await.unwrap(), Set::Stored, "{name:?}");
        assert_eq!(hosts.other.agent(&record.key()).await.unwrap(), Some(record), "{name:?}");
    }
    assert_eq!(hosts.one.halts().await.unwrap().len(), names.len());
}

pub(super) async fn history(hosts: Hosts) {
    for version in 1..=5 {
        assert_eq!(hosts.one.set_agent(&halt("a1", version), version - 1).await.unwrap(), Set::Stored);
        assert_eq!(hosts.one.set_agent(&halt("a2", version), version - 1).await.unwrap(), Set::Stored);
    }
    let key = halt("a1", 1).key();
    let (mut seen, mut cursor, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = hosts.other.agent_history(&key, 2, cursor).await.unwrap();
        seen.extend(page.items);
        pages += 1;
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(pages, 3);
    assert_eq!(seen, (1..=5).rev().map(|version| halt("a1", version)).collect::<Vec<_>>());
}
