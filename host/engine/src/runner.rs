//! One plugin in one worker: cuts batches into calls, survives what the guest does, names the guilty rows.
//!
//! The runner owns at most one instance. An instance that trapped, ran too long, wanted too much or answered wrongly is
//! dropped and never called again; the next call gets a fresh one with the same parameters.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, new_empty_array, new_null_array};
use arrow_select::concat::concat;
use phronis_core::PluginId;
use phronis_core::code::PARAMS_REFUSED;
use phronis_core::plugin::{Batch, Drop, Enrichment, FailureKind, Judgement, Kind, Limits, RowFailure};
use serde_json::Value;

use crate::answer::{self, Part};
use crate::bisect::{self, Budget};
use crate::columns;
use crate::component::{Component, Shape};
use crate::error::Refusal;
use crate::instance::{Failure, Instance};
use crate::log::Log;
use crate::wit;

/// Calls after which an instance is replaced, so that what a guest leaks does not add up.
const CALLS_PER_INSTANCE: u64 = 1 << 20;

/// Bytes of rows in one call, as a part of the plugin's memory: so big events never trap an honest plugin.
const MEMORY_PER_CALL: u64 = 4;

/// How the original calls of a batch ended; the calls that look for guilty rows do not count. For the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallOutcomes {
    /// Answered as the contract says.
    pub ok: u32,
    /// Returned an error for the whole batch.
    pub error: u32,
    /// Trapped.
    pub trap: u32,
    /// Ran into the deadline.
    pub deadline: u32,
    /// Wanted more memory than the limit.
    pub memory: u32,
    /// Broke the contract.
    pub bad_output: u32,
}

/// What a detector said about a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// Findings and failed rows; every other row was judged.
    pub judgement: Judgement,
    /// How the calls ended.
    pub calls: CallOutcomes,
    /// Time from the first call to the last answer.
    pub busy: Duration,
}

/// What an enricher said about a batch.
#[derive(Debug, Clone)]
pub struct Enriched {
    /// Columns, drops and failed rows.
    pub enrichment: Enrichment,
    /// How the calls ended.
    pub calls: CallOutcomes,
    /// Time from the first call to the last answer.
    pub busy: Duration,
}

/// A plugin at work in one worker.
#[derive(Debug)]
pub struct Runner {
    component: Component,
    id: PluginId,
    params: String,
    limits: Limits,
    log: Log,
    shape: Shape,
    instance: Option<Instance>,
    /// Buffers of the last call.
    call: Arc<wit::Batch>,
}

impl Runner {
    /// Makes an instance and gives it its parameters, as [`Component::defaults`] gives them. Limits above the ceiling are lowered to it.
    ///
    /// # Errors
    ///
    /// When the plugin refuses the parameters or fails before its first batch.
    pub fn new(component: Component, id: PluginId, params: &Value, limits: Limits) -> Result<Self, Refusal> {
        let limits = component.clamp(limits);
        let log = Log::of(id.clone(), limits.log_bytes);
        let params = params.to_string();
        let mut instance = Instance::new(&component, &limits, log.clone(), component.seed(&id))?;
        let shape = component.shape(&mut instance, &params)?;
        instance.configure(component.ticker(), &params).map_err(|refusal| refusal.unwrap_or_else(|dead| dead))?;
        Ok(Self { component, id, params, limits, log, shape, instance: Some(instance), call: Arc::default() })
    }

    /// The component that runs.
    pub fn component(&self) -> &Component {
        &self.component
    }

    /// The plugin that runs.
    pub fn id(&self) -> &PluginId {
        &self.id
    }

    /// What the plugin reads and adds under its present parameters.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The limits that hold.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Bytes of linear memory that the instance holds.
    pub fn memory(&self) -> usize {
        self.instance.as_ref().map_or(0, Instance::memory)
    }

    /// Judges a batch, whose columns are those of [`Runner::shape`], in that order. Never fails: rows do.
    pub fn detect(&mut self, batch: &Batch<'_>) -> Judged {
        let begin = Instant::now();
        let (part, calls) = self.run(batch);
        let judgement = Judgement { findings: part.findings, failures: part.failures };
        Judged { judgement, calls, busy: begin.elapsed() }
    }

    /// Enriches a batch, whose columns are those of [`Runner::shape`], in that order. Never fails: rows do.
    pub fn enrich(&mut self, batch: &Batch<'_>) -> Enriched {
        let begin = Instant::now();
        let (part, calls) = self.run(batch);
        let enrichment = Enrichment { columns: part.columns, drops: part.drops, failures: part.failures };
        Enriched { enrichment, calls, busy: begin.elapsed() }
    }

    /// Gives the running instance new parameters, as [`Component::defaults`] gives them.
    ///
    /// # Errors
    ///
    /// The old parameters stay in force: when the plugin refuses or fails, or when it would read or add other columns
    /// (then a new runner is needed).
    pub fn configure(&mut self, params: &Value) -> Result<(), Refusal> {
        let params = params.to_string();
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => self.fresh()?,
        };
        // Whatever goes wrong by a trap drops the instance; the next call makes a fresh one with the old parameters.
        let shape = self.component.shape(&mut instance, &params)?;
        if shape != self.shape {
            self.instance = Some(instance);
            let message = "the parameters change the columns that the plugin reads or adds: it must be swapped";
            return Err(Refusal::new(PARAMS_REFUSED, message));
        }
        match instance.configure(self.component.ticker(), &params) {
            Ok(()) => {
                (self.instance, self.params) = (Some(instance), params);
                Ok(())
            }
            Err(Ok(refusal)) => {
                self.instance = Some(instance);
                Err(refusal)
            }
            Err(Err(dead)) => Err(dead),
        }
    }

    /// Changes the limits; they hold from the next call on. What is above the ceiling is lowered to it.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = self.component.clamp(limits);
        self.log.set_rate(self.limits.log_bytes);
        if let Some(instance) = &mut self.instance {
            instance.set_limits(&self.limits);
        }
    }

    /// Runs all rows, call by call; what comes out is in the order of the rows and as long as the batch.
    fn run(&mut self, batch: &Batch<'_>) -> (Part, CallOutcomes) {
        let mut calls = CallOutcomes::default();
        let mut whole = Whole::new(&self.shape);
        if let Err(message) = columns::fits(batch, &self.shape.fields) {
            tracing::error!(plugin = %self.id, message, "the host gave a plugin columns that it does not read");
            let failure = Failure { kind: FailureKind::Error, message };
            whole.take(0..batch.rows, Err(failure));
            return (whole.finish(), calls);
        }
        let mut budget = Budget::default();
        let bytes = usize::try_from(self.limits.memory / MEMORY_PER_CALL).unwrap_or(usize::MAX);
        let mut start = 0;
        while start < batch.rows {
            if budget.is_spent() {
                whole.take(start..batch.rows, Err(bisect::unrun()));
                break;
            }
            let range = start..columns::cut(batch, start, bytes);
            start = range.end;
            self.original(batch, range, &mut budget, &mut calls, &mut whole);
        }
        (whole.finish(), calls)
    }

    /// One call of the batch as it was cut, and the search for guilty rows when it fails.
    fn original(
        &mut self,
        batch: &Batch<'_>,
        range: Range<usize>,
        budget: &mut Budget,
        calls: &mut CallOutcomes,
        whole: &mut Whole,
    ) {
        let used = self.instance.as_ref().is_some_and(|instance| instance.calls > 1);
        let mut answer = self.attempt(batch, range.clone());
        calls.count(answer.as_ref().err());
        if let Err(failure) = &answer {
            budget.note(failure);
            // An instance that has run before may have died of its past: the rows get a second chance as a whole.
            if used && matches!(failure.kind, FailureKind::Trap | FailureKind::Memory) && !budget.is_spent() {
                budget.pay();
                answer = self.attempt(batch, range.clone());
            }
        }
        match answer {
            Ok(part) => whole.take(range, Ok(part)),
            Err(failure) => {
                let call = |part: Range<usize>| self.attempt(batch, part);
                bisect::search(range, failure, budget, call, |part, outcome| whole.take(part, outcome));
            }
        }
    }

    /// One call. An instance that does not answer well is gone afterwards.
    fn attempt(&mut self, batch: &Batch<'_>, range: Range<usize>) -> Result<Part, Failure> {
        let mut instance = match self.instance.take() {
            Some(instance) => instance,
            None => self.fresh().map_err(|refusal| Failure {
                kind: FailureKind::Trap,
                message: format!("the plugin cannot be started again: {}", refusal.message),
            })?,
        };
        if Arc::get_mut(&mut self.call).is_none() {
            self.call = Arc::default();
        }
        if let Some(call) = Arc::get_mut(&mut self.call) {
            columns::fill(call, batch, range.clone());
        }
        instance.set_now(batch.watermark);
        let (ticker, call) = (self.component.ticker(), Arc::clone(&self.call));
        let error = |message: String| Failure {
            kind: FailureKind::Error,
            message: crate::text::bounded(message, crate::text::MESSAGE_BYTES),
        };
        let part = match self.component.kind() {
            Kind::Detector => {
                let (said,) = instance.detect(ticker, (call,))?;
                answer::judgement(said.map_err(error)?, range.start, range.len(), &self.limits)?
            }
            Kind::Enricher => {
                let (said,) = instance.enrich(ticker, (call,))?;
                answer::enrichment(said.map_err(error)?, range.start, range.len(), &self.shape.adds, &self.limits)?
            }
        };
        if !self.is_worn(&instance) {
            self.instance = Some(instance);
        }
        Ok(part)
    }

    /// Whether an instance has run long enough or grown far enough to be replaced. One that keeps state never is:
    /// its state would be gone.
    fn is_worn(&self, instance: &Instance) -> bool {
        let grown = instance.memory() as u64 > self.limits.memory / 4 * 3;
        !self.component.manifest().stateful && (grown || instance.calls > CALLS_PER_INSTANCE)
    }

    fn fresh(&self) -> Result<Instance, Refusal> {
        let seed = self.component.seed(&self.id);
        let mut instance = Instance::new(&self.component, &self.limits, self.log.clone(), seed)?;
        let configured = instance.configure(self.component.ticker(), &self.params);
        configured.map_err(|refusal| refusal.unwrap_or_else(|dead| dead))?;
        Ok(instance)
    }
}

impl CallOutcomes {
    /// Calls that did not answer as the contract says.
    pub fn failed(&self) -> u32 {
        self.error + self.trap + self.deadline + self.memory + self.bad_output
    }

    fn count(&mut self, failure: Option<&Failure>) {
        let counter = match failure.map(|failure| failure.kind) {
            None | Some(FailureKind::Row | FailureKind::Budget) => &mut self.ok,
            Some(FailureKind::Error) => &mut self.error,
            Some(FailureKind::Trap) => &mut self.trap,
            Some(FailureKind::Deadline) => &mut self.deadline,
            Some(FailureKind::Memory) => &mut self.memory,
            Some(FailureKind::BadOutput) => &mut self.bad_output,
        };
        *counter += 1;
    }
}

/// The answers to a batch, put together in the order of the rows.
struct Whole {
    part: Part,
    /// For each added column, its type and its pieces.
    columns: Vec<(arrow_schema::DataType, Vec<ArrayRef>)>,
}

impl Whole {
    fn new(shape: &Shape) -> Self {
        let columns = shape.adds.iter().map(|added| (columns::data_type(added.of_type), Vec::new())).collect();
        Self { part: Part::default(), columns }
    }

    fn take(&mut self, range: Range<usize>, outcome: Result<Part, Failure>) {
        match outcome {
            Ok(Part { findings, columns, drops, failures }) => {
                self.part.findings.extend(findings);
                self.part.drops.extend::<Vec<Drop>>(drops);
                self.part.failures.extend(failures);
                self.columns.iter_mut().zip(columns).for_each(|((_, pieces), piece)| pieces.push(piece));
            }
            Err(Failure { kind, message }) => {
                for (of_type, pieces) in &mut self.columns {
                    pieces.push(new_null_array(of_type, range.len()));
                }
                self.part.failures.extend(range.map(|row| RowFailure { row, kind, message: message.clone() }));
            }
        }
    }

    fn finish(mut self) -> Part {
        for (of_type, pieces) in self.columns {
            let joined = match pieces.as_slice() {
                [] => new_empty_array(&of_type),
                [one] => Arc::clone(one),
                many => {
                    let many: Vec<&dyn arrow_array::Array> = many.iter().map(AsRef::as_ref).collect();
                    // Fails only if 32-bit offsets overflow: more than 2 GiB of text in one batch.
                    concat(&many).unwrap_or_else(|_| new_null_array(&of_type, many.iter().map(|a| a.len()).sum()))
                }
            };
            self.part.columns.push(joined);
        }
        self.part
    }
}
