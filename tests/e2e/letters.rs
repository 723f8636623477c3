//! Letters as an operator meets them: listed, shown, tried dry, redriven through a kill, given up; and an index that was lost.

use phronis_tests::host::{Answer, Host, Room, run};
use phronis_tests::plugins::plugin;
use reqwest::Method;
use serde_json::{Value, json};

const LETTERS: usize = 2000;
const CLASS: &str = "gate/PH1003";

fn send(host: &Host, method: Method, path: &str, body: &Value) -> anyhow::Result<Answer> {
    let headers = [("content-type", "application/json"), ("x-phronis", "1"), ("x-actor", "ada")];
    host.ask(method, path, &headers, body.to_string().into_bytes())
}

/// Letters of the class: waiting or parked, and ever written.
fn counts(host: &Host) -> anyhow::Result<(u64, u64)> {
    let answer = host.get("/v1/letter_classes?stream=sensors")?;
    let items = answer.json.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
    let number = |item: &Value, name: &str| item.get(name).and_then(Value::as_u64).unwrap_or_default();
    let of_class = items.iter().filter(|item| item.get("class") == Some(&Value::from(CLASS)));
    Ok(of_class.fold((0, 0), |(open, ever), item| {
        (open + number(item, "waiting") + number(item, "parked"), ever + number(item, "count"))
    }))
}

#[test]
fn parked_letters_are_listed_shown_redriven_through_a_kill_and_given_up() -> anyhow::Result<()> {
    let room = Room::new()?;
    room.install("default/sensors/threshold", &plugin("threshold")?, "[params]\nhigh = 90.0\n")?;
    let host = Host::start(&room)?;
    let threshold = host.plugin_is("default/sensors/threshold", "active")?;
    let lines: String = (0..LETTERS / 4).map(|_| "{\"sensor_id\":\"S01\"}\n").collect();
    for _ in 0..4 {
        assert!(host.post("sensors", lines.clone())?.is_taken());
    }
    host.until("all are parked", |host| Ok(counts(host)?.0 == LETTERS as u64))?;

    let list = host.get("/v1/letters?stream=sensors&limit=3")?;
    assert_eq!(list.json.pointer("/items").and_then(Value::as_array).map(Vec::len), Some(3), "{}", list.text);
    let place = list.str("/items/0/place").to_owned();
    let letter = host.get(&format!("/v1/letters/sensors/{place}"))?;
    assert_eq!((letter.status, letter.str("/letter/class"), letter.str("/letter/state")), (200, CLASS, "parked"));
    assert_eq!(letter.json.pointer("/record/value"), Some(&json!({ "sensor_id": "S01" })), "{}", letter.text);
    assert_eq!(letter.json.pointer("/attempts/0/attempt"), Some(&json!(1)));
    let dry = send(&host, Method::POST, &format!("/v1/letters/sensors/{place}/dry_run"), &json!({}))?;
    assert_eq!((dry.str("/verdict"), dry.str("/problems/0/code")), ("fails", "PH1003"), "{}", dry.text);
    for (path, status) in
        [("/v1/letters/sensors/0-999999", 404), ("/v1/letters/sensors/99-0", 404), ("/v1/letters/sensors/x", 400)]
    {
        assert_eq!(host.get(path)?.status, status, "{path}");
    }
    let misspelt = host.get("/v1/letter_classes?stream=sensor")?;
    assert!(misspelt.status == 404 && misspelt.text.contains("did you mean `sensors`?"), "{}", misspelt.text);
    let (code, told, said) = run(room.command(&["letters", "list"])?)?;
    assert!(code == Some(0) && told.contains(CLASS) && told.contains(&LETTERS.to_string()), "{told}{said}");

    // A filter by plugin means that plugin's letters alone, and none of the contract's.
    let others = json!({ "stream": "sensors", "plugin": "threshold", "all": true, "reason": "again" });
    for path in ["/v1/redrives", "/v1/discards"] {
        let none = send(&host, Method::POST, path, &others)?;
        assert_eq!((none.status, none.str("/code")), (409, "PH2403"), "{}", none.text);
    }
    // A word that nobody knows could be a filter that is missing; so could a rate of nothing be meant as a stop.
    for (path, odd, named) in [
        (
            "/v1/discards",
            json!({ "stream": "sensors", "class": CLASS, "untill": "2026-01-01T00:00:00Z", "reason": "old" }),
            "untill",
        ),
        (
            "/v1/redrives",
            json!({ "stream": "sensors", "class": CLASS, "if_runing": "f00d", "reason": "again" }),
            "if_runing",
        ),
        ("/v1/redrives", json!({ "stream": "sensors", "class": CLASS, "rate": 0, "reason": "again" }), "rate"),
    ] {
        let refused = send(&host, Method::POST, path, &odd)?;
        assert!(matches!(refused.status, 400 | 422) && refused.text.contains(named), "{}", refused.text);
    }
    let version = |digest: &Value, rate: u32| json!({ "stream": "sensors", "class": CLASS, "rate": rate, "if_running": digest, "reason": "again" });
    let gone = send(&host, Method::POST, "/v1/redrives", &version(&json!("f00d"), 1))?;
    assert_eq!((gone.status, gone.str("/code")), (410, "PH2402"), "{}", gone.text);
    // So slow that it is still under way when the second one is asked for.
    let running = threshold.pointer("/active/digest").unwrap_or(&Value::Null);
    let slow = send(&host, Method::POST, "/v1/redrives", &version(running, 1))?;
    assert_eq!((slow.status, slow.number("/total")), (202, Some(2000)), "{}", slow.text);
    let second = send(&host, Method::POST, "/v1/redrives", &version(running, 400))?;
    assert_eq!((second.status, second.str("/code"), second.str("/running")), (409, "PH2401", slow.str("/id")));
    let (path, why) = (format!("/v1/redrives/{}", slow.str("/id")), [("x-phronis", "1"), ("x-reason", "too slow")]);
    let cancelled = host.ask(Method::DELETE, &path, &why, Vec::new())?;
    assert_eq!((cancelled.status, cancelled.str("/state")), (200, "cancelled"), "{}", cancelled.text);
    host.until("all are parked again", |host| Ok(counts(host)?.0 == LETTERS as u64))?;
    let job = send(&host, Method::POST, "/v1/redrives", &version(running, 400))?;
    assert_eq!(job.status, 202, "{}", job.text);
    let path = format!("/v1/redrives/{}", job.str("/id"));
    host.until("the redrive is under way", |host| Ok(host.get(&path)?.number("/moved") > Some(0)))?;
    host.kill()?;
    drop(host);

    let host = Host::start(&room)?;
    host.until("the redrive ends", |host| Ok(host.get(&path)?.str("/state") == "done"))?;
    let audit = host.get("/v1/audit?action=letters.redrive")?;
    assert_eq!(audit.json.pointer("/items").and_then(Value::as_array).map(Vec::len), Some(2), "{}", audit.text);
    // They fail as before. Until the last of them is a letter again, one could come after all others were given up.
    host.until("all are parked again", |host| Ok(counts(host)?.0 == LETTERS as u64))?;

    let refused = send(&host, Method::POST, "/v1/discards", &json!({ "stream": "sensors", "all": true }))?;
    assert_eq!(refused.status, 400, "a discard needs a reason: {}", refused.text);
    let order = json!({ "stream": "sensors", "all": true, "reason": "test data" });
    let given_up = send(&host, Method::POST, "/v1/discards", &order)?;
    assert_eq!((given_up.status, given_up.number("/letters")), (202, Some(2000)), "{}", given_up.text);
    host.until("nobody waits any more", |host| Ok(counts(host)?.0 == 0))?;
    assert!(host.post("sensors", "{\"sensor_id\":\"S01\"}\n".repeat(5))?.is_taken());
    host.until("five are parked", |host| Ok(counts(host)?.0 == 5))?;
    let ever = counts(&host)?.1;
    assert!(host.stop()?.success());

    for file in ["store.sqlite", "store.sqlite-wal", "store.sqlite-shm"] {
        drop(std::fs::remove_file(room.data().join(file)));
    }
    let host = Host::start(&room)?;
    host.until("the index is made anew", |host| Ok(counts(host)? == (5, ever)))?;
    Ok(())
}
