//! Real measurements: the Numenta Anomaly Benchmark's 58 files, counted a second time by other means.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use phronis_tests::checker::check_folder;
use phronis_tests::host::{Host, Room, run};
use phronis_tests::plugins::{plugin, root};

use crate::judged_by;

/// Splits the files into many and few: machine temperatures, CPU loads and rates lie on both sides.
const HIGH: f64 = 90.0;

/// What the contract of the built-in stream takes, on both sides of zero.
const WIDEST: f64 = 999_999.0;

#[test]
fn the_58_files_of_nab_are_loaded_and_judged_as_an_independent_count_says() -> anyhow::Result<()> {
    let folder = std::env::var_os("PHRONIS_NAB").map_or_else(|| root().join("../shared/data/nab"), PathBuf::from);
    let mut files = Vec::new();
    find(&folder, &mut files)?;
    if files.is_empty() {
        println!("skipped: no NAB files in {} (PHRONIS_NAB names another folder)", folder.display());
        return Ok(());
    }
    files.sort();
    assert_eq!(files.len(), 58);
    // Sensor → (rows, rows above the limit); the contract refuses what no sensor can show.
    let mut counts: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let mut refused = 0;
    for file in &files {
        let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let count = counts.entry(stem.to_owned()).or_default();
        for row in csv::Reader::from_path(file)?.records() {
            let value: f64 = row?.get(1).unwrap_or_default().parse()?;
            if value.abs() > WIDEST {
                refused += 1;
            } else {
                *count = (count.0 + 1, count.1 + u64::from(value > HIGH));
            }
        }
    }
    assert_eq!(counts.len(), files.len(), "stems are names of sensors");

    let room = Room::new()?;
    room.install("default/sensors/threshold", &plugin("threshold")?, &format!("[params]\nhigh = {HIGH:.1}\n"))?;
    let host = Host::start(&room)?;
    let mut load = room.command(&["load"])?;
    load.args(&files).args(["--set", "sensor_id={file}", "--rename", "timestamp=ts"]);
    let (code, _, said) = run(load)?;
    assert_eq!(code, Some(0), "{said}");
    host.drained("sensors")?;
    assert!(host.stop()?.success());

    let report = check_folder(&room.log(), "sensors", judged_by("threshold", HIGH))?.must_hold()?;
    let rows: u64 = counts.values().map(|(rows, _)| rows).sum();
    assert_eq!((report.delivered, report.gate_letters), (rows, refused), "{report}");
    assert_eq!(report.letters_with("PH1005"), refused, "{report}");
    let mut alerts: BTreeMap<String, u64> = BTreeMap::new();
    for alert in &report.alerts {
        let key = alert.json.get("key").and_then(serde_json::Value::as_str).unwrap_or_default();
        *alerts.entry(key.to_owned()).or_default() += 1;
    }
    let expected: BTreeMap<_, _> =
        counts.into_iter().filter(|(_, (_, above))| *above > 0).map(|(name, (_, above))| (name, above)).collect();
    assert_eq!(alerts, expected);
    println!(
        "{} files, {rows} rows delivered, {refused} refused, {} alerts, as counted independently",
        files.len(),
        report.alerts.len()
    );
    Ok(())
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "csv") {
            files.push(path);
        }
    }
    Ok(())
}
