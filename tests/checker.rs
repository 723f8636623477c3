//! The checker itself: a sound log holds, and every way to be unsound is found.
//! With it the other things that tests lean on: the broker, its clients, and the bad network.

#[path = "checker/kafka.rs"]
mod kafka;
#[path = "checker/proxy.rs"]
mod proxy;

use std::sync::Arc;

use phronis_core::StreamId;
use phronis_core::delivery::{Append, Delivery};
use phronis_core::partition::Topics;
use phronis_core::records::{HeadersBuilder, RecordsBuilder};
use phronis_log::embedded::{self, Options};
use phronis_log::{Log as _, Retention, TopicSpec};
use phronis_tests::checker::{self, Expect, Report, Verdict};
use serde_json::json;

/// A record of one topic, as text.
#[derive(Debug, Clone)]
struct Record {
    key: &'static str,
    value: String,
    headers: Vec<(&'static str, String)>,
}

/// What a sound host leaves behind: one event delivered, one refused, one owed by a detector, one skipped, one dropped.
#[derive(Debug)]
struct Left {
    raw: Vec<Record>,
    processed: Vec<Record>,
    dlq: Vec<Record>,
    state: Vec<Record>,
    alerts: Vec<Record>,
}

fn record(key: &'static str, value: &str, headers: &[(&'static str, &str)]) -> Record {
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Record { key, value: value.to_owned(), headers }
}

fn letter(id: &str, offset: &str, stage: &str, plugin: &str, value: &str) -> Record {
    let headers = [
        ("phronis-id", id),
        ("phronis-origin-partition", "0"),
        ("phronis-origin-offset", offset),
        ("phronis-stage", stage),
        ("phronis-plugin", plugin),
        ("phronis-code", "PH1001"),
    ];
    record("k", value, &headers)
}

fn alert(id: &str, offset: i64) -> Record {
    let json = json!({
        "id": id, "rule": "r", "plugin": {"name": "d", "version": "1", "digest": "x"},
        "origin": {"topic": "phronis.raw.events", "partition": 0, "offset": offset},
    });
    record("k", &json.to_string(), &[])
}

impl Left {
    fn sound() -> Self {
        let raw = [r#"{"seq":0}"#, "bad", r#"{"seq":2}"#, r#"{"seq":3}"#, r#"{"seq":4}"#];
        Self {
            raw: raw.iter().map(|value| record("k", value, &[])).collect(),
            processed: vec![
                record("k", r#"{"seq":0,"added":1}"#, &[("phronis-origin-offset", "0")]),
                record("k", r#"{"seq":2}"#, &[("phronis-origin-offset", "2"), ("phronis-unjudged", "d")]),
                record("k", r#"{"seq":3}"#, &[("phronis-origin-offset", "3"), ("phronis-skipped", "d")]),
            ],
            dlq: vec![letter("a", "1", "gate", "", "bad"), letter("b", "2", "detect", "d", r#"{"seq":2}"#)],
            state: vec![record("dropped/0/4", "{}", &[])],
            alerts: vec![alert("1", 0)],
        }
    }

    fn by_topic<'a>(&'a self, topics: &'a Topics) -> [(&'a Arc<str>, &'a Vec<Record>); 5] {
        let Self { raw, processed, dlq, state, alerts } = self;
        [
            (&topics.raw, raw),
            (&topics.processed, processed),
            (&topics.dlq, dlq),
            (&topics.state, state),
            (&topics.alerts, alerts),
        ]
    }

    /// All that was delivered, once more.
    fn repeat_all(&mut self) {
        for records in [&mut self.processed, &mut self.dlq, &mut self.state, &mut self.alerts] {
            records.extend_from_within(..);
        }
    }
}

fn check(left: &Left, expect: Expect<'_>) -> anyhow::Result<Report> {
    let folder = tempfile::tempdir()?;
    let log = embedded::Log::open(Options::new(folder.path()))?;
    let topics = Topics::of(&"sensors".parse::<StreamId>()?);
    let mut delivery = Delivery::default();
    for (topic, records) in left.by_topic(&topics) {
        log.create_topic(&TopicSpec { name: Arc::clone(topic), partitions: 1, retention: Retention::default() })?;
        let mut builder = RecordsBuilder::default();
        for record in records {
            let mut headers = HeadersBuilder::default();
            for (name, value) in &record.headers {
                headers.push(name, value.as_bytes());
            }
            builder.push(1, Some(record.key.as_bytes()), Some(record.value.as_bytes()), headers.as_bytes());
        }
        if !builder.is_empty() {
            delivery.appends.push(Append { topic: Arc::clone(topic), partition: 0, records: builder.finish() });
        }
    }
    log.sink()?.submit(delivery)?.wait()?;
    let report = checker::check(&log, &topics, expect);
    log.close();
    report
}

#[test]
fn a_sound_log_holds() -> anyhow::Result<()> {
    let report = check(&Left::sound(), Expect::default())?.must_hold()?;
    let counts = (report.received, report.delivered, report.gate_letters, report.enrich_letters, report.dropped);
    assert_eq!(counts, (5, 3, 1, 0, 1), "{report}");
    let detector = report.detectors.get("d").copied().unwrap_or_default();
    assert_eq!((detector.judged, detector.skipped, detector.letters, detector.alerts), (1, 1, 1, 1), "{report}");
    assert!(report.to_string().contains("5 in = 3 delivered + 1 gate letters + 0 enricher letters + 1 dropped"));
    Ok(())
}

#[test]
fn every_way_to_be_unsound_is_found() -> anyhow::Result<()> {
    type Break = fn(&mut Left);
    let breaks: &[(Break, &str)] = &[
        (|left| drop(left.processed.pop()), "0/3 is lost"),
        (|left| left.state.clear(), "0/4 is lost"),
        (|left| left.raw.push(record("k", "more", &[])), "0/5 is lost"),
        (|left| left.processed.push(left.processed[2].clone()), "0/3 is Delivered and Delivered"),
        (|left| left.dlq.push(letter("c", "0", "gate", "", r#"{"seq":0}"#)), "0/0 is GateLetter and Delivered"),
        (|left| left.dlq[0].value.push('!'), "does not keep the bytes of 0/1"),
        (|left| left.dlq[1].headers[0].1 = "a".to_owned(), "has the id of another letter"),
        (|left| drop(left.dlq.pop()), "0/2 is unjudged by d and there is no letter"),
        (|left| drop(left.processed[1].headers.pop()), "has a letter of d and is not delivered as unjudged"),
        (|left| left.processed.swap(0, 1), "processed 0: 0 comes after 2"),
        (|left| left.processed[0].value = r#"{"seq":9}"#.to_owned(), "changes its origin"),
        (|left| left.processed[0].key = "other", "has another key than its origin"),
        (|left| left.processed[0].headers.clear(), "does not name its origin"),
        (|left| left.processed[0].headers.push(("phronis-bypassed", "d".to_owned())), "0/0 passed d by"),
        (|left| left.alerts.push(alert("2", 99)), "alert 2 is about 0/99, which is not in raw"),
        (|left| left.alerts.push(alert("2", 1)), "alert 2 is about 0/1, which is GateLetter"),
        (|left| left.alerts.push(alert("2", 3)), "0/3 was not judged by d and has its alert"),
        (|left| left.state[0].key = "dropped/0/77", "which is not in raw"),
    ];
    for (unsound, words) in breaks {
        let mut left = Left::sound();
        unsound(&mut left);
        let report = check(&left, Expect::default())?;
        assert!(!report.holds() && report.to_string().contains(words), "`{words}` is not in\n{report}");
    }
    Ok(())
}

/// Another attempt of the letter at `previous`, or its settlement.
fn after(mut letter: Record, previous: &str, settled: Option<&str>) -> Record {
    letter.headers.push(("phronis-previous", previous.to_owned()));
    if let Some(outcome) = settled {
        letter.headers.push(("phronis-settled", outcome.to_owned()));
    }
    letter
}

/// The gate's letter failed again and was then delivered, the detector's was judged at once.
fn came_back() -> Left {
    let values = [r#"{"seq":0}"#, r#"{"seq":1}"#, r#"{"seq":2}"#, r#"{"seq":3}"#, r#"{"seq":4}"#];
    let (gate, detect) =
        (letter("a", "1", "gate", "", r#"{"seq":1}"#), letter("b", "2", "detect", "d", r#"{"seq":2}"#));
    let dlq = vec![
        gate.clone(),
        detect.clone(),
        after(gate.clone(), "0", None),
        after(detect, "1", Some("judged")),
        after(gate, "2", Some("delivered")),
    ];
    let mut left = Left { raw: values.iter().map(|value| record("k", value, &[])).collect(), dlq, ..Left::sound() };
    left.processed.push(record("k", r#"{"seq":1}"#, &[("phronis-origin-offset", "1")]));
    left.alerts.push(alert("2", 2));
    left
}

#[test]
fn letters_that_came_back_are_followed_to_their_end() -> anyhow::Result<()> {
    let report = check(&came_back(), Expect::default())?.must_hold()?;
    assert_eq!((report.delivered, report.gate_letters, report.settled), (4, 0, 2), "{report}");
    assert_eq!(report.letters.len(), 0, "{report}");
    assert_eq!(report.detectors["d"].letters, 0, "{report}");

    let mut range = Left::sound();
    range.dlq[1].headers.push(("phronis-range", "1".to_owned()));
    range.dlq[1].value = r#"{"offsets":[[2,3]]}"#.to_owned();
    let report = check(&range, Expect::default())?.must_hold()?;
    assert_eq!(report.detectors["d"].letters, 1, "{report}");

    type Break = fn(&mut Left);
    let breaks: &[(Break, &str)] = &[
        (|left| drop(left.processed.pop()), "0/1 is lost"),
        (|left| drop(left.dlq.pop()), "0/1 is GateLetter and Delivered"),
        (
            |left| left.dlq[4].headers.retain(|(name, _)| *name != "phronis-previous"),
            "settles a letter that is not there",
        ),
        (|left| left.dlq[4].headers[6].1 = "1".to_owned(), "settles a letter that is not there"),
        (|left| left.dlq[2].headers[6].1 = "9".to_owned(), "follows a letter that is not there"),
        (|left| left.dlq.push(left.dlq[4].clone()), "settles as delivered what is delivered"),
        (|left| drop(left.dlq.remove(3)), "0/2 was not judged by d and has its alert"),
    ];
    for (unsound, words) in breaks {
        let mut left = came_back();
        unsound(&mut left);
        let report = check(&left, Expect::default())?;
        assert!(!report.holds() && report.to_string().contains(words), "`{words}` is not in\n{report}");
    }
    Ok(())
}

#[test]
fn a_second_delivery_must_say_the_same_as_the_first() -> anyhow::Result<()> {
    type Break = fn(&mut Left);
    let expect = || Expect { may_repeat: true, ..Expect::default() };
    let mut left = Left::sound();
    left.repeat_all();
    let report = check(&left, expect())?.must_hold()?;
    assert_eq!((report.delivered, report.gate_letters, report.dropped, report.repeated), (3, 1, 1, 6), "{report}");
    assert_eq!(report.letters.values().sum::<u64>(), 2, "{report}");

    let breaks: &[(Break, &str)] = &[
        (|left| left.processed[3].value = r#"{"seq":9}"#.to_owned(), "changes its origin"),
        (|left| left.processed[3].key = "other", "has another key than its origin"),
        (|left| left.processed[3].headers.push(("phronis-unjudged", "e".to_owned())), "0/0 is unjudged by e"),
        (|left| left.processed.swap(0, 1), "processed 0: 0 comes after 2"),
        (|left| left.dlq[2].headers[0].1 = "b".to_owned(), "has the id of another letter"),
        (|left| left.dlq[2].value.push('!'), "does not keep the bytes of 0/1"),
        (|left| left.state.push(record("dropped/0/0", "{}", &[])), "0/0 is Dropped and Delivered"),
        (|left| left.dlq.retain(|letter| letter.headers[3].1 == "gate"), "is unjudged by d and there is no letter"),
    ];
    for (unsound, words) in breaks {
        let mut left = Left::sound();
        left.repeat_all();
        unsound(&mut left);
        let report = check(&left, expect())?;
        assert!(!report.holds() && report.to_string().contains(words), "`{words}` is not in\n{report}");
    }
    Ok(())
}

#[test]
fn repeats_are_counted_and_what_was_promised_is_looked_for() -> anyhow::Result<()> {
    let mut left = Left::sound();
    left.alerts.push(alert("1", 0));
    let promise = |count| Expect { acknowledged: vec![(0, 0, count)], ..Expect::default() };
    let report = check(&left, promise(5))?.must_hold()?;
    assert_eq!((report.alerts.len(), report.repeated_alerts), (1, 1), "{report}");
    let report = check(&left, promise(6))?;
    assert!(report.to_string().contains("0/5 was acknowledged and is not in raw"), "{report}");

    let judge = |must: bool| Expect {
        judge: Some(Box::new(move |seen| match (must, seen.alerts.len()) {
            (true, 0) => Verdict { missed: 1, ..Verdict::default() },
            (false, 1) => Verdict { wrong: 1, ..Verdict::default() },
            _ => Verdict::default(),
        })),
        ..Expect::default()
    };
    assert_eq!(check(&left, judge(true))?.verdict, Verdict { missed: 2, ..Verdict::default() });
    assert_eq!(check(&left, judge(false))?.verdict, Verdict { wrong: 1, ..Verdict::default() });
    Ok(())
}
