//! What keeps the house tidy: the direction of the crates, the first line of each file, a page for each code,
//! a line for each metric, a compose file that fits its schema.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use phronis_tests::plugins::root;
use serde_json::Value;

/// Which crates of the host a crate may use: app → {admin, pipeline} → {engine, log, store, archive, load} → core.
const MAY_USE: &[(&str, &[&str])] = &[
    ("phronis-core", &[]),
    ("phronis-engine", &["phronis-core"]),
    ("phronis-log", &["phronis-core"]),
    ("phronis-store", &["phronis-core"]),
    ("phronis-archive", &["phronis-core"]),
    ("phronis-load", &["phronis-core"]),
    ("phronis-pipeline", &["phronis-core", "phronis-engine", "phronis-log", "phronis-store", "phronis-archive"]),
    ("phronis-admin", &["phronis-core", "phronis-pipeline", "phronis-log", "phronis-store", "phronis-archive"]),
    ("phronis-sdk", &["phronis-sdk-macros"]),
    ("phronis-sdk-macros", &[]),
];

#[test]
fn crates_use_only_what_lies_below_them() -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let rules: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let items = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let name = |value: &Value| value.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut checked = 0;
    for package in items(&metadata, "packages") {
        let user = name(&package);
        // What tests need is nobody's layer.
        let used =
            items(&package, "dependencies").into_iter().filter(|used| used.get("kind").is_none_or(Value::is_null));
        for used in used.map(|used| name(&used)).filter(|used| used.starts_with("phronis")) {
            if let Some(allowed) = rules.get(user.as_str()) {
                assert!(allowed.contains(&used.as_str()), "{user} must not use {used}");
            } else if user.starts_with("phronis-plugin-") || user == "phronis-guests" {
                assert_eq!(used, "phronis-sdk", "{user} meets the host only in wit/");
            }
        }
        checked += usize::from(rules.contains_key(user.as_str()));
    }
    assert!(checked >= 8, "only {checked} crates are known here");
    Ok(())
}

#[test]
fn every_source_file_opens_with_what_it_is_for() -> anyhow::Result<()> {
    let mut files = Vec::new();
    for folder in ["host", "sdk", "plugins", "tests", "examples", "benches"] {
        find(&root().join(folder), "rs", &mut files)?;
    }
    let silent: Vec<_> = files
        .iter()
        .filter(|path| !std::fs::read_to_string(path).is_ok_and(|text| text.starts_with("//!")))
        .map(|path| path.strip_prefix(root()).unwrap_or(path).display().to_string())
        .collect();
    assert!(silent.is_empty(), "these files do not open with //!: {silent:#?}");
    assert!(files.len() > 50);
    Ok(())
}

#[test]
fn every_code_has_a_page_and_every_page_a_code() -> anyhow::Result<()> {
    let codes: BTreeSet<String> = phronis_core::code::ALL.iter().map(ToString::to_string).collect();
    let mut files = Vec::new();
    find(&root().join("docs/errors"), "md", &mut files)?;
    let stem = |path: &PathBuf| path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
    let pages: BTreeSet<String> = files.iter().filter_map(stem).filter(|stem| stem.starts_with("PH")).collect();
    let without: Vec<_> = codes.difference(&pages).collect();
    let unknown: Vec<_> = pages.difference(&codes).collect();
    assert!(
        without.is_empty() && unknown.is_empty(),
        "codes without a page: {without:?}; pages of no code: {unknown:?}"
    );
    Ok(())
}

#[test]
fn every_metric_of_the_host_is_documented_and_every_documented_one_is_exported() -> anyhow::Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root().join("host"))? {
        find(&entry?.path().join("src"), "rs", &mut files)?;
    }
    let mut exported = BTreeSet::new();
    for path in files {
        exported.append(&mut exported_by(&std::fs::read_to_string(path)?));
    }
    let page = std::fs::read_to_string(root().join("docs/metrics.md"))?;
    let documented: BTreeSet<_> = page.lines().filter_map(documented_on).collect();
    let without: Vec<_> = exported.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&exported).collect();
    assert!(
        without.is_empty() && unknown.is_empty(),
        "metrics that docs/metrics.md lacks: {without:?}; documented ones that no source exports: {unknown:?}"
    );
    assert!(exported.len() > 50);
    Ok(())
}

/// Names and types of the metrics that a source file exports.
/// Where a macro is given a variable, the names in the file that no macro is given itself are taken for those of the variable.
fn exported_by(source: &str) -> BTreeSet<(String, String)> {
    let mut metrics = BTreeSet::new();
    let mut of_variables = Vec::new();
    for of_type in ["counter", "gauge", "histogram"] {
        for rest in source.split(&format!("{of_type}!(")).skip(1) {
            if let Some((name, _)) = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"')) {
                metrics.insert((name.to_owned(), of_type.to_owned()));
            } else {
                of_variables.push(of_type);
            }
        }
    }
    for of_type in of_variables {
        for name in source.split('"').filter(|text| text.starts_with("phronis_")) {
            if !metrics.iter().any(|(known, _)| known == name) {
                metrics.insert((name.to_owned(), of_type.to_owned()));
            }
        }
    }
    metrics
}

/// Name and type of the metric that a line of the table is about.
fn documented_on(line: &str) -> Option<(String, String)> {
    let mut cells = line.strip_prefix("| `phronis_")?.split('|').map(str::trim);
    let name = cells.next()?.strip_suffix('`')?;
    let of_type = cells.next()?;
    Some((format!("phronis_{name}"), of_type.to_owned()))
}

#[test]
fn the_compose_file_fits_its_schema_and_names_what_is_there() -> anyhow::Result<()> {
    let folder = root().join("deploy");
    let schema: Value = serde_json::from_slice(&std::fs::read(folder.join("compose.schema.json"))?)?;
    let compose: Value = serde_saphyr::from_str(&std::fs::read_to_string(folder.join("compose.yaml"))?)?;
    let validator = jsonschema::validator_for(&schema)?;
    let problems = |file: &Value| -> Vec<String> {
        validator.iter_errors(file).map(|error| format!("{}: {error}", error.instance_path())).collect()
    };
    assert_eq!(problems(&compose), [""; 0]);

    // A schema that lets everything through would be no check.
    for (place, nonsense) in [
        ("/services/phronis/healthcheck/interval", Value::from(5)),
        ("/services/phronis/depends_on/topics/condition", Value::from("service_done")),
        ("/services/kafka/environment/KAFKA_NODE_ID", Value::from(1)),
        ("/services/kafka/ports/0", Value::from("19092")),
        ("/services/topics/restart", Value::from(false)),
    ] {
        let mut broken = compose.clone();
        *broken.pointer_mut(place).with_context(|| format!("{place} is not in the file"))? = nonsense;
        assert!(!problems(&broken).is_empty(), "{place} may be anything");
    }

    let services = compose.get("services").and_then(Value::as_object).context("services")?;
    let names = |service: &Value, key: &str| -> Vec<String> {
        match service.get(key) {
            Some(Value::Object(named)) => named.keys().cloned().collect(),
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        }
    };
    for (name, service) in services {
        for other in names(service, "depends_on") {
            assert!(services.contains_key(&other), "{name} depends on {other}, which is not there");
        }
        for secret in names(service, "secrets") {
            assert!(compose.pointer(&format!("/secrets/{secret}")).is_some(), "{name} needs the secret {secret}");
        }
        if let Some(dockerfile) = service.pointer("/build/dockerfile").and_then(Value::as_str) {
            assert!(root().join(dockerfile).is_file(), "{name} is built from {dockerfile}, which is not there");
        }
    }
    Ok(())
}

fn find(folder: &Path, ending: &str, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            find(&path, ending, files)?;
        } else if path.extension().is_some_and(|extension| extension == ending) {
            files.push(path);
        }
    }
    Ok(())
}
