//! What crosses the boundary arrives as it was: columns in, columns out, time, dice, parameters, log lines.

use std::sync::Arc;

use arrow_array::builder::{Float64Builder, ListBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
};
use phronis_core::code::PARAMS_REFUSED;
use phronis_core::plugin::{FailureKind, Limits};
use phronis_engine::Enriched;
use serde_json::json;

use super::support::*;

fn every_type() -> Vec<ArrayRef> {
    let mut tags = ListBuilder::new(StringBuilder::new());
    let mut levels = ListBuilder::new(Float64Builder::new());
    for row in 0..6 {
        for item in 0..row {
            tags.values().append_value(format!("t{item}"));
            levels.values().append_value(f64::from(item) + 0.5);
        }
        tags.append(row != 4);
        levels.append(true);
    }
    vec![
        Arc::new(Float64Array::from(vec![Some(0.5), None, Some(-2.0), Some(f64::INFINITY), Some(1e300), Some(5.0)])),
        Arc::new(BooleanArray::from(vec![Some(true), Some(false), None, Some(true), Some(true), Some(false)])),
        Arc::new(Int64Array::from(vec![i64::MIN, -1, 0, 1, 2, i64::MAX])),
        Arc::new(StringArray::from(vec![Some("a"), Some(""), Some("äöü"), None, Some("日本"), Some("z")])),
        Arc::new(TimestampMicrosecondArray::from(vec![0, 1, 2, 3, 4, 5]).with_timezone("UTC")),
        Arc::new(BinaryArray::from(vec![&b"\xff"[..], b"", b"ab", b"\0", b"c", b"d"])),
        Arc::new(tags.finish()),
        Arc::new(levels.finish()),
    ]
}

#[test]
fn every_type_arrives_as_it_was_also_from_slices() {
    let expected = [
        "0.5|true|-9223372036854775808|a|0|[255]||[]",
        "-|false|-1||1|[]|t0|[0.5]",
        "-2|-|0|äöü|2|[97, 98]|t0,t1|[0.5, 1.5]",
        "inf|true|1|-|3|[0]|t0,t1,t2|[0.5, 1.5, 2.5]",
        "1e300|true|2|日本|4|[99]|-|[0.5, 1.5, 2.5, 3.5]",
        "5|false|9223372036854775807|z|5|[100]|t0,t1,t2,t3,t4|[0.5, 1.5, 2.5, 3.5, 4.5]",
    ];
    let mut runner = runner("detector", &json!({"behaviour": "echo"}), limits());
    let columns = every_type();
    for (from, rows) in [(0, 6), (1, 5), (2, 3), (5, 1)] {
        let slices: Vec<ArrayRef> = columns.iter().map(|c| c.slice(from, rows)).collect();
        let judged = runner.detect(&batch(&slices));
        let seen: Vec<_> =
            judged.judgement.findings.iter().map(|f| f.message.replace("1000000000", "").len()).collect();
        assert_eq!(seen.len(), rows, "{:?}", judged.judgement.failures);
        for (row, finding) in judged.judgement.findings.iter().enumerate() {
            let wanted = expected[from + row].replace("1e300", &1e300.to_string());
            assert_eq!(finding.message, wanted);
        }
    }
}

#[test]
fn results_do_not_depend_on_where_a_batch_is_cut() {
    let values: Vec<f64> = (0..4000).map(|n| f64::from(n * 7919 % 1000)).collect();
    let whole = detect(&mut always("fail-one-in-a-thousand", limits()), values.iter().copied());
    let mut pieces = (Vec::new(), Vec::new());
    let mut runner = always("fail-one-in-a-thousand", limits());
    for (n, piece) in values.chunks(173).enumerate() {
        let judged = detect(&mut runner, piece.iter().copied());
        pieces.0.extend(found(&judged).iter().map(|row| n * 173 + row));
        pieces.1.extend(failed(&judged).iter().map(|(row, kind)| (n * 173 + row, *kind)));
    }
    assert_eq!((found(&whole), failed(&whole)), pieces);
}

#[test]
fn big_rows_are_cut_so_that_they_fit_the_plugins_memory() {
    let mut runner = runner("detector", &json!({"behaviour": "echo"}), Limits { memory: 8 << 20, ..limits() });
    let rows = 64;
    let mut columns = every_type();
    columns.iter_mut().for_each(|c| *c = arrow_array::new_null_array(c.data_type(), rows));
    columns[3] = Arc::new(StringArray::from(vec!["x".repeat(500 << 10); rows]));
    let judged = runner.detect(&batch(&columns));
    assert_eq!((failed(&judged), found(&judged).len(), judged.calls.failed()), (vec![], rows, 0));
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let judged = detect(&mut always("long-message", limits()), [1.0]);
    let message = &judged.judgement.findings[0].message;
    assert!(message.len() <= 4096 && message.ends_with("ü…"));
}

#[test]
fn the_guest_sees_event_time_seeded_dice_and_nothing_else() {
    let world = || detect(&mut always("world", limits()), [1.0]).judgement.findings[0].message.clone();
    let (first, second) = (world(), world());
    assert!(
        first.starts_with("now=1700000000123456 elapsed=0 vars=0 args=0 stdin=Ok(0) terminal=false seed="),
        "{first}"
    );
    assert_eq!(first, second, "the same plugin rolls the same dice");
    let component = component("detector");
    let wanted = params(&component, &json!({"behaviour": "world"}));
    let other = "acme/sensors/detector".parse().unwrap();
    let mut other = phronis_engine::Runner::new(component, other, &wanted, limits()).unwrap();
    assert_ne!(detect(&mut other, [1.0]).judgement.findings[0].message, first, "another tenant rolls others");
}

#[test]
fn live_parameters_hold_from_the_next_batch_and_a_refused_change_changes_nothing() {
    let mut runner = runner("detector", &json!({"high": 10.0}), hasty());
    let found_at = |runner: &mut phronis_engine::Runner| found(&detect(runner, [5.0, 15.0, 25.0]));
    assert_eq!(found_at(&mut runner), [1, 2]);
    let with = |behaviour: &str| json!({"behaviour": behaviour, "high": 20.0, "mark": null});
    runner.configure(&with("honest")).unwrap();
    assert_eq!(found_at(&mut runner), [2]);
    for refused in ["refuse-configure", "trap-configure", "loop-configure", "refuse-fields", "no-fields"] {
        let mut change = with(refused);
        change["high"] = json!(0.0);
        assert_eq!(runner.configure(&change).unwrap_err().code, PARAMS_REFUSED, "{refused}");
        assert_eq!(found_at(&mut runner), [2], "{refused}");
    }
}

#[test]
fn limits_change_live_and_never_exceed_the_ceiling() {
    let mut runner = always("million-findings", limits());
    runner.set_limits(Limits { output_rows: u32::MAX, memory: u64::MAX, ..limits() });
    assert_eq!(runner.limits().output_rows, engine().ceiling().output_rows);
    assert_eq!(runner.limits().memory, engine().ceiling().memory);
}

#[test]
fn columns_that_the_plugin_does_not_read_fail_the_rows_and_not_the_host() {
    let mut runner = always("honest", limits());
    let wrong: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    assert_eq!(failed(&runner.detect(&batch(&[wrong]))), [(0, FailureKind::Error), (1, FailureKind::Error)]);
}

fn enrich(behaviour: &str, values: impl IntoIterator<Item = f64>) -> Enriched {
    let wanted = json!({"behaviour": behaviour, "mark": if behaviour.ends_with("negative") { json!(null) } else { json!(MARK) }});
    runner("enricher", &wanted, limits()).enrich(&batch(&[numbers(values)]))
}

#[test]
fn an_enricher_adds_columns_across_calls_and_drops_by_its_rule() {
    let values: Vec<f64> = (0..3000).map(|n| f64::from(n) - 1.0).collect();
    let Enriched { enrichment, .. } = enrich("drop-negative", values.iter().copied());
    let doubles = enrichment.columns[0].as_primitive::<Float64Type>();
    assert_eq!(
        doubles.values().iter().copied().collect::<Vec<_>>(),
        values.iter().map(|v| v * 2.0).collect::<Vec<_>>()
    );
    assert_eq!(enrichment.columns[1].as_string::<i32>().value(2999), "v2998");
    assert_eq!(
        enrichment.drops.iter().map(|d| (d.row, d.reason.as_str())).collect::<Vec<_>>(),
        [(0, "-1 is negative")]
    );
}

#[test]
fn rows_that_an_enricher_failed_are_null_in_its_columns() {
    let Enriched { enrichment, .. } = enrich("fail-negative", [1.0, -1.0, 2.0]);
    assert_eq!(enrichment.failures.iter().map(|f| f.row).collect::<Vec<_>>(), [1]);
    for column in &enrichment.columns {
        assert_eq!((0..3).map(|row| column.is_null(row)).collect::<Vec<_>>(), [false, true, false]);
    }
    let values: Vec<f64> = (0..1500).map(|n| if n == 1100 { MARK } else { f64::from(n) }).collect();
    let Enriched { enrichment, calls, .. } = enrich("trap", values);
    assert_eq!((enrichment.failures.len(), enrichment.failures[0].row, calls.trap), (1, 1100, 1));
    assert_eq!((enrichment.columns[0].len(), enrichment.columns[0].null_count()), (1500, 1));
    assert!(enrichment.columns[1].is_null(1100));
}

#[test]
fn columns_that_break_the_contract_are_the_guilty_rows_alone() {
    for behaviour in [
        "short-column",
        "long-column",
        "wrong-type",
        "missing-column",
        "short-validity",
        "falling-offsets",
        "short-data",
        "first-offset",
        "not-utf8",
        "split-character",
        "drop-out-of-range",
    ] {
        let Enriched { enrichment, calls, .. } = enrich(behaviour, [1.0, 2.0, MARK, 3.0]);
        let failed: Vec<_> = enrichment.failures.iter().map(|f| (f.row, f.kind)).collect();
        assert_eq!(failed, [(2, FailureKind::BadOutput)], "{behaviour}: {:?}", enrichment.failures);
        assert_eq!(calls.bad_output, 1, "{behaviour}");
        let doubles = enrichment.columns[0].as_primitive::<Float64Type>();
        assert_eq!(doubles.iter().collect::<Vec<_>>(), [Some(2.0), Some(4.0), None, Some(6.0)], "{behaviour}");
    }
}

#[test]
fn every_type_can_be_added_with_nulls() {
    let wanted = json!({"behaviour": "all-types"});
    let Enriched { enrichment, .. } = runner("enricher", &wanted, limits()).enrich(&batch(&[numbers([1.0, 2.0, 3.0])]));
    assert_eq!(enrichment.failures, []);
    assert_eq!(enrichment.columns.len(), 8);
    for column in &enrichment.columns {
        assert_eq!((column.len(), column.is_null(1), column.null_count()), (3, true, 1), "{:?}", column.data_type());
    }
    assert_eq!(enrichment.columns[1].as_primitive::<Int64Type>().value(2), 3);
    assert_eq!(enrichment.columns[6].as_list::<i32>().value(2).as_string::<i32>().value(0), "v3");
}

#[test]
fn an_empty_batch_calls_nobody() {
    let judged = detect(&mut always("trap", limits()), []);
    assert_eq!((judged.judgement.failures.len(), judged.calls.ok, judged.calls.failed()), (0, 0, 0));
    let Enriched { enrichment, .. } = enrich("trap", []);
    assert_eq!(enrichment.columns.iter().map(Array::len).collect::<Vec<_>>(), [0, 0]);
}

/// Collects what is logged on this thread while something runs.
fn logged(run: impl FnOnce()) -> String {
    let (reader, writer) = (Arc::new(std::sync::Mutex::new(Vec::new())), tracing_subscriber::fmt());
    let sink = Arc::clone(&reader);
    let subscriber = writer.with_ansi(false).with_writer(move || Lines(Arc::clone(&sink))).finish();
    tracing::subscriber::with_default(subscriber, run);
    String::from_utf8(reader.lock().unwrap().clone()).unwrap()
}

struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn guest_lines_reach_the_log_with_their_plugin_and_without_control_characters() {
    let text = logged(|| _ = detect(&mut always("escapes", limits()), [1.0]));
    assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text:?}");
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("plugin: ")).collect();
    assert_eq!(lines.len(), 3, "{text}");
    for (line, says) in
        lines.iter().zip(["\\u{1b}[2J\\u{1b}]0;owned\\u{7}\\nsecond line", "[31mred on stdout", "red on stderr"])
    {
        assert!(line.contains(says), "{line}");
        assert!(line.contains("tenant=default stream=sensors plugin=detector"), "{line}");
    }
}

#[test]
fn lines_over_the_limit_are_dropped() {
    let flood = Limits { deadline_ms: 10_000, log_bytes: 2_000, ..limits() };
    let mut runner = always("log-flood", flood);
    let text = logged(|| _ = detect(&mut runner, [1.0]));
    // 100 000 lines of 110 bytes were written within a few seconds at most.
    let lines = text.lines().filter(|line| line.contains("line ")).count();
    assert!((1..2_000).contains(&lines), "{lines}");
}
