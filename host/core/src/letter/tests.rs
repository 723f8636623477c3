//! Letters: written and read back, whatever headers the record came with.

use super::*;
use crate::code;
use crate::records::{NewRecords, RecordsBuilder};

fn headers(fill: impl FnOnce(&mut HeadersBuilder)) -> NewRecords {
    let mut block = HeadersBuilder::default();
    fill(&mut block);
    let mut records = RecordsBuilder::default();
    records.push(0, None, Some(b"v"), block.as_bytes());
    records.finish()
}

fn letter(original: &NewRecords, plugin: Option<Plugin>, message: &str) -> Letter {
    let origin = Origin { topic: "phronis.raw.events".into(), partition: 3, offset: 42, timestamp: -7 };
    let stage = if plugin.is_some() { Stage::Detect } else { Stage::Gate };
    Letter::new(
        &"acme.pumps".parse().unwrap(),
        stage,
        plugin,
        origin,
        code::WRONG_TYPE,
        message,
        original.headers(0),
        Time(1_732_276_800_000_001),
    )
}

fn plugin() -> Plugin {
    Plugin { name: "hot".parse().unwrap(), version: "1.0".into(), digest: "ab12".into() }
}

#[test]
fn what_is_written_is_read_back() {
    let original = headers(|h| {
        h.push("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").push("raw", &[0xff, 0]);
    });
    for plugin in [None, Some(plugin())] {
        let mut letter = letter(&original, plugin, "field `x`: expected a number");
        assert_eq!(letter.trace_id.as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        for due in [None, Some(Time(5_000_000))] {
            letter.due_at = due;
            let written = headers(|h| letter.write(original.headers(0), h));
            assert_eq!(Letter::read(written.headers(0)), Some(letter.clone()));
            let kept: Vec<_> = written.headers(0).take(2).collect();
            assert_eq!(
                kept,
                original.headers(0).collect::<Vec<_>>(),
                "the record's own headers come first, as they were"
            );
            assert_eq!(written.headers(0).get("phronis-due-at").is_some(), due.is_some());
        }
    }
}

#[test]
fn a_producers_phronis_headers_are_kept_and_never_believed() {
    let original = headers(|h| {
        h.push("phronis-id", &[b'0'; 32]).push("phronis-origin-offset", b"999").push("phronis-plugin", b"evil");
        h.push("phronis-due-at", b"1").push("phronis-trace-id", b"x").push("phronis-stage", b"detect");
    });
    let letter = letter(&original, None, "m");
    let written = headers(|h| letter.write(original.headers(0), h));
    assert_eq!(Letter::read(written.headers(0)), Some(letter));
    assert_eq!(written.headers(0).get("phronis-origin-offset"), Some(&b"999"[..]));
    let back = headers(|h| original_headers(written.headers(0), h));
    assert_eq!(back.headers, original.headers);
}

#[test]
fn what_a_letter_does_not_keep_is_said_and_never_believed_of_a_producer() {
    let original = headers(|h| {
        h.push("a", b"1").push("phronis-value-omitted", b"7");
    });
    let mut letter = letter(&original, None, "m");
    let written = headers(|h| letter.write(original.headers(0), h));
    assert_eq!(Letter::read(written.headers(0)), Some(letter.clone()));
    letter.omitted = Omitted { value: Some(5_000_000), headers: Some(36), key: None };
    let written = headers(|h| letter.write(original.headers(0), h));
    assert_eq!(written.headers(0).get("a"), None);
    assert_eq!(written.headers(0).last("phronis-value-omitted"), Some(&b"5000000"[..]));
    assert_eq!(Letter::read(written.headers(0)), Some(letter));
}

#[test]
fn what_stands_in_dlq_is_told_apart_and_a_producers_headers_never_decide() {
    let original = headers(|h| {
        for name in [SETTLED, RANGE, DISCARD, PREVIOUS, LETTER_OFFSET, REDRIVE] {
            h.push(name, b"7");
        }
    });
    let mut letter = letter(&original, Some(plugin()), "m");
    letter.previous = Some(40);
    let first = headers(|h| letter.write(original.headers(0), h));
    assert_eq!(Kind::of(first.headers(0)), Kind::Letter);
    assert_eq!(Letter::read(first.headers(0)), Some(letter.clone()));
    assert_eq!(Returned::read(first.headers(0)), None, "it does not say where it stands");
    letter.previous = None;
    let first = headers(|h| letter.write(original.headers(0), h));
    assert_eq!(Letter::read(first.headers(0)).unwrap().previous, None);

    let range = headers(|h| {
        letter.write(headers(|_| {}).headers(0), h);
        h.push(RANGE, b"3");
    });
    assert_eq!(Kind::of(range.headers(0)), Kind::Range);
    assert_eq!(Kind::of(headers(|_| {}).headers(0)), Kind::Unknown);
    assert_eq!(Kind::of(headers(|h| _ = h.push("other", b"1")).headers(0)), Kind::Unknown);

    for redrive in [None, Some("r-1")] {
        let back = headers(|h| Returned::write(first.headers(0), 41, redrive, h));
        let returned = Returned { letter: letter.clone(), at: 41, redrive: redrive.map(str::to_owned) };
        assert_eq!(Returned::read(back.headers(0)), Some(returned));
        let own = headers(|h| original_headers(back.headers(0), h));
        assert_eq!(own.headers, original.headers);
    }
}

#[test]
fn a_settlement_names_its_letter_and_is_no_letter() {
    let original = headers(|_| {});
    for (plugin, redrive, outcome) in [
        (None, Some("r-1"), Outcome::Delivered),
        (Some(plugin()), None, Outcome::Judged),
        (None, None, Outcome::Discarded),
    ] {
        let letter = letter(&original, plugin, "m");
        let settlement = Settlement::of(&letter, 41, outcome, redrive.map(str::to_owned));
        let written = headers(|h| settlement.write(h));
        assert_eq!(Kind::of(written.headers(0)), Kind::Settlement);
        assert_eq!(Settlement::read(written.headers(0)), Some(settlement.clone()));
        assert_eq!(Letter::read(written.headers(0)), None);
        assert_eq!((settlement.id, settlement.attempt, settlement.code), (letter.id, 1, code::WRONG_TYPE));
        let odd = headers(|h| {
            settlement.write(h);
            h.push(SETTLED, b"forgiven");
        });
        assert_eq!((Kind::of(odd.headers(0)), Settlement::read(odd.headers(0))), (Kind::Settlement, None));
    }
}

#[test]
fn a_message_is_bounded_and_safe_to_show() {
    let original = headers(|_| {});
    let letter = letter(&original, Some(plugin()), &format!("\u{1b}[31m\n{}", "ü".repeat(2_000)));
    let written = headers(|h| letter.write(original.headers(0), h));
    let message = written.headers(0).last("phronis-message").unwrap();
    assert!(message.starts_with(b"\\u{1b}[31m\\n") && message.len() <= MESSAGE_BYTES && message.len() > 1_000);
    assert!(str::from_utf8(message).is_ok());
}

#[test]
fn what_is_no_letter_is_not_read() {
    assert_eq!(Letter::read(headers(|_| {}).headers(0)), None);
    let original = headers(|_| {});
    let letter = letter(&original, None, "m");
    for (name, value) in [
        ("phronis-code", "PH9999"),
        ("phronis-id", "zz"),
        ("phronis-attempt", "-1"),
        ("phronis-stage", "x"),
        ("phronis-value-omitted", "x"),
        ("phronis-previous", "x"),
        ("phronis-plugin", "No Name"),
    ] {
        let broken = headers(|h| {
            letter.write(original.headers(0), h);
            h.push(name, value.as_bytes());
        });
        assert_eq!(Letter::read(broken.headers(0)), None, "{name}");
    }
}
