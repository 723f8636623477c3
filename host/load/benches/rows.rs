//! Rows a second that one thread makes of a file, and of the simulator.
//!
//! `cargo bench -p phronis-load [ROWS]`. The file is written first and read from the page cache; the best of three
//! passes counts. Rows and bytes are counted where they come out.

#![expect(clippy::expect_used, reason = "a benchmark stops where something is wrong")]

use std::{fs, io::Write, path::Path, time::Instant};

use flate2::{Compression, write::GzEncoder};

use phronis_core::plugin::FieldType;
use phronis_load::{
    ColumnTypes, File, Mapping,
    simulate::{Sensors, Settings},
};

fn main() {
    let rows = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(200_000);
    let folder = tempfile::tempdir().expect("a folder");
    let events: Vec<_> = Sensors::new(Settings::default()).take(rows).collect();
    let lines: Vec<_> = events.iter().map(|event| String::from_utf8_lossy(&event.bytes)).collect();
    let csv: String = std::iter::once("sensor_id,seq,value,unit,ts\n".to_owned())
        .chain(events.iter().map(|event| format!("{},{},45.25,C,{}\n", event.key, event.seq, event.time_ms)))
        .collect();
    let write = |name: &str, content: &[u8]| fs::write(folder.path().join(name), content).expect("a file");
    write("events.ndjson", (lines.join("\n") + "\n").as_bytes());
    write("events.json", format!("[{}]", lines.join(",")).as_bytes());
    write("events.csv", csv.as_bytes());
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(lines.join("\n").as_bytes()).expect("memory");
    write("events.ndjson.gz", &gzip.finish().expect("memory"));

    for name in ["events.ndjson", "events.ndjson.gz", "events.json", "events.csv"] {
        report(name, || read(&folder.path().join(name), &Mapping::default()));
    }
    let mapping = Mapping::default().set("site=hall").and_then(|mapping| mapping.rename("ts=time")).expect("a mapping");
    report("events.ndjson, mapped", || read(&folder.path().join("events.ndjson"), &mapping));
    report("simulated sensors", || {
        let (mut count, mut bytes) = (0, 0);
        for event in Sensors::new(Settings::default()).take(rows) {
            (count, bytes) = (count + 1, bytes + event.bytes.len());
        }
        (count, bytes)
    });
}

fn read(path: &Path, mapping: &Mapping) -> (usize, usize) {
    let columns: ColumnTypes =
        [("value", FieldType::Number), ("seq", FieldType::Integer), ("ts", FieldType::Timestamp)].into_iter().collect();
    let (mut count, mut bytes) = (0, 0);
    for row in File::open_mapped(path, None, &columns, mapping).expect("a file") {
        let row = row.expect("a row");
        (count, bytes) = (count + 1, bytes + row.bytes.len());
    }
    (count, bytes)
}

fn report(name: &str, run: impl Fn() -> (usize, usize)) {
    let best = (0..3)
        .map(|_| {
            let start = Instant::now();
            let (rows, bytes) = run();
            (start.elapsed(), rows, bytes)
        })
        .min();
    if let Some((took, rows, bytes)) = best {
        let seconds = took.as_secs_f64();
        let (rate, megabytes) = (rows as f64 / seconds, bytes as f64 / seconds / 1e6);
        println!(
            r#"{{"input":"{name}","rows":{rows},"rows_per_second":{rate:.0},"megabytes_per_second":{megabytes:.0}}}"#
        );
    }
}
