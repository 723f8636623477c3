//! A web page that a person visits must not reach the host on their machine.

use phronis_tests::host::{Host, Room};
use reqwest::Method;

#[test]
fn web_pages_are_refused() -> anyhow::Result<()> {
    let room = Room::new()?;
    let host = Host::start(&room)?;
    let body = br#"{"sensor_id":"S1","value":1}"#;
    for (header, status, code) in [
        (("origin", "https://evil.example"), 403, "PH4007"),
        (("origin", "null"), 403, "PH4007"),
        (("sec-fetch-site", "cross-site"), 403, "PH4007"),
        (("host", "evil.example"), 421, "PH4008"),
    ] {
        for (method, path) in [(Method::POST, "/ingest"), (Method::GET, "/v1/events"), (Method::GET, "/v1/plugins")] {
            let body = if method == Method::POST { body.to_vec() } else { Vec::new() };
            let answer = host.ask(method, path, &[header], body)?;
            assert_eq!((answer.status, answer.str("/code")), (status, code), "{header:?} {path}: {}", answer.text);
        }
    }
    // A page can send this without asking first; it lacks the header that only programs set.
    let simple = host.ask(
        Method::PUT,
        "/v1/plugins/default/sensors/x/params",
        &[("content-type", "application/json")],
        b"{}".to_vec(),
    )?;
    assert_eq!((simple.status, simple.str("/code")), (403, "PH4009"), "{}", simple.text);
    assert_eq!(host.stream("sensors")?.pointer("/lag/records").and_then(serde_json::Value::as_u64), Some(0));
    Ok(())
}
