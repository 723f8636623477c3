//! The report of a replay, for people and for programs.

use std::io::{self, Write};

use phronis_core::text::escape;
use phronis_pipeline::replay::{Compared, Named, Report, Sample, Tried};

use crate::output::table;

/// Writes the report to standard output.
pub(super) fn print(report: &Report, as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if as_json {
        serde_json::to_writer_pretty(&mut out, report)?;
        return writeln!(out);
    }
    let text = told(report);
    out.write_all(text.as_bytes())
}

fn told(report: &Report) -> String {
    let Report { result, cost } = report;
    let mut text = String::new();
    let mut line = |told: String| {
        text.push_str(&escape(&told));
        text.push('\n');
    };
    line(format!("{} events of {} from {} to {}", result.events, result.stream, result.since, result.until));
    line(format!("table {}, snapshot {}", result.table, result.snapshot.as_deref().unwrap_or("none")));
    if result.left_out > 0 {
        line(format!("{} rows are no events: foreign records, or not decoded", result.left_out));
    }
    line(format!("new: {}", tried(&result.plugin)));
    match &result.against {
        Some(Compared::Plugin(other)) => line(format!("old: {}", tried(other))),
        Some(Compared::Archive { name, table, snapshot, versions }) => {
            let versions: Vec<String> = versions.iter().map(|v| format!("{} ({})", v.version, v.alerts)).collect();
            let snapshot = snapshot.as_deref().unwrap_or("none");
            line(format!("old: alerts of {name} in {table}, snapshot {snapshot}: {}", versions.join(", ")));
        }
        None => {}
    }
    let failures = |of: &'static str, tried: &Tried| -> Vec<String> {
        let told =
            tried.failed.iter().map(|f| format!("{of}: {} events failed with {}: {}", f.events, f.code, f.message));
        told.collect()
    };
    failures("new", &result.plugin).into_iter().for_each(&mut line);
    if let Some(Compared::Plugin(other)) = &result.against {
        failures("old", other).into_iter().for_each(&mut line);
    }
    let is_compared = result.against.is_some();
    let mut days = vec![head(&["DAY", "EVENTS", "NEW"], is_compared, &["OLD", "BOTH", "ONLY NEW", "ONLY OLD"])];
    let row = |name: &str, events: u64, sides: &phronis_pipeline::replay::Sides| {
        let mut cells = vec![name.to_owned(), events.to_string(), sides.new.to_string()];
        if is_compared {
            cells.extend([sides.old, sides.both, sides.only_new, sides.only_old].map(|count| count.to_string()));
        }
        cells
    };
    days.extend(result.days.iter().map(|day| row(&day.day, day.events, &day.alerts)));
    days.push(row("all", result.events, &result.alerts));
    let mut out = format!("{text}\n{}", table(&days));
    out.push_str(&names("RULE", &result.rules, is_compared));
    out.push_str(&names("KEY", &result.top_keys, is_compared));
    out.push_str(&samples("only new", &result.only_new));
    out.push_str(&samples("only old", &result.only_old));
    if result.alerts.unmatched > 0 {
        let told = "archived alerts about events that the table does not have";
        out.push_str(&format!("\n{told}: {}\n", result.alerts.unmatched));
    }
    let against = cost.against_nanos_per_event.map(|nanos| format!(", old {nanos:.0} ns")).unwrap_or_default();
    out.push_str(&format!(
        "\n{:.0} events/s, {:.2} s in all; in the plugin {:.0} ns an event{against}; {} files\n",
        cost.events_per_second, cost.seconds, cost.plugin_nanos_per_event, cost.files
    ));
    out
}

fn tried(tried: &Tried) -> String {
    let digest: String = tried.digest.chars().take(6).collect();
    let skipped = if tried.skipped > 0 { format!(", {} skipped", tried.skipped) } else { String::new() };
    format!("{}@{}#{digest} {}, {} judged{skipped}", tried.name, tried.version, tried.params, tried.judged)
}

fn head(always: &[&str], is_compared: bool, compared: &[&str]) -> Vec<String> {
    let more = if is_compared { compared } else { &[] };
    always.iter().chain(more).map(|name| (*name).to_owned()).collect()
}

fn names(what: &str, all: &[Named], is_compared: bool) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut rows = vec![head(&[what, "NEW"], is_compared, &["OLD"])];
    rows.extend(all.iter().map(|named| {
        let mut cells = vec![escape(named.name.as_deref().unwrap_or("-")).into_owned(), named.new.to_string()];
        if is_compared {
            cells.push(named.old.to_string());
        }
        cells
    }));
    format!("\n{}", table(&rows))
}

fn samples(what: &str, samples: &[Sample]) -> String {
    if samples.is_empty() {
        return String::new();
    }
    let mut rows = Vec::new();
    for sample in samples {
        let Sample { at, partition, offset, key, rule, severity, message } = sample;
        let cells = [at, &format!("{partition}/{offset}"), key.as_deref().unwrap_or("-"), rule, severity, message];
        rows.push(cells.iter().map(|cell| escape(cell).into_owned()).collect());
    }
    format!("\n{what}, the first {}:\n{}", samples.len(), table(&rows))
}
