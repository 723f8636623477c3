//! Breakers around a real guest that traps: what opens them, what becomes of events meanwhile, and how they close.

use std::time::Duration;

use phronis_core::breaker::{Mode, Reason, State};
use phronis_core::letter::backoff::Policy;
use phronis_core::letter::{Kind, Letter, Range, Stage};
use phronis_core::records::Records;
use phronis_core::time::Time;
use phronis_core::{PluginId, code};
use phronis_log::{Log, PollLimits, Start};
use phronis_pipeline::breakers::{Override, Status, WhenOpen, Wish};
use phronis_pipeline::plugins::{Change, What};
use phronis_pipeline::{Handle, Role, live, status};
use serde_json::{Value, json};

use crate::room::{PLUGIN, Room, block, eventually, plugin, sensors};

/// Traps at each call, and is open for as long as a test takes.
const TRAPS: &str = "[params]\nbehaviour = \"trap\"\n[breaker]\nopen_for = \"1h\"\n";

/// No letter comes back by itself while a test runs.
const PATIENT: Policy = Policy { base: Duration::from_secs(3600), cap: Duration::from_secs(7200), attempts: 3 };

fn id() -> PluginId {
    PLUGIN.parse().unwrap()
}

fn breaker(handle: &Handle) -> Status {
    handle.breaker(&id()).unwrap()
}

fn change(handle: &Handle, what: What) -> Value {
    let change = Change {
        id: id(),
        what,
        source: "api".to_owned(),
        actor: None,
        reason: None,
        if_version: None,
        is_dry_run: false,
    };
    block(handle.change(change)).unwrap().value
}

fn over(state: Wish) -> What {
    let said = Override { state, reason: "a test".to_owned(), actor: None, at: Time(1), until: None };
    What::Override(Some(said))
}

impl Room {
    fn topic(&self, topic: &str) -> Vec<Records> {
        let mut follower = self.away.log.follow(&[topic.into()], Start::Earliest).unwrap();
        let mut all = Vec::new();
        while let Some(records) = follower.next(PollLimits { records: 1, bytes: 1 << 20 }, Duration::ZERO).unwrap() {
            all.push(records);
        }
        all
    }

    /// An event, and the word when it is processed: so that each is a batch of its own.
    fn judged(&self) -> Records {
        let before = self.values("phronis.processed").len();
        self.event();
        eventually("the event is processed", || self.values("phronis.processed").len() > before);
        self.topic("phronis.processed").pop().unwrap()
    }

    fn event(&self) {
        self.append("phronis.raw.events", "S1", Some(r#"{"sensor_id":"S1","value":20.0}"#));
    }

    fn ranges(&self) -> Vec<Range> {
        let letters = self.topic("phronis.dlq");
        let ranges = letters.iter().filter(|letter| Kind::of(letter.body.headers(0)) == Kind::Range);
        ranges.map(|r| Range::read(r.body.headers(0), r.body.value(0).unwrap()).unwrap()).collect()
    }
}

fn header(records: &Records, name: &str) -> Option<String> {
    records.body.headers(0).last(name).map(|value| String::from_utf8_lossy(value).into_owned())
}

#[test]
fn a_plugin_that_traps_is_left_alone_tried_again_when_it_changed_and_what_it_missed_is_written_down() {
    let room = Room::new();
    room.drop_plugin("a", "1.2.3");
    room.write_file("a", "hot.toml", TRAPS.as_bytes());
    // No letter comes back by itself and traps once more, however long this takes.
    let options = || {
        let mut options = room.options("a");
        options.streams.iter_mut().for_each(|stream| stream.retry = PATIENT);
        options
    };
    let host = room.start(options());
    let handle = host.handle();
    let mut live = handle.live();
    eventually("the plugin is active", || plugin(&handle).is_some_and(|plugin| plugin.active.is_some()));
    for failures in 0..5 {
        assert_eq!((breaker(&handle).state, breaker(&handle).counts.trap), (State::Closed, failures));
        assert_eq!(header(&room.judged(), "phronis-unjudged").as_deref(), Some("hot"));
    }
    let seen = breaker(&handle);
    let trip = seen.last_trip.unwrap();
    assert_eq!((seen.state, seen.trips, trip.reason, trip.counts.trap), (State::Open, 1, Reason::Failures, 5));
    assert!(seen.retry_at.unwrap() > seen.opened_at.unwrap());

    // Who must know learns it.
    eventually("listeners hear of it", || {
        live.try_recv().is_ok_and(|event| {
            let facts: Value = serde_json::from_slice(&event.json).unwrap();
            event.kind == live::Kind::Breaker
                && (&facts["state"], &facts["trip"]["counts"]["trap"]) == (&json!("open"), &json!(5))
        })
    });
    eventually("an alert says so", || {
        let alerts = room.values("phronis.alerts");
        let alerts = alerts.iter().flatten().map(|alert| serde_json::from_str::<Value>(alert).unwrap());
        alerts.filter(|alert| alert["rule"] == "breaker-open" && alert["plugin"]["name"] == "hot").count() == 1
    });

    // While it is open: processed, marked, and one range letter a batch instead of a letter an event.
    for _ in 0..3 {
        assert_eq!(header(&room.judged(), "phronis-unjudged").as_deref(), Some("hot"));
    }
    let letters = room.topic("phronis.dlq");
    let traps = letters.iter().filter_map(|letter| Letter::read(letter.body.headers(0)));
    assert_eq!(traps.filter(|letter| letter.code == code::PLUGIN_TRAP).count(), 5);
    let ranges = room.ranges();
    let offsets: Vec<_> = ranges.iter().flat_map(|range| range.offsets.runs().to_vec()).collect();
    assert_eq!(offsets, [5..6, 6..7, 7..8]);
    let first = &ranges[0].letter;
    assert_eq!((first.stage, first.code, first.origin.offset), (Stage::Detect, code::BREAKER_OPEN, 5));
    eventually("they are counted", || (breaker(&handle).ranges_waiting, breaker(&handle).refused_rows) == (3, 3));
    host.stop();

    // It is open for the rest of its time, also after a restart, and when only the store remembers.
    room.append("phronis.control", &format!("breakers/{PLUGIN}/a"), None);
    let host = room.start(options());
    let handle = host.handle();
    eventually("the plugin is active", || plugin(&handle).is_some_and(|plugin| plugin.active.is_some()));
    assert_eq!((breaker(&handle).state, breaker(&handle).trips), (State::Open, 1));
    assert_eq!(breaker(&handle).last_trip.unwrap().counts.trap, 5);
    eventually("letters of its earlier life count", || breaker(&handle).ranges_waiting == 3);
    assert_eq!(header(&room.judged(), "phronis-unjudged").as_deref(), Some("hot"));
    assert_eq!(room.ranges().len(), 4);
    host.stop();

    // Range letters that come back are probes too: here nobody brings them back.
    let mut without = options();
    without.roles.remove(&Role::Retry);
    let host = room.start(without);
    let handle = host.handle();
    eventually("the plugin is active", || plugin(&handle).is_some_and(|plugin| plugin.active.is_some()));
    assert_eq!(breaker(&handle).state, State::Open);
    // Other parameters deserve a try: three probes, and it is closed.
    change(&handle, What::Params(json!({"behaviour": "honest"})));
    assert_eq!(breaker(&handle).state, State::HalfOpen);
    for good in 0..3 {
        assert_eq!((breaker(&handle).state, breaker(&handle).good_probes), (State::HalfOpen, good));
        assert_eq!(header(&room.judged(), "phronis-unjudged"), None);
    }
    assert_eq!(breaker(&handle).state, State::Closed);
    eventually("the control topic has the last word", || {
        let control = room.topic("phronis.control");
        let key = format!("breakers/{PLUGIN}/a");
        let last = control.iter().rfind(|records| records.body.key(0) == Some(key.as_bytes())).unwrap();
        let said: Value = serde_json::from_slice(last.body.value(0).unwrap()).unwrap();
        said["state"] == "closed"
    });
    host.stop();
}

#[test]
fn it_is_tried_again_by_itself_and_opens_for_longer_when_that_fails() {
    let room = Room::new();
    room.drop_plugin("a", "1.2.3");
    let settings = "[params]\nbehaviour = \"trap\"\n[breaker]\nfailures = 1\nprobes = 1\nopen_for = \"1s\"\n";
    room.write_file("a", "hot.toml", settings.as_bytes());
    let host = room.start(room.options("a"));
    let handle = host.handle();
    eventually("the plugin is active", || plugin(&handle).is_some_and(|plugin| plugin.active.is_some()));
    room.judged();
    eventually("it was tried again twice", || {
        room.event();
        breaker(&handle).trips > 2
    });
    let reason = breaker(&handle).last_trip.unwrap().reason;
    assert_eq!(reason, Reason::Probe);
    host.stop();
}

#[test]
fn policies_and_overrides_hold_at_once() {
    let room = Room::new();
    room.drop_plugin("a", "1.2.3");
    let host = room.start(room.options("a"));
    let handle = host.handle();
    eventually("the plugin is active", || plugin(&handle).is_some_and(|plugin| plugin.active.is_some()));
    let said = change(&handle, over(Wish::Open));
    assert_eq!(said["state"], "open");
    let seen = breaker(&handle);
    assert_eq!((seen.state, seen.mode, seen.retry_at), (State::Open, Mode::ForcedOpen, None));
    assert_eq!(seen.over.map(|over| over.reason).as_deref(), Some("a test"));

    let in_force = change(&handle, What::Breaker(json!({"when_open": "bypass", "failures": 2})));
    assert_eq!(
        (&in_force["when_open"], &in_force["failures"], &in_force["probes"]),
        (&json!("bypass"), &json!(2), &json!(3))
    );
    assert_eq!(breaker(&handle).mode, Mode::ForcedOpen, "settings leave what a person said alone");
    let passed = room.judged();
    assert_eq!(header(&passed, "phronis-bypassed").as_deref(), Some("hot"));
    assert!(room.ranges().is_empty());

    // Settings of another kind carry both along, and a file does too.
    change(&handle, What::Params(json!({"high": 10.0})));
    room.write_file("a", "hot.toml", b"when_open = \"hold\"\n[params]\nhigh = 10.0");
    eventually("the file holds", || breaker(&handle).settings.when_open == Some(WhenOpen::Hold));
    assert_eq!(breaker(&handle).mode, Mode::ForcedOpen);
    eventually("the stream waits and says why", || {
        let stream = handle.streams().into_iter().find(|stream| stream.id == sensors()).unwrap();
        stream.state == status::StreamState::Held && stream.detail.is_some_and(|why| why.contains("breaker of hot"))
    });
    let before = room.values("phronis.processed").len();
    room.event();
    change(&handle, over(Wish::Close));
    eventually("what waited is judged", || room.values("phronis.processed").len() > before);
    let judged = room.topic("phronis.processed").pop().unwrap();
    assert_eq!((header(&judged, "phronis-bypassed"), header(&judged, "phronis-unjudged")), (None, None));
    change(&handle, What::Override(None));
    assert_eq!((breaker(&handle).state, breaker(&handle).mode), (State::Closed, Mode::Auto));

    // Refused: raw forgets sooner than a breaker could close.
    let wanted = What::Breaker(json!({"open_most": "365d"}));
    let wanted = Change {
        id: id(),
        what: wanted,
        source: String::new(),
        actor: None,
        reason: None,
        if_version: None,
        is_dry_run: true,
    };
    let refused = block(handle.change(wanted)).unwrap_err().to_string();
    assert!(refused.contains("breaker.open_most: raw keeps records for 7d"), "{refused}");
    host.stop();
}

#[test]
fn range_letters_are_bounded_and_then_the_stream_waits() {
    let room = Room::new();
    room.drop_plugin("a", "1.2.3");
    room.write_file("a", "hot.toml", b"[breaker]\nranges_most = 2");
    let host = room.start(room.options("a"));
    let handle = host.handle();
    eventually("the plugin is active", || plugin(&handle).is_some_and(|plugin| plugin.active.is_some()));
    change(&handle, over(Wish::Open));
    room.judged();
    room.judged();
    room.event();
    eventually("the stream waits and says why", || {
        let stream = handle.streams().into_iter().find(|stream| stream.id == sensors()).unwrap();
        stream.state == status::StreamState::Held
            && stream.detail.is_some_and(|why| why.contains("2 range letters wait"))
    });
    assert_eq!(room.ranges().len(), 2);
    host.stop();
}

#[test]
fn when_most_plugins_fail_at_once_the_host_is_suspected_and_a_person_is_told() {
    let room = Room::new();
    for name in ["one", "two", "three", "four"] {
        room.drop_guest("a", "detector.wasm", &format!("{name}.wasm"));
        room.write_file("a", &format!("{name}.toml"), TRAPS.as_bytes());
    }
    let host = room.start(room.options("a"));
    let handle = host.handle();
    let active = || handle.plugins().iter().filter(|plugin| plugin.active.is_some()).count();
    eventually("the plugins are active", || active() == 4);
    let told = || {
        let alerts = room.values("phronis.alerts");
        let alerts = alerts.iter().flatten().map(|alert| serde_json::from_str::<Value>(alert).unwrap());
        alerts.filter(|alert| alert["rule"] == "host-suspected").collect::<Vec<_>>()
    };
    for _ in 0..5 {
        room.judged();
    }
    eventually("an alert says so", || told().len() == 1);
    let alert = &told()[0];
    assert_eq!((&alert["plugin"]["name"], &alert["attributes"]["node_id"]), (&json!("host"), &json!("a")));
    assert_eq!((&alert["severity"], &alert["origin"]["offset"]), (&json!("critical"), &json!(-1)));
    host.stop();
}
