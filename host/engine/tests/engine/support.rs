//! Builds the guests once and starts engines and runners for the tests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arrow_array::{ArrayRef, Float64Array};
use phronis_core::PluginId;
use phronis_core::plugin::{Batch, FailureKind, Limits};
use phronis_engine::{Compiler, Component, Engine, Judged, Options, Runner};
use serde_json::{Value, json};

pub const MARK: f64 = -666.0;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    if let Some(folder) = std::env::var_os("PHRONIS_GUESTS_DIR") {
        return folder.into();
    }
    let root = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../..");
    let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--target", "wasm32-wasip2", "-p", "phronis-guests", "--examples"])
        .current_dir(&root)
        .status()
        .unwrap();
    assert!(built.success(), "the guests do not build");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    target.join("wasm32-wasip2/release/examples")
});

/// One engine for all tests that need nothing special; its cache outlives the process, as in real life.
static ENGINE: LazyLock<(tempfile::TempDir, Engine)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let engine = Engine::new(options(&folder.path().join("cache"))).unwrap();
    (folder, engine)
});

pub fn options(cache: &Path) -> Options {
    let mut options = Options::new(cache, Compiler::new(env!("CARGO_BIN_EXE_phronis-compile-child"), [] as [&str; 0]));
    options.compiler.cpu = Duration::from_secs(60);
    options.compiler.wall = Duration::from_secs(120);
    options
}

pub fn engine() -> &'static Engine {
    &ENGINE.1
}

pub fn guest(name: &str) -> Vec<u8> {
    std::fs::read(FOLDER.join(format!("{name}.wasm"))).unwrap()
}

/// A guest with a text in it replaced by another of the same length: still a real component, saying something else.
pub fn patched(name: &str, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = guest(name);
    let places: Vec<usize> =
        bytes.windows(from.len()).enumerate().filter(|(_, w)| *w == from.as_bytes()).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "{from} is not in the guest");
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    bytes
}

pub fn component(name: &str) -> Component {
    engine().load(&guest(name)).unwrap()
}

pub fn id(name: &str) -> PluginId {
    format!("default/sensors/{name}").parse().unwrap()
}

pub fn params(component: &Component, params: &Value) -> Value {
    component.defaults(params).unwrap()
}

/// A runner of the detector whose behaviour is triggered by the row with the value [`MARK`].
pub fn marked(behaviour: &str, limits: Limits) -> Runner {
    runner("detector", &json!({"behaviour": behaviour, "mark": MARK, "high": 500.0}), limits)
}

/// A runner of the detector that behaves so at every call.
pub fn always(behaviour: &str, limits: Limits) -> Runner {
    runner("detector", &json!({"behaviour": behaviour, "high": 500.0}), limits)
}

pub fn runner(guest: &str, wanted: &Value, limits: Limits) -> Runner {
    let component = component(guest);
    let wanted = params(&component, wanted);
    Runner::new(component, id(guest), &wanted, limits).unwrap()
}

/// Long enough for any call that ends, on any machine.
pub fn limits() -> Limits {
    Limits { deadline_ms: 5_000, ..Limits::default() }
}

/// For a guest that does not end: short enough to wait for ten times, long enough for its honest calls.
pub fn hasty() -> Limits {
    Limits { deadline_ms: 300, ..Limits::default() }
}

pub fn numbers(values: impl IntoIterator<Item = f64>) -> ArrayRef {
    Arc::new(Float64Array::from_iter_values(values))
}

pub fn batch<'a>(columns: &'a [ArrayRef]) -> Batch<'a> {
    Batch { partition: 3, watermark: 1_700_000_000_123_456, rows: columns[0].len(), columns }
}

pub fn detect(runner: &mut Runner, values: impl IntoIterator<Item = f64>) -> Judged {
    runner.detect(&batch(&[numbers(values)]))
}

/// Failed rows with their kinds.
pub fn failed(judged: &Judged) -> Vec<(usize, FailureKind)> {
    judged.judgement.failures.iter().map(|f| (f.row, f.kind)).collect()
}

/// Rows with findings.
pub fn found(judged: &Judged) -> Vec<usize> {
    judged.judgement.findings.iter().map(|f| f.row).collect()
}
