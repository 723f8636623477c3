//! The settings of wasmtime, all in one place: what is on, what is off, and why.
//!
//! The host and the compile child build their configuration here, so that what one compiles the other accepts.

use phronis_core::plugin::Limits;
use wasmtime::{Config, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Strategy};

/// Instances that can live at once: plugins × workers. A slot costs address space, not memory.
const INSTANCES: u32 = 4096;

/// Core modules in one component: the plugin itself and the small shims that its tool chain adds.
const CORE_INSTANCES: u32 = 16;

/// Elements of all tables of one module. A Rust plugin of 1 MiB has a few hundred; wasmtime's own default.
pub(crate) const TABLE_ELEMENTS: usize = 20_000;

/// Tables and memories of one component.
pub(crate) const TABLES: u32 = 8;

/// Stack of a guest. Enough for deep recursion of an honest parser, far below the 2 MiB of a Rust thread.
const STACK: usize = 512 << 10;

/// What decides the compiled code; the same in the host and in the compile child.
pub(crate) fn compiling() -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .epoch_interruption(true)
        .cranelift_nan_canonicalization(true)
        .max_wasm_stack(STACK)
        .wasm_component_model(true)
        .concurrency_support(false)
        .parallel_compilation(false)
        // Nobody looks at a guest's backtrace: its panic message says more, and traps are cheaper without.
        .wasm_backtrace_max_frames(None)
        .generate_address_map(false)
        // Relaxed SIMD may differ between machines; the rest is surface without use.
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false);
    config
}

/// What the host runs with: [`compiling`] plus how instances are allocated.
pub(crate) fn running(ceiling: &Limits) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    let memory = usize::try_from(ceiling.memory.min(4 << 30)).unwrap_or(usize::MAX);
    pool.total_component_instances(INSTANCES)
        .total_core_instances(INSTANCES * 4)
        .total_memories(INSTANCES)
        .total_tables(INSTANCES * 2)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(TABLES)
        .max_tables_per_component(TABLES)
        .table_elements(TABLE_ELEMENTS)
        .max_memory_size(memory)
        // A slot is zeroed by handing its pages back, so that an instance that died leaves no memory behind.
        .linear_memory_keep_resident(0)
        .table_keep_resident(0)
        .max_unused_warm_slots(0);
    let mut config = compiling();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}
