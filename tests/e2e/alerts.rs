//! The thin path: an event is posted, a detector in Wasm judges it, the alert is on the operator's stream.

use phronis_tests::checker::check_folder;
use phronis_tests::host::{Host, Room, run};
use phronis_tests::plugins::plugin;
use serde_json::Value;

use crate::{judged_by, reading};

#[test]
fn a_posted_event_becomes_an_alert_that_explains_it() -> anyhow::Result<()> {
    let room = Room::new()?;
    room.install("default/sensors/threshold", &plugin("threshold")?, "[params]\nhigh = 90.0\n")?;
    let host = Host::start(&room)?;
    let version = host.plugin_is("default/sensors/threshold", "active")?;
    let listener = host.listen("")?;

    let answer = host.post("sensors", reading("S01", 1, 42.0) + &reading("S02", 1, 98.6))?;
    assert_eq!((answer.status, answer.number("/accepted")), (202, Some(2)), "{}", answer.text);
    let alert = listener.next("alert")?;
    let says = |pointer: &str| alert.data.pointer(pointer).cloned().unwrap_or_default();
    assert_eq!(says("/id"), alert.id);
    assert_eq!(says("/plugin/name"), "threshold");
    assert_eq!(says("/plugin/digest"), version.pointer("/active/digest").cloned().unwrap_or_default());
    assert_eq!((says("/rule"), says("/severity"), says("/key")), ("too-high".into(), "warning".into(), "S02".into()));
    assert_eq!(says("/event/value"), 98.6);
    assert_eq!(says("/origin/topic"), "phronis.raw.events");
    for time in ["/event_time", "/detected_at", "/stages/received", "/stages/delivered"] {
        assert!(says(time).is_string(), "{time}: {}", alert.data);
    }

    let (code, told, said) = run(room.command(&["tail", "alerts", "--no-follow", "-o", "json"])?)?;
    assert_eq!(code, Some(0), "{said}");
    let lines: Vec<Value> = told.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert!(told.contains(&alert.id) && lines.len() == 1, "{told}");

    assert!(host.stop()?.success());
    let report = check_folder(&room.log(), "sensors", judged_by("threshold", 90.0))?.must_hold()?;
    assert_eq!((report.received, report.delivered, report.verdict.found), (2, 2, 1), "{report}");
    Ok(())
}

/// The two commands of the first minutes, typed as they stand in the manual: no header but what curl adds.
#[test]
fn the_short_forms_take_what_curl_sends() -> anyhow::Result<()> {
    let room = Room::new()?;
    let host = Host::start(&room)?;
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let post = |path: &str, body: &str| host.ask(reqwest::Method::POST, path, &form, body.into());
    let one = post("/ingest", r#"{"sensor_id":"S01","value":98.6}"#)?;
    assert_eq!((one.status, one.str("/status")), (202, "accepted"), "{}", one.text);
    for body in [
        r#"{"agent_id":"a1","status":"running","timestamp":"2026-01-31T12:00:00+02:00","metadata":{"tokens":12}}"#,
        r#"{"agent_id":"a1","status":"idle","timestamp":"2026-01-31 10:00:01"}"#,
        r#"{"agent_id":"a1","status":"idle","timestamp":1769853602}"#,
        r#"{"agent_id":"a1","status":"idle","timestamp":1769853603000}"#,
        r#"{"agent_id":"a1","status":"idle"}"#,
    ] {
        let state = post("/ingest/state", body)?;
        assert_eq!((state.status, state.str("/status")), (202, "accepted"), "{body}: {}", state.text);
    }
    for path in ["/livez", "/readyz", "/metrics", "/openapi.json"] {
        assert_eq!(host.get(path)?.status, 200, "{path}");
    }
    assert!(host.stop()?.success());
    let report = check_folder(&room.log(), "sensors", Default::default())?.must_hold()?;
    assert_eq!((report.received, report.delivered), (1, 1), "{report}");
    let report = check_folder(&room.log(), "agents", Default::default())?.must_hold()?;
    assert_eq!((report.received, report.delivered), (5, 5), "{report}");
    Ok(())
}
