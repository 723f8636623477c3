//! Puts the pages of `docs/errors` into the program, so that `phronis explain` needs no network and no files.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pages = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../docs/errors");
    println!("cargo::rerun-if-changed={}", pages.display());
    let mut paths: Vec<PathBuf> = match fs::read_dir(&pages) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => Vec::new(),
    };
    paths.sort();
    let mut code = String::from("/// Code and page.\nconst PAGES: &[(&str, &str)] = &[\n");
    for path in paths {
        let Some(name) = path.file_stem().and_then(|name| name.to_str()) else { continue };
        if name.starts_with("PH") && path.extension().is_some_and(|ending| ending == "md") {
            writeln!(code, "    ({name:?}, include_str!({:?})),", path.canonicalize()?)?;
        }
    }
    code.push_str("];\n");
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("pages.rs"), code)?;
    Ok(())
}
