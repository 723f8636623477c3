//! Plugins as files: built once by cargo, for whoever drops them into a folder.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, ensure};

/// The repository that this runs in: the one of the package that cargo runs, else the one around the current folder.
///
/// Not the one that it was compiled in: clones share a target folder, and that one may be gone.
pub fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(std::env::current_dir, |here| Ok(here.into()));
    let here = here.unwrap_or_default();
    here.ancestors().find(|folder| folder.join("Cargo.lock").is_file()).unwrap_or(&here).to_owned()
}

/// Where cargo builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The component of a plugin that ships with Phronis, by the name of its folder.
///
/// # Errors
/// When it cannot be built.
pub fn plugin(name: &str) -> anyhow::Result<PathBuf> {
    package(&format!("phronis-plugin-{name}"), name)
}

/// The component of a package, by the names of package and library.
///
/// # Errors
/// When it cannot be built.
pub fn package(package: &str, library: &str) -> anyhow::Result<PathBuf> {
    let folder = build(&["--target", "wasm32-wasip2", "-p", package])?;
    present(folder.join("wasm32-wasip2/release").join(format!("{}.wasm", library.replace('-', "_"))))
}

/// A guest that misbehaves, by the name of its file in `tests/guests/examples`.
///
/// # Errors
/// When it cannot be built.
pub fn guest(name: &str) -> anyhow::Result<PathBuf> {
    let folder = build(&["--target", "wasm32-wasip2", "-p", "phronis-guests", "--examples"])?;
    present(folder.join("wasm32-wasip2/release/examples").join(format!("{}.wasm", name.replace('-', "_"))))
}

/// The `phronis` binary: `PHRONIS_BIN`, or what cargo builds.
///
/// # Errors
/// When it cannot be built.
pub fn binary() -> anyhow::Result<PathBuf> {
    match std::env::var_os("PHRONIS_BIN") {
        Some(path) => present(PathBuf::from(path)),
        None => present(build(&["-p", "phronis"])?.join("release/phronis")),
    }
}

/// Builds once a process, whatever number of tests asks. `PHRONIS_BUILT=1` says that all is built already.
fn build(args: &[&str]) -> anyhow::Result<PathBuf> {
    static DONE: Mutex<BTreeMap<String, Result<(), String>>> = Mutex::new(BTreeMap::new());
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    let outcome = done.entry(args.join(" ")).or_insert_with(|| {
        if std::env::var_os("PHRONIS_BUILT").is_some() {
            return Ok(());
        }
        cargo(args).map_err(|error| format!("{error:#}"))
    });
    outcome.clone().map_err(anyhow::Error::msg)?;
    Ok(target())
}

fn cargo(args: &[&str]) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "--quiet"])
        .args(args)
        .current_dir(root())
        .env("CARGO_TARGET_DIR", target())
        .output()
        .context("starting cargo")?;
    ensure!(output.status.success(), "cargo build {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn present(path: PathBuf) -> anyhow::Result<PathBuf> {
    ensure!(path.is_file(), "{} is not there: build it first", path.display());
    Ok(path)
}
