//! One live instance of a plugin: calls with a deadline, and what went wrong in words.
//!
//! An instance that failed once is never called again; its owner drops it.

use std::fmt::Debug;
use std::time::Duration;

use phronis_core::Code;
use phronis_core::code::{INSTANTIATION_FAILED, PARAMS_REFUSED};
use phronis_core::plugin::{FailureKind, Kind, Limits};
use wasmtime::component::{ComponentNamedList, Func, Instance as Exports, Lift, Lower, TypedFunc};
use wasmtime::{Store, Trap};

use crate::component::Component;
use crate::error::Refusal;
use crate::log::Log;
use crate::sandbox::Sandbox;
use crate::text;
use crate::ticker::Ticker;
use crate::wasi::Exit;
use crate::wit::{Added, BatchParam, Detect, Enrich, Field, Manifest};

/// Handles of resources that a guest may hold: streams, pollables.
const HANDLES: usize = 256;

/// What a guest may say in one call that is not about a batch: names, a manifest, a log line.
const SMALL_ANSWER: usize = 1 << 20;

/// A function that takes parameters as JSON and may refuse them in words.
type Ask<T> = TypedFunc<(String,), (Result<T, String>,)>;

/// Why a call has no answer.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn bad_output(message: impl Into<String>) -> Self {
        Self { kind: FailureKind::BadOutput, message: text::bounded(message.into(), text::MESSAGE_BYTES) }
    }
}

/// A plugin in memory, with its own store.
pub(crate) struct Instance {
    store: Store<Sandbox>,
    describe: TypedFunc<(), (Manifest,)>,
    fields: Ask<Vec<Field>>,
    configure: Ask<()>,
    adds: Option<Ask<Vec<Added>>>,
    detect: Option<TypedFunc<BatchParam, Detect>>,
    enrich: Option<TypedFunc<BatchParam, Enrich>>,
    deadline: Duration,
    output_bytes: usize,
    /// Calls since it was made.
    pub(crate) calls: u64,
}

impl Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").field("calls", &self.calls).finish_non_exhaustive()
    }
}

impl Instance {
    /// Makes one; runs the guest's own start code under the deadline.
    pub(crate) fn new(component: &Component, limits: &Limits, log: Log, seed: [u8; 32]) -> Result<Self, Refusal> {
        let mut store = Store::new(component.runtime(), Sandbox::new(limits, log, seed));
        store.limiter(|sandbox| &mut sandbox.guard);
        store.epoch_deadline_trap();
        store.set_max_component_handles(HANDLES);
        store.set_hostcall_fuel(SMALL_ANSWER);
        store.set_epoch_deadline(ticks(limits.deadline_ms));
        let started = component.ticker().run().map_err(|e| Refusal::new(INSTANTIATION_FAILED, e))?;
        let exports = component.instantiate(&mut store);
        drop(started);
        let exports = exports.map_err(|e| {
            let failure = explain(&e, store.data_mut());
            Refusal::new(INSTANTIATION_FAILED, format!("the plugin failed at its start: {}", failure.message))
        })?;
        Self::find(component, store, &exports, limits).map_err(|e| {
            Refusal::new(phronis_core::code::WRONG_WORLD, format!("the plugin's interface is not ours: {e:#}"))
        })
    }

    fn find(
        component: &Component,
        mut store: Store<Sandbox>,
        exports: &Exports,
        limits: &Limits,
    ) -> wasmtime::Result<Self> {
        let (detecting, enriching) = match component.kind() {
            Kind::Detector => (Some("phronis:plugin/detecting"), None),
            Kind::Enricher => (None, Some("phronis:plugin/enriching")),
        };
        let life = "phronis:plugin/lifecycle";
        Ok(Self {
            describe: function(&mut store, exports, life, "describe")?,
            fields: function(&mut store, exports, life, "fields")?,
            configure: function(&mut store, exports, life, "configure")?,
            adds: enriching.map(|name| function(&mut store, exports, name, "adds")).transpose()?,
            enrich: enriching.map(|name| function(&mut store, exports, name, "enrich")).transpose()?,
            detect: detecting.map(|name| function(&mut store, exports, name, "detect")).transpose()?,
            store,
            deadline: Duration::from_millis(limits.deadline_ms),
            output_bytes: usize::try_from(limits.output_bytes).unwrap_or(usize::MAX),
            calls: 0,
        })
    }

    /// Takes changed limits; they hold from the next call on.
    pub(crate) fn set_limits(&mut self, limits: &Limits) {
        self.deadline = Duration::from_millis(limits.deadline_ms);
        self.output_bytes = usize::try_from(limits.output_bytes).unwrap_or(usize::MAX);
        self.store.data_mut().guard.most = usize::try_from(limits.memory).unwrap_or(usize::MAX);
    }

    /// Sets the only time that the guest sees, in microseconds since 1970.
    pub(crate) fn set_now(&mut self, micros: i64) {
        self.store.data_mut().now = micros;
    }

    /// Bytes of linear memory that it holds.
    pub(crate) fn memory(&self) -> usize {
        self.store.data().guard.held
    }

    pub(crate) fn describe(&mut self, ticker: &Ticker) -> Result<Manifest, Failure> {
        let function = self.describe;
        self.call(ticker, function, (), SMALL_ANSWER).map(|(manifest,)| manifest)
    }

    pub(crate) fn fields(&mut self, ticker: &Ticker, params: &str) -> Result<Vec<Field>, Refusal> {
        let function = self.fields;
        let answer = self.call(ticker, function, (params.to_owned(),), SMALL_ANSWER);
        settle(answer, "fields", PARAMS_REFUSED)
    }

    /// The columns that an enricher adds; none for a detector.
    pub(crate) fn adds(&mut self, ticker: &Ticker, params: &str) -> Result<Vec<Added>, Refusal> {
        let Some(function) = self.adds else { return Ok(Vec::new()) };
        let answer = self.call(ticker, function, (params.to_owned(),), SMALL_ANSWER);
        settle(answer, "adds", PARAMS_REFUSED)
    }

    /// Gives the guest new parameters. `Err(Ok(_))` is its refusal, `Err(Err(_))` means that the instance is dead.
    pub(crate) fn configure(&mut self, ticker: &Ticker, params: &str) -> Result<(), Result<Refusal, Refusal>> {
        let function = self.configure;
        match self.call(ticker, function, (params.to_owned(),), SMALL_ANSWER) {
            Ok((Ok(()),)) => Ok(()),
            Ok((Err(words),)) => Err(Ok(Refusal::new(PARAMS_REFUSED, words))),
            Err(failure) => Err(Err(died("configure", &failure, PARAMS_REFUSED))),
        }
    }

    pub(crate) fn detect(&mut self, ticker: &Ticker, batch: BatchParam) -> Result<Detect, Failure> {
        let Some(function) = self.detect else { return Err(Failure::bad_output("this plugin is not a detector")) };
        self.call(ticker, function, batch, self.output_bytes)
    }

    pub(crate) fn enrich(&mut self, ticker: &Ticker, batch: BatchParam) -> Result<Enrich, Failure> {
        let Some(function) = self.enrich else { return Err(Failure::bad_output("this plugin is not an enricher")) };
        self.call(ticker, function, batch, self.output_bytes)
    }

    /// Calls with the deadline armed and the size of the answer limited before it is copied.
    fn call<P, R>(&mut self, ticker: &Ticker, function: TypedFunc<P, R>, params: P, bytes: usize) -> Result<R, Failure>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift + 'static,
    {
        self.calls += 1;
        self.store.data_mut().guard.refused = false;
        self.store.data_mut().stderr.last.clear();
        self.store.set_hostcall_fuel(bytes);
        self.store.set_epoch_deadline(ticks(u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX)));
        let running = ticker.run().map_err(|e| Failure { kind: FailureKind::Trap, message: e.to_owned() })?;
        let answer = function.call(&mut self.store, params);
        drop(running);
        self.store.data_mut().flush();
        answer.map_err(|e| explain(&e, self.store.data_mut()))
    }
}

/// One tick more than asked for: the current one is already partly over.
fn ticks(milliseconds: u64) -> u64 {
    milliseconds.saturating_add(1)
}

fn function<P, R>(
    store: &mut Store<Sandbox>,
    exports: &Exports,
    interface: &str,
    name: &str,
) -> wasmtime::Result<TypedFunc<P, R>>
where
    P: ComponentNamedList + Lower,
    R: ComponentNamedList + Lift + 'static,
{
    let interface = format!("{interface}@{}", crate::wit::VERSION);
    let missing = || wasmtime::Error::msg(format!("`{interface}` has no function `{name}`"));
    let (_, instance) = exports.get_export(&mut *store, None, &interface).ok_or_else(missing)?;
    let (_, index) = exports.get_export(&mut *store, Some(&instance), name).ok_or_else(missing)?;
    let function: Func = exports.get_func(&mut *store, index).ok_or_else(missing)?;
    function.typed(&*store)
}

/// Turns an answer of `fields` or `adds` into a refusal when it is none.
fn settle<T>(answer: Result<(Result<T, String>,), Failure>, name: &str, code: Code) -> Result<T, Refusal> {
    match answer {
        Ok((Ok(answer),)) => Ok(answer),
        Ok((Err(words),)) => Err(Refusal::new(code, words)),
        Err(failure) => Err(died(name, &failure, code)),
    }
}

fn died(name: &str, failure: &Failure, code: Code) -> Refusal {
    Refusal::new(code, format!("the plugin failed in `{name}`: {}", failure.message))
}

/// What kind of failure an error of wasmtime is, in words.
fn explain(error: &wasmtime::Error, sandbox: &mut Sandbox) -> Failure {
    sandbox.flush();
    let said = std::mem::take(&mut sandbox.stderr.last);
    let refused = std::mem::take(&mut sandbox.guard.refused);
    let (kind, message) = match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => (FailureKind::Deadline, "the call ran into its deadline".to_owned()),
        _ if refused => {
            let mebibytes = sandbox.guard.most >> 20;
            (FailureKind::Memory, format!("the plugin wanted more memory than its limit of {mebibytes} MiB"))
        }
        Some(Trap::StackOverflow) => (FailureKind::Trap, "the plugin used up its stack".to_owned()),
        Some(_) if !said.is_empty() => (FailureKind::Trap, said),
        Some(trap) => (FailureKind::Trap, trap.to_string()),
        None if error.downcast_ref::<Exit>().is_some() => (FailureKind::Trap, Exit.to_string()),
        None => (FailureKind::BadOutput, format!("the answer cannot be read: {}", error.root_cause())),
    };
    Failure { kind, message: text::for_people(&message, text::MESSAGE_BYTES) }
}
