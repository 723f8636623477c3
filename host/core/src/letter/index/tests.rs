//! The fold against a naive model: a map of letters that every record is looked up in.

use proptest::prelude::*;

use super::*;
use crate::letter::DISCARD;
use crate::records::{HeadersBuilder, RecordsBuilder};

#[derive(Debug, Clone)]
enum Event {
    /// Class, due time, which letter of those before it is another attempt of.
    Letter(usize, bool, Option<prop::sample::Index>),
    Settled(prop::sample::Index),
    DiscardClass(usize),
    DiscardRun(prop::sample::Index, i64),
    Other,
}

fn class(number: usize) -> Class {
    let texts = ["gate/PH1003", "detect/PH2003/hot@1.0", "detect/PH2003/hot@1.1", "enrich/PH2004/unit@2"];
    texts[number % texts.len()].parse().unwrap()
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => (0..4_usize, any::<bool>(), proptest::option::weighted(0.2, any::<prop::sample::Index>()))
            .prop_map(|(class, is_waiting, previous)| Event::Letter(class, is_waiting, previous)),
        2 => any::<prop::sample::Index>().prop_map(Event::Settled),
        1 => (0..4_usize).prop_map(Event::DiscardClass),
        1 => (any::<prop::sample::Index>(), 1..9_i64).prop_map(|(at, len)| Event::DiscardRun(at, len)),
        1 => Just(Event::Other),
    ];
    proptest::collection::vec(event, 1..120)
}

/// Offsets that cross a segment's end, so that runs and filters meet one.
const FIRST: i64 = SEGMENT - 40;

/// The records of dlq, and which letters stand in retry.
fn history(events: &[Event], moved: &[prop::sample::Index]) -> (Vec<(i64, Entry)>, Vec<i64>) {
    let mut dlq = Vec::new();
    let mut letters = Vec::new();
    for (offset, event) in (FIRST..).zip(events) {
        let earlier = |index: &prop::sample::Index| if letters.is_empty() { None } else { Some(*index.get(&letters)) };
        let entry = match event {
            Event::Letter(number, is_waiting, previous) => {
                let previous = previous.as_ref().and_then(earlier);
                letters.push(offset);
                Entry::Letter {
                    class: class(*number),
                    due_at: is_waiting.then_some(Time(offset * 10)),
                    first_failed_at: Time(offset),
                    written_at: Time(offset),
                    previous,
                }
            }
            Event::Settled(index) => earlier(index).map_or(Entry::Other, |previous| Entry::Settled { previous }),
            Event::DiscardClass(number) => Entry::Discard(Discard {
                filter: Some(Filter { class: Some(class(*number)), ..Filter::default() }),
                below: offset - 2,
                ..Discard::default()
            }),
            Event::DiscardRun(index, len) => match earlier(index) {
                Some(from) => Entry::Discard(Discard { offsets: vec![(from, from + len)], ..Discard::default() }),
                None => Entry::Other,
            },
            Event::Other => Entry::Other,
        };
        dlq.push((offset, entry));
    }
    let moved = if letters.is_empty() { Vec::new() } else { moved.iter().map(|index| *index.get(&letters)).collect() };
    (dlq, moved)
}

/// What is outstanding: the letters, without all that anything speaks of.
fn model(dlq: &[(i64, Entry)], moved: &[i64]) -> BTreeMap<i64, (State, Class)> {
    let mut left = BTreeMap::new();
    for (offset, entry) in dlq {
        if let Entry::Letter { class, due_at, .. } = entry {
            let state = if due_at.is_some() { State::Waiting } else { State::Parked };
            left.insert(*offset, (state, class.clone()));
        }
    }
    for (at, entry) in dlq {
        match entry {
            Entry::Letter { previous: Some(previous), .. } | Entry::Settled { previous } => drop(left.remove(previous)),
            Entry::Discard(discard) => left.retain(|offset, (_, class)| {
                let is_in_run = discard.offsets.iter().any(|(from, to)| (from..to).contains(&offset));
                let is_of_class = discard.filter.as_ref().is_some_and(|filter| filter.takes(class));
                offset >= at || !(is_in_run || (is_of_class && *offset < discard.below))
            }),
            _ => {}
        }
    }
    moved.iter().for_each(|offset| drop(left.remove(offset)));
    left
}

fn outstanding(partition: &Partition) -> BTreeMap<i64, (State, Class)> {
    let mut found = BTreeMap::new();
    for state in [State::Waiting, State::Parked] {
        for offset in partition.select(0, usize::MAX, &[state], |_| true) {
            let (is, class) = partition.state(offset).unwrap();
            assert_eq!(is, state);
            found.insert(offset, (state, class.clone()));
        }
    }
    found
}

proptest! {
    #[test]
    fn the_fold_is_the_naive_models_in_whatever_order_the_topics_are_read_and_wherever_it_is_interrupted(
        events in events(), moved in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
        order in proptest::collection::vec(0..6_u8, 400),
    ) {
        let (dlq, moved) = history(&events, &moved);
        let mut partition = Partition::default();
        let (mut dlq_at, mut retry_at, mut stored) = (0, 0, Changes::default());
        for step in order.into_iter().chain((0..600_u16).map(|n| (n % 2) as u8)) {
            match step {
                0 | 2 => {
                    if let Some((offset, entry)) = dlq.get(dlq_at) {
                        partition.take_dlq(*offset, entry);
                        dlq_at += 1;
                    }
                }
                1 | 3 => {
                    if let Some(letter) = moved.get(retry_at) {
                        partition.take_retry(i64::try_from(retry_at).unwrap(), Some(*letter));
                        retry_at += 1;
                    }
                }
                4 => store(&mut stored, partition.take_changes()),
                _ => {
                    // A crash: what was not stored is read again from where the store stands.
                    partition = Partition::restore(stored.clone()).unwrap();
                    let positions = partition.positions();
                    dlq_at = dlq.partition_point(|(offset, _)| *offset < positions.dlq);
                    retry_at = usize::try_from(positions.retry).unwrap();
                }
            }
        }
        let expected = model(&dlq, &moved);
        let found = outstanding(&partition);
        prop_assert_eq!(&found, &expected);
        for (class, summary) in partition.classes() {
            let of_class = |state| expected.values().filter(|found| **found == (state, class.clone())).count() as u64;
            prop_assert_eq!((summary.waiting, summary.parked), (of_class(State::Waiting), of_class(State::Parked)));
            let written = dlq.iter().filter(|(_, entry)| matches!(entry, Entry::Letter { class: c, .. } if c == class));
            prop_assert_eq!(summary.count, written.count() as u64);
            let oldest = expected.iter().find(|(_, (_, c))| c == class).map(|(offset, _)| Time(*offset));
            prop_assert_eq!(summary.oldest.is_some(), oldest.is_some());
            prop_assert!(summary.oldest <= oldest);
            let below = FIRST + 50;
            let counted = partition.count_below(below, &[State::Waiting, State::Parked], |c| c == class);
            prop_assert_eq!(counted, expected.iter().filter(|(at, (_, c))| **at < below && c == class).count() as u64);
        }
    }

    #[test]
    fn bits_are_a_set(steps in proptest::collection::vec((any::<bool>(), 0..4096_u16), 0..1500)) {
        let (mut bits, mut set) = (Bits::default(), BTreeSet::new());
        for (is_insert, at) in steps {
            if is_insert {
                prop_assert_eq!(bits.insert(at), set.insert(at));
            } else {
                prop_assert_eq!(bits.remove(at), set.remove(&at));
            }
        }
        prop_assert_eq!(bits.iter().collect::<Vec<_>>(), set.iter().copied().collect::<Vec<_>>());
        prop_assert_eq!(bits.len() as usize, set.len());
        prop_assert_eq!(Bits::from_bytes(&bits.to_bytes()), Ok(bits));
    }
}

/// What a store does with what changed.
fn store(stored: &mut Changes, changes: Changes) {
    stored.positions = changes.positions;
    for row in changes.classes {
        stored.classes.retain(|old| old.number != row.number);
        stored.classes.push(row);
    }
    for row in changes.segments {
        stored.segments.retain(|old| (old.segment, old.class) != (row.segment, row.class));
        if !row.is_empty() {
            stored.segments.push(row);
        }
    }
}

proptest! {
    #[test]
    fn what_retention_deleted_is_forgotten_and_counted_once_and_nothing_else_is(
        events in events(), moved in proptest::collection::vec(any::<prop::sample::Index>(), 0..40), kept in 0..140_i64,
    ) {
        let (dlq, moved) = history(&events, &moved);
        let mut partition = Partition::default();
        // Retry is ahead: what it says is known before the letters are read, or never read.
        for (offset, letter) in (0..).zip(&moved) {
            partition.take_retry(offset, Some(*letter));
        }
        let earliest = FIRST + kept;
        for (offset, entry) in dlq.iter().filter(|(offset, _)| offset % 3 > 0 || *offset >= earliest) {
            partition.take_dlq(*offset, entry);
        }
        let before = outstanding(&partition);
        let lost = partition.forget_below(earliest);
        let left: BTreeMap<_, _> = before.iter().filter(|(at, _)| **at >= earliest).collect();
        prop_assert_eq!(lost, (before.len() - left.len()) as u64);
        let found = outstanding(&partition);
        prop_assert_eq!(found.iter().collect::<BTreeMap<_, _>>(), left);
        prop_assert_eq!(partition.forget_below(earliest), 0);
        // Nothing is waited for any more: retry need not be read again.
        prop_assert_eq!(partition.take_changes().positions.retry, i64::try_from(moved.len()).unwrap());
    }
}

#[test]
fn bytes_that_are_no_bits_are_refused() {
    for bad in [&[1_u8][..], &[0, 0, 0, 0], &[9, 0, 8, 0], &[0, 0x10], &[1; 512]] {
        assert_eq!(Bits::from_bytes(bad), Err(InvalidBits), "{bad:?}");
    }
}

#[test]
fn a_class_is_its_text() {
    for text in ["gate/PH1003", "detect/PH2003/hot@1.0", "detect/PH2003/hot@a/b@c", "enrich/PH2004/unit@"] {
        assert_eq!(text.parse::<Class>().map(|class| class.to_string()), Ok(text.to_owned()));
    }
    for bad in ["", "gate", "gate/PH9999", "door/PH1003", "detect/PH2003/hot", "detect/PH2003/Hot@1"] {
        assert_eq!(bad.parse::<Class>(), Err(InvalidClass), "{bad}");
    }
}

#[test]
fn a_million_parked_letters_take_little_memory() {
    let mut partition = Partition::default();
    for offset in 0..1_000_000 {
        let class = class(usize::try_from(offset % 3).unwrap());
        let at = Time(offset);
        let entry = Entry::Letter { class, due_at: None, first_failed_at: at, written_at: at, previous: None };
        partition.take_dlq(offset, &entry);
    }
    let (mut rows, mut bytes) = (0, 0);
    for row in partition.take_changes().segments {
        rows += 1;
        bytes += row.waiting.to_bytes().len() + row.parked.to_bytes().len();
    }
    assert!(rows < 750 && bytes < 400_000, "{rows} rows, {bytes} bytes");
}

#[test]
fn a_producers_headers_are_not_taken_for_ours() {
    let read = |headers: &[(&str, &str)], value: Option<&[u8]>| {
        let mut block = HeadersBuilder::default();
        for (name, text) in headers {
            block.push(name, text.as_bytes());
        }
        let mut records = RecordsBuilder::default();
        records.push(3, None, value, block.as_bytes());
        let records = records.finish();
        Entry::read(records.headers(0), value, 3)
    };
    let forged =
        [("phronis-discard", "x"), ("phronis-settled", "judged"), ("phronis-previous", "1"), ("phronis-due-at", "1")];
    let ours = [
        ("phronis-id", "0"),
        ("phronis-stage", "detect"),
        ("phronis-code", "PH2003"),
        ("phronis-plugin", "hot"),
        ("phronis-plugin-version", "1.0"),
        ("phronis-first-failed-at", "1970-01-01T00:00:00.000007Z"),
    ];
    let expected = Entry::Letter {
        class: "detect/PH2003/hot@1.0".parse().unwrap(),
        due_at: None,
        first_failed_at: Time(7),
        written_at: Time(3000),
        previous: None,
    };
    assert_eq!(read(&[&forged[..], &ours[..]].concat(), Some(b"v")), expected);
    assert_eq!(
        read(&[&ours[..], &[("phronis-settled", "judged"), ("phronis-previous", "4")]].concat(), None),
        Entry::Settled { previous: 4 }
    );
    let discard = Discard { offsets: vec![(1, 4)], reason: "old".into(), ..Discard::default() };
    let value = serde_json::to_vec(&discard).unwrap();
    assert_eq!(read(&[(DISCARD, "1")], Some(&value)), Entry::Discard(discard));
    assert_eq!(read(&[(DISCARD, "1")], Some(b"{")), Entry::Other);
    assert_eq!(read(&forged[3..], Some(b"v")), Entry::Other);
    let range = [&ours[..2], &[("phronis-code", "PH2201")], &ours[3..], &[("phronis-range", "5")]].concat();
    let is_due = |entry| matches!(entry, Entry::Letter { due_at: Some(Time(0)), .. });
    // Before the code of breakers is there, it is no letter that we know.
    assert_eq!(is_due(read(&range, Some(b"v"))), Code::parse("PH2201").is_some());
}
