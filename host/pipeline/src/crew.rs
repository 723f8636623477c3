//! A worker's own instances of a stream's plugins.
//!
//! One instance a plugin and worker; it follows the lineup between two batches:
//! new parameters go to the same instance, a new version gets a new one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, new_null_array};
use phronis_core::Name;
use phronis_core::breaker::{Answer, Cell, Outcome, Pass};
use phronis_core::contract::Contract;
use phronis_core::plugin::{Added, Batch, Enrichment, FailureKind, Judgement, RowFailure};
use phronis_core::processed::Writer;
use phronis_engine::{CallOutcomes, Runner};

use crate::breakers::{Kept, WhenOpen};
use crate::plugins::{Lineup, Placed};

/// Between two tries for an instance that could not be made.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// A plugin and this worker's instance of it.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) placed: Placed,
    /// The instance, or why there is none.
    runner: Result<Runner, String>,
    /// When a missing instance is tried for again.
    retry_at: Instant,
    /// This worker's way to the plugin's breaker.
    cell: Cell,
}

/// A worker's instances, in the order in which they run.
#[derive(Debug)]
pub(crate) struct Crew {
    pub(crate) lineup: Arc<Lineup>,
    pub(crate) enrichers: Vec<Member>,
    pub(crate) detectors: Vec<Member>,
    /// Writes processed events with the columns that the enrichers add.
    pub(crate) writer: Writer,
    contract: Arc<Contract>,
    /// Whether its stream keeps the order of each key.
    is_ordered: bool,
}

impl Crew {
    pub(crate) fn new(contract: Arc<Contract>, is_ordered: bool) -> Result<Self, String> {
        let writer = Writer::new(Arc::clone(&contract), &[])?;
        Ok(Self { lineup: Arc::default(), enrichers: Vec::new(), detectors: Vec::new(), writer, contract, is_ordered })
    }

    /// Follows the lineup: called between two batches, and cheap when nothing changed.
    pub(crate) fn follow(&mut self, lineup: Arc<Lineup>) -> Result<(), String> {
        if Arc::ptr_eq(&self.lineup, &lineup) {
            for member in self.enrichers.iter_mut().chain(&mut self.detectors) {
                member.revive();
            }
            return Ok(());
        }
        self.writer = Writer::new(Arc::clone(&self.contract), &lineup.added)?;
        let mut old: HashMap<Name, Member> = HashMap::new();
        for member in self.enrichers.drain(..).chain(self.detectors.drain(..)) {
            old.insert(member.placed.version.id.name.clone(), member);
        }
        let mut follow = |placed: &Placed| {
            let before = old.remove(&placed.version.id.name);
            Member::follow(before, placed.clone())
        };
        self.enrichers = lineup.enrichers.iter().map(&mut follow).collect();
        self.detectors = lineup.detectors.iter().map(&mut follow).collect();
        self.lineup = lineup;
        Ok(())
    }

    /// These plugins have judged a range letter each.
    pub(crate) fn ranges_settled(&self, plugins: &[Name]) {
        for member in self.enrichers.iter().chain(&self.detectors) {
            let name = &member.placed.version.id.name;
            let letters = plugins.iter().filter(|plugin| *plugin == name).count();
            if letters > 0 {
                member.breaker().ranges_settled(letters as u64);
            }
        }
    }

    /// Why no batch may be taken now, if a plugin's breaker says so.
    pub(crate) fn why_held(&self) -> Option<String> {
        let of_order = |member: &Member| {
            let breaker = member.breaker();
            let waits = self.is_ordered && breaker.is_open() && breaker.when_open() == WhenOpen::Letter;
            waits.then(|| {
                format!("waits for the breaker of {} to close: the stream is ordered (PH2202)", breaker.id.name)
            })
        };
        let members = self.enrichers.iter().chain(&self.detectors);
        members
            .filter_map(|member| member.breaker().why_held())
            .next()
            .or_else(|| self.enrichers.iter().find_map(of_order))
    }
}

impl Member {
    fn follow(before: Option<Self>, placed: Placed) -> Self {
        let version = &placed.version;
        let cell = version.breaker.cell();
        if let Some(Self { placed: old, runner: Ok(mut runner), .. }) = before
            && old.version.component.digest() == version.component.digest()
            && (&old.version.fields, &old.version.adds) == (&version.fields, &version.adds)
        {
            runner.set_limits(version.limits);
            if old.version.params == version.params {
                return Self { placed, runner: Ok(runner), retry_at: Instant::now(), cell };
            }
            match runner.configure(&version.params) {
                Ok(()) => return Self { placed, runner: Ok(runner), retry_at: Instant::now(), cell },
                Err(refusal) => {
                    tracing::warn!(plugin = %version.id, reason = %refusal.message, "the instance refused parameters that were accepted before, making a new one");
                }
            }
        }
        let runner = Runner::new(version.component.clone(), version.id.clone(), &version.params, version.limits).map_err(|refusal| {
            tracing::error!(plugin = %version.id, code = %refusal.code, reason = %refusal.message, "the plugin cannot be started");
            refusal.message
        });
        Self { placed, runner, retry_at: Instant::now() + RETRY_EVERY, cell }
    }

    /// Tries for an instance again, where there is none: what was in the way may be over.
    fn revive(&mut self) {
        if self.runner.is_err() && Instant::now() >= self.retry_at {
            *self = Self::follow(None, self.placed.clone());
        }
    }

    pub(crate) fn breaker(&self) -> &Kept {
        &self.placed.version.breaker
    }

    /// Asks a detector.
    ///
    /// # Errors
    /// Its breaker is open: what becomes of the batch.
    pub(crate) fn detect(&mut self, batch: &Batch<'_>) -> Result<Judgement, WhenOpen> {
        if batch.rows == 0 {
            return Ok(Judgement::default());
        }
        let breaker = &self.placed.version.breaker;
        if self.placed.version.is_out_of_turn() {
            return Err(refused(breaker, batch));
        }
        let Answer::Pass(pass) = self.cell.ask(|| breaker.now()) else { return Err(refused(breaker, batch)) };
        let counters = &self.placed.version.counters;
        match &mut self.runner {
            Ok(runner) => {
                let judged = runner.detect(batch);
                counters.calls.fetch_add(total(judged.calls), Ordering::Relaxed);
                counters.failed_calls.fetch_add(failed(judged.calls), Ordering::Relaxed);
                counters.busy_nanos.fetch_add(nanos(judged.busy), Ordering::Relaxed);
                counters.findings.fetch_add(judged.judgement.findings.len() as u64, Ordering::Relaxed);
                counters.failed.fetch_add(judged.judgement.failures.len() as u64, Ordering::Relaxed);
                let outcome = outcome(batch.rows, judged.calls, &judged.judgement.failures, judged.busy);
                record(breaker, pass, &outcome);
                Ok(judged.judgement)
            }
            Err(message) => {
                counters.failed.fetch_add(batch.rows as u64, Ordering::Relaxed);
                record(breaker, pass, &cannot_start(batch.rows));
                Ok(Judgement { findings: Vec::new(), failures: all_failed(batch.rows, message) })
            }
        }
    }

    /// Asks an enricher.
    ///
    /// # Errors
    /// Its breaker is open: what becomes of the batch.
    pub(crate) fn enrich(&mut self, batch: &Batch<'_>, adds: &[Added]) -> Result<Enrichment, WhenOpen> {
        let nothing = || adds.iter().map(|a| new_null_array(&a.of_type.arrow(), batch.rows)).collect::<Vec<ArrayRef>>();
        if batch.rows == 0 {
            return Ok(Enrichment { columns: nothing(), ..Enrichment::default() });
        }
        let breaker = &self.placed.version.breaker;
        if self.placed.version.is_out_of_turn() {
            return Err(refused(breaker, batch));
        }
        let Answer::Pass(pass) = self.cell.ask(|| breaker.now()) else { return Err(refused(breaker, batch)) };
        let counters = &self.placed.version.counters;
        match &mut self.runner {
            Ok(runner) => {
                let enriched = runner.enrich(batch);
                counters.calls.fetch_add(total(enriched.calls), Ordering::Relaxed);
                counters.failed_calls.fetch_add(failed(enriched.calls), Ordering::Relaxed);
                counters.busy_nanos.fetch_add(nanos(enriched.busy), Ordering::Relaxed);
                counters.failed.fetch_add(enriched.enrichment.failures.len() as u64, Ordering::Relaxed);
                let outcome = outcome(batch.rows, enriched.calls, &enriched.enrichment.failures, enriched.busy);
                record(breaker, pass, &outcome);
                Ok(enriched.enrichment)
            }
            Err(message) => {
                counters.failed.fetch_add(batch.rows as u64, Ordering::Relaxed);
                record(breaker, pass, &cannot_start(batch.rows));
                let failures = all_failed(batch.rows, message);
                Ok(Enrichment { columns: nothing(), drops: Vec::new(), failures })
            }
        }
    }

    /// Counts what was answered for and what was skipped.
    pub(crate) fn count(&self, answered: usize, skipped: usize) {
        let counters = &self.placed.version.counters;
        counters.judged.fetch_add(answered as u64, Ordering::Relaxed);
        counters.skipped.fetch_add(skipped as u64, Ordering::Relaxed);
    }
}

fn refused(breaker: &Kept, batch: &Batch<'_>) -> WhenOpen {
    let policy = breaker.when_open();
    if policy != WhenOpen::Hold {
        breaker.refused(batch.rows);
    }
    policy
}

fn record(breaker: &Kept, pass: Pass<'_>, outcome: &Outcome) {
    if pass.record(outcome, || breaker.now()) {
        breaker.news();
    }
}

/// What a batch did to the plugin, for its breaker. Rows of a call that failed hard are the call's, not their own;
/// of a call that was answered by an error, those count that were left without an answer.
fn outcome(rows: usize, calls: CallOutcomes, failures: &[RowFailure], busy: Duration) -> Outcome {
    let is_own = |failure: &&RowFailure| match failure.kind {
        FailureKind::Row => true,
        FailureKind::Error => calls.error > 0,
        // Rows that the search for guilty ones did not get to.
        FailureKind::Budget => calls.error > 0 && calls.failed() == calls.error,
        FailureKind::Trap | FailureKind::Deadline | FailureKind::Memory | FailureKind::BadOutput => false,
    };
    let failed_rows = if failures.is_empty() { 0 } else { failures.iter().filter(is_own).count() };
    let CallOutcomes { ok, error, trap, deadline, memory, bad_output } = calls;
    let small = |rows: usize| u32::try_from(rows).unwrap_or(u32::MAX);
    Outcome { ok, error, trap, deadline, memory, bad_output, rows: small(rows), failed_rows: small(failed_rows), busy }
}

/// There is no instance to ask: as if a call had trapped.
fn cannot_start(rows: usize) -> Outcome {
    Outcome { trap: 1, rows: u32::try_from(rows).unwrap_or(u32::MAX), ..Outcome::default() }
}

fn all_failed(rows: usize, message: &str) -> Vec<RowFailure> {
    (0..rows).map(|row| RowFailure { row, kind: FailureKind::Trap, message: message.to_owned() }).collect()
}

fn total(calls: CallOutcomes) -> u64 {
    u64::from(calls.ok) + failed(calls)
}

fn failed(calls: CallOutcomes) -> u64 {
    let CallOutcomes { error, trap, deadline, memory, bad_output, .. } = calls;
    [error, trap, deadline, memory, bad_output].into_iter().map(u64::from).sum()
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
