//! Thresholds that change while the host runs, and changes that are refused.

use phronis_tests::host::{Host, Listener, Room};
use phronis_tests::plugins::plugin;
use serde_json::{Value, json};

use crate::reading;

const ID: &str = "default/sensors/threshold";

#[test]
fn thresholds_change_live_and_outlive_the_process() -> anyhow::Result<()> {
    let room = Room::new()?;
    room.install(ID, &plugin("threshold")?, "[params]\nhigh = 50.0\n")?;
    let host = Host::start(&room)?;
    let active = host.plugin_is(ID, "active")?;
    let listener = host.listen("")?;
    let mut seq = 0;
    only_the_second(&host, &listener, &mut seq, [50.0, 51.0])?;

    room.write(&format!("{ID}.toml"), b"[params]\nhigh = 60.0\n")?;
    host.until("the file's value holds", |host| Ok(high(&host.plugin(ID)?) == Some(60.0)))?;
    only_the_second(&host, &listener, &mut seq, [60.0, 61.0])?;

    let path = format!("/v1/plugins/{ID}/params");
    let dry = host.put(&format!("{path}?dry_run=true"), &json!({"high": 10.0}))?;
    assert_eq!((dry.status, dry.json.get("is_applied")), (200, Some(&Value::from(false))), "{}", dry.text);
    let put = host.put(&path, &json!({"high": 70.0}))?;
    assert_eq!((put.status, put.json.get("is_applied")), (200, Some(&Value::from(true))), "{}", put.text);
    only_the_second(&host, &listener, &mut seq, [70.0, 71.0])?;
    let status = host.plugin(ID)?;
    assert_eq!(status.pointer("/params_origin/source"), Some(&Value::from("api")), "{status}");
    // The topic keeps the last record of a plugin only: it must say everything.
    let put = host.put(&format!("/v1/plugins/{ID}/limits"), &json!({"memory": "8MiB"}))?;
    assert_eq!(put.status, 200, "{}", put.text);
    let records = host.get("/v1/topics/phronis.config/records")?.text;
    let last: Value = serde_json::from_str(records.lines().last().unwrap_or_default())?;
    assert_eq!(last.pointer("/value/params/high"), Some(&Value::from(70.0)), "{last}");
    assert_eq!(last.pointer("/value/limits/memory"), Some(&Value::from("8MiB")), "{last}");
    // The same instance of the same version.
    assert_eq!(status.pointer("/active/active_since"), active.pointer("/active/active_since"), "{status}");

    assert!(host.stop()?.success());
    let host = Host::start(&room)?;
    assert_eq!(high(&host.plugin_is(ID, "active")?), Some(70.0), "the last write wins, also after a restart");
    Ok(())
}

#[test]
fn a_refused_change_changes_nothing_and_says_which_field_and_why() -> anyhow::Result<()> {
    let room = Room::new()?;
    room.install(ID, &plugin("threshold")?, "[params]\nhigh = 50.0\n")?;
    let host = Host::start(&room)?;
    host.plugin_is(ID, "active")?;
    let listener = host.listen("")?;
    for (what, value, field) in [
        ("params", json!({"high": "hot"}), "high"),
        ("params", json!({"hgih": 1.0}), "hgih"),
        ("params", json!({"high": 1.0, "low": 5.0}), "low"),
        ("params", json!({"high": 1.0, "severity": "loud"}), "severity"),
        ("limits", json!({"memory": "64GiB"}), "memory"),
        ("limits", json!({"deadline": "soon"}), "deadline"),
    ] {
        let answer = host.put(&format!("/v1/plugins/{ID}/{what}"), &value)?;
        assert_eq!(answer.status, 422, "{value}: {}", answer.text);
        assert!(answer.str("/code").starts_with("PH"), "{}", answer.text);
        let problems = answer.json.get("problems").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        // The schema names fields one by one; the plugin itself says it in a sentence.
        let named = problems.iter().any(|problem| problem.to_string().contains(field));
        assert!(named || answer.str("/detail").contains(field), "{value}: {}", answer.text);
    }
    let unknown = host.put("/v1/plugins/default/sensors/nobody/params", &json!({"high": 1.0}))?;
    assert_eq!(unknown.status, 404, "{}", unknown.text);
    for path in ["/v1/plugins/default/sensors/treshold", "/v1/breakers/default/sensors/treshold"] {
        let misspelt = host.get(path)?;
        assert!(
            misspelt.status == 404 && misspelt.text.contains(&format!("did you mean `{ID}`?")),
            "{}",
            misspelt.text
        );
    }

    for bad in ["[params]\nhigh = \"hot\"\n", "[params]\nhigh = 1.0\n[limits]\nmemory = \"64GiB\"\n", "[params"] {
        room.write(&format!("{ID}.toml"), bad.as_bytes())?;
        host.until("the file is refused", |host| {
            let status = host.plugin(ID)?;
            Ok(status.get("refusal").is_some_and(Value::is_object) && high(&status) == Some(50.0))
        })?;
        room.write(&format!("{ID}.toml"), b"[params]\nhigh = 50.0\n")?;
        host.until("the refusal is over", |host| Ok(host.plugin(ID)?.get("refusal").is_none_or(Value::is_null)))?;
    }
    let mut seq = 0;
    only_the_second(&host, &listener, &mut seq, [50.0, 51.0])?;
    Ok(())
}

fn high(status: &Value) -> Option<f64> {
    status.pointer("/params/high").and_then(Value::as_f64)
}

/// Posts two readings of one key and hears an alert about the second alone.
fn only_the_second(host: &Host, listener: &Listener, seq: &mut u64, values: [f64; 2]) -> anyhow::Result<()> {
    for value in values {
        *seq += 1;
        let answer = host.post("sensors", reading("S1", *seq, value))?;
        assert!(answer.is_taken(), "{}", answer.text);
    }
    let alert = listener.next("alert")?;
    assert_eq!(alert.data.pointer("/event/value").and_then(Value::as_f64), Some(values[1]), "{}", alert.data);
    Ok(())
}

#[test]
fn of_two_operators_the_second_is_told_and_undoes_nothing() -> anyhow::Result<()> {
    let room = Room::new()?;
    room.install(ID, &plugin("threshold")?, "[params]\nhigh = 50.0\n")?;
    let host = Host::start(&room)?;
    host.plugin_is(ID, "active")?;
    let seen = host.plugin(ID)?.get("settings_version").and_then(Value::as_i64).unwrap_or_default();
    let etag = format!("\"{seen}\"");
    let headers = [("content-type", "application/json"), ("x-phronis", "1"), ("if-match", etag.as_str())];
    let put = |path: &str, body: Value| host.ask(reqwest::Method::PUT, path, &headers, body.to_string().into_bytes());
    let params = format!("/v1/plugins/{ID}/params");
    let first = put(&params, json!({"high": 60.0}))?;
    assert_eq!(first.status, 200, "{}", first.text);
    for (path, body) in [
        (params, json!({"high": 70.0})),
        (format!("/v1/breakers/{ID}/override"), json!({"state": "open", "reason": "noisy"})),
    ] {
        let second = put(&path, body)?;
        assert_eq!((second.status, second.str("/code")), (412, "PH4016"), "{}", second.text);
        assert!(second.number("/current") > Some(seen), "{}", second.text);
    }
    assert_eq!(high(&host.plugin(ID)?), Some(60.0));
    let breaker = host.get(&format!("/v1/breakers/{ID}"))?;
    assert_eq!(breaker.json.pointer("/override"), Some(&Value::Null), "{}", breaker.text);
    Ok(())
}
