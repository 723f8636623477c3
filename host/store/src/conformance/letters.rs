//! Cases about the index of letters.

use phronis_core::letter::Stage;
use phronis_core::letter::index::{Bits, Changes, Class, ClassRow, Positions, SegmentRow};
use phronis_core::{StreamId, Time, code};

use super::Hosts;
use crate::letters::Applied;

fn stream() -> StreamId {
    "acme.sensors".parse().unwrap()
}

fn at(dlq: i64, retry: i64) -> Positions {
    Positions { dlq, retry }
}

fn class(number: u32, waiting: u64) -> ClassRow {
    let plugin = (number != 1).then(|| ("hot".parse().unwrap(), format!("1.{number}\0").into()));
    ClassRow {
        number,
        class: Class { stage: Stage::Detect, code: code::PLUGIN_TRAP, plugin },
        count: 10,
        waiting,
        parked: 10 - waiting,
        first: Time(-1),
        last: Time(i64::MAX),
    }
}

fn bits(set: impl IntoIterator<Item = u16>) -> Bits {
    let mut bits = Bits::default();
    for bit in set {
        bits.insert(bit);
    }
    bits
}

fn segment(segment: i64, class: u32, waiting: &[u16]) -> SegmentRow {
    let parked = bits((0..4096).step_by(3));
    SegmentRow { segment, class, first: Time(1), waiting: bits(waiting.iter().copied()), parked }
}

pub(super) async fn steps(hosts: Hosts) {
    let stream = stream();
    assert_eq!(hosts.one.letters(&stream, 1).await.unwrap(), None);
    assert_eq!(hosts.one.all_letters(&stream).await.unwrap(), []);
    let first = Changes {
        positions: at(100, 0),
        classes: vec![class(0, 4), class(1, 0)],
        segments: vec![segment(0, 0, &[1]), segment(0, 1, &[]), segment(7, 0, &[4095])],
    };
    assert_eq!(hosts.one.apply_letters(&stream, 1, None, &first).await.unwrap(), Applied::Stored);
    assert_eq!(hosts.other.letters(&stream, 1).await.unwrap().as_ref(), Some(&first));

    let empty = |segment, class| SegmentRow { segment, class, first: Time(0), waiting: bits([]), parked: bits([]) };
    let second = Changes {
        positions: at(120, 5),
        classes: vec![class(0, 9), class(2, 1)],
        segments: vec![segment(0, 0, &[0, 1]), empty(7, 0), empty(99, 99)],
    };
    let from = Some(first.positions);
    assert_eq!(hosts.other.apply_letters(&stream, 1, from, &second).await.unwrap(), Applied::Stored);
    let other = Changes { positions: at(3, 0), classes: vec![class(0, 1)], segments: Vec::new() };
    assert_eq!(hosts.other.apply_letters(&stream, 0, None, &other).await.unwrap(), Applied::Stored);
    let now = Changes {
        positions: at(120, 5),
        classes: vec![class(0, 9), class(1, 0), class(2, 1)],
        segments: vec![segment(0, 0, &[0, 1]), segment(0, 1, &[])],
    };
    assert_eq!(hosts.one.all_letters(&stream).await.unwrap(), [(0, other), (1, now)]);
    let classes = hosts.one.letter_classes(&stream).await.unwrap();
    assert_eq!(classes, [(0, class(0, 1)), (1, class(0, 9)), (1, class(1, 0)), (1, class(2, 1))]);
    assert_eq!(hosts.one.letter_classes(&"acme.other".parse().unwrap()).await.unwrap(), []);
}

pub(super) async fn fencing(hosts: Hosts) {
    let stream = stream();
    let step = |dlq, retry, waiting| Changes {
        positions: at(dlq, retry),
        classes: vec![class(0, waiting)],
        segments: vec![segment(0, 0, &[u16::try_from(waiting).unwrap()])],
    };
    assert_eq!(hosts.one.apply_letters(&stream, 0, None, &step(10, 0, 1)).await.unwrap(), Applied::Stored);
    let from = Some(at(10, 0));
    let (mine, yours) = (step(11, 0, 2), step(10, 4, 3));
    let (one, other) = tokio::join!(
        hosts.one.apply_letters(&stream, 0, from, &mine),
        hosts.other.apply_letters(&stream, 0, from, &yours)
    );
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_ne!(one, other, "one of them is fenced");
    let winner = if one == Applied::Stored { mine } else { yours };
    for late in [None, from, Some(at(0, 0))] {
        assert_eq!(hosts.one.apply_letters(&stream, 0, late, &step(99, 99, 9)).await.unwrap(), Applied::Fenced);
    }
    assert_eq!(hosts.one.letters(&stream, 0).await.unwrap(), Some(winner));
}

pub(super) async fn forgetting(hosts: Hosts) {
    let stream = stream();
    let step = Changes { positions: at(1, 1), classes: vec![class(0, 1)], segments: vec![segment(0, 0, &[1])] };
    for partition in 0..2 {
        assert_eq!(hosts.one.apply_letters(&stream, partition, None, &step).await.unwrap(), Applied::Stored);
    }
    hosts.other.forget_letters(&stream, 0).await.unwrap();
    assert_eq!(hosts.one.letters(&stream, 0).await.unwrap(), None);
    assert_eq!(hosts.one.all_letters(&stream).await.unwrap(), [(1, step)]);
    let late = Changes { positions: at(2, 2), ..Changes::default() };
    assert_eq!(hosts.one.apply_letters(&stream, 0, Some(at(1, 1)), &late).await.unwrap(), Applied::Fenced);
}
