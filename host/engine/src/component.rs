//! A component that is compiled, checked and described: what a runner is made of.
//!
//! Shared between all streams and workers that use the same file; holds no instance.

use std::fmt;
use std::sync::{Arc, Weak};

use phronis_core::PluginId;
use phronis_core::code::{INSTANTIATION_FAILED, INVALID_MANIFEST};
use phronis_core::plugin::{Added, Field, Kind, Limits, Manifest};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use wasmtime::Store;
use wasmtime::component::{Instance as Exports, InstancePre};

use crate::engine::Shared;
use crate::error::Refusal;
use crate::instance::Instance;
use crate::log::Log;
use crate::manifest;
use crate::params::{ParamProblem, Params};
use crate::sandbox::Sandbox;
use crate::ticker::Ticker;

/// A plugin that was accepted; cheap to clone.
#[derive(Clone)]
pub struct Component(Arc<Loaded>);

/// What a plugin reads and adds under some parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// The columns that it reads, in the order in which a batch must hold them.
    pub fields: Vec<Field>,
    /// The columns that an enricher adds; empty for a detector.
    pub adds: Vec<Added>,
}

pub(crate) struct Loaded {
    engine: Arc<Shared>,
    ready: InstancePre<Sandbox>,
    digest: String,
    kind: Kind,
    manifest: Manifest,
    params: Params,
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Component").field("manifest", &self.0.manifest).field("digest", &self.0.digest).finish()
    }
}

impl Component {
    /// What the plugin says of itself.
    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    /// SHA-256 of the `.wasm`, in hex.
    pub fn digest(&self) -> &str {
        &self.0.digest
    }

    /// Detector or enricher.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Checks parameters against the plugin's schema and fills in its defaults.
    ///
    /// # Errors
    ///
    /// Every parameter that does not fit, with its path; for an unknown one the nearest name.
    pub fn defaults(&self, params: &Value) -> Result<Value, Vec<ParamProblem>> {
        self.0.params.fill(params)
    }

    /// Asks a fresh instance what it reads and adds under these parameters, and whether it takes them.
    ///
    /// `params` are as [`Component::defaults`] gives them. Blocks up to three deadlines.
    ///
    /// # Errors
    ///
    /// `PARAMS_REFUSED` with the plugin's words, or what it did wrong.
    pub fn probe(&self, id: &PluginId, params: &Value, limits: Limits) -> Result<Shape, Refusal> {
        let limits = self.0.engine.clamp(limits);
        let mut instance = Instance::new(self, &limits, Log::of(id.clone(), limits.log_bytes), self.seed(id))?;
        let params = params.to_string();
        let shape = self.shape(&mut instance, &params)?;
        instance.configure(self.ticker(), &params).map_err(|refusal| refusal.unwrap_or_else(|dead| dead))?;
        Ok(shape)
    }

    /// Reads and checks the plugin's own description, on an instance that belongs to nobody.
    pub(crate) fn describe(
        engine: Arc<Shared>,
        ready: InstancePre<Sandbox>,
        digest: String,
        kind: Kind,
    ) -> Result<Self, Refusal> {
        let limits = engine.clamp(Limits::default());
        let nothing =
            Manifest { name: String::new(), version: String::new(), kind, params_schema: Value::Null, stateful: false };
        let loaded = Loaded { engine, ready, digest, kind, manifest: nothing, params: Params::none() };
        let component = Self(Arc::new(loaded));
        let mut instance = Instance::new(&component, &limits, Log::nowhere(), [0; 32])?;
        let said = instance.describe(component.ticker()).map_err(|failure| {
            Refusal::new(INSTANTIATION_FAILED, format!("the plugin failed in `describe`: {}", failure.message))
        })?;
        let invalid = |message: String| Refusal::new(INVALID_MANIFEST, message);
        let manifest = manifest::check(said, kind).map_err(invalid)?;
        let params = Params::new(&manifest.params_schema).map_err(invalid)?;
        drop(instance);
        let Loaded { engine, ready, digest, .. } = &*component.0;
        let (engine, ready, digest) = (Arc::clone(engine), ready.clone(), digest.clone());
        Ok(Self(Arc::new(Loaded { engine, ready, digest, kind, manifest, params })))
    }

    /// What the plugin reads and adds, checked.
    pub(crate) fn shape(&self, instance: &mut Instance, params: &str) -> Result<Shape, Refusal> {
        let fields = manifest::fields(instance.fields(self.ticker(), params)?)?;
        let adds = manifest::adds(instance.adds(self.ticker(), params)?, self.kind())?;
        Ok(Shape { fields, adds })
    }

    /// The seed of the plugin's dice: the same plugin on the same stream rolls the same numbers.
    pub(crate) fn seed(&self, id: &PluginId) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for part in [id.stream.tenant.as_str(), id.stream.stream.as_str(), self.digest()] {
            hasher.update(part);
            hasher.update([0]);
        }
        hasher.finalize().into()
    }

    pub(crate) fn instantiate(&self, store: &mut Store<Sandbox>) -> wasmtime::Result<Exports> {
        self.0.ready.instantiate(store)
    }

    pub(crate) fn runtime(&self) -> &wasmtime::Engine {
        &self.0.engine.runtime
    }

    pub(crate) fn ticker(&self) -> &Ticker {
        &self.0.engine.ticker
    }

    pub(crate) fn clamp(&self, limits: Limits) -> Limits {
        self.0.engine.clamp(limits)
    }

    pub(crate) fn downgrade(&self) -> Weak<Loaded> {
        Arc::downgrade(&self.0)
    }
}

impl From<Arc<Loaded>> for Component {
    fn from(loaded: Arc<Loaded>) -> Self {
        Self(loaded)
    }
}
