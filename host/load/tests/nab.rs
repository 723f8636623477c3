//! The 58 recorded series of the Numenta Anomaly Benchmark, where they are at hand.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops where something is wrong"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use phronis_core::plugin::FieldType;
use phronis_load::{ColumnTypes, File, Mapping};

/// From `PHRONIS_NAB`, or beside the repository.
fn folder() -> Option<PathBuf> {
    let beside = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../../../shared/data/nab");
    let folder = std::env::var_os("PHRONIS_NAB").map_or(beside, PathBuf::from);
    folder.join("data").is_dir().then(|| folder.join("data"))
}

#[test]
fn every_line_of_every_series_becomes_an_event_with_its_value() {
    let Some(folder) = folder() else {
        println!("skipped: no NAB files (set PHRONIS_NAB)");
        return;
    };
    let columns: ColumnTypes =
        [("value", FieldType::Number), ("ts", FieldType::Timestamp), ("sensor_id", FieldType::Text)]
            .into_iter()
            .collect();
    let mapping = Mapping::default().rename("timestamp=ts").unwrap().set("sensor_id={file}").unwrap();
    let mut files = 0;
    for group in fs::read_dir(folder).unwrap() {
        let group = group.unwrap().path();
        if !group.is_dir() {
            continue;
        }
        for path in fs::read_dir(group).unwrap() {
            let path = path.unwrap().path();
            let content = fs::read_to_string(&path).unwrap();
            let mut lines = content.lines().skip(1).filter(|line| !line.trim().is_empty());
            let name = path.file_stem().unwrap().to_str().unwrap();
            for row in File::open_mapped(&path, None, &columns, &mapping).unwrap() {
                let row = row.unwrap();
                let (time, value) = lines.next().unwrap().split_once(',').unwrap();
                let expect = format!(r#"{{"ts":"{time}","value":{value},"sensor_id":"{name}"}}"#);
                assert_eq!((row.problem, str::from_utf8(&row.bytes)), (None, Ok(expect.as_str())));
            }
            assert_eq!(lines.next(), None, "{name}");
            files += 1;
        }
    }
    assert_eq!(files, 58);
}
