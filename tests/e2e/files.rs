//! Files through `phronis load`: CSV, NDJSON, JSON and Parquet, plain and gz, good and bad.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use phronis_tests::checker::{check_folder, letters};
use phronis_tests::host::{Host, Room, run};
use phronis_tests::plugins::plugin;

use crate::{judged_by, reading};

const ROWS: u64 = 1000;

#[test]
fn files_of_every_format_are_loaded_and_counted() -> anyhow::Result<()> {
    let room = Room::new()?;
    room.install("default/sensors/threshold", &plugin("threshold")?, "[params]\nhigh = 900.0\n")?;
    let host = Host::start(&room)?;
    let folder = room.folder();

    let csv: String = (0..ROWS).map(|n| format!("\"C {}\",{n},{n}.5\n", n % 3)).collect();
    std::fs::write(folder.join("a.csv"), format!("\u{feff}sensor_id,seq,value\n{csv}"))?;
    let lines: String = (0..ROWS).map(|n| reading("N1", n, n as f64 + 0.5)).collect();
    std::fs::write(folder.join("b.ndjson"), &lines)?;
    let mut gz = flate2::write::GzEncoder::new(std::fs::File::create(folder.join("c.ndjson.gz"))?, Default::default());
    gz.write_all(lines.replace("\"N1\"", "\"G1\"").as_bytes())?;
    gz.finish()?;
    let array = lines.replace("\"N1\"", "\"J1\"").trim_end().replace('\n', ",\n");
    std::fs::write(folder.join("d.json"), format!("[{array}]"))?;
    parquet(&folder.join("e.parquet"))?;

    for file in ["a.csv", "b.ndjson", "c.ndjson.gz", "d.json", "e.parquet"] {
        let (code, _, said) = run(room.command(&["load", file])?)?;
        assert_eq!(code, Some(0), "{file}: {said}");
        assert!(said.contains("1000 accepted"), "{file}: {said}");
    }
    host.drained("sensors")?;
    assert!(host.stop()?.success());
    let report = check_folder(&room.log(), "sensors", judged_by("threshold", 900.0))?.must_hold()?;
    assert_eq!((report.delivered, report.verdict.found, report.keys), (5 * ROWS, 5 * 100, 7), "{report}");
    Ok(())
}

#[test]
fn bad_rows_of_a_file_are_named_and_kept() -> anyhow::Result<()> {
    let room = Room::new()?;
    let host = Host::start(&room)?;
    let csv = "sensor_id,value,note\nS1,1.5,\"two\nlines, one row\"\nS1,hot,\nS1\nS1,2.5,ok,too,many\nS1,3.5,\n";
    std::fs::write(room.folder().join("odd.csv"), csv)?;
    let (code, told, said) = run(room.command(&["load", "odd.csv", "--strict"])?)?;
    assert_eq!(code, Some(1), "{said}");
    let all = told + &said;
    assert!(all.contains("2 accepted") && all.contains("3 refused"), "{all}");
    for line in ["4", "5", "6"] {
        assert!(all.contains(line), "line {line} is not named: {all}");
    }
    let (code, _, said) = run(room.command(&["load", "gone.csv"])?)?;
    assert!(code.is_some_and(|code| code != 0) && said.contains("gone.csv"), "{said}");
    host.drained("sensors")?;
    assert!(host.stop()?.success());
    let report = check_folder(&room.log(), "sensors", Default::default())?.must_hold()?;
    assert_eq!((report.delivered, report.gate_letters), (2, 3), "{report}");
    let letters = letters(&room.log(), "sensors")?;
    assert!(letters.iter().any(|letter| String::from_utf8_lossy(&letter.value).contains("hot")), "{letters:?}");
    Ok(())
}

fn parquet(path: &Path) -> anyhow::Result<()> {
    let rows = i64::try_from(ROWS)?;
    let sensors: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|_| "P1")));
    let seqs: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
    let values: ArrayRef = Arc::new(Float64Array::from_iter_values((0..rows).map(|n| n as f64 + 0.5)));
    let batch = RecordBatch::try_from_iter([("sensor_id", sensors), ("seq", seqs), ("value", values)])?;
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path)?, batch.schema(), None)?;
    writer.write(&batch)?;
    writer.close()?;
    Ok(())
}
