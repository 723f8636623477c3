//! Cases about breakers, redrives and the audit.

use phronis_core::Time;
use serde_json::json;

use super::Hosts;
use crate::audit::{Entry, Filter};
use crate::breakers;
use crate::database::Pool;
use crate::edits::Letter;
use crate::redrives::{Progress, Redrive, Started, State};

pub(super) async fn breakers(hosts: Hosts) {
    let row = |node: &str, name: &str, state: &str| breakers::Row {
        node: node.to_owned(),
        plugin: format!("acme/sensors/{name}").parse().unwrap(),
        state: state.to_owned(),
        opened_at: Some(Time(1)),
        retry_at: None,
        trips: 3,
        last_trip: Some(json!({ "kind": "trap", "count": 5 })),
    };
    hosts
        .one
        .save_breakers(&[row("n1", "cold", "open"), row("n1", "hot", "open"), row("n2", "hot", "open")])
        .await
        .unwrap();
    let closed = breakers::Row { opened_at: None, last_trip: None, trips: 0, ..row("n1", "hot", "closed") };
    hosts.other.save_breakers(std::slice::from_ref(&closed)).await.unwrap();
    hosts.other.save_breakers(&[]).await.unwrap();
    assert_eq!(hosts.one.load_breakers("n1").await.unwrap(), [row("n1", "cold", "open"), closed]);
    assert_eq!(hosts.one.load_breakers("n3").await.unwrap(), []);
}

fn redrive(id: &str, stream: &str) -> Redrive {
    let progress = |partition| Progress { partition, next: 0, until: 10, moved: 0, skipped: 0 };
    Redrive {
        id: id.to_owned(),
        stream: stream.parse().unwrap(),
        request: json!({ "class": { "code": "PH2003" } }),
        rate: 500,
        actor: "ops".to_owned(),
        reason: "the plugin is mended".to_owned(),
        state: State::Running,
        detail: None,
        created_at: Time(5),
        ended_at: None,
        progress: vec![progress(0), progress(1)],
    }
}

pub(super) async fn one_redrive(hosts: Hosts) {
    let (first, second) = (redrive("r1", "sensors"), redrive("r2", "sensors"));
    let (one, other) = tokio::join!(hosts.one.start_redrive(&first), hosts.other.start_redrive(&second));
    let (one, other) = (one.unwrap(), other.unwrap());
    let (winner, loser) = if one == Started::Running { (&first, other) } else { (&second, one) };
    assert_eq!(loser, Started::Occupied(Box::new(winner.clone())));
    assert_eq!(hosts.one.start_redrive(winner).await.unwrap(), Started::Running, "the same once more is no other");
    assert_eq!(hosts.one.start_redrive(&redrive("r3", "agents")).await.unwrap(), Started::Running);
    assert_eq!(
        hosts.one.running_redrives(Some(&winner.stream)).await.unwrap().as_slice(),
        std::slice::from_ref(winner)
    );
    assert_eq!(hosts.one.running_redrives(None).await.unwrap().len(), 2);

    assert!(hosts.other.end_redrive(&winner.id, State::Cancelled, Some("by ops"), Time(9)).await.unwrap());
    assert!(!hosts.one.end_redrive(&winner.id, State::Done, None, Time(10)).await.unwrap(), "it ends once");
    let ended = hosts.one.redrive(&winner.id).await.unwrap().unwrap();
    assert_eq!(
        (ended.state, ended.detail.as_deref(), ended.ended_at),
        (State::Cancelled, Some("by ops"), Some(Time(9)))
    );
    assert_eq!(hosts.one.start_redrive(&redrive("r4", "sensors")).await.unwrap(), Started::Running);
    let page = hosts.one.redrives(&winner.stream, 1, None).await.unwrap();
    assert_eq!(page.items, [redrive("r4", "sensors")]);
    assert_eq!(hosts.one.redrives(&winner.stream, 1, page.next).await.unwrap().items, [ended]);
    assert_eq!(hosts.one.redrive("r9").await.unwrap(), None);
}

pub(super) async fn progress(hosts: Hosts) {
    assert_eq!(hosts.one.start_redrive(&redrive("r1", "sensors")).await.unwrap(), Started::Running);
    let step = |next, moved| Progress { partition: 1, next, until: 10, moved, skipped: 1 };
    assert!(hosts.one.note_redrive("r1", step(6, 5)).await.unwrap());
    assert!(hosts.other.note_redrive("r1", step(4, 3)).await.unwrap());
    let now = hosts.other.redrive("r1").await.unwrap().unwrap();
    assert_eq!(now.progress, [redrive("r1", "sensors").progress[0], step(6, 5)]);
    assert!(hosts.one.end_redrive("r1", State::Done, None, Time(9)).await.unwrap());
    assert!(!hosts.other.note_redrive("r1", step(8, 7)).await.unwrap());
    assert_eq!(hosts.other.redrive("r1").await.unwrap().unwrap().progress[1], step(6, 5));
    assert!(!hosts.other.note_redrive("r9", step(8, 7)).await.unwrap());
}

pub(super) async fn edits(hosts: Hosts) {
    let stream = "sensors".parse().unwrap();
    let at = |offset| Letter { stream: &stream, partition: 3, offset };
    let (one, other) = (&hosts.one, &hosts.other);
    let (first, second) =
        tokio::join!(one.claim_edit(at(42), "e1", Time(1), Time(9)), other.claim_edit(at(42), "e2", Time(1), Time(9)));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(first != second, "one of both");
    let (winner, loser) = if first { ("e1", "e2") } else { ("e2", "e1") };
    assert!(one.claim_edit(at(42), winner, Time(2), Time(9)).await.unwrap(), "its answer was lost: it asks again");
    assert!(one.claim_edit(at(43), loser, Time(2), Time(9)).await.unwrap(), "another letter");
    assert!(!other.claim_edit(at(42), loser, Time(8), Time(20)).await.unwrap());
    other.release_edit(winner).await.unwrap();
    assert!(other.claim_edit(at(42), loser, Time(8), Time(20)).await.unwrap());
    assert!(!one.claim_edit(at(42), "e3", Time(19), Time(30)).await.unwrap());
    assert!(one.claim_edit(at(42), "e3", Time(20), Time(30)).await.unwrap(), "a claim ends by itself");
}

fn entry(number: i64) -> Entry {
    Entry {
        id: format!("e{number}"),
        at: Time(number),
        actor: if number % 2 == 0 { "ops" } else { "host\0" }.to_owned(),
        action: ["agent.halt", "agent.reset", "agents", "plugin.params"][usize::try_from(number % 4).unwrap()]
            .to_owned(),
        subject: format!("a{}", number % 3),
        tenant: (number % 2 == 0).then(|| "acme".parse().unwrap()),
        reason: (number % 5 == 0).then(|| "because".to_owned()),
        facts: json!({ "number": number, "text": "\0" }),
    }
}

pub(super) async fn audit_once(hosts: Hosts) {
    hosts.one.append_audit(&[entry(1), entry(2)]).await.unwrap();
    let again = Entry { reason: Some("another".to_owned()), ..entry(2) };
    hosts.other.append_audit(&[again, entry(3)]).await.unwrap();
    let all = hosts.one.audit(&Filter::default(), 10, None).await.unwrap();
    assert_eq!(all.items, [entry(3), entry(2), entry(1)]);
    assert_eq!(all.next, None);
}

/// Whether a filter lets an entry through.
type Keeps = fn(&Entry) -> bool;

pub(super) async fn audit_filters(hosts: Hosts) {
    let entries: Vec<Entry> = (0..24).map(entry).collect();
    hosts.one.append_audit(&entries).await.unwrap();
    let text = |text: &str| Some(text.to_owned());
    let filters: [(Filter, Keeps); 8] = [
        (Filter { actor: text("host\0"), ..Filter::default() }, |e| e.actor == "host\0"),
        (Filter { action: text("agent"), ..Filter::default() }, |e| e.action.starts_with("agent.")),
        (Filter { action: text("agent.halt"), ..Filter::default() }, |e| e.action == "agent.halt"),
        (Filter { subject: text("a2"), ..Filter::default() }, |e| e.subject == "a2"),
        (Filter { tenant: Some("acme".parse().unwrap()), ..Filter::default() }, |e| e.tenant.is_some()),
        (Filter { from: Some(Time(20)), ..Filter::default() }, |e| e.at >= Time(20)),
        (Filter { until: Some(Time(20)), ..Filter::default() }, |e| e.at < Time(20)),
        (Filter { subject: text("%"), ..Filter::default() }, |_| false),
    ];
    for (filter, keeps) in filters {
        let (mut seen, mut cursor) = (Vec::new(), None);
        loop {
            let page = hosts.other.audit(&filter, 5, cursor).await.unwrap();
            seen.extend(page.items);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        let wanted: Vec<Entry> = entries.iter().rev().filter(|entry| keeps(entry)).cloned().collect();
        assert_eq!(seen, wanted, "{filter:?}");
    }
}

pub(super) async fn audit_is_append_only(hosts: Hosts) {
    hosts.one.append_audit(&[entry(1)]).await.unwrap();
    for sql in [
        "UPDATE audit SET actor = 'nobody'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "DELETE FROM audit WHERE id = 'e1'",
    ] {
        let refused = match hosts.one.pool() {
            Pool::Sqlite(pool) => sqlx::query(sql).execute(&pool).await.map(drop),
            Pool::Postgres(pool) => sqlx::query(sql).execute(&pool).await.map(drop),
        };
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("append-only") || sql.starts_with("TRUNCATE"), "{sql}: {error}");
    }
    assert_eq!(hosts.one.audit(&Filter::default(), 10, None).await.unwrap().items, [entry(1)]);
}

pub(super) async fn many_writers(hosts: Hosts) {
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = if writer % 2 == 0 { hosts.one.clone() } else { hosts.other.clone() };
        tasks.spawn(async move {
            for number in 0..20 {
                store.append_audit(&[Entry { id: format!("{writer}-{number}"), ..entry(number) }]).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(hosts.one.audit(&Filter::default(), 1000, None).await.unwrap().items.len(), 160);
}
