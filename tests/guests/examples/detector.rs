//! A detector that behaves as its parameter says: honest by default, otherwise in one hostile way.

use std::cell::{Cell, RefCell};

use phronis_guests::{PARAMS_SCHEMA, Params, grow, recurse, spin, work};

wit_bindgen::generate!({ path: "../../wit", world: "detector" });

use exports::phronis::plugin::detecting::Guest as Detecting;
use exports::phronis::plugin::lifecycle::Guest as Lifecycle;
use phronis::plugin::log::{self, Level};
use phronis::plugin::types::{
    Batch, Field, FieldType, Finding, Judgement, Kind, Manifest, RowFailure, Severity, Values,
};

struct Detector;
export!(Detector);

thread_local! {
    static PARAMS: RefCell<Option<Params>> = const { RefCell::new(None) };
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

impl Lifecycle for Detector {
    fn describe() -> Manifest {
        Manifest {
            name: "guest-detector".to_owned(),
            version: "1.2.3".to_owned(),
            kind: Kind::Detector,
            params_schema: PARAMS_SCHEMA.to_owned(),
            stateful: false,
        }
    }

    fn fields(params: String) -> Result<Vec<Field>, String> {
        let params = Params::parse(&params);
        let field = |path: &str, of_type, required| Field { path: path.to_owned(), of_type, required };
        match params.behaviour.as_str() {
            "refuse-fields" => Err("no such behaviour here".to_owned()),
            "no-fields" => Ok(vec![]),
            "bad-path" => Ok(vec![field("", FieldType::Number, true)]),
            "three-columns" => Ok(vec![
                field("value", FieldType::Number, true),
                field("count", FieldType::Integer, true),
                field("at", FieldType::Timestamp, true),
            ]),
            "many-fields" => Ok((0..100_000).map(|n| field(&format!("f{n}"), FieldType::Number, true)).collect()),
            "echo" => Ok([
                ("value", FieldType::Number),
                ("flag", FieldType::Boolean),
                ("count", FieldType::Integer),
                ("name", FieldType::Text),
                ("at", FieldType::Timestamp),
                ("bytes", FieldType::Binary),
                ("tags", FieldType::Texts),
                ("levels", FieldType::Numbers),
            ]
            .map(|(path, of_type)| field(path, of_type, false))
            .to_vec()),
            _ => Ok(vec![field("value", FieldType::Number, true)]),
        }
    }

    fn configure(params: String) -> Result<(), String> {
        let params = Params::parse(&params);
        match params.behaviour.as_str() {
            "refuse-configure" => return Err("\u{1b}[31mthe author says no".to_owned()),
            "trap-configure" => panic!("configure"),
            "loop-configure" => spin(),
            _ => {}
        }
        PARAMS.with_borrow_mut(|p| *p = Some(params));
        Ok(())
    }
}

impl Detecting for Detector {
    fn detect(batch: Batch) -> Result<Judgement, String> {
        let calls = CALLS.get() + 1;
        CALLS.set(calls);
        let params = PARAMS.with_borrow(Clone::clone).expect("configure came first");
        if params.behaviour == "echo" {
            return Ok(judgement(echo(&batch)));
        }
        if let ("three-columns", [a, b, c]) = (params.behaviour.as_str(), batch.columns.as_slice())
            && let (Values::Number(values), Values::Integer(counts), Values::Timestamp(times)) =
                (&a.values, &b.values, &c.values)
        {
            let rows = values.iter().zip(counts).zip(times).enumerate();
            let high = rows.filter(|(_, ((value, count), at))| **value > params.high && **count >= 0 && **at >= 0);
            return Ok(judgement(high.map(|(row, _)| finding(row, String::new())).collect()));
        }
        let values: &[f64] = match batch.columns.first().map(|c| &c.values) {
            Some(Values::Number(values)) => values,
            _ => &[],
        };
        if params.mark.is_none_or(|mark| values.contains(&mark)) {
            if let Some(answer) = misbehave(&params, &batch, values, calls) {
                return answer;
            }
        }
        let findings = values.iter().enumerate().filter(|(_, v)| **v > params.high);
        Ok(judgement(findings.map(|(row, v)| finding(row, format!("{v} is high"))).collect()))
    }
}

/// The one hostile thing; `None` when the behaviour is to be honest after all.
fn misbehave(params: &Params, batch: &Batch, values: &[f64], calls: u64) -> Option<Result<Judgement, String>> {
    let with = |change: &dyn Fn(&mut Finding)| {
        let mut bad = finding(0, "bad".to_owned());
        change(&mut bad);
        Some(Ok(judgement(vec![bad])))
    };
    match params.behaviour.as_str() {
        "loop" => spin(),
        "slow" => work(50_000_000),
        "trap" => panic!("marked row"),
        "abort" => std::process::abort(),
        "exit" => std::process::exit(0),
        "stack" => _ = std::hint::black_box(recurse(0)),
        "memory" => _ = std::hint::black_box(grow()),
        "error" => return Some(Err("the whole batch is bad".to_owned())),
        "huge-error" => return Some(Err("x".repeat(40 << 20))),
        "row-out-of-range" => return with(&|f| f.row = batch.rows),
        "bad-rule" => return with(&|f| f.rule = "Not A Rule".to_owned()),
        "same-rule-twice" => {
            return Some(Ok(judgement(vec![finding(0, "a".to_owned()), finding(0, "b".to_owned())])));
        }
        "million-findings" => {
            return Some(Ok(judgement(vec![finding(0, String::new()); 1_000_000])));
        }
        "giant-output" => return with(&|f| f.message = "x".repeat(32 << 20)),
        "not-utf8" => return with(&|f| f.message = unsafe { String::from_utf8_unchecked(vec![0xff; 9]) }),
        "long-message" => return with(&|f| f.message = "ü".repeat(100_000)),
        "escapes" => {
            log::write(Level::Info, "\u{1b}[2J\u{1b}]0;owned\u{7}\nsecond line");
            println!("\u{1b}[31mred on stdout");
            eprintln!("red on stderr");
        }
        "log-flood" => (0..100_000).for_each(|n| log::write(Level::Warn, &format!("line {n} {}", "x".repeat(100)))),
        "print-flood" => (0..100_000).for_each(|n| println!("line {n}")),
        "fail-every-row" => {
            let failures = (0..batch.rows).map(|row| RowFailure { row, message: "cannot".to_owned() }).collect();
            return Some(Ok(Judgement { findings: vec![], failures }));
        }
        "fail-one-in-a-thousand" => {
            let bad = values.iter().enumerate().filter(|(_, v)| **v % 1000.0 == 0.0);
            let failures = bad.map(|(row, v)| RowFailure { row: row as u32, message: format!("cannot judge {v}") });
            return Some(Ok(Judgement { findings: vec![], failures: failures.collect() }));
        }
        "count-calls" => return with(&|f| f.message = calls.to_string()),
        "leak" => std::mem::forget(std::hint::black_box(vec![1u8; 1 << 20])),
        "world" => return with(&|f| f.message = world()),
        _ => {}
    }
    None
}

/// What the guest can see of the world around it.
fn world() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map(|d| d.as_micros());
    let begin = std::time::Instant::now();
    work(1_000_000);
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    let seed = std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), 7);
    format!(
        "now={} elapsed={} vars={} args={} stdin={read:?} terminal={} seed={seed}",
        now.unwrap_or(0),
        begin.elapsed().as_nanos(),
        std::env::vars().count(),
        std::env::args().count(),
        std::io::IsTerminal::is_terminal(&std::io::stdout()),
    )
}

/// One finding a row, whose message is the row as the guest sees it.
fn echo(batch: &Batch) -> Vec<Finding> {
    let rows = 0..batch.rows as usize;
    let row = |row| batch.columns.iter().map(|column| cell(column, row)).collect::<Vec<_>>().join("|");
    rows.map(|n| finding(n, row(n))).collect()
}

fn cell(column: &phronis::plugin::types::Column, row: usize) -> String {
    let bit = |bits: &[u8]| bits[row / 8] >> (row % 8) & 1 == 1;
    if column.validity.as_deref().is_some_and(|bits| !bit(bits)) {
        return "-".to_owned();
    }
    let range = |offsets: &[u32]| offsets[row] as usize..offsets[row + 1] as usize;
    match &column.values {
        Values::Boolean(bits) => bit(bits).to_string(),
        Values::Integer(v) | Values::Timestamp(v) => v[row].to_string(),
        Values::Number(v) => v[row].to_string(),
        Values::Text(t) => String::from_utf8(t.data[range(&t.offsets)].to_vec()).unwrap(),
        Values::Binary(t) => format!("{:?}", &t.data[range(&t.offsets)]),
        Values::Texts(lists) => {
            let items = range(&lists.offsets).map(|i| {
                let span = lists.items.offsets[i] as usize..lists.items.offsets[i + 1] as usize;
                String::from_utf8(lists.items.data[span].to_vec()).unwrap()
            });
            items.collect::<Vec<_>>().join(",")
        }
        Values::Numbers(lists) => format!("{:?}", &lists.items[range(&lists.offsets)]),
    }
}

fn finding(row: usize, message: String) -> Finding {
    Finding {
        row: row as u32,
        rule: "high".to_owned(),
        severity: Severity::Warning,
        message,
        attributes: vec![],
        halt: false,
    }
}

fn judgement(findings: Vec<Finding>) -> Judgement {
    Judgement { findings, failures: vec![] }
}
