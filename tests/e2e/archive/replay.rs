//! A detector over what is archived: the same range says the same, however often, and what ran live is found again.

use anyhow::ensure;
use phronis_tests::checker::Tables;
use phronis_tests::host::{Host, Room, run};
use phronis_tests::load::Producer;
use phronis_tests::plugins::plugin;
use serde_json::Value;

use super::{ARCHIVE, SETTINGS, THRESHOLD, commits, count, ends_well, refused, told};

/// From before the first of the made-up events to after the last.
const ALL: (&str, &str) = ("2025-12-31", "2026-02-01");
/// The parameters that ran live, and others.
const HIGH: &str = r#"{"high": 90}"#;
const LOW: &str = r#"{"high": 60}"#;

#[test]
fn a_replay_says_the_same_however_often() -> anyhow::Result<()> {
    let room = Room::with(&format!("{ARCHIVE}[archive.upkeep]\nevery = \"never\"\n[streams.sensors]\n"))?;
    let wasm = plugin("threshold")?;
    let file = wasm.display().to_string();
    room.install(THRESHOLD, &wasm, SETTINGS)?;
    let host = Host::start(&room)?;
    let mut producer = Producer::new(41);
    commits(&host, &mut producer, 4)?;
    for _ in 0..20 {
        ensure!(producer.post(&host, 200)?, "no room");
    }
    let replay = |(since, until): (&str, &str), more: &[&str]| {
        let args = ["replay", &file, "--stream", "sensors", "--since", since, "--until", until, "-o", "json"];
        told(&room, &[&args[..], more].concat())
    };
    // It runs beside a host, whose tables grow meanwhile.
    ensure!(number(&replay(ALL, &["--params", HIGH])?, "/result/events") > 0, "events of a running host");
    let archived = ends_well(host, &room, &Tables::local(room.data()))?;

    let same = ["--params", HIGH, "--against", "threshold"];
    let (once, again) = (replay(ALL, &same)?, replay(ALL, &same)?);
    ensure!(once["result"] == again["result"], "{once} and then {again}");
    let of = |place: &str| number(&once, place);
    ensure!(Some(&of("/result/events")) == archived.rows.get("events"), "{once} of {archived:?}");
    ensure!(Some(&of("/result/alerts/both")) == archived.rows.get("alerts") && of("/result/alerts/both") > 0, "{once}");
    ensure!(
        of("/result/alerts/only_new") + of("/result/alerts/only_old") + of("/result/alerts/unmatched") == 0,
        "{once}"
    );

    // Other limits find more, and exactly what the rows say.
    let lower = replay(ALL, &["--params", LOW, "--against", "threshold"])?;
    let above =
        |limit: u32| count(&room, &format!("SELECT count(*) AS n FROM default_sensors_events WHERE value > {limit}"));
    ensure!(number(&lower, "/result/alerts/new") == above(60)?, "{lower}");
    ensure!(number(&lower, "/result/alerts/only_new") == above(60)? - above(90)?, "{lower}");
    // The same of two files.
    let against = replay(ALL, &["--params", LOW, "--against", &file, "--against-params", HIGH])?;
    ensure!(against["result"]["alerts"] == lower["result"]["alerts"], "{against} and {lower}");
    parts_of_the_range(&replay, &once)?;

    // Compaction moves rows to other files, and none of them elsewhere in the order.
    let tables = told(&room, &["archive", "maintain", "-o", "json"])?;
    let compacted = replay(ALL, &same)?;
    let but_for_the_snapshot = |report: &Value| {
        let mut result = report["result"].clone();
        result["snapshot"] = Value::Null;
        result["against"]["snapshot"] = Value::Null;
        result
    };
    ensure!(compacted["result"]["snapshot"] != once["result"]["snapshot"], "nothing was compacted: {tables}");
    ensure!(but_for_the_snapshot(&compacted) == but_for_the_snapshot(&once), "{compacted} and {once}");
    refusals(&room, &file)
}

/// What two parts of a range have is what the whole has.
fn parts_of_the_range(
    replay: &impl Fn((&str, &str), &[&str]) -> anyhow::Result<Value>,
    whole: &Value,
) -> anyhow::Result<()> {
    const MIDDLE: &str = "2026-01-01T00:00:02Z";
    let early = replay((ALL.0, MIDDLE), &["--params", HIGH])?;
    let late = replay((MIDDLE, ALL.1), &["--params", HIGH])?;
    for place in ["/result/events", "/result/alerts/new"] {
        let (early, late) = (number(&early, place), number(&late, place));
        ensure!(early > 0 && early + late == number(whole, place), "{place}: {early} and {late} of {whole}");
    }
    Ok(())
}

/// What cannot be replayed says why.
fn refusals(room: &Room, file: &str) -> anyhow::Result<()> {
    let enricher = plugin("unit-normaliser")?.display().to_string();
    let gone = "gone.wasm";
    let range = ["--since", "2025-12-31", "--stream"];
    let cases: [(&[&str], i32, &str); 7] = [
        (&[file, range[0], range[1], range[2], "nobody"], 2, "default_nobody_events"),
        (&[file, range[0], range[1], range[2], "sensors", "--against", "nobody"], 2, "PH6082"),
        (&[file, range[0], range[1], range[2], "sensors", "--until", "2025-12-30"], 2, "PH6081"),
        (&[file, range[0], range[1], range[2], "sensors", "--params", "{\"high\": \"warm\"}"], 5, "high"),
        (&[file, range[0], range[1], range[2], "sensors", "--params", "{\"field\": \"nothing\"}"], 5, "PH6080"),
        (&[&enricher, range[0], range[1], range[2], "sensors"], 5, "enricher"),
        (&[gone, range[0], range[1], range[2], "sensors"], 2, "cannot read"),
    ];
    for (args, exit, words) in cases {
        let said = refused(room, &[&["replay"], args].concat(), exit)?;
        ensure!(said.contains(words), "{args:?}: {said}");
    }
    let (code, told, said) = run(room.command(&["replay", file, "--stream", "sensors", "--since", "2025-12-31"])?)?;
    ensure!(code == Some(0) && told.contains("DAY") && told.contains("2026-01-01"), "{code:?} {told}{said}");
    Ok(())
}

fn number(of: &Value, place: &str) -> u64 {
    of.pointer(place).and_then(Value::as_u64).unwrap_or_default()
}
