//! Letters that come back, with real guests: only what failed runs again, and what was delivered is not delivered twice.
//! The tests move letters from dlq to retry themselves, as the retry branch does.

use std::time::Duration;

use phronis_core::StreamId;
use phronis_core::letter::backoff::Policy;
use phronis_core::letter::{Kind, Letter, Offsets, Outcome, Plugin, Range, Returned, Settlement, Stage, UNJUDGED};
use phronis_core::records::HeadersBuilder;
use phronis_core::{Code, Time, code};
use phronis_log::Log as _;
use phronis_pipeline::{Handle, Options, Pipeline, status};

use crate::room::{Room, eventually, sensors};

/// No letter comes back by itself while a test runs.
const PATIENT: Policy = Policy { base: Duration::from_secs(3600), cap: Duration::from_secs(7200), attempts: 3 };

/// A room with one host, whose plugins misbehave as told.
struct House {
    room: Room,
    host: Pipeline,
}

impl House {
    fn new(guests: &[(&str, &str)], behaviour: &str) -> Self {
        let room = Room::new();
        let mut options: Options = room.options("a");
        options.streams.iter_mut().for_each(|stream| stream.retry = PATIENT);
        for (guest, name) in guests {
            room.write_file("a", &format!("{name}.toml"), format!("[params]\nbehaviour = \"{behaviour}\"").as_bytes());
            room.drop_guest("a", guest, &format!("{name}.wasm"));
        }
        let host = room.start(options);
        let house = Self { room, host };
        for (_, name) in guests {
            eventually("the plugin judges", || house.plugin(name).is_some_and(|plugin| plugin.active.is_some()));
        }
        house
    }

    fn handle(&self) -> Handle {
        self.host.handle()
    }

    fn plugin(&self, name: &str) -> Option<status::Plugin> {
        self.handle().plugin(&format!("default/sensors/{name}").parse().unwrap())
    }

    fn behave(&self, name: &str, behaviour: &str) {
        let file = format!("[params]\nbehaviour = \"{behaviour}\"");
        self.room.write_file("a", &format!("{name}.toml"), file.as_bytes());
        eventually("the plugin changes its ways", || {
            self.plugin(name).is_some_and(|plugin| plugin.params["behaviour"] == behaviour)
        });
    }

    fn post(&self, values: &[f64]) {
        for value in values {
            let event = format!(r#"{{"sensor_id":"S1","value":{value}}}"#);
            self.room.append("phronis.raw.events", "S1", Some(&event));
        }
    }

    /// Waits until dlq has this many records, and gives those from an offset on.
    fn dlq(&self, count: usize, from: usize) -> Vec<Told> {
        eventually("dlq has them", || self.room.records("phronis.dlq").len() >= count);
        let records = self.room.records("phronis.dlq");
        assert_eq!(records.len(), count, "no more than that");
        let told = records.iter().skip(from).map(|record| {
            let headers = record.body.headers(0);
            match Kind::of(headers) {
                Kind::Letter | Kind::Range => Told::Letter(Letter::read(headers).unwrap()),
                Kind::Settlement => Told::End(Settlement::read(headers).unwrap()),
                other => panic!("{other:?} stands in dlq"),
            }
        });
        told.collect()
    }

    /// Moves the letter at an offset of dlq to the retry topic.
    fn bring_back(&self, at: usize) {
        let records = self.room.records("phronis.dlq");
        let body = &records[at].body;
        let mut headers = HeadersBuilder::default();
        Returned::write(body.headers(0), i64::try_from(at).unwrap(), None, &mut headers);
        self.room.write("phronis.retry", body.key(0), body.value(0), &headers);
    }

    fn counts(&self) -> status::StreamCounts {
        self.handle().streams().into_iter().find(|stream| stream.id == sensors()).unwrap().counts
    }

    fn processed(&self) -> Vec<i64> {
        let origin = |record: &phronis_core::records::Records| {
            let text = record.body.headers(0).last("phronis-origin-offset").unwrap().to_vec();
            String::from_utf8(text).unwrap().parse().unwrap()
        };
        self.room.records("phronis.processed").iter().map(origin).collect()
    }

    /// Origin offsets of the alerts.
    fn alerts(&self) -> Vec<i64> {
        let alerts = self.room.values("phronis.alerts").into_iter().flatten();
        alerts
            .map(|alert| {
                serde_json::from_str::<serde_json::Value>(&alert).unwrap()["origin"]["offset"].as_i64().unwrap()
            })
            .collect()
    }
}

#[derive(Debug)]
enum Told {
    Letter(Letter),
    End(Settlement),
}

impl Told {
    fn letter(&self) -> (Stage, Code, i64, u32, Option<i64>, bool) {
        let Self::Letter(letter) = self else { panic!("{self:?} is no letter") };
        let is_due = letter.due_at.is_some();
        (letter.stage, letter.code, letter.origin.offset, letter.attempt, letter.previous, is_due)
    }

    fn end(&self) -> (i64, i64, Outcome) {
        let Self::End(end) = self else { panic!("{self:?} settles nothing") };
        (end.previous, end.origin.offset, end.outcome)
    }
}

#[test]
fn a_detectors_letter_runs_that_detector_alone_until_it_judges() {
    let house = House::new(&[("detector.wasm", "hot")], "fail-every-row");
    house.post(&[91.0, 50.0]);
    let first = house.dlq(2, 0);
    let (stage, code) = (Stage::Detect, code::ROW_FAILED);
    let letters: Vec<_> = first.iter().map(Told::letter).collect();
    assert_eq!(letters, [(stage, code, 0, 1, None, true), (stage, code, 1, 1, None, true)]);
    let Told::Letter(letter) = &first[0] else { panic!() };
    let due = letter.due_at.unwrap().0 - letter.first_failed_at.0;
    assert_eq!(u128::from(due.unsigned_abs()), PATIENT.delay(letter.id, 1).as_micros());

    // Fails again, and again: then it waits for a person.
    house.bring_back(0);
    assert_eq!(house.dlq(3, 2)[0].letter(), (stage, code, 0, 2, Some(0), true));
    house.bring_back(2);
    let parked = house.dlq(4, 3);
    assert_eq!(parked[0].letter(), (stage, code, 0, 3, Some(2), false));
    let Told::Letter(last) = &parked[0] else { panic!() };
    assert_eq!((last.id, last.first_failed_at, &last.origin), (letter.id, letter.first_failed_at, &letter.origin));

    house.behave("hot", "honest");
    house.bring_back(3);
    house.bring_back(1);
    let ends: Vec<_> = house.dlq(6, 4).iter().map(Told::end).collect();
    assert_eq!(ends, [(3, 0, Outcome::Judged), (1, 1, Outcome::Judged)]);
    assert_eq!((house.alerts(), house.processed()), (vec![0], vec![0, 1]), "nothing is delivered again but the alert");
    let marks: Vec<_> =
        house.room.records("phronis.processed").iter().map(|r| r.body.headers(0).get(UNJUDGED).is_some()).collect();
    assert_eq!(marks, [true, true]);
    eventually("all is counted", || house.counts().settled_debts == 2);
    let counts = house.counts();
    assert_eq!((counts.received, counts.delivered, counts.detect_letters, counts.retries), (2, 2, 2, 4));
    let group = phronis_pipeline::stream::Options::new(sensors(), contract()).group();
    assert_eq!(house.room.away.log.committed(&group, "phronis.retry").unwrap(), [Some(4)]);
    house.host.stop();
}

fn contract() -> std::sync::Arc<phronis_core::Contract> {
    let text = "{apiVersion: v3.1.0, kind: DataContract, id: c, version: '1', schema: [{name: s, properties: [{name: n, logicalType: integer}]}]}";
    std::sync::Arc::new(phronis_core::Contract::parse(text, "c").unwrap())
}

#[test]
fn an_enrichers_letter_goes_from_the_gate_to_the_end_once_the_enricher_answers() {
    let house = House::new(&[("enricher.wasm", "mild"), ("detector.wasm", "hot")], "fail-negative");
    house.post(&[-5.0, 50.0, -300.0]);
    let (stage, code) = (Stage::Enrich, code::ROW_FAILED);
    let letters: Vec<_> = house.dlq(2, 0).iter().map(Told::letter).collect();
    assert_eq!(letters, [(stage, code, 0, 1, None, true), (stage, code, 2, 1, None, true)]);
    house.bring_back(0);
    assert_eq!(house.dlq(3, 2)[0].letter(), (stage, code, 0, 2, Some(0), true));
    // The detector has no answer for what goes through now: that is a letter of its own.
    house.behave("hot", "fail-every-row");
    house.behave("mild", "honest");
    house.bring_back(2);
    let more = house.dlq(5, 3);
    assert_eq!(more[0].letter(), (Stage::Detect, code::ROW_FAILED, 0, 1, None, true));
    assert_eq!(more[1].end(), (2, 0, Outcome::Delivered));
    assert_eq!(house.processed(), [1, 0]);
    let event = house.room.values("phronis.processed")[1].clone().unwrap();
    assert!(event.contains(r#""double":-10"#), "{event}");
    // A rule that drops is an end too.
    house.behave("mild", "drop-negative");
    house.bring_back(1);
    assert_eq!(house.dlq(6, 5)[0].end(), (1, 2, Outcome::Dropped));
    eventually("all is counted", || house.counts().settled == 2);
    let counts = house.counts();
    assert_eq!(counts.received, counts.delivered + counts.dropped + counts.enrich_letters - counts.settled);
    assert_eq!((counts.delivered, counts.dropped, counts.enrich_letters, counts.detect_letters), (2, 1, 2, 1));
    house.host.stop();
}

#[test]
fn a_range_letter_is_judged_from_raw_and_what_is_gone_stays_a_letter() {
    let house = House::new(&[("enricher.wasm", "mild"), ("detector.wasm", "hot")], "honest");
    house.post(&[91.0, 92.0, 50.0, 93.0]);
    eventually("all are delivered", || house.processed().len() == 4);
    let stream: StreamId = sensors();
    let write = |stage, name: &str, offsets: &[i64], at: i64| {
        let topic = "phronis.raw.events".into();
        let origin = phronis_core::letter::Origin { topic, partition: 0, offset: offsets[0], timestamp: 0 };
        let plugin = Plugin { name: name.parse().unwrap(), version: "1.2.3".into(), digest: "d".into() };
        let offsets = Offsets::of(offsets.iter().copied()).unwrap();
        let range = Range::new(&stream, stage, plugin, origin, offsets, "open", Time(7));
        let (mut own, mut headers) = (HeadersBuilder::default(), HeadersBuilder::default());
        range.write(&mut own);
        let mut record = phronis_core::records::RecordsBuilder::default();
        record.push(0, None, Some(&range.offsets.to_json()), own.as_bytes());
        let record = record.finish();
        Returned::write(record.headers(0), at, None, &mut headers);
        house.room.write("phronis.retry", None, record.value(0), &headers);
    };
    write(Stage::Detect, "hot", &[0, 2, 3], 70);
    assert_eq!(house.dlq(1, 0)[0].end(), (70, 0, Outcome::Judged));
    assert_eq!(house.alerts(), [0, 1, 3, 0, 3], "only the detector ran, on these records");
    assert_eq!(house.processed().len(), 4);
    write(Stage::Enrich, "mild", &[1, 2], 71);
    assert_eq!(house.dlq(2, 1)[0].end(), (71, 1, Outcome::Delivered));
    assert_eq!(house.processed()[4..], [1, 2]);
    write(Stage::Detect, "hot", &[1, 90, 91], 72);
    let gone = house.dlq(3, 2);
    assert_eq!(gone[0].letter(), (Stage::Detect, code::RANGE_GONE, 90, 1, Some(72), false));
    let records = house.room.records("phronis.dlq");
    let range = Range::read(records[2].body.headers(0), records[2].body.value(0).unwrap()).unwrap();
    assert_eq!(range.offsets.to_json(), br#"{"offsets":[[90,92]]}"#);
    eventually("the rest is judged", || house.alerts().len() == 7);
    house.host.stop();
}
