//! Records in plain words, for a terminal. What comes from records or plugins is escaped.

use phronis_core::text::escape;
use serde_json::Value;

use super::super::time_ms;
use crate::output::cell;

/// An alert: when, how bad, who, what, found by whom, how long after the event.
pub(super) fn alert(record: &Value, colours: bool) -> String {
    let Some(alert) = record.get("value").filter(|value| value.is_object()) else { return event(record) };
    let severity = cell(alert, "/severity");
    let who = match (cell(alert, "/agent").as_str(), cell(alert, "/key").as_str()) {
        ("-", "-") => String::new(),
        ("-", key) => key.to_owned(),
        (agent, _) => agent.to_owned(),
    };
    let found_by =
        format!("{}@{} {}", cell(alert, "/plugin/name"), cell(alert, "/plugin/version"), cell(alert, "/rule"));
    let halt = if alert.get("halt") == Some(&Value::Bool(true)) { "  HALT" } else { "" };
    format!(
        "{}  {}  {}  {}  [{}{}]{halt}",
        clock(alert.get("detected_at")),
        painted(&format!("{severity:<8}"), &severity, colours),
        escape(&who),
        escape(&cell(alert, "/message")),
        escape(&found_by),
        delay(alert),
    )
}

/// A letter: when, which step, code, by whom, why, and the value. What settles letters says which, and how.
pub(super) fn letter(record: &Value, colours: bool) -> String {
    let header = |name: &str| cell(record, &format!("/headers/phronis-{name}"));
    let has = |name: &str| !matches!(header(name).as_str(), "-" | "");
    if has("discard") {
        return format!("{}  discarded  {}", clock(record.get("timestamp")), value(record));
    }
    if has("settled") {
        let what = format!("{} letter {}", header("stage"), header("previous"));
        let origin = format!("{}/{}", header("origin-partition"), header("origin-offset"));
        let settled = painted(&header("settled"), "info", colours);
        return format!("{}  {settled}  {}  of {}", clock(record.get("timestamp")), escape(&what), escape(&origin));
    }
    let plugin = match header("plugin").as_str() {
        "-" | "" => String::new(),
        name => format!(" {name}"),
    };
    format!(
        "{}  {}{}  {}  {}  {}",
        clock(record.get("timestamp")),
        painted(&header("code"), "warning", colours),
        escape(&plugin),
        escape(&header("stage")),
        escape(&header("message")),
        value(record),
    )
}

/// Any other record: when, where, key, value.
pub(super) fn event(record: &Value) -> String {
    let key = cell(record, "/key");
    let place = format!("{}/{}", cell(record, "/partition"), cell(record, "/offset"));
    format!("{}  {place:<8}  {}  {}", clock(record.get("timestamp")), escape(&key), value(record))
}

/// Longest value shown, in characters: about two lines of a terminal.
const SHOWN: usize = 160;

fn value(record: &Value) -> String {
    let text = match (record.get("value"), record.get("value_base64").and_then(Value::as_str)) {
        (_, Some(base64)) => format!("(not JSON, {} bytes)", base64.len() / 4 * 3),
        (Some(value), None) => value.to_string(),
        (None, None) => "-".to_owned(),
    };
    let short: String = text.chars().take(SHOWN).collect();
    let cut = if short.len() < text.len() { "…" } else { "" };
    format!("{}{cut}", escape(&short))
}

/// The time of day in UTC; a dash when there is none.
fn clock(time: Option<&Value>) -> String {
    let time = time.and_then(time_ms).and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    time.map_or_else(|| "-".to_owned(), |time| time.strftime("%H:%M:%S%.3f").to_string())
}

/// How long after the event it was found; of replayed history, how long after it came in.
fn delay(alert: &Value) -> String {
    /// Events older than this when they came are history: their age says nothing about the host.
    const LIVE_MS: i64 = 60_000;
    let time = |pointer: &str| alert.pointer(pointer).and_then(time_ms);
    let (Some(found), Some(came)) = (time("/detected_at"), time("/origin/timestamp")) else { return String::new() };
    match time("/event_time").map(|happened| found - happened) {
        Some(millis) if (0..LIVE_MS).contains(&millis) => format!(", {} after the event", span(millis)),
        _ => format!(", {} after it came in", span((found - came).max(0))),
    }
}

fn span(millis: i64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{}.{} s", millis / 1_000, millis % 1_000 / 100),
        _ => format!("{} min", millis / 60_000),
    }
}

fn painted(text: &str, severity: &str, colours: bool) -> String {
    let text = escape(text);
    let colour = match severity {
        _ if !colours => return text.into_owned(),
        "critical" => "31;1",
        "warning" => "33",
        _ => "36",
    };
    format!("\u{1b}[{colour}m{text}\u{1b}[0m")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn an_alert() -> Value {
        json!({"topic": "phronis.alerts", "partition": 1, "offset": 7, "timestamp": "2026-01-31T12:00:00.020Z",
            "value": {"severity": "warning", "message": "98.6 \u{1b}[2J is over 90", "agent": null, "key": "S01", "rule": "high",
                "plugin": {"name": "hot", "version": "1.2.0", "digest": "…"},
                "origin": {"timestamp": "2026-01-31T12:00:00.005Z"},
                "event_time": "2026-01-31T12:00:00.000Z", "detected_at": "2026-01-31T12:00:00.017Z", "halt": false}})
    }

    #[test]
    fn an_alert_says_who_what_by_whom_and_how_fast_and_moves_no_cursor() {
        let expected =
            "12:00:00.017  warning   S01  98.6 \\u{1b}[2J is over 90  [hot@1.2.0 high, 17 ms after the event]";
        assert_eq!(alert(&an_alert(), false), expected);
    }

    #[test]
    fn of_history_the_way_through_the_host_is_told() {
        let mut record = an_alert();
        record["value"]["event_time"] = json!("2014-01-01T00:00:00Z");
        record["value"]["agent"] = json!("A7");
        record["value"]["halt"] = json!(true);
        let text = alert(&record, false);
        assert!(text.contains("  A7  ") && text.contains(", 12 ms after it came in]  HALT"), "{text}");
    }

    #[test]
    fn a_letter_says_which_step_and_why() {
        let record = json!({"timestamp": 1_767_225_600_000_i64, "value_base64": "AAAA", "headers":
            {"phronis-code": "PH1001", "phronis-stage": "gate", "phronis-message": "cut off"}});
        assert_eq!(letter(&record, false), "00:00:00.000  PH1001  gate  cut off  (not JSON, 3 bytes)");
        let settled = json!({"timestamp": 1_767_225_600_000_i64, "headers": {"phronis-settled": "judged", "phronis-stage": "detect",
            "phronis-previous": "41", "phronis-origin-partition": "1", "phronis-origin-offset": "7"}});
        assert_eq!(letter(&settled, false), "00:00:00.000  judged  detect letter 41  of 1/7");
        let discarded =
            json!({"timestamp": 1_767_225_600_000_i64, "headers": {"phronis-discard": "d-1"}, "value": {"up_to": 9}});
        assert_eq!(letter(&discarded, false), "00:00:00.000  discarded  {\"up_to\":9}");
    }
}
