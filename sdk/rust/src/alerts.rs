//! What a detector says: findings, raised row by row.

use std::fmt::Display;

use crate::bindings::phronis::plugin::types::{Batch, Finding, Judgement, RowFailure, Severity};
use crate::event::Event;

/// Collects the findings of a batch; a finding belongs to the row that is being judged.
#[derive(Debug, Default)]
pub struct Alerts {
    row: u32,
    findings: Vec<Finding>,
}

/// A finding that was just raised, to be refined.
#[derive(Debug)]
pub struct Alert<'a>(&'a mut Finding);

impl Alerts {
    /// Raises a finding that is worth knowing. `rule` is `[a-z0-9-]{1,63}`, once a row.
    pub fn info(&mut self, rule: impl Into<String>, message: impl Into<String>) -> Alert<'_> {
        self.raise(Severity::Info, rule, message)
    }

    /// Raises a finding that someone should look at. `rule` is `[a-z0-9-]{1,63}`, once a row.
    pub fn warning(&mut self, rule: impl Into<String>, message: impl Into<String>) -> Alert<'_> {
        self.raise(Severity::Warning, rule, message)
    }

    /// Raises a finding that someone must act on. `rule` is `[a-z0-9-]{1,63}`, once a row.
    pub fn critical(&mut self, rule: impl Into<String>, message: impl Into<String>) -> Alert<'_> {
        self.raise(Severity::Critical, rule, message)
    }

    /// Raises a finding. `rule` is `[a-z0-9-]{1,63}`, once a row.
    pub fn raise(&mut self, severity: Severity, rule: impl Into<String>, message: impl Into<String>) -> Alert<'_> {
        let finding = Finding {
            row: self.row,
            rule: rule.into(),
            severity,
            message: message.into(),
            attributes: Vec::new(),
            halt: false,
        };
        Alert(self.findings.push_mut(finding))
    }
}

impl Alert<'_> {
    /// Adds a fact.
    pub fn attribute(self, name: impl Into<String>, value: impl Display) -> Self {
        self.0.attributes.push((name.into(), value.to_string()));
        self
    }

    /// Asks the host to halt the event's agent. Only heeded where the host's configuration allows it.
    pub fn halt(self) -> Self {
        self.halt_if(true)
    }

    /// Asks the host to halt the event's agent if `wanted`.
    pub fn halt_if(self, wanted: bool) -> Self {
        self.0.halt |= wanted;
        self
    }
}

/// What a detector's function may return.
#[diagnostic::on_unimplemented(
    message = "a detector cannot return `{Self}`",
    note = "it returns nothing, or `Result<(), String>` where an error is a row that it cannot judge"
)]
#[doc(hidden)]
pub trait IntoVerdict {
    fn into_verdict(self) -> Result<(), String>;
}

impl IntoVerdict for () {
    #[inline]
    fn into_verdict(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: Display> IntoVerdict for Result<(), E> {
    #[inline]
    fn into_verdict(self) -> Result<(), String> {
        self.map_err(|error| error.to_string())
    }
}

#[doc(hidden)]
#[inline]
pub fn detect_rows<'a, E: Event<'a>, V: IntoVerdict>(
    batch: &'a Batch,
    mut judge: impl FnMut(E, &mut Alerts) -> V,
) -> Result<Judgement, String> {
    let columns = E::columns(batch)?;
    let mut alerts = Alerts::default();
    let mut failures = Vec::new();
    for row in 0..batch.rows {
        let Some(event) = E::row(&columns, row as usize) else { continue };
        let before = alerts.findings.len();
        alerts.row = row;
        if let Err(message) = judge(event, &mut alerts).into_verdict() {
            // A row is either judged or it is not: what was said before the failure is taken back.
            alerts.findings.truncate(before);
            failures.push(RowFailure { row, message });
        }
    }
    Ok(Judgement { findings: alerts.findings, failures })
}
