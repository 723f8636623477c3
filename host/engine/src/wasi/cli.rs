//! `wasi:cli`: no variables, no arguments, no terminal; exit is a trap.

use wasmtime::component::{Linker, LinkerInstance, Resource, ResourceType};

use super::io::{InputStream, OutputStream, STDERR, STDOUT};
use super::{Exit, WASI};
use crate::sandbox::Sandbox;

struct TerminalInput;
struct TerminalOutput;

pub(super) fn add(linker: &mut Linker<Sandbox>) -> wasmtime::Result<()> {
    let mut environment = instance(linker, "environment")?;
    environment.func_wrap("get-environment", |_, (): ()| Ok((Vec::<(String, String)>::new(),)))?;
    environment.func_wrap("get-arguments", |_, (): ()| Ok((Vec::<String>::new(),)))?;
    environment.func_wrap("initial-cwd", |_, (): ()| Ok((None::<String>,)))?;

    let mut exit = instance(linker, "exit")?;
    exit.func_wrap("exit", |_, (_,): (Result<(), ()>,)| -> wasmtime::Result<()> { Err(Exit.into()) })?;
    exit.func_wrap("exit-with-code", |_, (_,): (u8,)| -> wasmtime::Result<()> { Err(Exit.into()) })?;

    instance(linker, "stdin")?.func_wrap("get-stdin", |_, (): ()| Ok((Resource::<InputStream>::new_own(0),)))?;
    instance(linker, "stdout")?
        .func_wrap("get-stdout", |_, (): ()| Ok((Resource::<OutputStream>::new_own(STDOUT),)))?;
    instance(linker, "stderr")?
        .func_wrap("get-stderr", |_, (): ()| Ok((Resource::<OutputStream>::new_own(STDERR),)))?;

    let input = ResourceType::host::<TerminalInput>();
    instance(linker, "terminal-input")?.resource("terminal-input", input, |_, _| Ok(()))?;
    let output = ResourceType::host::<TerminalOutput>();
    instance(linker, "terminal-output")?.resource("terminal-output", output, |_, _| Ok(()))?;
    instance(linker, "terminal-stdin")?
        .func_wrap("get-terminal-stdin", |_, (): ()| Ok((None::<Resource<TerminalInput>>,)))?;
    instance(linker, "terminal-stdout")?
        .func_wrap("get-terminal-stdout", |_, (): ()| Ok((None::<Resource<TerminalOutput>>,)))?;
    instance(linker, "terminal-stderr")?
        .func_wrap("get-terminal-stderr", |_, (): ()| Ok((None::<Resource<TerminalOutput>>,)))?;
    Ok(())
}

fn instance<'a>(linker: &'a mut Linker<Sandbox>, name: &str) -> wasmtime::Result<LinkerInstance<'a, Sandbox>> {
    linker.instance(&format!("wasi:cli/{name}@{WASI}"))
}
