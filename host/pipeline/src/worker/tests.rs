//! Workers on a scripted log: what a rebalance, a failed delivery, a gap and a record that is too large do, without a broker.

mod away;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use phronis_core::contract::Contract;
use phronis_core::delivery::{Delivery, Receipt};
use phronis_core::letter::{Kind, Letter, Outcome, Returned, Settlement, Stage};
use phronis_core::records::{HeadersBuilder, NewRecords, RecordsBuilder, TopicName};
use phronis_core::{StreamId, code};
use phronis_log::{
    Follower, PartitionInfo, PollLimits, Position, Reader, Retention, Ticket, TopicInfo, TopicSettings, TopicSpec,
};

use super::*;
use crate::plugins::Lineup;
use crate::stream::{Options, lag};

const CONTRACT: &str = "
apiVersion: v3.1.0
kind: DataContract
id: c
version: '1'
schema:
- name: s
  properties: [{name: n, logicalType: integer, required: true}]
";

/// What one poll does.
enum Step {
    Assigned(&'static [i32]),
    Revoked(&'static [i32]),
    Lost(&'static [i32]),
    /// Records of a partition at these offsets.
    Records(i32, std::ops::Range<i64>),
    /// Records of a partition of retry, from this offset on.
    Letters(i32, i64, Vec<NewRecords>),
    /// One record with this many bytes of value, and of a header.
    Large(i32, i64, usize, usize),
    OutOfRange(i32),
    /// The plugins are there: the stream may work.
    Ready,
    /// Writes down what the stream says of itself.
    Look,
}

/// What becomes of a delivery.
#[derive(Clone, Copy)]
enum Fate {
    Fails,
    /// A record of it is too large, and the log says no more than that.
    TooLarge,
    /// Becomes durable a moment after it was submitted.
    Late,
    /// Nobody ever answers.
    Hangs,
}

/// A log that does what it is told, and remembers what was done to it.
#[derive(Clone)]
struct Script {
    stream: Arc<Stream>,
    board: Arc<Board>,
    should_stop: Arc<AtomicBool>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    steps: VecDeque<Step>,
    /// The largest record of a topic.
    most: Option<u64>,
    fates: BTreeMap<(i32, i64), Fate>,
    /// So many questions where to go back to find nobody.
    silences: u32,
    /// What a reader of raw finds, at these offsets.
    raw: BTreeMap<i64, &'static str>,
    /// By whether it is a partition of retry, and its number.
    committed: BTreeMap<(bool, i32), i64>,
    /// Tickets without an answer.
    open: Vec<Arc<Mutex<Option<Answer>>>>,
    done: Vec<String>,
    looks: Vec<(StreamState, Option<String>)>,
    deliveries: Vec<Delivery>,
}

type Answer = tokio::sync::oneshot::Sender<phronis_log::Result<Receipt>>;

impl Script {
    fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        let id: StreamId = "sensors".parse().unwrap();
        let contract = Arc::new(Contract::parse(CONTRACT, "c").unwrap());
        let stream = Arc::new(Stream::new(Options::new(id.clone(), contract), Arc::default()));
        let board = Arc::new(Board::new([id]));
        let state = State { steps: steps.into_iter().collect(), ..State::default() };
        Self { stream, board, should_stop: Arc::default(), state: Arc::new(Mutex::new(state)) }
    }

    fn fate(self, partition: i32, from: i64, fate: Fate) -> Self {
        self.lock().fates.insert((partition, from), fate);
        self
    }

    /// Plays the script to its end; returns what was done.
    fn play(&self) -> Vec<String> {
        let log: Arc<dyn Log> = Arc::new(self.clone());
        let stop = Arc::clone(&self.should_stop);
        Worker::new(Arc::clone(&self.stream), Arc::clone(&self.board), log, 0, stop).unwrap().run().unwrap();
        std::mem::take(&mut self.lock().done)
    }

    fn ready(&self) {
        let lineup = Lineup { is_ready: true, ..Lineup::default() };
        self.board.publish_lineup(&self.stream.options.id, lineup);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn raw(&self) -> TopicName {
        Arc::clone(&self.stream.options.topics.raw)
    }

    /// What was written to a topic: (value, headers) of each record.
    fn written(&self, topic: &TopicName) -> Vec<(Vec<u8>, Records)> {
        let state = self.lock();
        let appends = state.deliveries.iter().flat_map(|delivery| &delivery.appends);
        appends
            .filter(|append| append.topic == *topic)
            .flat_map(|append| (0..append.records.len()).map(move |row| append.records.slice(row, 1)))
            .map(|body| {
                let value = body.value(0).unwrap_or_default().to_vec();
                (value, Records { topic: Arc::clone(topic), partition: 0, offsets: vec![0].into(), body })
            })
            .collect()
    }
}

fn records(topic: TopicName, partition: i32, offsets: std::ops::Range<i64>, value: &str, header: usize) -> Records {
    let mut builder = RecordsBuilder::default();
    let mut headers = HeadersBuilder::default();
    if header > 0 {
        headers.push("trace", &vec![b'x'; header]);
    }
    for offset in offsets.clone() {
        builder.push(1_000 + offset, Some(b"key"), Some(value.as_bytes()), headers.as_bytes());
    }
    let body = builder.finish();
    Records { topic, partition, offsets: offsets.collect::<Vec<_>>().into(), body }
}

impl Source for Script {
    fn poll(&mut self, limits: PollLimits, _: Duration) -> phronis_log::Result<Polled> {
        let (raw, mut state) = (self.raw(), self.lock());
        let brings = |step: &Step| matches!(step, Step::Records(..) | Step::Letters(..) | Step::Large(..));
        let takes = |step: &Step| limits.records > 0 || !brings(step);
        let Some(step) = state.steps.pop_front_if(|step| takes(step)) else {
            if state.steps.is_empty() {
                self.should_stop.store(true, Ordering::Relaxed);
            }
            return Ok(Polled::Idle);
        };
        let retry = Arc::clone(&self.stream.options.topics.retry);
        let named = |partitions: &[i32]| {
            partitions.iter().flat_map(|p| [(Arc::clone(&raw), *p), (Arc::clone(&retry), *p)]).collect()
        };
        let word = match &step {
            Step::Assigned(p) => format!("assigned {p:?}"),
            Step::Revoked(p) => format!("revoked {p:?}"),
            Step::Lost(p) => format!("lost {p:?}"),
            Step::Records(p, offsets) => format!("records {p} {offsets:?} open {}", unanswered(&state)),
            Step::Letters(p, from, letters) => format!("letters {p} {from}..+{}", letters.len()),
            Step::Large(..) | Step::OutOfRange(_) | Step::Ready | Step::Look => String::new(),
        };
        if !word.is_empty() {
            state.done.push(word);
        }
        Ok(match step {
            Step::Assigned(partitions) => {
                let retry = &self.stream.options.topics.retry;
                let stands = |is_retry, p: &i32| state.committed.get(&(is_retry, *p)).copied().unwrap_or(0);
                let of_raw = partitions.iter().map(|p| (Arc::clone(&raw), *p, stands(false, p)));
                let beside = partitions.iter().map(|p| (Arc::clone(retry), *p, stands(true, p)));
                Polled::Assigned(of_raw.chain(beside).collect())
            }
            Step::Revoked(partitions) => Polled::Revoked(named(partitions)),
            Step::Lost(partitions) => Polled::Lost(named(partitions)),
            Step::Records(partition, offsets) => Polled::Records(records(raw, partition, offsets, r#"{"n":1}"#, 0)),
            Step::Letters(partition, from, letters) => {
                let mut builder = RecordsBuilder::default();
                for letter in &letters {
                    let mut headers = HeadersBuilder::default();
                    headers.extend(letter.headers(0));
                    builder.push(1, letter.key(0), letter.value(0), headers.as_bytes());
                }
                let offsets: Vec<i64> = (from..).take(letters.len()).collect();
                Polled::Records(Records { topic: retry, partition, offsets: offsets.into(), body: builder.finish() })
            }
            Step::Large(partition, offset, bytes, header) => {
                let value = format!(r#"{{"n":1,"text":"{}"}}"#, "x".repeat(bytes.saturating_sub(17)));
                Polled::Records(records(raw, partition, offset..offset + 1, &value, header))
            }
            Step::OutOfRange(partition) => {
                let (earliest, latest) = (100, 200);
                return Err(LogError::OutOfRange { topic: raw.to_string(), partition, offset: 17, earliest, latest });
            }
            Step::Ready => {
                self.ready();
                Polled::Idle
            }
            Step::Look => {
                state.looks.push(self.stream.condition());
                Polled::Idle
            }
        })
    }

    fn rewind(&mut self, topic: &str, partition: i32) -> phronis_log::Result<i64> {
        let mut state = self.lock();
        let is_retry = *topic == *self.stream.options.topics.retry;
        let committed = state.committed.get(&(is_retry, partition)).copied().unwrap_or(0);
        let what = if is_retry { "retry " } else { "" };
        if let Some(left) = state.silences.checked_sub(1) {
            state.silences = left;
            state.done.push(format!("nobody answers about {what}{partition}"));
            return Err(LogError::Unreachable { reason: "as the script wants it".into() });
        }
        state.done.push(format!("rewound {what}{partition} to {committed}"));
        Ok(committed)
    }

    fn pause(&mut self, _: &str, partition: i32, is_paused: bool) {
        self.lock().done.push(format!("paused {partition}: {is_paused}"));
    }
}

fn unanswered(state: &State) -> usize {
    state.open.iter().filter(|answer| answer.lock().unwrap().is_some()).count()
}

impl Sink for Script {
    fn submit(&self, delivery: Delivery) -> phronis_log::Result<Ticket> {
        let mut state = self.lock();
        let commit = delivery.commits.first().unwrap().clone();
        state.deliveries.push(delivery);
        let (answer, ticket) = Ticket::new();
        let place = (commit.topic == self.stream.options.topics.retry, commit.partition);
        let stands = state.committed.get(&place).copied().unwrap_or(0);
        let fate = state.fates.remove(&(commit.partition, commit.from));
        if matches!(fate, Some(Fate::TooLarge)) {
            let topic = self.stream.options.topics.processed.to_string();
            answer.send(Err(LogError::TooLarge { topic, bytes: 0, most: 0 })).unwrap();
            state.most = Some(2_048);
            return Ok(ticket);
        }
        if stands != commit.from || matches!(fate, Some(Fate::Fails)) {
            answer.send(Err(LogError::Unreachable { reason: "as the script wants it".into() })).unwrap();
            return Ok(ticket);
        }
        state.committed.insert(place, commit.next);
        match fate {
            Some(Fate::Hangs) => state.open.push(Arc::new(Mutex::new(Some(answer)))),
            Some(_) => {
                let later = Arc::new(Mutex::new(Some(answer)));
                state.open.push(Arc::clone(&later));
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(50));
                    drop(later.lock().unwrap().take().unwrap().send(Ok(Receipt::default())));
                });
            }
            None => answer.send(Ok(Receipt::default())).unwrap(),
        }
        Ok(ticket)
    }

    fn try_submit(&self, delivery: Delivery) -> phronis_log::Result<Ticket> {
        self.submit(delivery)
    }
}

impl Log for Script {
    fn create_topic(&self, _: &TopicSpec) -> phronis_log::Result<()> {
        Ok(())
    }

    fn describe_topic(&self, _: &str) -> phronis_log::Result<TopicSettings> {
        let retention = Retention::default();
        Ok(TopicSettings {
            partitions: 3,
            replication: None,
            retention,
            max_record_bytes: self.lock().most.unwrap_or(u64::MAX),
            ahead: None,
        })
    }

    fn topic_identity(&self, topic: &str) -> phronis_log::Result<String> {
        Ok(topic.to_owned())
    }

    fn topics(&self) -> phronis_log::Result<Vec<TopicInfo>> {
        let partitions = vec![PartitionInfo { earliest: 0, latest: 50, bytes: None }; 3];
        Ok(vec![TopicInfo { name: self.raw(), partitions }])
    }

    fn join(&self, _: &Subscription) -> phronis_log::Result<Member> {
        Ok(Member { source: Box::new(self.clone()), sink: Box::new(self.clone()) })
    }

    fn sink(&self) -> phronis_log::Result<Box<dyn Sink>> {
        Ok(Box::new(self.clone()))
    }

    fn reader(&self, topic: &str, partition: i32, from: Position) -> phronis_log::Result<Box<dyn Reader>> {
        let raw = self.lock().raw.clone();
        let (earliest, latest) =
            (raw.keys().next().copied().unwrap_or(0), raw.keys().last().map_or(0, |last| last + 1));
        let position = match from {
            Position::Offset(at) if !(earliest..=latest).contains(&at) => {
                let topic = topic.to_owned();
                return Err(LogError::OutOfRange { topic, partition, offset: at, earliest, latest });
            }
            Position::Offset(at) => at,
            _ => earliest,
        };
        Ok(Box::new(OneByOne { topic: self.raw(), partition, raw, position }))
    }

    fn follow(&self, _: &[TopicName], _: Start) -> phronis_log::Result<Box<dyn Follower>> {
        Err(LogError::Closed)
    }

    fn committed(&self, _: &str, _: &str) -> phronis_log::Result<Vec<Option<i64>>> {
        let state = self.lock();
        Ok((0..3).map(|partition| state.committed.get(&(false, partition)).copied()).collect())
    }
}

/// A reader that gives a record at a time.
struct OneByOne {
    topic: TopicName,
    partition: i32,
    raw: BTreeMap<i64, &'static str>,
    position: i64,
}

impl Reader for OneByOne {
    fn next(&mut self, _: PollLimits, _: Duration) -> phronis_log::Result<Option<Records>> {
        let Some((offset, value)) = self.raw.range(self.position..).next() else { return Ok(None) };
        self.position = offset + 1;
        Ok(Some(records(Arc::clone(&self.topic), self.partition, *offset..offset + 1, value, 0)))
    }

    fn position(&self) -> i64 {
        self.position
    }
}

use Step::{Assigned, Large, Look, Lost, OutOfRange, Ready, Revoked};

#[test]
fn a_worker_that_may_not_work_yet_keeps_its_place_and_takes_no_records() {
    let script = Script::new([
        Assigned(&[0, 1]),
        Revoked(&[1]),
        Assigned(&[2]),
        Ready,
        Step::Records(0, 0..3),
        Step::Records(2, 0..4),
    ]);
    let done = script.play();
    assert_eq!(done.last().map(String::as_str), Some("records 2 0..4 open 0"));
    assert_eq!(script.stream.counts.snapshot().delivered, 7);
    assert_eq!(script.stream.condition(), (StreamState::Stopped, None));
}

#[test]
fn what_is_in_flight_of_revoked_partitions_is_durable_before_they_are_handed_over() {
    let script = Script::new([
        Ready,
        Assigned(&[0, 1]),
        Step::Records(0, 0..3),
        Step::Records(1, 0..4),
        Revoked(&[1]),
        Step::Records(0, 3..4),
    ]);
    let script = script.fate(0, 0, Fate::Late).fate(1, 0, Fate::Late);
    script.ready();
    let done = script.play();
    assert_eq!(done[2], "records 1 0..4 open 1");
    assert_eq!(done[4], "records 0 3..4 open 0", "settled before the log hears of the next poll: {done:?}");
    assert_eq!(script.stream.counts.snapshot().delivered, 8);
}

#[test]
fn a_failure_while_handing_over_leaves_the_partition_to_its_new_owner_and_the_others_recover() {
    let script = Script::new([
        Assigned(&[0, 1, 2]),
        Step::Records(2, 0..5),
        Step::Records(1, 0..4),
        Step::Records(0, 0..3),
        Revoked(&[1]),
        Step::Records(0, 0..3),
        Step::Records(2, 5..6),
    ]);
    // The first answers late, so that all three are in flight when the partition is revoked.
    let script = script.fate(2, 0, Fate::Late).fate(1, 0, Fate::Fails).fate(0, 0, Fate::Fails);
    script.ready();
    let done = script.play();
    let rewound: Vec<_> = done.iter().filter(|word| word.starts_with("rewound")).collect();
    assert_eq!(rewound, ["rewound 0 to 0"], "{done:?}");
    assert_eq!(script.stream.counts.snapshot().delivered, 3 + 5 + 1);
}

#[test]
fn what_is_in_flight_of_lost_partitions_is_neither_waited_for_nor_counted() {
    let script = Script::new([
        Assigned(&[0, 1]),
        Step::Records(1, 0..4),
        Step::Records(0, 0..3),
        Lost(&[1]),
        Step::Records(0, 3..5),
    ]);
    let script = script.fate(1, 0, Fate::Hangs);
    script.ready();
    let done = script.play();
    assert!(!done.iter().any(|word| word.starts_with("rewound")), "{done:?}");
    assert_eq!(script.stream.counts.snapshot().delivered, 5);
}

#[test]
fn a_failed_delivery_rewinds_its_partition_only() {
    let script = Script::new([
        Assigned(&[0, 1]),
        Step::Records(0, 0..3),
        Step::Records(1, 0..4),
        Step::Records(1, 0..4),
        Look,
        Step::Records(0, 3..5),
        Look,
    ]);
    let script = script.fate(1, 0, Fate::Fails);
    script.ready();
    let done = script.play();
    assert_eq!(done.iter().filter(|word| word.starts_with("rewound")).collect::<Vec<_>>(), ["rewound 1 to 0"]);
    assert_eq!(script.stream.counts.snapshot().delivered, 9);
    assert_eq!(script.lock().looks.last(), Some(&(StreamState::Running, None)));
}

#[test]
fn an_offset_out_of_range_stops_its_partition_loudly_and_the_others_go_on() {
    let script = Script::new([
        Assigned(&[0, 1]),
        OutOfRange(0),
        Step::Records(1, 0..4),
        Look,
        Revoked(&[0]),
        Look,
        Assigned(&[0]),
        OutOfRange(0),
        Look,
        Assigned(&[0]),
        Look,
    ]);
    script.ready();
    let done = script.play();
    assert!(!done.iter().any(|word| word.starts_with("rewound")), "nothing is skipped, nothing judged twice: {done:?}");
    assert_eq!(script.stream.counts.snapshot().delivered, 4);
    let state = script.lock();
    let [stopped, gone, again, cured] = state.looks.as_slice() else { panic!("{:?}", state.looks) };
    for (condition, detail) in [stopped, again] {
        assert_eq!(*condition, StreamState::Blocked);
        let detail = detail.as_deref().unwrap();
        for part in ["partition 0 stopped", "offset 17", "100 to 200", "83 records are gone", "PH3002"] {
            assert!(detail.contains(part), "{detail}");
        }
    }
    assert_eq!((gone, cured), (&(StreamState::Running, None), &(StreamState::Running, None)));
    assert!(!state.committed.contains_key(&(false, 0)));
}

#[test]
fn an_event_too_large_for_its_topic_becomes_a_letter_and_the_partition_goes_on() {
    let script = Script::new([
        Assigned(&[0]),
        Step::Records(0, 0..1),
        Large(0, 1, 5_000, 0),
        Large(0, 2, 9_000, 0),
        Large(0, 3, 100, 9_000),
        Step::Records(0, 4..5),
    ]);
    // 512 of it are kept for what the log adds. The value of offset 1 fits, but not with the header of its origin.
    script.lock().most = Some(512 + 5_000 + 10);
    script.ready();
    script.play();
    let counts = script.stream.counts.snapshot();
    assert_eq!((counts.received, counts.delivered, counts.deliver_letters), (5, 2, 3));
    let letters = script.written(&script.stream.options.topics.dlq);
    let mut kept = BTreeSet::new();
    for (value, record) in &letters {
        let headers = record.body.headers(0);
        let letter = Letter::read(headers).unwrap();
        assert_eq!((letter.stage, letter.code, &letter.plugin), (Stage::Deliver, code::RECORD_TOO_LARGE, &None));
        assert_eq!(record.body.key(0), Some(&b"key"[..]));
        assert!(value.len() + headers.bytes() + 3 <= 5_010, "it fits");
        kept.insert((letter.origin.offset, value.len(), letter.omitted.value, letter.omitted.headers.is_some()));
    }
    assert_eq!(kept, BTreeSet::from([(1, 0, Some(5_000), false), (2, 0, Some(9_000), false), (3, 0, Some(100), true)]));
}

#[test]
fn a_limit_that_was_lowered_is_learnt_from_the_delivery_that_it_refuses() {
    let script = Script::new([Assigned(&[0]), Step::Records(0, 0..3), Large(0, 3, 5_000, 0), Large(0, 3, 5_000, 0)]);
    let script = script.fate(0, 3, Fate::TooLarge);
    script.ready();
    let done = script.play();
    assert!(done.contains(&"rewound 0 to 3".to_owned()), "{done:?}");
    let counts = script.stream.counts.snapshot();
    assert_eq!((counts.delivered, counts.deliver_letters), (3, 1));
}

#[test]
fn the_lag_counts_what_is_not_answered_for_and_ages_with_what_the_worker_has_in_hand() {
    let script = Script::new([Assigned(&[0, 1]), Step::Records(0, 0..50), Step::Records(1, 0..20)]);
    let script = script.fate(1, 0, Fate::Hangs);
    script.ready();
    let log: Arc<dyn Log> = Arc::new(script.clone());
    let (stream, stop) = (Arc::clone(&script.stream), Arc::clone(&script.should_stop));
    let mut worker = Worker::new(stream, Arc::clone(&script.board), log, 0, stop).unwrap();
    for _ in 0..3 {
        worker.may_work();
        worker.step(Duration::ZERO).unwrap();
    }
    // The log has heard of this commit already, the worker of its delivery not.
    script.lock().committed.remove(&(false, 1));
    let lags = lag::measure(&script, &script.stream);
    let seen: Vec<_> = lags.iter().map(|lag| (lag.partition, lag.committed, lag.lag_records)).collect();
    assert_eq!(seen, [(0, Some(50), 0), (1, None, 50), (2, None, 50)]);
    assert_eq!(lags[0].lag_seconds, 0.0);
    assert!(lags[1].lag_seconds > 1e9, "its record is of 1970");
}

/// A letter of the gate about a record of raw, as the retry branch brings it back.
fn returned(
    stream: &str,
    (partition, offset): (i32, i64),
    at: i64,
    value: Option<&str>,
    change: impl FnOnce(&mut Letter),
) -> NewRecords {
    let own = {
        let mut own = HeadersBuilder::default();
        own.push("own", b"1");
        let mut record = RecordsBuilder::default();
        record.push(0, None, None, own.as_bytes());
        record.finish()
    };
    let origin = phronis_core::letter::Origin { topic: "phronis.raw.events".into(), partition, offset, timestamp: 77 };
    let (stream, code, now) = (stream.parse().unwrap(), code::MISSING_FIELD, phronis_core::Time(5));
    let mut letter = Letter::new(&stream, Stage::Gate, None, origin, code, "then", own.headers(0), now);
    change(&mut letter);
    let mut headers = HeadersBuilder::default();
    letter.write(own.headers(0), &mut headers);
    let mut record = RecordsBuilder::default();
    record.push(0, Some(b"key"), value.map(str::as_bytes), headers.as_bytes());
    let written = record.finish();
    let mut back = HeadersBuilder::default();
    Returned::write(written.headers(0), at, Some("r-1"), &mut back);
    let mut record = RecordsBuilder::default();
    record.push(0, written.key(0), written.value(0), back.as_bytes());
    record.finish()
}

const GOOD: Option<&str> = Some(r#"{"n":1}"#);

#[test]
fn letters_that_come_back_go_through_or_become_the_next_attempt_and_nothing_runs_twice() {
    let back = |offset, at, value| returned("sensors", (0, offset), at, value, |_| {});
    let letters = vec![back(7, 40, GOOD), back(5, 41, Some("{}")), back(7, 40, GOOD), back(3, 42, GOOD)];
    let script = Script::new([
        Assigned(&[0]),
        Step::Records(0, 0..2),
        Step::Letters(0, 0, letters),
        Step::Records(0, 2..3),
        Step::Letters(0, 4, vec![back(9, 43, GOOD)]),
    ]);
    script.ready();
    script.play();
    let topics = &script.stream.options.topics;
    let processed = script.written(&topics.processed);
    let origins: Vec<_> =
        processed.iter().map(|(_, r)| r.body.headers(0).last("phronis-origin-offset").unwrap().to_vec()).collect();
    assert_eq!(origins, [&b"0"[..], b"1", b"3", b"7", b"2", b"9"]);
    let (_, one) = &processed[2];
    assert_eq!(one.body.headers(0).get("own"), Some(&b"1"[..]), "the record's own headers, and none of the letter's");
    assert_eq!((one.body.headers(0).get("phronis-id"), one.body.timestamps.values()[0]), (None, 77));

    let dlq = script.written(&topics.dlq);
    let attempt = dlq.iter().find(|(_, r)| Kind::of(r.body.headers(0)) == Kind::Letter).unwrap();
    let letter = Letter::read(attempt.1.body.headers(0)).unwrap();
    assert_eq!(
        (letter.attempt, letter.previous, letter.due_at),
        (2, Some(41), None),
        "the gate's letters wait for people"
    );
    assert_eq!((letter.first_failed_at, letter.origin.offset), (phronis_core::Time(5), 5));
    assert_eq!(attempt.1.body.headers(0).last("phronis-redrive"), Some(&b"r-1"[..]));
    let settled: Vec<_> = dlq.iter().filter_map(|(_, r)| Settlement::read(r.body.headers(0))).collect();
    let ends: Vec<_> = settled.iter().map(|s| (s.previous, s.origin.offset, s.outcome)).collect();
    assert_eq!(ends, [(42, 3, Outcome::Delivered), (40, 7, Outcome::Delivered), (43, 9, Outcome::Delivered)]);
    let counts = script.stream.counts.snapshot();
    assert_eq!((counts.received, counts.delivered, counts.gate_letters), (3, 6, 0));
    assert_eq!((counts.retries, counts.settled, counts.settled_debts), (4, 3, 0));
    assert_eq!(script.lock().committed, BTreeMap::from([((false, 0), 3), ((true, 0), 5)]));
}

#[test]
fn a_retry_partition_whose_delivery_failed_is_read_again_alone() {
    let back = || vec![returned("sensors", (0, 7), 40, GOOD, |_| {})];
    let script =
        Script::new([Assigned(&[0]), Step::Letters(0, 0, back()), Step::Letters(0, 0, back()), Step::Records(0, 0..2)]);
    let script = script.fate(0, 0, Fate::Fails);
    script.ready();
    let done = script.play();
    assert_eq!(done.iter().filter(|word| word.starts_with("rewound")).collect::<Vec<_>>(), ["rewound retry 0 to 0"]);
    let counts = script.stream.counts.snapshot();
    assert_eq!((counts.delivered, counts.settled), (3, 1));
}

#[test]
fn what_cannot_run_is_parked_with_the_reason_and_what_is_no_letter_is_passed_over() {
    let plugin = |letter: &mut Letter| {
        letter.stage = Stage::Enrich;
        let (name, version, digest) = ("gone".parse().unwrap(), "1".into(), "d".into());
        letter.plugin = Some(phronis_core::letter::Plugin { name, version, digest });
    };
    let garbage = |headers: &[(&str, &[u8])]| {
        let mut block = HeadersBuilder::default();
        headers.iter().for_each(|(name, value)| _ = block.push(name, value));
        let mut record = RecordsBuilder::default();
        record.push(0, None, None, block.as_bytes());
        record.finish()
    };
    let letters = vec![
        garbage(&[]),
        returned("acme.sensors", (0, 1), 50, GOOD, |_| {}),
        garbage(&[("phronis-settled", b"judged"), ("phronis-id", b"x")]),
        returned("sensors", (2, 1), 51, GOOD, |_| {}),
        returned("sensors", (0, 2), 52, GOOD, plugin),
        garbage(&[("phronis-range", b"9"), ("phronis-id", &[0xff; 9])]),
        returned("sensors", (0, 3), 53, GOOD, |letter| letter.origin.topic = "elsewhere".into()),
        returned("sensors", (0, 4), 54, None, |_| {}),
        returned("sensors", (0, 8), 55, Some(""), |letter| letter.omitted.value = Some(7)),
        returned("sensors", (0, 99), 56, Some(""), |letter| letter.omitted.value = Some(7)),
        returned("sensors", (0, 6), 57, GOOD, |_| {}),
    ];
    let script = Script::new([Assigned(&[0]), Step::Letters(0, 0, letters)]);
    script.lock().raw = BTreeMap::from([(8, r#"{"n":8}"#)]);
    script.ready();
    script.play();
    let topics = &script.stream.options.topics;
    let letters: BTreeMap<i64, (phronis_core::Code, u32)> = script
        .written(&topics.dlq)
        .iter()
        .filter_map(|(_, r)| Letter::read(r.body.headers(0)))
        .inspect(|letter| assert_eq!(letter.due_at, None, "{letter:?}"))
        .map(|letter| (letter.previous.unwrap(), (letter.code, letter.attempt)))
        .collect();
    let expected = BTreeMap::from([
        (50, (code::LETTER_FOREIGN, 1)),
        (51, (code::LETTER_FOREIGN, 1)),
        (52, (code::PLUGIN_GONE, 1)),
        (53, (code::LETTER_FOREIGN, 1)),
        (54, (code::EMPTY_VALUE, 2)),
        (56, (code::RANGE_GONE, 1)),
    ]);
    assert_eq!(letters, expected);
    let values: Vec<_> = script.written(&topics.processed).into_iter().map(|(value, _)| value).collect();
    assert_eq!(values, [&b"{\"n\":1}"[..], b"{\"n\":8}"], "a value that was left out is read again from raw");
    assert_eq!(script.lock().committed, BTreeMap::from([((true, 0), 11)]));
    assert_eq!(script.stream.condition(), (StreamState::Stopped, None));
}

#[test]
fn what_was_read_before_stands_for_offsets_that_it_reaches_over() {
    let mut body = phronis_core::records::RecordsBuilder::default();
    (0..3).for_each(|_| body.push(0, None, Some(b"{}"), &[]));
    let offsets = vec![10_i64, 12, 19].into();
    let last = phronis_core::records::Records { topic: "raw".into(), partition: 2, offsets, body: body.finish() };
    let holds = |partition, offsets: &[i64]| {
        let offsets = phronis_core::letter::Offsets::of(offsets.iter().copied()).unwrap();
        super::again::holds(&last, partition, &offsets)
    };
    assert!(holds(2, &[10]) && holds(2, &[11, 12]) && holds(2, &[10, 14, 19]));
    assert!(!holds(1, &[10]) && !holds(2, &[9, 10]) && !holds(2, &[19, 20]) && !holds(2, &[25]));
}
