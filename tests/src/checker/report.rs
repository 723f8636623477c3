//! What the checker found, in numbers and in words.

use std::collections::BTreeMap;
use std::fmt;

use super::Alert;

/// Violations that are told one by one; the rest are only counted.
const TOLD: usize = 20;

/// What the checker found.
#[derive(Debug, Default)]
pub struct Report {
    /// Records in raw.
    pub received: u64,
    /// Events in processed.
    pub delivered: u64,
    /// Letters of the gate.
    pub gate_letters: u64,
    /// Letters of enrichers.
    pub enrich_letters: u64,
    /// Letters of events that were too large for their topic.
    pub deliver_letters: u64,
    /// Letters of events whose agent was halted.
    pub halt_letters: u64,
    /// Letters of events that wait behind an earlier one of their key.
    pub order_letters: u64,
    /// Events that a rule dropped.
    pub dropped: u64,
    /// What each detector did.
    pub detectors: BTreeMap<String, Detector>,
    /// Letters that came back, and whose event went through or whose detector has judged.
    pub settled: u64,
    /// Letters that are not settled, by stage and code.
    pub letters: BTreeMap<(String, String), u64>,
    /// Keys seen in processed.
    pub keys: u64,
    /// All alerts, each once, by partition and offset of their origin.
    pub alerts: Vec<Alert>,
    /// Alerts that stood in the topic more than once.
    pub repeated_alerts: u64,
    /// Events, letters and drops that came again, where they may.
    pub repeated: u64,
    /// Sum of what the judge said.
    pub verdict: Verdict,
    /// What is wrong, in words; bounded.
    pub violations: Vec<String>,
    /// How much is wrong.
    pub violation_count: u64,
}

/// What a detector did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Detector {
    /// Delivered events that it judged.
    pub judged: u64,
    /// Events that it was not shown.
    pub skipped: u64,
    /// Letters: events that it has no answer for.
    pub letters: u64,
    /// Events that passed while it had no good version.
    pub bypassed: u64,
    /// Its alerts.
    pub alerts: u64,
}

/// What was found in one event, or in all.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Alerts that had to be there and are.
    pub found: u64,
    /// Alerts that had to be there and are not.
    pub missed: u64,
    /// Alerts that must not be there.
    pub wrong: u64,
}

impl std::ops::AddAssign for Verdict {
    fn add_assign(&mut self, other: Self) {
        self.found += other.found;
        self.missed += other.missed;
        self.wrong += other.wrong;
    }
}

impl Report {
    /// Whether nothing is wrong.
    pub fn holds(&self) -> bool {
        self.violation_count == 0 && self.verdict.missed == 0 && self.verdict.wrong == 0
    }

    /// The report if nothing is wrong.
    ///
    /// # Errors
    /// All of it as text, when something is.
    pub fn must_hold(self) -> anyhow::Result<Self> {
        anyhow::ensure!(self.holds(), "the checker found violations\n{self}");
        Ok(self)
    }

    /// Letters with this code, whatever their stage.
    pub fn letters_with(&self, code: &str) -> u64 {
        self.letters.iter().filter(|((_, c), _)| c == code).map(|(_, count)| count).sum()
    }

    /// Takes note of something wrong.
    pub(super) fn wrong(&mut self, what: impl FnOnce() -> String) {
        self.violation_count += 1;
        if self.violations.len() < TOLD {
            self.violations.push(what());
        }
    }

    /// The sums, once everything is read.
    pub(super) fn balance(&mut self) {
        let letters = self.gate_letters + self.enrich_letters + self.deliver_letters;
        let letters = letters + self.halt_letters + self.order_letters;
        let sum = self.delivered + letters + self.dropped;
        if sum != self.received {
            let received = self.received;
            self.wrong(|| format!("{received} records came in and {sum} have an outcome"));
        }
        let delivered = self.delivered;
        let mut odd = Vec::new();
        for (name, detector) in &mut self.detectors {
            let unjudged = detector.skipped + detector.letters + detector.bypassed;
            match delivered.checked_sub(unjudged) {
                Some(judged) => detector.judged = judged,
                None => odd.push(format!("{name}: {unjudged} skipped, letters and bypassed of {delivered} delivered")),
            }
        }
        for line in odd {
            self.wrong(|| line);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { received, delivered, gate_letters, enrich_letters, dropped, .. } = self;
        writeln!(
            f,
            "{received} in = {delivered} delivered + {gate_letters} gate letters + {enrich_letters} enricher letters + {dropped} dropped"
        )?;
        if self.deliver_letters > 0 {
            writeln!(f, "{} more are letters, too large for their topic", self.deliver_letters)?;
        }
        if self.halt_letters + self.order_letters > 0 {
            let Self { halt_letters, order_letters, .. } = self;
            writeln!(
                f,
                "{halt_letters} more are letters of halted agents, {order_letters} wait behind an earlier event"
            )?;
        }
        for (name, detector) in &self.detectors {
            let Detector { judged, skipped, letters, bypassed, alerts } = detector;
            write!(f, "{name}: {judged} judged + {skipped} skipped + {letters} letters")?;
            if *bypassed > 0 {
                write!(f, " + {bypassed} while it had no good version")?;
            }
            writeln!(f, " = {delivered} delivered; {alerts} alerts")?;
        }
        if self.settled > 0 {
            writeln!(f, "{} letters came back and are settled", self.settled)?;
        }
        for ((stage, code), count) in &self.letters {
            writeln!(f, "letters of {stage} with {code}: {count}")?;
        }
        writeln!(
            f,
            "{} keys in order, {} alerts, {} more repeated",
            self.keys,
            self.alerts.len(),
            self.repeated_alerts
        )?;
        if self.repeated > 0 {
            writeln!(f, "{} events, letters and drops came again", self.repeated)?;
        }
        let Verdict { found, missed, wrong } = self.verdict;
        if self.verdict != Verdict::default() {
            writeln!(f, "compared event by event: {found} found, {missed} missed, {wrong} false")?;
        }
        for violation in &self.violations {
            writeln!(f, "VIOLATION: {violation}")?;
        }
        match self.violation_count {
            0 => write!(f, "no violation"),
            count => write!(f, "{count} violations"),
        }
    }
}
