//! `wasi:random`: dice seeded by tenant, stream and plugin digest, so that a replay rolls the same numbers.

use wasmtime::component::Linker;

use super::WASI;
use crate::sandbox::Sandbox;

/// What one call may ask for; std asks for 16.
const MOST_BYTES: u64 = 1 << 16;

pub(super) fn add(linker: &mut Linker<Sandbox>) -> wasmtime::Result<()> {
    for (interface, prefix) in [("random", "get-random"), ("insecure", "get-insecure-random")] {
        let mut random = linker.instance(&format!("wasi:random/{interface}@{WASI}"))?;
        random.func_wrap(&format!("{prefix}-u64"), |mut store, (): ()| Ok((store.data_mut().dice.roll(),)))?;
        random.func_wrap(&format!("{prefix}-bytes"), |mut store, (count,): (u64,)| {
            if count > MOST_BYTES {
                return Err(wasmtime::Error::msg(format!("the plugin asked for {count} random bytes at once")));
            }
            let count = usize::try_from(count).unwrap_or(0);
            Ok((store.data_mut().dice.bytes(count),))
        })?;
    }
    let mut seed = linker.instance(&format!("wasi:random/insecure-seed@{WASI}"))?;
    seed.func_wrap("insecure-seed", |mut store, (): ()| {
        let dice = &mut store.data_mut().dice;
        Ok(((dice.roll(), dice.roll()),))
    })?;
    Ok(())
}
