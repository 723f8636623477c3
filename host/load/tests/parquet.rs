//! Parquet files, written here and read back as events.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops where something is wrong"
)]

use std::{fs, io::Write, path::Path, sync::Arc};

use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Decimal128Array, DictionaryArray, Float32Array, Float64Array, Int64Array,
    ListArray, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    UInt64Array,
    builder::{Int32Builder, MapBuilder, StringBuilder},
    types::{Int32Type, Int64Type},
};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use phronis_load::{ColumnTypes, Error, File, Format, Mapping};

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
            .unwrap();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn events(path: &Path) -> Vec<Value> {
    let rows = File::open(path, None, &ColumnTypes::default()).unwrap();
    rows.map(|row| serde_json::from_slice(&row.unwrap().bytes).unwrap()).collect()
}

#[test]
fn every_type_becomes_json_and_nulls_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let inner: ArrayRef = Arc::new(Float64Array::from(vec![Some(20.5), None]));
    let room: ArrayRef = Arc::new(StringArray::from(vec!["a \"b\"", "c"]));
    let metadata = StructArray::try_from(vec![("temp", inner), ("room", room)]).unwrap();
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), Some(vec![])]);
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    map.keys().append_value("k");
    map.values().append_value(5);
    map.append(true).unwrap();
    map.append(true).unwrap();
    let kinds: DictionaryArray<Int32Type> = ["warm", "hot"].into_iter().collect();
    write(
        &path,
        vec![
            ("on", Arc::new(BooleanArray::from(vec![Some(true), None]))),
            ("n", Arc::new(Int64Array::from(vec![i64::MAX, -1]))),
            ("u", Arc::new(UInt64Array::from(vec![u64::MAX, 0]))),
            ("f", Arc::new(Float64Array::from(vec![1.5, f64::NAN]))),
            ("g", Arc::new(Float32Array::from(vec![0.1, 1e30]))),
            ("d", Arc::new(Decimal128Array::from(vec![12345, -5]).with_precision_and_scale(10, 2).unwrap())),
            ("b", Arc::new(BinaryArray::from(vec![b"text".as_slice(), b"\xff\x00"]))),
            ("kind", Arc::new(kinds)),
            ("utc", Arc::new(TimestampMicrosecondArray::from(vec![1_386_018_900_000_001, 0]).with_timezone("UTC"))),
            (
                "berlin",
                Arc::new(TimestampMillisecondArray::from(vec![1_386_018_900_000, 0]).with_timezone("Europe/Berlin")),
            ),
            ("local", Arc::new(TimestampMillisecondArray::from(vec![1_386_018_900_500, 0]))),
            ("metadata", Arc::new(metadata)),
            ("list", Arc::new(list)),
            ("map", Arc::new(map.finish())),
        ],
    );
    let expect = [
        json!({
            "on": true, "n": i64::MAX, "u": u64::MAX, "f": 1.5, "g": 0.1, "d": 123.45, "b": "text", "kind": "warm",
            "utc": "2013-12-02T21:15:00.000001Z", "berlin": "2013-12-02T21:15:00Z", "local": "2013-12-02T21:15:00.500",
            "metadata": {"temp": 20.5, "room": "a \"b\""}, "list": [1, null], "map": {"k": 5},
        }),
        json!({
            "n": -1, "u": 0, "f": "NaN", "g": 1e30, "d": -0.05, "b": "ff00", "kind": "hot",
            "utc": "1970-01-01T00:00:00Z", "berlin": "1970-01-01T00:00:00Z", "local": "1970-01-01T00:00:00",
            "metadata": {"room": "c"}, "list": [], "map": {},
        }),
    ];
    assert_eq!(events(&path), expect);
}

#[test]
fn rows_are_counted_skipped_mapped_and_found_by_content_plain_or_compressed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pump.parquet");
    write(&path, vec![("value", Arc::new(Int64Array::from_iter_values(0..5_000)))]);
    let packed = folder.path().join("pump");
    let mut gzip = flate2::write::GzEncoder::new(fs::File::create(&packed).unwrap(), flate2::Compression::fast());
    gzip.write_all(&fs::read(&path).unwrap()).unwrap();
    gzip.finish().unwrap();
    let mapping = Mapping::default().set("sensor_id={file}").unwrap();
    for path in [path, packed] {
        let mut rows = File::open_mapped(&path, None, &ColumnTypes::default(), &mapping).unwrap();
        let total = rows.total_bytes().unwrap();
        assert_eq!((rows.format(), rows.skip_rows(4_990).unwrap()), (Format::Parquet, 4_990));
        let rest: Vec<_> = rows.by_ref().map(Result::unwrap).collect();
        assert_eq!((rest.len(), rest[0].line, rest[9].position), (10, 4_991, total));
        assert_eq!(
            serde_json::from_slice::<Value>(&rest[9].bytes).unwrap(),
            json!({"value": 4_999, "sensor_id": "pump"})
        );
    }
}

#[test]
fn a_damaged_file_is_an_error_behind_its_good_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    write(&path, vec![("value", Arc::new(Int64Array::from_iter_values(0..100)))]);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 20]).unwrap();
    assert!(matches!(File::open(&path, None, &ColumnTypes::default()), Err(Error::Read { .. })));
    let mut broken = whole;
    broken[4..40].fill(0xff);
    fs::write(&path, &broken).unwrap();
    let rows: Vec<_> = File::open(&path, None, &ColumnTypes::default()).unwrap().collect();
    assert!(matches!(rows.last(), Some(Err(Error::Read { .. }))));
}
