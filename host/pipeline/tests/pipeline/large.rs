//! An alert that its topic does not take: the event goes on, and the detector owes its judgement.

use phronis_core::letter::{Letter, Stage, UNJUDGED};
use phronis_core::{Name, code};
use phronis_log::embedded;
use tempfile::TempDir;

use crate::away::Away;
use crate::room::{Room, eventually, plugin};

#[test]
fn an_alert_too_large_for_its_topic_is_a_debt_of_its_detector() {
    let folder = TempDir::new().unwrap();
    let mut options = embedded::Options::new(folder.path().join("log"));
    // The guest's long message makes an alert of more than 4 KiB; events, other alerts and letters have far less.
    options.max_delivery_bytes = 4096;
    let log = embedded::Log::open(options).unwrap();
    let room = Room { folder, away: Away::new(log) };
    let options = room.options("a");
    room.write_file("a", "hot.toml", b"[params]\nbehaviour = \"long-message\"\nmark = 95.0");
    room.drop_plugin("a", "1.2.3");
    let host = room.start(options);
    eventually("the detector judges", || plugin(&host.handle()).is_some_and(|plugin| plugin.active.is_some()));
    for value in [91, 95, 92] {
        room.append("phronis.raw.events", "S1", Some(&format!(r#"{{"sensor_id":"S1","value":{value}}}"#)));
        // Each in a batch of its own: the guest misbehaves about the first row of a batch.
        eventually("it is judged", || {
            host.handle().streams().iter().all(|stream| stream.lag_records == 0 && stream.detail.is_none())
        });
    }
    let letters = room.records("phronis.dlq");
    let processed = room.records("phronis.processed");
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    let told = Letter::read(letter.body.headers(0)).unwrap();
    assert_eq!((told.stage, told.code, told.origin.offset), (Stage::Detect, code::RECORD_TOO_LARGE, 1));
    assert_eq!(told.plugin.map(|plugin| plugin.name), Some("hot".parse::<Name>().unwrap()));
    assert_eq!(letter.body.value(0), Some(&br#"{"sensor_id":"S1","value":95}"#[..]));
    let marks: Vec<_> = processed.iter().map(|event| event.body.headers(0).get(UNJUDGED)).collect();
    assert_eq!(marks, [None, Some(&b"hot"[..]), None]);
    assert_eq!(room.records("phronis.alerts").len(), 2);
    host.stop();
}
