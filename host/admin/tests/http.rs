//! The API as clients meet it, good and bad: a real server over a real embedded log and pipeline.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on must end, also in its helpers"
)]

#[path = "http/agents.rs"]
mod agents;
#[path = "http/archive.rs"]
mod archive;
#[path = "http/client.rs"]
mod client;
#[path = "http/host.rs"]
mod host;
#[path = "http/letters.rs"]
mod letters;
#[path = "http/once.rs"]
mod once;

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use client::{Answer, HANGS, connect, finish, listen, raw, read_until, send};
use flate2::Compression;
use flate2::write::GzEncoder;
use host::{Host, key};
use phronis_admin::{Error, Options, Role};

const RAW: &str = "phronis.raw.events";
const GOOD: &[u8] = br#"{"sensor_id":"S01","value":98.6}"#;

#[test]
fn the_audit_is_for_admins_and_a_tenants_key_sees_its_own() {
    let host = Host::start(|options| {
        options.keys = vec![
            key("root", None, Role::Admin),
            key("acme", Some("acme"), Role::Admin),
            key("writer", None, Role::Write),
        ];
    });
    audit(&host, "e1", Some("acme"));
    audit(&host, "e2", Some("zeta"));
    audit(&host, "e3", None);
    let ask = |key: &str, query: &str| {
        send(host.at, "GET", &format!("/v1/audit{query}"), &[&format!("X-API-Key: {key}")], b"")
    };
    let ids = |answer: &Answer| -> Vec<String> {
        let page = answer.json();
        page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&ask("root", "")), ["e3", "e2", "e1"]);
    assert_eq!(ids(&ask("acme", "")), ["e1"]);
    let first = ask("root", "?limit=2&action=plugin&actor=ops&from=2024-11-22");
    let next = first.json()["next"].as_str().unwrap().to_owned();
    assert_eq!(ids(&first), ["e3", "e2"]);
    assert_eq!(ids(&ask("root", &format!("?limit=2&cursor={next}"))), ["e1"]);
    assert_eq!(ids(&ask("root", "?until=2024-11-22T12:00:00Z")), Vec::<String>::new());
    let entry = &ask("acme", "").json()["items"][0];
    assert_eq!((&entry["at"], &entry["reason"]), (&"2024-11-22T12:00:00.000000Z".into(), &"too loud".into()));
    assert_eq!((ask("writer", "").status, ask("nobody", "").status), (403, 401));
    assert_eq!((ask("root", "?from=yesterday").status, ask("root", "?cursor=x").status), (400, 400));
    assert_eq!(send(host.at, "DELETE", "/v1/audit", &["X-API-Key: root"], b"").status, 405);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// No plugin is there to change: what is written stands for what a change would write.
fn audit(host: &Host, id: &str, tenant: Option<&str>) {
    let store = host.store();
    let entry = phronis_store::audit::Entry {
        id: id.to_owned(),
        at: phronis_core::Time(1_732_276_800_000_000),
        actor: "ops".to_owned(),
        action: "plugin.params".to_owned(),
        subject: "acme/press/hot".to_owned(),
        tenant: tenant.map(|tenant| tenant.parse().unwrap()),
        reason: Some("too loud".to_owned()),
        facts: serde_json::json!({ "revision": 7 }),
    };
    store.wait(store.append_audit(&[entry])).unwrap();
}

fn get(host: &Host, path: &str) -> Answer {
    send(host.at, "GET", path, &[], b"")
}

#[test]
fn rows_are_durable_in_raw_before_the_answer_and_bad_ones_are_named() {
    let host = Host::start(|_| {});
    let body = b"{\"sensor_id\":\"S01\",\"value\":1}\nnot json\n{\"sensor_id\":\"S02\",\"value\":\"x\"}\n";
    let answer = send(host.at, "POST", "/v1/streams/sensors/events", &["Content-Type: application/x-ndjson"], body);
    assert_eq!(answer.status, 202, "{answer:?}");
    let taken = answer.json();
    assert_eq!((&taken["accepted"], &taken["refused_count"]), (&1.into(), &2.into()), "{taken}");
    assert_eq!((&taken["refused"][0]["index"], &taken["refused"][0]["code"]), (&1.into(), &"PH1001".into()));
    assert_eq!((&taken["refused"][1]["index"], &taken["refused"][1]["field"]), (&2.into(), &"value".into()));
    assert!(taken["refused"][0]["letter_id"].as_str().is_some_and(|id| !id.is_empty()));
    let counted: i64 = taken["ranges"].as_array().unwrap().iter().map(|range| range["count"].as_i64().unwrap()).sum();
    assert_eq!((counted, host.count(RAW)), (3, 3));

    let answer = get(&host, &format!("/v1/topics/{RAW}/records"));
    let text = answer.text();
    let records: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(records.len(), 3, "{text}");
    let first = records.iter().find(|record| record["key"] == "S01").unwrap();
    assert_eq!(first["value"]["value"], 1);
    assert!(records.iter().any(|record| record["value_base64"] == "bm90IGpzb24="), "{text}");
    let limited = get(&host, &format!("/v1/topics/{RAW}/records?limit=2"));
    assert_eq!(limited.text().lines().count(), 2);
}

#[test]
fn the_short_forms_take_what_curl_sends() {
    let host = Host::start(|_| {});
    let form = "Content-Type: application/x-www-form-urlencoded";
    for path in ["/ingest", "/ingest/state"] {
        let answer = send(host.at, "POST", path, &[form], GOOD);
        assert_eq!((answer.status, &answer.json()["status"]), (202, &"accepted".into()), "{answer:?}");
    }
    let many =
        send(host.at, "POST", "/ingest", &["Content-Encoding: gzip"], &gzip(&[b"[", GOOD, b",", GOOD, b"]"].concat()));
    assert_eq!(many.json()["accepted"], 2);
    assert_eq!((host.count(RAW), host.count("phronis.default.agents.raw")), (3, 1));
}

#[test]
fn a_request_of_bad_rows_alone_is_refused_and_kept() {
    let host = Host::start(|_| {});
    let answer = send(host.at, "POST", "/ingest", &[], b"{\"value\":1}");
    answer.is_problem(422, "PH4003");
    let problem = answer.json();
    assert_eq!((&problem["accepted"], &problem["refused"][0]["code"]), (&0.into(), &"PH1003".into()), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("become letters"));
    assert_eq!(host.count(RAW), 1);
}

#[test]
fn what_cannot_be_split_or_read_is_not_taken() {
    let host = Host::start(|options| options.max_body = 1 << 20);
    let post = |headers: &[&str], body: &[u8]| send(host.at, "POST", "/ingest", headers, body);
    for (answer, status, code) in [
        (post(&[], b""), 400, "PH4002"),
        (post(&[], b"[{\"sensor_id\":"), 400, "PH4002"),
        (post(&["Content-Type: text/csv"], b"a,b"), 415, "PH4014"),
        (post(&["Content-Encoding: br"], GOOD), 415, "PH4014"),
        (post(&["Content-Encoding: gzip, gzip"], GOOD), 415, "PH4014"),
        (post(&["Content-Encoding: gzip"], GOOD), 400, "PH4011"),
        (post(&["Content-Encoding: gzip"], &gzip(GOOD)[..20]), 400, "PH4011"),
        (post(&["Content-Encoding: gzip"], &gzip(&vec![b'['; 64 << 20])), 413, "PH4001"),
        (post(&[], &vec![b' '; (1 << 20) + 1]), 413, "PH4001"),
    ] {
        answer.is_problem(status, code);
        assert!(
            answer.json()["detail"].as_str().unwrap().contains("nothing was taken") || code == "PH4002",
            "{answer:?}"
        );
    }
    // Without a length the limit holds as well.
    let mut chunked = format!(
        "POST /ingest HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        host.at
    );
    chunked.push_str(&format!("{:x}\r\n{}\r\n", 700_000, " ".repeat(700_000)).repeat(2));
    chunked.push_str("0\r\n\r\n");
    raw(host.at, chunked.as_bytes()).is_problem(413, "PH4001");
    assert_eq!(host.count(RAW), 0);
}

/// A host of its own: no body that is sent whole may be too slow for it on a machine that stands still for a moment.
#[test]
fn a_body_that_stops_arriving_is_not_waited_for() {
    let host = Host::start(|options| options.body_timeout = Duration::from_millis(300));
    let head =
        format!("POST /ingest HTTP/1.1\r\nHost: {}\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{{", host.at);
    raw(host.at, head.as_bytes()).is_problem(408, "PH4015");
    assert_eq!(host.count(RAW), 0);
}

#[test]
fn bodies_beyond_the_budget_are_told_to_come_back() {
    let host = Host::start(|options| options.max_in_flight = 64 << 10);
    let answer = send(host.at, "POST", "/ingest", &[], &GOOD.repeat(4096));
    answer.is_problem(429, "PH4010");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(send(host.at, "POST", "/ingest", &[], GOOD).status, 202, "the budget is free again");
}

#[test]
fn a_web_page_reaches_nothing() {
    let host = Host::start(|options| options.allowed_origins = vec!["https://ops.example.com".to_owned()]);
    let foreign: [(&[&str], u16, &str); 6] = [
        (&["Origin: https://evil.example.com"], 403, "PH4007"),
        (&["Origin: null"], 403, "PH4007"),
        (&["Sec-Fetch-Site: cross-site"], 403, "PH4007"),
        (&["Origin: http://localhost:1", "Sec-Fetch-Site: same-site"], 403, "PH4007"),
        (&["Host: evil.example.com"], 421, "PH4008"),
        (&["Host: localhost", "Host: localhost"], 400, "PH4011"),
    ];
    for (headers, status, code) in foreign {
        for path in ["/", "/livez", "/metrics", "/openapi.json", "/v1/events", "/v1/streams", "/v1/topics", "/no/such"]
        {
            send(host.at, "GET", path, headers, b"").is_problem(status, code);
        }
        send(host.at, "POST", "/ingest", headers, GOOD).is_problem(status, code);
        send(host.at, "PUT", "/v1/plugins/default/sensors/hot/params", headers, b"{}").is_problem(status, code);
    }
    raw(host.at, b"GET /livez HTTP/1.0\r\n\r\n").is_problem(421, "PH4008");
    assert_eq!(host.count(RAW), 0);

    let own = format!("Origin: http://{}", host.at);
    assert_eq!(send(host.at, "POST", "/ingest", &[&own, "Sec-Fetch-Site: same-origin"], GOOD).status, 202);
    let allowed =
        send(host.at, "GET", "/v1/streams", &["Origin: https://ops.example.com", "Sec-Fetch-Site: cross-site"], b"");
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://ops.example.com"));
}

#[test]
fn keys_open_what_their_role_and_tenant_allow() {
    let host = Host::start(|options| {
        options.keys = vec![
            key("root", None, Role::Admin),
            key("looks", None, Role::Read),
            key("acme-writes", Some("acme"), Role::Write),
        ];
    });
    let by = |name: &str, method: &str, path: &str, body: &[u8]| {
        send(host.at, method, path, &[&format!("X-API-Key: {name}")], body)
    };
    for path in ["/v1/streams", "/v1/plugins", "/v1/topics", "/v1/events", "/v1/topics/phronis.raw.events/records"] {
        let answer = get(&host, path);
        answer.is_problem(401, "PH4005");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        by("guessed", "GET", path, b"").is_problem(401, "PH4005");
    }
    send(host.at, "POST", "/ingest", &[], GOOD).is_problem(401, "PH4005");
    for path in ["/livez", "/readyz", "/openapi.json", "/metrics", "/", "/errors/PH4005"] {
        assert!(matches!(get(&host, path).status, 200 | 503), "{path}");
    }
    assert!(!get(&host, "/openapi.json").text().contains("event.sensors"), "a stranger learns no stream");
    assert!(!get(&host, "/").text().contains("acme"), "a stranger learns no tenant");

    by("looks", "POST", "/ingest", GOOD).is_problem(403, "PH4006");
    by("acme-writes", "PUT", "/v1/plugins/acme/press/hot/params", b"{}").is_problem(403, "PH4006");
    by("root", "PUT", "/v1/plugins/acme/press/hot/params", b"{}").is_problem(404, "PH4004");
    assert_eq!(by("root", "POST", "/ingest", GOOD).status, 202);
    assert_eq!(by("acme-writes", "POST", "/v1/streams/acme.press/events", GOOD).status, 202);
    let bearer = send(host.at, "GET", "/v1/streams", &["Authorization: Bearer looks"], b"");
    assert_eq!(bearer.json()["items"].as_array().unwrap().len(), 3);

    // What is another tenant's is not there, as what is nowhere.
    for path in
        ["/v1/streams/sensors", "/v1/streams/sensors/schema", "/v1/plugins/default/sensors/hot", "/v1/streams/none"]
    {
        by("acme-writes", "GET", path, b"").is_problem(404, "PH4004");
    }
    for topic in [RAW, "phronis.alerts", "phronis.config", "none"] {
        by("acme-writes", "GET", &format!("/v1/topics/{topic}/records"), b"").is_problem(404, "PH4004");
    }
    by("acme-writes", "POST", "/ingest", GOOD).is_problem(404, "PH4004");
    by("acme-writes", "GET", "/v1/hosts", b"").is_problem(403, "PH4006");
    let own = by("acme-writes", "GET", "/v1/streams", b"").json();
    assert_eq!(own["items"].as_array().unwrap().len(), 1, "{own}");
    assert_eq!(own["items"][0]["id"], "acme.press");
    let topics = by("acme-writes", "GET", "/v1/topics", b"").text();
    assert!(
        topics.contains("phronis.acme.press.raw") && !topics.contains(RAW) && !topics.contains("config"),
        "{topics}"
    );
}

#[test]
fn the_hosts_are_listed_with_what_they_do() {
    let host = Host::start_as(&[phronis_pipeline::Role::Process, phronis_pipeline::Role::Alert], |_| {});
    let hosts = get(&host, "/v1/hosts").json();
    let items = hosts["items"].as_array().unwrap();
    assert_eq!(items.len(), 1, "{hosts}");
    assert_eq!((&items[0]["node_id"], &items[0]["is_this"]), (&"node-1".into(), &true.into()), "{hosts}");
    assert_eq!(items[0]["roles"], serde_json::json!(["process", "alert"]));
    let refused = send(host.at, "POST", "/ingest", &[], GOOD);
    refused.is_problem(404, "PH4004");
    assert!(refused.text().contains("its roles are: process, alert"), "{}", refused.text());
}

#[test]
fn changes_without_keys_need_the_header_of_ours() {
    let host = Host::start(|_| {});
    for what in ["params", "limits"] {
        let path = format!("/v1/plugins/default/sensors/hot/{what}");
        send(host.at, "PUT", &path, &[], b"{}").is_problem(403, "PH4009");
        send(host.at, "PUT", &path, &["X-Phronis: 1"], b"{}").is_problem(404, "PH4004");
        send(host.at, "PUT", &path, &["X-Phronis: 1"], b"{").is_problem(400, "PH4011");
        send(host.at, "PUT", &format!("{path}?dry_run=perhaps"), &["X-Phronis: 1"], b"{}").is_problem(400, "PH4011");
    }
}

#[test]
fn wrong_paths_methods_and_queries_are_problems_too() {
    let host = Host::start(|_| {});
    let records = format!("/v1/topics/{RAW}/records");
    for (method, path, status, code) in [
        ("GET", "/no/such", 404, "PH4004"),
        ("DELETE", "/v1/streams", 405, "PH4013"),
        ("GET", "/ingest", 405, "PH4013"),
        ("BREW", "/livez", 405, "PH4013"),
        ("GET", "/errors/PH9999", 404, "PH4004"),
        ("GET", "/v1/streams/UPPER", 404, "PH4004"),
        ("GET", "/v1/streams/%ff", 400, "PH4011"),
        ("GET", "/v1/plugins?limit=many", 400, "PH4011"),
        ("GET", "/v1/events?severity=terrible", 400, "PH4011"),
        ("GET", &format!("{records}?from=noon"), 400, "PH4011"),
        ("GET", &format!("{records}?from=1"), 400, "PH4011"),
        ("GET", &format!("{records}?partition=99"), 404, "PH4004"),
        ("GET", "/v1/topics/none/records", 404, "PH4004"),
        ("POST", "/v1/streams/none/events", 404, "PH4004"),
    ] {
        let answer = send(host.at, method, path, &[], b"");
        answer.is_problem(status, code);
        let instance = answer.json()["instance"].as_str().unwrap().to_owned();
        assert_eq!(instance, path.split('?').next().unwrap());
    }
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"GET\r\n\r\n", b"POST /ingest HTTP/1.1\r\nContent-Length: -1\r\n\r\n"]
    {
        let mut socket = connect(host.at);
        socket.write_all(garbage).unwrap();
        client::end(&socket);
        assert!(matches!(finish(socket).status, 0 | 400), "{garbage:?}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(100_000), host.at);
    assert!(matches!(raw(host.at, long.as_bytes()).status, 0 | 414 | 431));
    assert_eq!(get(&host, "/livez").status, 200, "and the host lives");
}

#[test]
fn every_answer_carries_the_headers_that_protect() {
    let host = Host::start(|_| {});
    for path in ["/", "/livez", "/no/such", "/v1/streams", "/page.js"] {
        let answer = get(&host, path);
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{path}");
    }
    let page = get(&host, "/").text();
    assert!(page.contains("acme.press") && !page.contains("http://") && !page.contains("https://"), "{page}");
}

#[test]
fn the_description_has_the_streams_event_schemas() {
    let host = Host::start(|_| {});
    let description = get(&host, "/openapi.json").json();
    assert_eq!(description["openapi"], "3.1.0");
    let schemas = &description["components"]["schemas"];
    assert!(schemas["event.sensors"]["properties"]["value"].is_object(), "{schemas}");
    assert!(schemas["event.acme.press"].is_object());
    let schema = get(&host, "/v1/streams/sensors/schema").json();
    assert_eq!(schema, schemas["event.sensors"]);
}

#[test]
fn requests_are_counted_by_route_and_never_by_path() {
    let host = Host::start(|_| {});
    get(&host, "/v1/streams/sensors");
    get(&host, "/some/path/of/a/stranger");
    let text = get(&host, "/metrics").text();
    assert!(
        text.contains("phronis_http_requests_total{route=\"/v1/streams/{stream}\",method=\"GET\",status=\"200\"}"),
        "{text}"
    );
    assert!(text.contains("route=\"unmatched\"") && !text.contains("stranger"), "{text}");
    assert!(text.contains("phronis_http_request_duration_seconds"), "{text}");
}

#[test]
fn live_alerts_come_by_stream_with_their_ids() {
    let host = Host::start(|_| {});
    let mut all = listen(host.at, "/v1/events");
    let mut other = listen(host.at, "/v1/events?stream=acme.press");
    host.alert("phronis.alerts", 0..2, 0);
    host.alert("phronis.acme.press.alerts", 7..8, 0);
    let text = read_until(&mut all, b"id: a1\n");
    assert!(text.contains("event: alert\nid: a0\ndata: {\"id\":\"a0\""), "{text}");
    let text = read_until(&mut other, b"id: a7\n");
    assert!(!text.contains("id: a0"), "{text}");
}

#[test]
fn a_listener_that_does_not_read_is_cut_off_and_slows_nobody() {
    // Longer than a thread that only reads is ever kept from it.
    let host = Host::start(|options| options.stall_timeout = Duration::from_secs(3));
    let asleep = listen(host.at, "/v1/events");
    let heard = ids(BufReader::new(listen(host.at, "/v1/events")));
    let stalled = || {
        let text = get(&host, "/metrics").text();
        let line = text.lines().find(|line| line.starts_with("phronis_http_stalled_connections_total"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    let (began, mut sent) = (Instant::now(), 0);
    while stalled() == 0 {
        assert!(began.elapsed() < HANGS, "the sleeper holds its connection");
        host.alert("phronis.alerts", sent..sent + 20, 50_000);
        // The awake one gets everything meanwhile.
        for id in sent..sent + 20 {
            assert_eq!(heard.recv_timeout(HANGS).unwrap(), format!("a{id}"));
        }
        sent += 20;
        // Once no buffer takes more, only time is missing.
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(asleep);
}

/// The ids of the events that come, read on a thread of its own: it reads whatever the test is at.
fn ids(events: impl BufRead + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in events.lines().map_while(Result::ok) {
            if let Some(id) = line.strip_prefix("id: ") {
                // A test that has seen enough listens no more.
                drop(sender.send(id.to_owned()));
            }
        }
    });
    receiver
}

#[test]
fn followers_get_what_comes_and_end_with_the_server() {
    let mut host = Host::start(|_| {});
    let mut tail = listen(host.at, &format!("/v1/topics/{RAW}/records?follow=true"));
    let mut live = listen(host.at, "/v1/events");
    assert_eq!(send(host.at, "POST", "/ingest", &[], GOOD).status, 202);
    let text = read_until(&mut tail, b"}\n");
    assert!(text.contains("\"key\":\"S01\""), "{text}");
    host.stop_server();
    for socket in [&mut tail, &mut live] {
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).unwrap();
        assert!(rest.ends_with(b"0\r\n\r\n"), "ended in good order: {}", String::from_utf8_lossy(&rest));
    }
}

#[test]
fn readers_and_listeners_are_bounded() {
    let host = Host::start(|options| {
        options.max_readers = 1;
        options.max_listeners = 1;
    });
    let follow = format!("/v1/topics/{RAW}/records?follow=true");
    for path in [follow.as_str(), "/v1/events"] {
        let first = listen(host.at, path);
        get(&host, path).is_problem(429, "PH4010");
        drop(first);
    }
}

#[test]
fn the_server_refuses_to_start_where_it_could_not_serve_safely() {
    let host = Host::start(|_| {});
    let taken = start_error(|options| options.listen = host.at);
    assert!(matches!(taken, Error::PortTaken { address } if address == host.at), "{taken}");
    let open = start_error(|options| options.listen = "0.0.0.0:0".parse().unwrap());
    assert!(matches!(open, Error::KeyNeeded { .. }) && open.to_string().contains("add a key"), "{open}");
}

fn start_error(change: impl FnOnce(&mut Options)) -> Error {
    host::bind(change).expect_err("must not start")
}
