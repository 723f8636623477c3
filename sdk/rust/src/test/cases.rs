//! A folder of recorded cases: `{"params": {…}, "rows": […], "expect": {…}}`.
//!
//! `expect` holds any of `findings`, `added`, `drops`, `failures` and `skipped`; what it leaves out must be empty, but for
//! `added`. An object is expected to have the members that are written down, and may have others. `"refused": "…"` expects
//! that the parameters are refused with a text that contains this.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::Harness;
use crate::plugin::Plugin;

/// Runs every `*.json` of a folder, relative to the package.
///
/// # Panics
/// A case does not hold; the message lists all that do not. Also when there is no case.
#[expect(clippy::panic, reason = "a test fails by a panic")]
#[track_caller]
pub fn run_cases<P: Plugin>(folder: impl AsRef<Path>) {
    let folder = folder.as_ref();
    let cases = files(folder);
    if cases.is_empty() {
        panic!("{} holds no case (*.json)", folder.display());
    }
    let failed: Vec<String> = cases
        .iter()
        .filter_map(|case| run::<P>(case).err().map(|problem| format!("{}: {problem}", case.display())))
        .collect();
    if !failed.is_empty() {
        panic!("{} of {} cases fail:\n{}", failed.len(), cases.len(), failed.join("\n"));
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|ending| ending == "json")).collect();
    files.sort();
    files
}

fn run<P: Plugin>(path: &Path) -> Result<(), String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let case: Json = serde_json::from_str(&text).map_err(|error| format!("not JSON: {error}"))?;
    check::<P>(&case)
}

fn check<P: Plugin>(case: &Json) -> Result<(), String> {
    let object = case.as_object().ok_or("a case is an object")?;
    if let Some(unknown) = object.keys().find(|key| !["about", "params", "rows", "expect"].contains(&key.as_str())) {
        return Err(format!("`{unknown}` is not known; a case has about, params, rows, expect"));
    }
    let expect = case["expect"].as_object().ok_or("`expect` is missing")?;
    let params = object.get("params").cloned().unwrap_or_else(|| Json::Object(serde_json::Map::new()));
    let mut harness = match (Harness::<P>::new(params), expect.get("refused").and_then(Json::as_str)) {
        (Ok(harness), None) => harness,
        (Ok(_), Some(reason)) => return Err(format!("the parameters are accepted, not refused with {reason:?}")),
        (Err(problem), Some(reason)) if problem.contains(reason) => return Ok(()),
        (Err(problem), _) => return Err(format!("refused: {problem}")),
    };
    let rows = case["rows"].as_array().ok_or("`rows` is missing")?;
    let answer = harness.run(rows)?;
    for part in ["findings", "added", "drops", "failures", "skipped"] {
        let got = answer.get(part).unwrap_or(&Json::Null);
        match expect.get(part) {
            Some(wanted) => matches(wanted, got, part)?,
            None if part == "added" || got.as_array().is_some_and(Vec::is_empty) => {}
            None => return Err(format!("{part}: none expected, got {got}")),
        }
    }
    match expect.keys().find(|key| answer.get(key.as_str()).is_none()) {
        Some(unknown) => Err(format!("`expect.{unknown}` is not known")),
        None => Ok(()),
    }
}

/// Whether `got` has all that `wanted` writes down.
fn matches(wanted: &Json, got: &Json, path: &str) -> Result<(), String> {
    let fits = match (wanted, got) {
        (Json::Object(wanted), Json::Object(got)) => {
            for (key, value) in wanted {
                matches(value, got.get(key).unwrap_or(&Json::Null), &format!("{path}.{key}"))?;
            }
            true
        }
        (Json::Array(wanted), Json::Array(got)) if wanted.len() == got.len() => {
            for (index, (wanted, got)) in wanted.iter().zip(got).enumerate() {
                matches(wanted, got, &format!("{path}[{index}]"))?;
            }
            true
        }
        (Json::Number(wanted), Json::Number(got)) => is_close(wanted.as_f64(), got.as_f64()),
        _ => wanted == got,
    };
    if fits { Ok(()) } else { Err(format!("{path}: expected {wanted}, got {got}")) }
}

/// Whether two numbers are the same but for rounding.
fn is_close(wanted: Option<f64>, got: Option<f64>) -> bool {
    match (wanted, got) {
        (Some(wanted), Some(got)) => (wanted - got).abs() <= 1e-9 * wanted.abs().max(1.0),
        _ => false,
    }
}
