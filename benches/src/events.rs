//! The benchmark's events: 75 bytes of JSON, 1 % over the threshold.

/// One event; `nth` decides its key and whether it is hot.
pub(crate) fn event(nth: u64) -> String {
    event_of(nth, if nth.is_multiple_of(100) { "98.50" } else { "71.25" })
}

/// One event with this value.
pub(crate) fn event_of(nth: u64, value: &str) -> String {
    format!(
        r#"{{"sensor_id":"S{:04}","value":{value},"unit":"C","ts":{},"seq":{}}}"#,
        nth % 1000,
        1_732_276_800_000 + nth,
        100_000 + nth % 900_000
    )
}

/// Lines of `count` events from `first` on.
pub(crate) fn lines(first: u64, count: u64) -> String {
    let mut body = String::with_capacity(usize::try_from(count).unwrap_or(0) * 80);
    for nth in first..first + count {
        body.push_str(&event(nth));
        body.push('\n');
    }
    body
}
