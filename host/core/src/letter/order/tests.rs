//! Order by key against a world that does its worst: letters that fail again, redrives in any order, discards, and new beginnings.

#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "offsets of a test are small")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::code;
use crate::letter::index::{Class, Filter};
use crate::letter::{DISCARD, Omitted, Origin, Outcome};
use crate::records::{HeadersBuilder, NewRecords, RecordsBuilder};
use crate::time::Time;

fn record(fill: impl FnOnce(&mut HeadersBuilder), key: Option<&str>, value: Option<&[u8]>) -> NewRecords {
    let mut headers = HeadersBuilder::default();
    fill(&mut headers);
    let mut records = RecordsBuilder::default();
    records.push(0, key.map(str::as_bytes), value, headers.as_bytes());
    records.finish()
}

fn letter(origin: i64, stage: Stage, previous: Option<i64>) -> Letter {
    let code = if stage == Stage::Order { code::WAITS_BEHIND } else { code::MISSING_FIELD };
    let origin = Origin { topic: "raw".into(), partition: 0, offset: origin, timestamp: 0 };
    let stream = "sensors".parse().unwrap();
    let letter = Letter::new(&stream, stage, None, origin, code, "m", Headers::default(), Time(1));
    Letter { previous, omitted: Omitted::default(), ..letter }
}

/// A partition of dlq, and who folds it.
#[derive(Default)]
struct Dlq {
    records: Vec<NewRecords>,
    order: Order,
}

impl Dlq {
    fn push(&mut self, record: NewRecords) -> i64 {
        let at = self.records.len() as i64;
        self.order.take(at, record.headers(0), record.key(0), record.value(0));
        self.records.push(record);
        at
    }

    fn letter(&mut self, key: &str, origin: i64, stage: Stage, previous: Option<i64>) -> i64 {
        let letter = letter(origin, stage, previous);
        self.push(record(|h| letter.write(Headers::default(), h), Some(key), Some(b"v")))
    }

    fn settle(&mut self, origin: i64, stage: Stage, at: i64) -> i64 {
        let settlement = Settlement::of(&letter(origin, stage, None), at, Outcome::Delivered, None);
        self.push(record(|h| settlement.write(h), None, None))
    }

    fn discard(&mut self, discard: &Discard) -> i64 {
        let json = serde_json::to_vec(discard).unwrap();
        self.push(record(|h| _ = h.push(DISCARD, b"d"), None, Some(&json)))
    }

    /// As a host knows it that begins now.
    fn anew(&self, floor: i64) -> Order {
        let mut order = Order::new(floor);
        for (at, record) in (0..).zip(&self.records) {
            order.take(at, record.headers(0), record.key(0), record.value(0));
        }
        order
    }
}

#[test]
fn what_was_not_delivered_holds_its_key_back_until_it_ends() {
    let mut dlq = Dlq::default();
    let (k, other) = (Some(key(b"k")), Some(key(b"other")));
    let first = dlq.letter("k", 10, Stage::Gate, None);
    dlq.letter("quiet", 11, Stage::Detect, None);
    dlq.letter("halted", 12, Stage::Halt, None);
    let mut turn = Turn::new(&dlq.order, Bounds::default(), false);
    assert_eq!(turn.next(k, 20, 9, Fate::Goes), Verdict::Waits(10));
    assert_eq!(turn.next(None, 21, 9, Fate::Goes), Verdict::AsItIs, "without a key there is no order");
    for free in ["quiet", "halted", "other"] {
        assert_eq!(turn.next(Some(key(free.as_bytes())), 22, 9, Fate::Goes), Verdict::AsItIs, "{free}");
    }
    assert_eq!(turn.next(other, 23, 9, Fate::Stays), Verdict::AsItIs);
    assert_eq!(turn.next(other, 24, 9, Fate::Goes), Verdict::Waits(23), "in the same batch");
    assert_eq!(turn.next(k, 10, 9, Fate::Goes), Verdict::Known, "a batch that is read again");

    let second = dlq.letter("k", 20, Stage::Order, None);
    assert_eq!((dlq.order.take_due(9), dlq.order.waiting().0), (vec![], 1));
    dlq.settle(10, Stage::Gate, first);
    assert_eq!(dlq.order.take_due(9), [second]);
    assert!(dlq.order.take_due(9).is_empty(), "it is on its way");
    dlq.order.give_back(&[second]);
    assert_eq!(dlq.order.take_due(9), [second]);
    let mut back = Turn::new(&dlq.order, Bounds::default(), true);
    assert_eq!(back.next(k, 20, 9, Fate::Goes), Verdict::AsItIs);
    dlq.settle(20, Stage::Order, second);
    assert!(dlq.order.is_quiet() && dlq.order.waiting() == (0, 0));
    assert_eq!(Turn::new(&dlq.order, Bounds::default(), false).next(k, 20, 9, Fate::Goes), Verdict::Known);
    dlq.order.passed(21);
    assert!(dlq.order.answered.is_empty());
}

#[test]
fn a_discard_releases_the_next_and_a_copy_on_its_way_is_nobodys() {
    for by_class in [false, true] {
        let mut dlq = Dlq::default();
        let first = dlq.letter("k", 1, Stage::Enrich, None);
        let second = dlq.letter("k", 2, Stage::Order, None);
        let class = Class { stage: Stage::Enrich, code: code::MISSING_FIELD, plugin: None };
        let below = second + 1;
        let discard = match by_class {
            true => Discard {
                filter: Some(Filter { class: Some(class), ..Filter::default() }),
                below,
                ..Discard::default()
            },
            false => Discard { offsets: vec![(first, first + 1)], ..Discard::default() },
        };
        dlq.discard(&discard);
        assert!(!dlq.order.is_outstanding(first) && dlq.order.is_outstanding(second));
        assert_eq!(dlq.order.take_due(9), [second]);
        dlq.order.gone(second);
        assert!(dlq.order.is_quiet());
    }
}

#[test]
fn a_letter_that_stands_there_twice_ends_once() {
    let mut dlq = Dlq::default();
    let first = dlq.letter("k", 1, Stage::Enrich, None);
    let again = dlq.letter("k", 1, Stage::Enrich, None);
    assert!(dlq.order.is_outstanding(first) && dlq.order.is_outstanding(again));
    let next = dlq.letter("k", 1, Stage::Gate, Some(first));
    assert!(!dlq.order.is_outstanding(again), "the next attempt takes the place of both");
    dlq.settle(1, Stage::Gate, next);
    assert!(dlq.order.is_quiet());
}

#[test]
fn what_does_not_fit_stops_the_batch_and_one_event_always_fits() {
    let mut dlq = Dlq::default();
    dlq.letter("k", 1, Stage::Gate, None);
    let k = Some(key(b"k"));
    for (bounds, expected) in [
        (Bounds { letters: 1, bytes: 1_000 }, [Verdict::Waits(1), Verdict::Full]),
        (Bounds { letters: 9, bytes: 1 }, [Verdict::Waits(1), Verdict::Full]),
        (Bounds { letters: 9, bytes: 1_000 }, [Verdict::Waits(1), Verdict::Waits(1)]),
        (Bounds { letters: 0, bytes: 1_000 }, [Verdict::Full, Verdict::Full]),
    ] {
        let mut turn = Turn::new(&dlq.order, bounds, false);
        assert_eq!([2, 3].map(|offset| turn.next(k, offset, 500, Fate::Goes)), expected, "{bounds:?}");
        assert_eq!(turn.next(Some(key(b"other")), 4, 500, Fate::Goes), Verdict::AsItIs);
    }
}

/// What happens next in the world of the property below.
#[derive(Debug, Clone)]
enum Happens {
    /// Some records of raw are judged: the key of each, and whether it is refused.
    Raw(Vec<(u8, Fate)>),
    /// Letters on their way come back, this many; each with what would become of it.
    Back(Vec<Fate>),
    /// A person redrives the letter with this number, of those outstanding.
    Redrive(usize),
    /// A person gives it up.
    Discard(usize),
    /// The worker moves what is due.
    Move,
    /// The host is killed after its last delivery; on a log that commits late, with this many records of raw to judge again.
    Killed(usize),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![6 => Just(Fate::Goes), 3 => Just(Fate::Stays), 1 => Just(Fate::Leaves)]
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => proptest::collection::vec((0u8..4, fate()), 1..6).prop_map(Happens::Raw),
        4 => proptest::collection::vec(fate(), 1..6).prop_map(Happens::Back),
        3 => (0usize..20).prop_map(Happens::Redrive),
        1 => (0usize..20).prop_map(Happens::Discard),
        3 => Just(Happens::Move),
        1 => (0usize..4).prop_map(Happens::Killed),
    ]
}

/// A worker on one partition, as small as one can be.
#[derive(Default)]
struct World {
    dlq: Dlq,
    /// Keys, and what the rules say of each record.
    raw: Vec<(u8, Fate)>,
    /// Where raw is judged next.
    next: i64,
    retry: VecDeque<(i64, i64, Stage)>,
    /// Offsets that were delivered, by key, as often as they were.
    delivered: BTreeMap<u8, Vec<i64>>,
    gone: BTreeSet<i64>,
    bounds: Option<Bounds>,
}

impl World {
    fn bounds(&self) -> Bounds {
        self.bounds.unwrap_or(Bounds { letters: 5, bytes: 1 << 20 })
    }

    fn outstanding(&self) -> Vec<(i64, i64)> {
        self.dlq.order.places.iter().map(|(at, origin)| (*at, *origin)).collect()
    }

    fn stage(&self, at: i64) -> Stage {
        Letter::read(self.dlq.records[at as usize].headers(0)).unwrap().stage
    }

    fn judge(&mut self) {
        let rows = (self.next..).zip(&self.raw[self.next as usize..]);
        let rows: Vec<(i64, u8, Fate)> = rows.map(|(offset, (name, fate))| (offset, *name, *fate)).collect();
        let order = self.dlq.order.clone();
        let mut turn = Turn::new(&order, self.bounds(), false);
        for (offset, name, fate) in rows {
            let name_text = name.to_string();
            let verdict = turn.next(Some(key(name_text.as_bytes())), offset, 10, fate);
            match (verdict, fate) {
                (Verdict::Full, _) => return,
                (Verdict::Known, _) => {}
                (Verdict::Waits(_), _) => _ = self.dlq.letter(&name_text, offset, Stage::Order, None),
                (Verdict::AsItIs, Fate::Goes) => self.delivered.entry(name).or_default().push(offset),
                (Verdict::AsItIs, Fate::Stays) => _ = self.dlq.letter(&name_text, offset, Stage::Gate, None),
                (Verdict::AsItIs, Fate::Leaves) => _ = self.gone.insert(offset),
            }
            self.next = offset + 1;
        }
    }

    fn back(&mut self, fates: &[Fate]) {
        let order = self.dlq.order.clone();
        let count = fates.len().min(self.retry.len());
        let mut seen = BTreeSet::new();
        let mut batch: Vec<(i64, i64, Stage)> =
            self.retry.drain(..count).filter(|(_, at, _)| seen.insert(*at) && order.is_outstanding(*at)).collect();
        batch.sort_unstable_by_key(|(origin, ..)| *origin);
        let mut turn = Turn::new(&order, self.bounds(), true);
        for ((origin, at, stage), fate) in batch.into_iter().zip(fates) {
            let name = self.raw[origin as usize].0;
            let name_text = name.to_string();
            match (turn.next(Some(key(name_text.as_bytes())), origin, 10, *fate), fate) {
                (Verdict::Waits(_), _) => _ = self.dlq.letter(&name_text, origin, Stage::Order, Some(at)),
                (_, Fate::Stays) => _ = self.dlq.letter(&name_text, origin, Stage::Gate, Some(at)),
                (_, Fate::Goes) => {
                    self.delivered.entry(name).or_default().push(origin);
                    self.dlq.settle(origin, stage, at);
                }
                (_, Fate::Leaves) => {
                    self.gone.insert(origin);
                    self.dlq.settle(origin, stage, at);
                }
            }
        }
    }

    fn step(&mut self, happens: Happens) {
        match happens {
            Happens::Raw(records) => {
                self.raw.extend(records);
                self.judge();
            }
            Happens::Back(fates) => self.back(&fates),
            Happens::Redrive(which) => {
                let all = self.outstanding();
                if let Some((at, origin)) = all.get(which % all.len().max(1)) {
                    self.retry.push_back((*origin, *at, self.stage(*at)));
                }
            }
            Happens::Discard(which) => {
                let all = self.outstanding();
                if let Some((at, origin)) = all.get(which % all.len().max(1)) {
                    self.gone.insert(*origin);
                    self.dlq.discard(&Discard { offsets: vec![(*at, at + 1)], ..Discard::default() });
                }
            }
            Happens::Move => {
                for at in self.dlq.order.take_due(3) {
                    self.retry.push_back((self.dlq.order.places[&at], at, self.stage(at)));
                }
            }
            Happens::Killed(back) => {
                self.next = (self.next - back as i64).max(0);
                self.dlq.order = self.dlq.anew(self.next);
            }
        }
    }

    /// The order of first appearances, key by key.
    fn check(&self) -> Result<(), TestCaseError> {
        for offsets in self.delivered.values() {
            let mut seen = BTreeSet::new();
            let firsts: Vec<i64> = offsets.iter().copied().filter(|offset| seen.insert(*offset)).collect();
            prop_assert!(firsts.is_sorted(), "{firsts:?}");
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_event_is_delivered_before_an_earlier_one_of_its_key_and_none_is_lost(
        story in proptest::collection::vec(happens(), 1..60), commits_late: bool,
    ) {
        let mut world = World::default();
        for happens in story {
            let happens = match happens {
                Happens::Killed(_) if !commits_late => Happens::Killed(0),
                other => other,
            };
            world.step(happens);
            world.check()?;
            let again = world.dlq.anew(world.dlq.order.floor);
            let known = &world.dlq.order;
            prop_assert_eq!((&again.origins, again.waiting()), (&known.origins, known.waiting()));
        }
        // Everything is well now: all that stays is redriven, in the worst order.
        for _ in 0..200 {
            world.step(Happens::Raw(Vec::new()));
            for (at, origin) in world.outstanding().into_iter().rev() {
                world.retry.push_back((origin, at, world.stage(at)));
            }
            while !world.retry.is_empty() {
                world.back(&[Fate::Goes; 3]);
            }
            world.step(Happens::Move);
        }
        world.check()?;
        prop_assert!(world.dlq.order.is_quiet() && world.next == world.raw.len() as i64);
        for (offset, (name, _)) in (0..).zip(&world.raw) {
            let is_there = world.delivered.get(name).is_some_and(|all| all.contains(&offset));
            prop_assert!(is_there || world.gone.contains(&offset), "{} is lost", offset);
            prop_assert!(commits_late || !(is_there && world.gone.contains(&offset)), "{} has two ends", offset);
        }
        if !commits_late {
            for offsets in world.delivered.values() {
                prop_assert!(offsets.is_sorted_by(|a, b| a < b), "twice: {offsets:?}");
            }
        }
    }
}
