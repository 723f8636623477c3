//! What a plugin can import: the log, and stubs of what every std component imports anyway.
//!
//! Nothing is granted. The stubs answer from the sandbox alone: no variables, no arguments, a closed stdin, no
//! terminal, event time for clocks, seeded dice for random numbers. Own code rather than the wasmtime-wasi crate, because
//! a dozen functions that cannot reach anything are easier to trust than a full implementation that is told not to.
//! `wasi:filesystem`, `wasi:sockets` and `wasi:http` are not here: a component that imports them is refused by name.

mod cli;
mod clocks;
mod io;
mod random;

use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

use crate::sandbox::Sandbox;
use crate::wit::{LogLevel, VERSION};

/// The interfaces that a component may import, without their versions.
pub(crate) const GRANTED: &[&str] = &[
    "phronis:plugin/types",
    "phronis:plugin/log",
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/stderr",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:cli/terminal-stderr",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/random",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
];

/// The WASI version of the stubs; every 0.2 links against them.
const WASI: &str = "0.2.6";

/// A linker that holds everything that a plugin may import.
///
/// # Errors
///
/// Only if an interface is defined twice.
pub(crate) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<Sandbox>> {
    let mut linker: Linker<Sandbox> = Linker::new(engine);
    linker.instance(&format!("phronis:plugin/types@{VERSION}"))?;
    let mut log = linker.instance(&format!("phronis:plugin/log@{VERSION}"))?;
    log.func_wrap("write", |store: StoreContextMut<'_, Sandbox>, (level, line): (LogLevel, String)| {
        store.data().log.line(level, &line);
        Ok(())
    })?;
    io::add(&mut linker)?;
    cli::add(&mut linker)?;
    clocks::add(&mut linker)?;
    random::add(&mut linker)?;
    Ok(linker)
}

/// The guest called `exit`.
#[derive(Debug, thiserror::Error)]
#[error("the plugin called exit")]
pub(crate) struct Exit;
