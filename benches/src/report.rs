//! Collects figures, prints them as a table, and writes them as JSON with the machine beside them.

use anyhow::Result;
use serde_json::{Value, json};

/// What was measured.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: &'static str,
    value: f64,
    unit: &'static str,
    target: &'static str,
    method: &'static str,
}

impl Report {
    /// Adds a figure.
    pub(crate) fn add(
        &mut self,
        name: &'static str,
        value: f64,
        unit: &'static str,
        target: &'static str,
        method: &'static str,
    ) {
        eprintln!("  {name}: {value:.3} {unit} (wanted {target})");
        self.rows.push(Row { name, value, unit, target, method });
    }

    /// Prints and writes everything.
    pub(crate) fn finish(&self) -> Result<()> {
        println!("| what | measured | wanted |\n|---|---|---|");
        for row in &self.rows {
            println!("| {} | {} {} | {} |", row.name, human(row.value), row.unit, row.target);
        }
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|r| json!({"name": r.name, "value": r.value, "unit": r.unit, "wanted": r.target, "method": r.method}))
            .collect();
        let results = json!({"machine": machine(), "results": rows});
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("latest.json"), serde_json::to_vec_pretty(&results)?)?;
        Ok(())
    }
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
