//! Live settings that others write: hosts follow them, refuse bad ones, and keep the last good value.

use phronis_pipeline::plugins::{Change, ChangeError, What};
use serde_json::json;

use crate::room::{PLUGIN, Room, block, eventually, high, plugin};

fn change(high: f64) -> Change {
    Change {
        id: PLUGIN.parse().unwrap(),
        what: What::Params(json!({ "high": high })),
        source: "api".to_owned(),
        actor: None,
        reason: None,
        if_version: None,
        is_dry_run: false,
    }
}

#[test]
fn a_change_of_anyone_reaches_all_hosts() {
    let room = Room::new();
    room.drop_plugin("a", "1.2.3");
    room.drop_plugin("b", "1.2.3");
    let (a, b) = (room.start(room.options("a")), room.start(room.options("b")));
    let all_have = |wanted: f64| {
        eventually(&format!("both hosts have {wanted}"), || {
            [&a, &b].iter().all(|host| high(&host.handle()) == Some(wanted))
        });
    };
    room.configure(Some(r#"{"params":{"high":50.0}}"#));
    all_have(50.0);
    block(a.handle().change(change(60.0))).unwrap();
    all_have(60.0);
    block(b.handle().change(change(70.0))).unwrap();
    all_have(70.0);
    assert_eq!(plugin(&a.handle()).unwrap().params_origin.source, "api");
    a.stop();
    b.stop();
}

#[test]
fn of_two_operators_at_once_the_second_is_told_and_changes_nothing() {
    let room = Room::new();
    room.drop_plugin("a", "1.2.3");
    let host = room.start(room.options("a"));
    eventually("the plugin is there", || plugin(&host.handle()).is_some_and(|plugin| plugin.active.is_some()));
    let seen = plugin(&host.handle()).unwrap().version;
    let by = |high: f64| Change { if_version: Some(seen), ..change(high) };
    let first = block(host.handle().change(by(60.0))).unwrap();
    assert!(first.version > seen);
    let second = block(host.handle().change(by(70.0))).unwrap_err();
    assert!(matches!(second, ChangeError::Changed { version } if version == first.version), "{second:?}");
    assert_eq!(high(&host.handle()), Some(60.0));
    // What is said of the breaker counts too: it stands in the same record.
    let said = Change { what: What::Override(None), if_version: Some(first.version), ..change(0.0) };
    let said = block(host.handle().change(said)).unwrap();
    assert_eq!(plugin(&host.handle()).unwrap().version, said.version);
    assert!(block(host.handle().change(Change { if_version: Some(first.version), ..change(80.0) })).is_err());
    host.stop();
}

#[test]
fn a_bad_record_is_refused_and_the_last_good_value_stays_also_after_a_restart() {
    let room = Room::new();
    room.drop_plugin("a", "1.2.3");
    let host = room.start(room.options("a"));
    let mut live = host.handle().live();
    room.configure(Some(r#"{"params":{"high":50.0}}"#));
    eventually("the good value is in force", || high(&host.handle()) == Some(50.0));
    for (value, code) in [
        ("high = 1", "PH2112"),
        (r#"{"high":1}"#, "PH2112"),
        (r#"{"params":{"high":"much"}}"#, "PH2109"),
        (r#"{"params":{"high":1.0},"limits":{"memory":"900GiB"}}"#, "PH0104"),
    ] {
        room.configure(Some(value));
        eventually(value, || plugin(&host.handle()).unwrap().refusal.is_some_and(|r| r.code.to_string() == code));
        assert_eq!(high(&host.handle()), Some(50.0), "{value}");
        eventually("listeners hear of it", || {
            live.try_recv().is_ok_and(|event| {
                let facts: serde_json::Value = serde_json::from_slice(&event.json).unwrap();
                (&facts["change"], &facts["code"], &facts["plugin"])
                    == (&json!("refused"), &json!(code), &json!(PLUGIN))
            })
        });
    }
    // Records of nobody's plugin harm nobody.
    room.append("phronis.config", "plugins/nonsense", Some("{}"));
    room.append("phronis.config", "plugins/default/sensors/cold", Some(r#"{"params":{}}"#));
    room.configure(Some("not JSON"));
    eventually("the newest is refused", || {
        plugin(&host.handle()).unwrap().refusal.is_some_and(|r| r.message.contains("not valid"))
    });
    host.stop();

    // What compaction leaves: the bad record alone. The host's own shelf has the good value.
    let later = Room::new();
    later.drop_plugin("a", "1.2.3");
    copy(&room.folder.path().join("a/state"), &later.folder.path().join("a/state"));
    let first = later.start(later.options("none"));
    later.configure(Some("not JSON"));
    first.stop();
    let host = later.start(later.options("a"));
    eventually("the last good value is in force", || high(&host.handle()) == Some(50.0));
    assert_eq!(plugin(&host.handle()).unwrap().refusal.unwrap().code.to_string(), "PH2112");
    host.stop();
}

#[test]
fn a_tombstone_brings_back_the_file_or_the_default() {
    let room = Room::new();
    room.drop_plugin("a", "1.2.3");
    let host = room.start(room.options("a"));
    eventually("the default is in force", || high(&host.handle()).is_some());
    let default = high(&host.handle());
    room.configure(Some(r#"{"params":{"high":50.0}}"#));
    eventually("the record is in force", || high(&host.handle()) == Some(50.0));
    room.configure(None);
    eventually("the default is back", || high(&host.handle()) == default);

    room.write_file("a", "hot.toml", b"[params]\nhigh = 70.0");
    eventually("the file is in force", || high(&host.handle()) == Some(70.0));
    room.configure(Some(r#"{"params":{"high":50.0}}"#));
    eventually("the record is in force", || high(&host.handle()) == Some(50.0));
    room.configure(None);
    eventually("the file is back", || high(&host.handle()) == Some(70.0));
    assert_eq!(plugin(&host.handle()).unwrap().params_origin.source, "file");
    host.stop();
}

#[test]
fn hosts_with_the_same_file_do_not_write_against_each_other() {
    let room = Room::new();
    for node in ["a", "b"] {
        room.drop_plugin(node, "1.2.3");
        room.write_file(node, "hot.toml", b"[params]\nhigh = 70.0");
    }
    let (a, b) = (room.start(room.options("a")), room.start(room.options("b")));
    eventually("both have the file's value", || [&a, &b].iter().all(|host| high(&host.handle()) == Some(70.0)));
    block(a.handle().change(change(60.0))).unwrap();
    eventually("both have the change", || [&a, &b].iter().all(|host| high(&host.handle()) == Some(60.0)));
    let written = room.values("phronis.config").len();
    assert!((2..=3).contains(&written), "each host publishes the file once at most: {written}");

    // The file's text is known: what was changed since stays.
    b.stop();
    let b = room.start(room.options("b"));
    eventually("the change is in force", || high(&b.handle()) == Some(60.0));
    b.stop();
    a.stop();
    assert_eq!(room.values("phronis.config").len(), written);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
            continue;
        }
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
