//! `wasi:clocks`: both clocks show the event time, so that a replay sees what the first run saw.
//!
//! Within a call the time stands still, and waiting is over at once: a guest cannot measure or pass time.

use wasmtime::component::{ComponentType, Lift, Linker, Lower, Resource};

use super::WASI;
use super::io::Pollable;
use crate::sandbox::Sandbox;

pub(super) fn add(linker: &mut Linker<Sandbox>) -> wasmtime::Result<()> {
    let mut monotonic = linker.instance(&format!("wasi:clocks/monotonic-clock@{WASI}"))?;
    monotonic.func_wrap("now", |store, (): ()| Ok((micros(store.data().now).saturating_mul(1000),)))?;
    monotonic.func_wrap("resolution", |_, (): ()| Ok((1000_u64,)))?;
    monotonic.func_wrap("subscribe-instant", |_, (_,): (u64,)| Ok((Resource::<Pollable>::new_own(0),)))?;
    monotonic.func_wrap("subscribe-duration", |_, (_,): (u64,)| Ok((Resource::<Pollable>::new_own(0),)))?;

    let mut wall = linker.instance(&format!("wasi:clocks/wall-clock@{WASI}"))?;
    wall.func_wrap("now", |store, (): ()| {
        let micros = micros(store.data().now);
        let nanoseconds = u32::try_from(micros % 1_000_000 * 1000).unwrap_or(0);
        Ok((DateTime { seconds: micros / 1_000_000, nanoseconds },))
    })?;
    wall.func_wrap("resolution", |_, (): ()| Ok((DateTime { seconds: 0, nanoseconds: 1000 },)))?;
    Ok(())
}

/// The event time as WASI wants it; times before 1970 show as 1970.
fn micros(now: i64) -> u64 {
    u64::try_from(now).unwrap_or(0)
}

#[derive(ComponentType, Lower, Lift, Clone, Copy)]
#[component(record)]
struct DateTime {
    seconds: u64,
    nanoseconds: u32,
}
