//! Collects figures, prints them as a table, and writes them as JSON with the machine beside them.

use std::borrow::Cow;

use anyhow::{Context, Result};
use serde_json::{Value, json};

type Text = Cow<'static, str>;

/// What was measured.
#[derive(Debug)]
pub(crate) struct Report {
    /// As it was before the first bench loaded it.
    machine: Value,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: Text,
    value: f64,
    unit: &'static str,
    target: &'static str,
    method: Text,
}

impl Report {
    /// Begins a report on this machine.
    pub(crate) fn new() -> Self {
        Self { machine: machine(), rows: Vec::new() }
    }

    /// Adds a figure.
    pub(crate) fn add(
        &mut self,
        name: impl Into<Text>,
        value: f64,
        unit: &'static str,
        target: &'static str,
        method: impl Into<Text>,
    ) {
        let name = name.into();
        eprintln!("  {name}: {value:.3} {unit} (wanted {target})");
        self.rows.push(Row { name, value, unit, target, method: method.into() });
    }

    /// Prints everything, and writes it to `results/<suite>.json`.
    /// A run of the whole suite replaces what is there; any other keeps the figures that it has not measured.
    pub(crate) fn finish(&self, suite: &str, is_whole: bool) -> Result<()> {
        println!("| what | measured | wanted |\n|---|---|---|");
        for row in &self.rows {
            println!("| {} | {} {} | {} |", row.name, human(row.value), row.unit, row.target);
        }
        let dir = crate::repository("benches/results");
        let path = dir.join(format!("{suite}.json"));
        let mut rows = if is_whole { Vec::new() } else { earlier(&path)? };
        for row in &self.rows {
            let new = json!({"name": row.name, "value": row.value, "unit": row.unit, "wanted": row.target, "method": row.method});
            match rows.iter_mut().find(|old| old.get("name") == new.get("name")) {
                Some(old) => *old = new,
                None => rows.push(new),
            }
        }
        let results = json!({"machine": self.machine, "results": rows});
        std::fs::create_dir_all(&dir)?;
        std::fs::write(path, serde_json::to_vec_pretty(&results)?)?;
        Ok(())
    }
}

/// The figures of earlier runs.
fn earlier(path: &std::path::Path) -> Result<Vec<Value>> {
    let Ok(text) = std::fs::read(path) else { return Ok(Vec::new()) };
    let file: Value = serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
    Ok(file.get("results").and_then(Value::as_array).cloned().unwrap_or_default())
}

fn human(value: f64) -> String {
    if value >= 10_000.0 { format!("{:.0} k", value / 1000.0) } else { format!("{value:.2}") }
}

fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    json!({
        "cpu": model.trim_start_matches(['\t', ' ', ':']),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_before": read("/proc/loadavg").trim(),
    })
}
