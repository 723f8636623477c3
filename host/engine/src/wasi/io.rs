//! `wasi:io`: stdout and stderr as lines of the log, a closed stdin, and a poll where everything is ready.
//!
//! A resource is only a number: 0 for whatever has no state, [`STDOUT`] or [`STDERR`] for a stream. The guest cannot
//! forge one (wasmtime checks its handle table), and the number of handles is bounded by the store.

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType};

use super::WASI;
use crate::sandbox::Sandbox;
use crate::wit::LogLevel;

pub(super) struct Pollable;
pub(super) struct InputStream;
pub(super) struct OutputStream;
struct IoError;

pub(super) const STDOUT: u32 = 1;
pub(super) const STDERR: u32 = 2;

/// Bytes that a stream takes at once.
const WRITE_BYTES: u64 = 64 << 10;

/// Zeroes that one call may write; nobody does.
const ZEROES: [u8; 4096] = [0; 4096];

type Out = Resource<OutputStream>;
type In = Resource<InputStream>;

pub(super) fn add(linker: &mut Linker<Sandbox>) -> wasmtime::Result<()> {
    let mut error = linker.instance(&format!("wasi:io/error@{WASI}"))?;
    error.resource("error", ResourceType::host::<IoError>(), |_, _| Ok(()))?;
    error.func_wrap("[method]error.to-debug-string", |_, (_,): (Resource<IoError>,)| Ok((String::new(),)))?;

    let mut poll = linker.instance(&format!("wasi:io/poll@{WASI}"))?;
    poll.resource("pollable", ResourceType::host::<Pollable>(), |_, _| Ok(()))?;
    poll.func_wrap("[method]pollable.ready", |_, (_,): (Resource<Pollable>,)| Ok((true,)))?;
    poll.func_wrap("[method]pollable.block", |_, (_,): (Resource<Pollable>,)| Ok(()))?;
    poll.func_wrap("poll", |_, (all,): (Vec<Resource<Pollable>>,)| {
        let all = u32::try_from(all.len()).unwrap_or(u32::MAX);
        Ok(((0..all).collect::<Vec<u32>>(),))
    })?;

    let mut streams = linker.instance(&format!("wasi:io/streams@{WASI}"))?;
    input(&mut streams)?;
    output(&mut streams)
}

/// Reading is at its end from the start.
fn input(streams: &mut LinkerInstance<'_, Sandbox>) -> wasmtime::Result<()> {
    streams.resource("input-stream", ResourceType::host::<InputStream>(), |_, _| Ok(()))?;
    for name in ["read", "blocking-read"] {
        streams.func_wrap(&format!("[method]input-stream.{name}"), |_, (_, _): (In, u64)| {
            Ok((Err::<Vec<u8>, _>(StreamError::Closed),))
        })?;
    }
    for name in ["skip", "blocking-skip"] {
        streams.func_wrap(&format!("[method]input-stream.{name}"), |_, (_, _): (In, u64)| {
            Ok((Err::<u64, _>(StreamError::Closed),))
        })?;
    }
    streams.func_wrap("[method]input-stream.subscribe", |_, (_,): (In,)| Ok((Resource::<Pollable>::new_own(0),)))
}

/// Writing goes into the log, line by line.
fn output(streams: &mut LinkerInstance<'_, Sandbox>) -> wasmtime::Result<()> {
    streams.resource("output-stream", ResourceType::host::<OutputStream>(), |_, _| Ok(()))?;
    streams
        .func_wrap("[method]output-stream.check-write", |_, (_,): (Out,)| Ok((Ok::<_, StreamError>(WRITE_BYTES),)))?;
    for name in ["write", "blocking-write-and-flush"] {
        streams.func_wrap(&format!("[method]output-stream.{name}"), |store, (to, bytes): (Out, Vec<u8>)| {
            write(store, &to, &bytes);
            Ok((Ok::<(), StreamError>(()),))
        })?;
    }
    for name in ["write-zeroes", "blocking-write-zeroes-and-flush"] {
        streams.func_wrap(&format!("[method]output-stream.{name}"), |store, (to, count): (Out, u64)| {
            let count = usize::try_from(count).unwrap_or(usize::MAX).min(ZEROES.len());
            write(store, &to, ZEROES.get(..count).unwrap_or_default());
            Ok((Ok::<(), StreamError>(()),))
        })?;
    }
    for name in ["flush", "blocking-flush"] {
        streams
            .func_wrap(&format!("[method]output-stream.{name}"), |_, (_,): (Out,)| Ok((Ok::<(), StreamError>(()),)))?;
    }
    for name in ["splice", "blocking-splice"] {
        streams.func_wrap(&format!("[method]output-stream.{name}"), |_, (_, _, _): (Out, In, u64)| {
            Ok((Err::<u64, _>(StreamError::Closed),))
        })?;
    }
    streams.func_wrap("[method]output-stream.subscribe", |_, (_,): (Out,)| Ok((Resource::<Pollable>::new_own(0),)))
}

fn write(mut store: StoreContextMut<'_, Sandbox>, to: &Out, bytes: &[u8]) {
    let sandbox = store.data_mut();
    if to.rep() == STDERR {
        sandbox.stderr.write(bytes, LogLevel::Warn, &sandbox.log);
    } else {
        sandbox.stdout.write(bytes, LogLevel::Info, &sandbox.log);
    }
}

#[derive(ComponentType, Lower, Lift)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    LastOperationFailed(Resource<IoError>),
    #[component(name = "closed")]
    Closed,
}
