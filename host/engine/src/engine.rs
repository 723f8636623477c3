//! The engine: from the bytes of a `.wasm` to a checked component.
//!
//! One engine a process. Everything here blocks (compiling takes a good part of a second) and belongs off the data
//! path.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use phronis_core::code::COMPONENT_TOO_LARGE;
use phronis_core::plugin::Limits;
use sha2::{Digest as _, Sha256};
use wasmtime::component::Linker;

use crate::cache::Cache;
use crate::compile::Compiler;
use crate::component::{self, Component};
use crate::error::{Error, Refusal};
use crate::sandbox::Sandbox;
use crate::ticker::Ticker;
use crate::{inspect, limits, settings, wasi};

/// How the engine is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where compiled components are kept; made with mode 0700, refused if others can reach it.
    pub cache_dir: PathBuf,
    /// The largest component that is taken, in bytes.
    pub max_component_bytes: usize,
    /// The compile child and its limits.
    pub compiler: Compiler,
    /// The host's `[limits.max]`: no plugin gets more, whatever its settings say.
    pub ceiling: Limits,
}

impl Options {
    /// The defaults: components up to 16 MiB, and as ceiling 1 GiB of memory, 10 s, 100 000 rows, 64 MiB, 1 MiB of log a second.
    pub fn new(cache_dir: impl Into<PathBuf>, compiler: Compiler) -> Self {
        let ceiling = Limits {
            memory: 1 << 30,
            deadline_ms: 10_000,
            output_rows: 100_000,
            output_bytes: 64 << 20,
            log_bytes: 1 << 20,
        };
        Self { cache_dir: cache_dir.into(), max_component_bytes: 16 << 20, compiler, ceiling }
    }
}

/// Compiles, checks and instantiates plugins; cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) runtime: wasmtime::Engine,
    pub(crate) ticker: Ticker,
    pub(crate) ceiling: Limits,
    linker: Linker<Sandbox>,
    cache: Cache,
    compiler: Compiler,
    max_component_bytes: usize,
    /// One compiler at a time.
    compiling: Mutex<()>,
    /// Components that are in use, so that the same file in many streams is in memory once.
    loaded: Mutex<HashMap<String, Weak<component::Loaded>>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("cache", &self.0.cache).finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts the runtime and opens the cache.
    ///
    /// # Errors
    ///
    /// When the cache folder is not safe, or the machine lacks what the runtime needs.
    pub fn new(options: Options) -> Result<Self, Error> {
        let failed = |e: wasmtime::Error| Error::Runtime(format!("{e:#}"));
        let runtime = wasmtime::Engine::new(&settings::running(&options.ceiling)).map_err(failed)?;
        let cache = Cache::open(&options.cache_dir, &runtime)?;
        Ok(Self(Arc::new(Shared {
            ticker: Ticker::new(&runtime),
            linker: wasi::linker(&runtime).map_err(failed)?,
            runtime,
            ceiling: options.ceiling,
            cache,
            compiler: options.compiler,
            max_component_bytes: options.max_component_bytes,
            compiling: Mutex::default(),
            loaded: Mutex::default(),
        })))
    }

    /// Compiles (or takes from the cache), checks and describes a component. Blocks.
    ///
    /// # Errors
    ///
    /// Says why the component is not accepted and what its author can do.
    pub fn load(&self, wasm: &[u8]) -> Result<Component, Refusal> {
        let most = self.0.max_component_bytes;
        if wasm.len() > most {
            return Err(Self::too_large(wasm.len() as u64, most));
        }
        inspect::is_component(wasm)?;
        let digest = digest(wasm);
        if let Some(loaded) = self.lock_loaded().get(&digest).and_then(Weak::upgrade) {
            return Ok(Component::from(loaded));
        }
        let compiled = self.compiled(&digest, wasm)?;
        let kind = inspect::world(&compiled, &self.0.runtime)?;
        let ready = self.0.linker.instantiate_pre(&compiled).map_err(|e| {
            let message = format!("the component wants an import in a way that plugins do not get: {e:#}");
            Refusal::new(phronis_core::code::FORBIDDEN_IMPORT, message)
        })?;
        let component = Component::describe(Arc::clone(&self.0), ready, digest.clone(), kind)?;
        let mut loaded = self.lock_loaded();
        loaded.retain(|_, component| component.strong_count() > 0);
        loaded.insert(digest, component.downgrade());
        Ok(component)
    }

    /// The host's ceiling; see [`limits::lower`].
    pub fn ceiling(&self) -> &Limits {
        &self.0.ceiling
    }

    /// The largest component that is taken, in bytes.
    pub fn max_component_bytes(&self) -> usize {
        self.0.max_component_bytes
    }

    pub(crate) fn too_large(bytes: u64, most: usize) -> Refusal {
        let message = format!(
            "the component has {bytes} bytes, {most} are allowed: strip debug information \
             (`strip = true` in `[profile.release]`) or leave out what it does not need"
        );
        Refusal::new(COMPONENT_TOO_LARGE, message)
    }

    fn compiled(&self, digest: &str, wasm: &[u8]) -> Result<wasmtime::component::Component, Refusal> {
        let shared = &self.0;
        if let Some(component) = shared.cache.load(digest, &shared.runtime) {
            return Ok(component);
        }
        let _one_at_a_time = shared.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        // Someone else may have compiled the same while we waited.
        if let Some(component) = shared.cache.load(digest, &shared.runtime) {
            return Ok(component);
        }
        let code = shared.compiler.compile(wasm)?;
        let kept = shared.cache.store(digest, &code, &shared.runtime);
        kept.map_err(|message| Refusal::new(phronis_core::code::COMPILE_FAILED, message))
    }

    fn lock_loaded(&self) -> std::sync::MutexGuard<'_, HashMap<String, Weak<component::Loaded>>> {
        self.0.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    pub(crate) fn clamp(&self, wanted: Limits) -> Limits {
        limits::clamp(wanted, &self.ceiling)
    }
}

/// SHA-256 in hex: the name of a component, and of its compiled form.
pub(crate) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a string cannot fail.
        write!(hex, "{byte:02x}").ok();
        hex
    })
}
