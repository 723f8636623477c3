//! Files of every kind, on disk, as people really have them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops where something is wrong"
)]

use std::{fs, io::Write, path::PathBuf};

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use phronis_core::plugin::FieldType;
use phronis_load::{ColumnTypes, Error, File, Format, Mapping, Row, Rows};

fn types() -> ColumnTypes {
    [
        ("value", FieldType::Number),
        ("seq", FieldType::Integer),
        ("is_on", FieldType::Boolean),
        ("ts", FieldType::Timestamp),
        ("sensor_id", FieldType::Text),
        ("metadata.temp", FieldType::Number),
        ("metadata.room", FieldType::Integer),
    ]
    .into_iter()
    .collect()
}

fn file(name: &str, content: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    (folder, path)
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn rows_of(name: &str, content: &[u8]) -> Vec<Row> {
    let (_folder, path) = file(name, content);
    File::open(&path, None, &types()).unwrap().map(Result::unwrap).collect()
}

fn texts(rows: &[Row]) -> Vec<(u64, String)> {
    rows.iter().map(|row| (row.line, String::from_utf8(row.bytes.clone()).unwrap())).collect()
}

/// The lines and texts of a file, the same plain, compressed, with a byte order mark, and with the lines of Windows.
#[track_caller]
fn check(name: &str, content: &str, expect: &[(u64, &str)]) {
    let expect: Vec<_> = expect.iter().map(|&(line, text)| (line, text.to_owned())).collect();
    let marked = format!("\u{feff}{content}");
    assert_eq!(texts(&rows_of(name, content.as_bytes())), expect, "plain");
    assert_eq!(texts(&rows_of(name, &gzip(content.as_bytes()))), expect, "gzip");
    assert_eq!(texts(&rows_of(name, marked.as_bytes())), expect, "byte order mark");
    if !name.ends_with("json") || !content.contains("\\") {
        let windows = content.replace('\n', "\r\n");
        assert_eq!(texts(&rows_of(name, windows.as_bytes())).len(), expect.len(), "rows with CRLF");
        let lines: Vec<_> = rows_of(name, windows.as_bytes()).iter().map(|row| row.line).collect();
        assert_eq!(lines, expect.iter().map(|row| row.0).collect::<Vec<_>>(), "lines with CRLF");
    }
}

#[test]
fn lines_go_through_untouched_and_blank_ones_do_not_count_as_rows() {
    let content = "{\"value\": 1.50}\n\n  \n{\"broken\n{\"value\":2}";
    check("a.ndjson", content, &[(1, "{\"value\": 1.50}"), (4, "{\"broken"), (5, "{\"value\":2}")]);
}

#[test]
fn a_json_array_is_split_and_a_broken_element_stays_alone() {
    let content = "[\n {\"a\": \"],[\\\"}\"},\n{\"a\":,}, 7 ,\n{\"b\":[1,\n{\"c\":2}]}\n]\n";
    let expect = [(1, "{\"a\": \"],[\\\"}\"}"), (2, "{\"a\":,}"), (3, "7"), (4, "{\"b\":[1, {\"c\":2}]}")];
    check("a.json", content, &expect);
    check("a.unknown", content, &expect);
    check("a.json", "[]", &[]);
}

#[test]
fn one_object_over_many_lines_is_one_row() {
    let rows = rows_of("a.json", b"{\n  \"value\": 1\n}\n");
    assert_eq!(texts(&rows), [(1, "{   \"value\": 1 }".to_owned())]);
}

#[test]
fn objects_one_after_the_other_are_rows() {
    check("a.json", "{\"a\":\n1}{\"a\":2}\n{\"a\":3}", &[(1, "{\"a\": 1}"), (2, "{\"a\":2}"), (3, "{\"a\":3}")]);
}

#[test]
fn csv_cells_get_the_types_of_the_contract_and_empty_ones_are_missing() {
    let content = "sensor_id,value,seq,is_on,ts,note\nS1,21.50,007,TRUE,2013-12-02 21:15:00,\n,,,,,hi\nS2,hot,x,maybe,1700000000000,\"a,b\"\n";
    check(
        "a.csv",
        content,
        &[
            (2, r#"{"sensor_id":"S1","value":21.50,"seq":7,"is_on":true,"ts":"2013-12-02 21:15:00"}"#),
            (3, r#"{"sensor_id":"","note":"hi"}"#),
            (4, r#"{"sensor_id":"S2","value":"hot","seq":"x","is_on":"maybe","ts":1700000000000,"note":"a,b"}"#),
        ],
    );
}

#[test]
fn dotted_headers_nest_and_objects_without_values_are_left_out() {
    let content = "metadata.temp,value,metadata.room\n20.5,1,3\n,2,\n";
    check("a.csv", content, &[(2, r#"{"metadata":{"temp":20.5,"room":3},"value":1}"#), (3, r#"{"value":2}"#)]);
}

#[test]
fn semicolons_and_tabs_separate_too() {
    check("a.csv", "sensor_id;value\nS,1\n\"a;b\";2\n", &[(2, "S,1"), (3, r#"{"sensor_id":"a;b","value":2}"#)]);
    check("a.tsv", "sensor_id\tvalue\nS 1\t1\n", &[(2, r#"{"sensor_id":"S 1","value":1}"#)]);
}

#[test]
fn a_record_with_the_wrong_number_of_columns_keeps_its_text_and_says_why() {
    let content = "sensor_id,value\nS1,1\n\nS2,2,\"x, y\"\nS3\nS4,\"4\n\"\nS5,\"a\nb\",c\n";
    let rows = rows_of("a.csv", content.as_bytes());
    let found: Vec<_> = rows.iter().map(|row| (row.line, row.problem.as_deref())).collect();
    let (three, one) = ("3 columns where the header has 2", "1 columns where the header has 2");
    assert_eq!(found, [(2, None), (4, Some(three)), (5, Some(one)), (6, None), (8, Some(three))]);
    assert_eq!(rows[1].bytes, b"S2,2,\"x, y\"");
    // A text over several lines must stay one row of NDJSON.
    assert_eq!(serde_json::from_slice::<String>(&rows[4].bytes).unwrap(), "S5,\"a\nb\",c");
}

#[test]
fn bytes_that_are_not_utf8_are_passed_on() {
    let rows = rows_of("a.csv", b"sensor_id,value\nS\xff1,2\n");
    assert_eq!(rows[0].bytes, b"{\"sensor_id\":\"S\xff1\",\"value\":2}");
    assert_eq!(rows_of("a.ndjson", b"{\"a\":\"\xff\"}\n")[0].bytes, b"{\"a\":\"\xff\"}");
    assert_eq!(rows_of("a.json", b"[{\"a\":\"\xff\"}]")[0].bytes, b"{\"a\":\"\xff\"}");
}

#[test]
fn a_file_that_cannot_be_used_says_why() {
    let check = |name: &str, content: &[u8], expect: &str| {
        let (_folder, path) = file(name, content);
        let error = File::open(&path, None, &types()).unwrap_err().to_string();
        assert!(error.contains(expect) && error.contains(name), "{name}: {error}");
    };
    check("a.csv", b"", "is empty");
    check("a.ndjson", b" \n\r\n", "is empty");
    check("a.csv.gz", &gzip(b""), "is empty");
    check("a.csv", b"S1,21.5\nS2,22.5\n", "`21.5` is a number, not a name");
    check("a.csv", b"value,value\n1,2\n", "column `value` stands twice");
    check("a.csv", b"a,a.b\n1,2\n", "a value and an object at once");
    check("a.csv", b"{\"value\":1}\n", "looks like JSON");
    check("a.txt", b"PK\x03\x04aaaa", "a spreadsheet");
    check("a.csv.x", b"\xff\xfea\x00,\x00", "UTF-16");
    check("a.bin", b"a\0b", "binary");
    check("a.parquet", b"value\n1\n", "not Parquet");
    let missing = File::open(&PathBuf::from("/nowhere/a.csv"), None, &types()).unwrap_err();
    assert!(matches!(missing, Error::Open { .. }));
}

#[test]
fn a_format_that_is_named_wins_over_name_and_content() {
    let (_folder, path) = file("a.csv", b"[1]\n[2]\n");
    let rows = File::open(&path, Some(Format::Ndjson), &types()).unwrap();
    assert_eq!((rows.format(), rows.count()), (Format::Ndjson, 2));
    assert_eq!("JSONL".parse(), Ok(Format::Ndjson));
    assert!("xml".parse::<Format>().unwrap_err().contains("csv, json, ndjson"));
}

/// Rows before the failure, and the failure.
fn until_error(rows: Rows) -> (Vec<Row>, Error) {
    let mut before = Vec::new();
    let mut rows = rows;
    while let Some(row) = rows.next() {
        match row {
            Ok(row) => before.push(row),
            Err(error) => {
                assert!(rows.next().is_none(), "nothing comes after an error");
                return (before, error);
            }
        }
    }
    panic!("no error after {} rows", before.len());
}

#[test]
fn what_came_before_a_cut_stays_and_the_position_is_named() {
    let whole = gzip("{\"value\":1}\n".repeat(100_000).as_bytes());
    let (_folder, path) = file("a.ndjson", &whole[..whole.len() / 2]);
    let (before, error) = until_error(File::open(&path, None, &types()).unwrap());
    let Error::Truncated { line, position, .. } = &error else { panic!("{error}") };
    assert_eq!((*line, *position), (before.len() as u64, whole.len() as u64 / 2));
    assert!(before.len() > 10_000 && before.iter().all(|row| row.bytes == b"{\"value\":1}"));

    let short = gzip(b"{\"value\":1}\n{\"value\":2}\n");
    let (_folder, path) = file("a.ndjson", &short[..short.len() - 6]);
    let (before, _) = until_error(File::open(&path, None, &types()).unwrap());
    assert_eq!(before.len(), 2, "a small file fails behind its good rows too");

    let records = gzip(format!("value\n{}", "1\n".repeat(200_000)).as_bytes());
    let (_folder, path) = file("a.csv", &records[..records.len() / 2]);
    let (before, error) = until_error(File::open(&path, None, &types()).unwrap());
    let Error::Truncated { line, .. } = error else { panic!("{error}") };
    assert_eq!(line, before.len() as u64 + 1, "the header is a line too");

    let (_folder, path) = file("a.json", b"[{\"value\":1},{\"value\":2},{\"val");
    let (before, error) = until_error(File::open(&path, None, &types()).unwrap());
    assert_eq!(before.len(), 2);
    assert!(error.to_string().contains("in the middle of a JSON value after line or row 2 (byte 30)"), "{error}");
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_noticed() {
    for (name, head) in [("a.ndjson", ""), ("a.csv", "value\n"), ("a.json", "")] {
        let (_folder, path) = file(name, format!("{head}{}", "{\"value\":1}\n".repeat(200_000)).as_bytes());
        let mut rows = File::open(&path, None, &types()).unwrap();
        assert!(rows.next().unwrap().is_ok());
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1_000_000).unwrap();
        let (before, error) = until_error(rows);
        assert!(before.len() > 50_000 && matches!(error, Error::Truncated { .. }), "{name}: {error}");
    }
}

#[test]
fn a_file_that_is_deleted_while_it_is_read_is_read_to_its_end() {
    let (folder, path) = file("a.ndjson", "{\"value\":1}\n".repeat(200_000).as_bytes());
    let rows = File::open(&path, None, &types()).unwrap();
    drop(folder);
    assert_eq!(rows.map(Result::unwrap).count(), 200_000);
}

#[test]
fn a_row_without_an_end_is_refused_before_it_fills_the_memory() {
    let endless = "x".repeat(17 << 20);
    for (name, head) in [("a.ndjson", "{\"a\":\""), ("a.json", "[{\"a\":\""), ("a.csv", "value\n\"")] {
        let (_folder, path) = file(name, &gzip(format!("{head}{endless}").as_bytes()));
        let (_, error) = until_error(File::open(&path, None, &types()).unwrap());
        assert!(matches!(error, Error::RowTooLarge { .. }), "{name}: {error}");
    }
}

#[test]
fn constants_and_new_names_reach_every_format() {
    let mapping = Mapping::default()
        .set("sensor_id={file}")
        .and_then(|mapping| mapping.set("metadata.room=7"))
        .and_then(|mapping| mapping.rename("timestamp=ts"))
        .unwrap();
    let expect = json!({"ts": 5, "value": 1.5, "sensor_id": "pump", "metadata": {"room": 7}});
    for (name, content) in [
        ("pump.csv", "timestamp,value\n5,1.5\n"),
        ("pump.ndjson.gz", "{\"timestamp\":5,\"value\":1.5}\n"),
        ("pump.json", "[{\"timestamp\":5,\"value\":1.5,\"sensor_id\":\"old\"}]"),
    ] {
        let (_folder, path) = file(name, content.as_bytes());
        let mut rows = File::open_mapped(&path, None, &types(), &mapping).unwrap();
        let row = rows.next().unwrap().unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&row.bytes).unwrap(), expect, "{name}");
    }
}

#[test]
fn a_mapped_event_keeps_its_other_values_digit_for_digit() {
    let mapping = Mapping::default().rename("m.a=m.b").unwrap().set("k=v").unwrap();
    let content = "{\"x\":1.10e2,\"m\":{\"a\":12345678901234567890123,\"c\":[1, 2]},\"x\":0}\nnot json\n";
    let (_folder, path) = file("a.ndjson", content.as_bytes());
    let rows: Vec<_> = File::open_mapped(&path, None, &types(), &mapping).unwrap().map(Result::unwrap).collect();
    let expect = r#"{"x":1.10e2,"m":{"c":[1, 2],"b":12345678901234567890123},"x":0,"k":"v"}"#;
    assert_eq!(texts(&rows), [(1, expect.to_owned()), (2, "not json".to_owned())]);
}

#[test]
fn a_mapping_that_cannot_work_is_refused() {
    assert!(Mapping::default().set("novalue").is_err());
    assert!(Mapping::default().rename("a=").is_err());
    let (_folder, path) = file("a.csv", b"value\n1\n");
    let open = |mapping: Mapping| File::open_mapped(&path, None, &types(), &mapping).unwrap_err().to_string();
    assert!(open(Mapping::default().rename("nope=x").unwrap()).contains("no column `nope`"));
    assert!(open(Mapping::default().rename("value=x").unwrap().set("x=1").unwrap()).contains("same name"));
}

#[test]
fn a_load_goes_on_where_it_was() {
    for (name, head) in [("a.csv", "value\n"), ("a.ndjson", ""), ("a.json", "{\n}")] {
        let content: String = (0..10).map(|number| format!("{{\"value\":{number}}}\n")).collect();
        let (_folder, path) = file(name, format!("{head}{content}").as_bytes());
        let open = || File::open(&path, None, &types()).unwrap();
        let whole: Vec<_> = open().map(Result::unwrap).collect();
        assert!(whole.len() >= 10);
        let mut rows = open();
        assert_eq!(rows.skip_rows(4).unwrap(), 4);
        let rest: Vec<_> = rows.by_ref().map(Result::unwrap).collect();
        assert_eq!(rest, whole[4..], "{name}");
        assert_eq!(rows.skip_rows(4).unwrap(), 0);
    }
}

#[test]
fn the_position_ends_at_the_size_of_the_file() {
    for (name, content) in
        [("a.ndjson", "{\"value\":1}\n".repeat(100_000)), ("a.csv", format!("value\n{}", "1\n".repeat(100_000)))]
    {
        let packed = gzip(content.as_bytes());
        for bytes in [content.as_bytes(), &packed] {
            let (_folder, path) = file(name, bytes);
            let mut rows = File::open(&path, None, &types()).unwrap();
            assert_eq!(rows.total_bytes(), Some(bytes.len() as u64));
            let positions: Vec<_> = rows.by_ref().map(|row| row.unwrap().position).collect();
            assert!(positions.is_sorted() && positions.len() == 100_000);
            assert_eq!(rows.consumed_bytes(), bytes.len() as u64);
        }
    }
}

#[test]
fn a_refused_record_keeps_its_blanks_and_empty_cells() {
    let rows = rows_of("a.tsv", b"a\tb\tc\r\n 1 \t2\t\t\t \r\nlast\t");
    assert_eq!(rows[0].bytes, b" 1 \t2\t\t\t ");
    assert_eq!(rows[1].bytes, b"last\t");
}

#[test]
fn a_pipe_is_read_as_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let writer = std::thread::spawn({
        let path = path.clone();
        move || fs::write(path, gzip("{\"value\":1}\n".repeat(50_000).as_bytes())).unwrap()
    });
    let rows = File::open(&path, None, &types()).unwrap();
    assert_eq!((rows.format(), rows.total_bytes()), (Format::Ndjson, None));
    assert_eq!(rows.map(Result::unwrap).count(), 50_000);
    writer.join().unwrap();
}

#[test]
fn rows_can_be_read_in_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<Rows>();
}

proptest! {
    #[test]
    fn any_text_survives_csv_quoting(cells in prop::collection::vec(("\\PC{0,12}|[\",;\r\n\t a]{0,8}", "[a-z\"\n,]{0,6}"), 1..20)) {
        let mut writer = csv::WriterBuilder::new().quote_style(csv::QuoteStyle::Always).from_writer(Vec::new());
        writer.write_record(["sensor_id", "other"]).unwrap();
        for (first, second) in &cells {
            writer.write_record([first, second]).unwrap();
        }
        let rows = rows_of("a.csv", &writer.into_inner().unwrap());
        prop_assert_eq!(rows.len(), cells.len());
        for (row, (first, second)) in rows.iter().zip(&cells) {
            let event: Value = serde_json::from_slice(&row.bytes).unwrap();
            prop_assert_eq!(event["sensor_id"].as_str(), Some(first.as_str()));
            // A cell of an undeclared column that holds nothing but blanks is missing.
            let expect = (!second.trim_ascii().is_empty()).then_some(second.as_str());
            prop_assert_eq!(event.get("other").and_then(Value::as_str), expect);
            prop_assert!(!row.bytes.contains(&b'\n'));
        }
    }

    #[test]
    fn any_json_array_is_split_into_its_elements(values in prop::collection::vec("\\PC{0,10}|[\\[\\]{}\",\\\\:]{0,6}", 0..12), is_pretty: bool) {
        let events: Vec<Value> = values.iter().map(|text| json!({"a": text, text: [text, {"b": text}]})).collect();
        let content = if is_pretty { serde_json::to_vec_pretty(&events) } else { serde_json::to_vec(&events) }.unwrap();
        let rows = rows_of("a.json", &content);
        let found: Vec<Value> = rows.iter().map(|row| serde_json::from_slice(&row.bytes).unwrap()).collect();
        prop_assert_eq!(found, events);
    }
}
