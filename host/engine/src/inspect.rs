//! Looks at a component before any of it runs: is it one, which world, which version, what does it want from us.
//!
//! Every refusal says what to do, because the reader is an analyst who has built a `.wasm` for the first time.

use phronis_core::code::{FORBIDDEN_IMPORT, NOT_A_COMPONENT, WRONG_WIT_VERSION, WRONG_WORLD};
use phronis_core::plugin::Kind;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use crate::error::Refusal;
use crate::wasi::GRANTED;
use crate::wit::VERSION;

const BUILD: &str = "build it with `cargo build --release --target wasm32-wasip2`";

/// Refuses what is not a component, by its first bytes.
pub(crate) fn is_component(bytes: &[u8]) -> Result<(), Refusal> {
    let what = match bytes {
        [] => "the file is empty: was it copied whole?".to_owned(),
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => return Ok(()),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => format!("this is a core WebAssembly module, not a component: {BUILD}"),
        [0, b'a', b's', b'm', ..] => {
            format!("this is WebAssembly in a binary format that this host does not know: {BUILD}")
        }
        [0x7f, b'E', b'L', b'F', ..] => format!("this is a program or library for this machine: {BUILD}"),
        text if text.trim_ascii_start().starts_with(b"(component")
            || text.trim_ascii_start().starts_with(b"(module") =>
        {
            "this is WebAssembly as text: translate it with `wasm-tools parse`".to_owned()
        }
        text if std::str::from_utf8(text).is_ok() => format!("this is a text file, not a component: {BUILD}"),
        _ => format!("this is not WebAssembly: {BUILD}"),
    };
    Err(Refusal::new(NOT_A_COMPONENT, what))
}

/// Checks imports and exports; says which world it is.
pub(crate) fn world(component: &Component, engine: &wasmtime::Engine) -> Result<Kind, Refusal> {
    let ty = component.component_type();
    for (name, _) in ty.imports(engine).filter(|(name, _)| !name.starts_with("phronis:plugin/")) {
        import(name)?;
    }
    let ours = ty.imports(engine).chain(ty.exports(engine)).filter(|(name, _)| name.starts_with("phronis:plugin/"));
    for (name, _) in ours {
        version(name)?;
    }
    for (name, _) in ty.imports(engine) {
        import(name)?;
    }
    let exports = |interface: &str| {
        ty.exports(engine).any(|(name, item)| {
            matches!(item.ty, ComponentItem::ComponentInstance(_)) && name.split('@').next() == Some(interface)
        })
    };
    let life = exports("phronis:plugin/lifecycle");
    match (life, exports("phronis:plugin/detecting"), exports("phronis:plugin/enriching")) {
        (true, true, false) => Ok(Kind::Detector),
        (true, false, true) => Ok(Kind::Enricher),
        (true, true, true) => Err(Refusal::new(
            WRONG_WORLD,
            "the component exports both worlds: make it a detector or an enricher, not both",
        )),
        _ => Err(Refusal::new(
            WRONG_WORLD,
            format!(
                "the component exports neither the world `detector` nor `enricher` of phronis:plugin@{VERSION}; it exports: {}",
                list(ty.exports(engine).map(|(name, _)| name))
            ),
        )),
    }
}

fn version(name: &str) -> Result<(), Refusal> {
    let version = name.split_once('@').map_or("none", |(_, version)| version);
    // Before 1.0, a version is compatible when major and minor are the same.
    let line = VERSION.rsplit_once('.').map_or(VERSION, |(line, _)| line);
    if version.strip_prefix(line).is_some_and(|rest| rest.starts_with('.')) {
        return Ok(());
    }
    Err(Refusal::new(
        WRONG_WIT_VERSION,
        format!(
            "the plugin was built for phronis:plugin@{version} (`{name}`), this host speaks phronis:plugin@{VERSION}: \
             build it again with an SDK of the version {line}"
        ),
    ))
}

fn import(name: &str) -> Result<(), Refusal> {
    let (interface, version) = name.split_once('@').unwrap_or((name, ""));
    let known = GRANTED.contains(&interface) && (version.starts_with("0.2.") || !interface.starts_with("wasi:"));
    if known {
        return Ok(());
    }
    let advice = match interface.split('/').next() {
        Some("wasi:filesystem") => "plugins have no files: take out `std::fs` and crates that use it",
        Some("wasi:sockets") => "plugins have no network: take out `std::net` and crates that use it",
        Some("wasi:http") => "plugins have no network: let an enricher's data come as events",
        Some(wasi) if wasi.starts_with("wasi:") => "plugins get only what Rust's std imports of WASI 0.2",
        _ => "plugins get only phronis:plugin/log and what Rust's std imports of WASI 0.2",
    };
    Err(Refusal::new(FORBIDDEN_IMPORT, format!("the component imports `{name}`: {advice}")))
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.take(8).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}
