//! Hostile guests beside a good one: the host lives, the good one's alerts are what they are without them, the guilty rows are letters.

use std::collections::BTreeMap;

use phronis_tests::checker::{check_folder, letters};
use phronis_tests::host::{Host, Room};
use phronis_tests::plugins::{guest, plugin};

use crate::{judged_by, reading};

/// The value that makes a marked guest misbehave.
const MARK: f64 = 13.0;

/// Rows in all, and how many of them carry the mark.
const ROWS: u64 = 900;
const MARKED: u64 = 3;

#[test]
fn hostile_guests_harm_nobody_but_themselves() -> anyhow::Result<()> {
    // Behaviour, whether only marked rows trigger it, letters, and their code.
    let hostile: &[(&str, bool, u64, &str)] = &[
        ("loop", true, MARKED, "PH2004"),
        ("trap", true, MARKED, "PH2003"),
        ("stack", true, MARKED, "PH2003"),
        ("memory", true, MARKED, "PH2005"),
        ("row-out-of-range", true, MARKED, "PH2006"),
        ("million-findings", true, MARKED, "PH2006"),
        ("giant-output", true, MARKED, "PH2006"),
        ("fail-every-row", false, ROWS, "PH2001"),
        ("log-flood", true, 0, ""),
        ("escapes", false, 0, ""),
        ("honest", false, 0, ""),
    ];
    let component = guest("detector")?;
    let room = Room::new()?;
    room.install("default/sensors/threshold", &plugin("threshold")?, "[params]\nhigh = 90.0\n")?;
    for (behaviour, is_marked, ..) in hostile {
        let mark = if *is_marked { format!("mark = {MARK:.1}\n") } else { String::new() };
        // Who lies about its output must be able to make it.
        let memory = if *behaviour == "memory" { "16MiB" } else { "256MiB" };
        // Only who never ends is waited for in vain; the others may be slow on a slow machine.
        let deadline = if *behaviour == "loop" { "300ms" } else { "10s" };
        let limits = format!("[limits]\ndeadline = \"{deadline}\"\nmemory = \"{memory}\"\n");
        // Each failure is to be seen: no breaker may open.
        let limits = format!("{limits}[breaker]\nrows = 0\ndeadlines = 100\nfailures = 100\n");
        let settings = format!("[params]\nbehaviour = \"{behaviour}\"\nhigh = 90.0\n{mark}{limits}");
        room.install(&format!("default/sensors/bad-{behaviour}"), &component, &settings)?;
    }
    let host = Host::start(&room)?;
    for (behaviour, ..) in hostile {
        host.plugin_is(&format!("default/sensors/bad-{behaviour}"), "active")?;
    }
    // One marked row a post, and the next post only once it is judged: each batch has at most one guilty row.
    for part in 0..MARKED {
        let rows = ROWS / MARKED;
        let value = |row: u64| match row {
            250 => MARK, // in place of a hot one
            row if row % 10 == 0 => 95.0,
            _ => 50.0,
        };
        let body: String =
            (0..rows).map(|row| reading(&format!("S{}", row % 7), part * rows + row, value(row))).collect();
        assert_eq!(host.post("sensors", body)?.status, 202);
        host.drained("sensors")?;
    }
    let said = host.said();
    assert!(!said.contains('\u{1b}'), "a guest's escapes reached the log");
    assert!(said.len() < 2 << 20, "a guest flooded the log: {} bytes", said.len());
    assert!(host.stop()?.success());

    // The good one, as if it were alone.
    let report = check_folder(&room.log(), "sensors", judged_by("threshold", 90.0))?.must_hold()?;
    assert_eq!((report.delivered, report.verdict.found), (ROWS, ROWS / 10 - MARKED), "{report}");
    assert_eq!(report.detectors.get("threshold").map(|d| (d.judged, d.letters)), Some((ROWS, 0)), "{report}");

    let mut seen: BTreeMap<(String, String), u64> = BTreeMap::new();
    for letter in letters(&room.log(), "sensors")? {
        assert_eq!(letter.stage, "detect");
        assert!(!letter.message.is_empty() && !letter.message.contains('\u{1b}'));
        if letter.code != "PH2001" {
            let value = serde_json::from_slice::<serde_json::Value>(&letter.value)?;
            assert_eq!(
                value.get("value").and_then(serde_json::Value::as_f64),
                Some(MARK),
                "{} is innocent",
                letter.plugin
            );
        }
        *seen.entry((letter.plugin, letter.code)).or_default() += 1;
    }
    let expected: BTreeMap<_, _> = hostile
        .iter()
        .filter(|(.., letters, _)| *letters > 0)
        .map(|(behaviour, _, letters, code)| ((format!("bad-{behaviour}"), (*code).to_owned()), *letters))
        .collect();
    assert_eq!(seen, expected);
    // Guests that are honest about all other rows find there what the good one finds.
    for (behaviour, is_marked, _, _) in hostile.iter().filter(|(behaviour, ..)| *behaviour != "fail-every-row") {
        let alerts = report.detectors.get(&format!("bad-{behaviour}")).map(|detector| detector.alerts);
        assert_eq!(alerts, Some(ROWS / 10 - MARKED), "{behaviour} (marked: {is_marked})");
    }
    Ok(())
}

#[test]
fn what_is_too_much_for_one_delivery_is_delivered_in_parts() -> anyhow::Result<()> {
    // Sixteen letters about each of a few events of a megabyte: more than the log takes at once.
    const FAILING: u64 = 16;
    const EVENTS: u64 = 12;
    let component = guest("detector")?;
    let room = Room::new()?;
    room.install("default/sensors/threshold", &plugin("threshold")?, "[params]\nhigh = 90.0\n")?;
    for nth in 0..FAILING {
        let id = format!("default/sensors/failing-{nth}");
        room.install(&id, &component, "[params]\nbehaviour = \"fail-every-row\"\nhigh = 90.0\n")?;
    }
    let host = Host::start(&room)?;
    let pad = "x".repeat(900_000);
    let body: String = (0..EVENTS)
        .map(|seq| format!("{{\"sensor_id\":\"S1\",\"seq\":{seq},\"value\":50.0,\"pad\":\"{pad}\"}}\n"))
        .collect();
    assert_eq!(host.post("sensors", body)?.status, 202);
    host.drained("sensors")?;
    assert!(host.stop()?.success());

    let mut expect = judged_by("threshold", 90.0);
    expect.detectors.extend((0..FAILING).map(|nth| format!("failing-{nth}")));
    let report = check_folder(&room.log(), "sensors", expect)?.must_hold()?;
    assert_eq!(report.delivered, EVENTS, "{report}");
    for nth in 0..FAILING {
        let letters = report.detectors.get(&format!("failing-{nth}")).map(|detector| detector.letters);
        assert_eq!(letters, Some(EVENTS), "{report}");
    }
    Ok(())
}
