//! Letters with what became of them: attempt follows attempt, until a settlement ends the chain.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::{Record, Report};

/// A record that a letter is about, and whose letter it is: partition, offset, stage, plugin.
pub(super) type Owner = (i32, i64, String, String);

/// A letter, from its first attempt to its last.
#[derive(Debug)]
pub(super) struct Chain {
    /// Of the first attempt.
    pub(super) owner: Owner,
    /// Offsets of raw, of a range letter as of its last attempt; of any other letter its only one.
    pub(super) offsets: Vec<i64>,
    pub(super) is_range: bool,
    /// The last attempt.
    pub(super) stage: String,
    pub(super) code: String,
    pub(super) plugin: String,
    pub(super) message: String,
    pub(super) value: Vec<u8>,
    /// How it ended, if it did.
    pub(super) settled: Option<String>,
}

impl Chain {
    /// Whether its event went through after all, or its detector has judged.
    pub(super) fn is_over(&self) -> bool {
        self.settled.as_deref().is_some_and(|outcome| outcome != "discarded")
    }

    pub(super) fn is_debt(&self) -> bool {
        self.owner.2 == "detect"
    }
}

/// All letters of a stream.
#[derive(Debug, Default)]
pub(super) struct Chains {
    /// In the order of their first attempts.
    pub(super) all: Vec<Chain>,
    ids: HashMap<String, usize>,
    /// Where an attempt stands in dlq → its chain.
    places: HashMap<(i32, i64), usize>,
    /// Every event that a detector owed a judgement at some time: partition, offset, detector.
    pub(super) debts: BTreeSet<(i32, i64, String)>,
}

impl Chains {
    /// Takes the next record of dlq.
    pub(super) fn add(&mut self, record: &Record<'_>, may_repeat: bool, report: &mut Report) {
        let place = format!("letter {}/{}", record.partition, record.offset);
        if !record.text("phronis-discard").is_empty() {
            return;
        }
        let id = record.text("phronis-id");
        let previous = record.number("phronis-previous");
        let chain = previous.and_then(|previous| self.places.get(&(record.partition, previous)).copied());
        if previous.is_some() && chain.is_none() {
            return report.wrong(|| format!("{place} follows a letter that is not there"));
        }
        let settled = record.text("phronis-settled");
        if !settled.is_empty() {
            return self.settle(chain, &id, settled, may_repeat, &place, report);
        }
        let is_range = !record.text("phronis-range").is_empty();
        let stage = record.text("phronis-stage");
        let origin = (record.number("phronis-origin-partition"), record.number("phronis-origin-offset"));
        let (Some(partition), Some(offset)) = (origin.0.and_then(|p| i32::try_from(p).ok()), origin.1) else {
            *report.letters.entry((stage, record.text("phronis-code"))).or_default() += 1;
            return report.wrong(|| format!("{place} has no origin"));
        };
        let offsets = if is_range { range(record.value) } else { vec![offset] };
        let owner = (partition, offset, stage.clone(), record.text("phronis-plugin"));
        let found = self.ids.get(&id).copied();
        let is_known = found.and_then(|at| self.all.get(at)).is_some_and(|known| match chain {
            // Later attempts may fail at another step; the record is the same.
            Some(_) => (known.owner.0, known.owner.1) == (partition, offset),
            None => may_repeat && known.owner == owner,
        });
        if found.is_some() && !is_known {
            report.wrong(|| format!("{place} has the id of another letter"));
        }
        if chain.is_some() && chain != found && !is_range {
            report.wrong(|| format!("{place} follows a letter with another id"));
        }
        report.repeated += u64::from(chain.is_none() && is_known);
        let at = found.filter(|_| is_known).unwrap_or(self.all.len());
        if at == self.all.len() {
            self.ids.insert(id, at);
            let (code, plugin, message) = (String::new(), String::new(), String::new());
            let settled = None;
            self.all.push(Chain {
                owner,
                offsets: Vec::new(),
                is_range,
                stage: String::new(),
                code,
                plugin,
                message,
                value: Vec::new(),
                settled,
            });
        }
        self.places.insert((record.partition, record.offset), at);
        let Some(chain) = self.all.get_mut(at) else { return };
        if chain.is_debt() {
            self.debts.extend(offsets.iter().map(|offset| (partition, *offset, chain.owner.3.clone())));
        }
        chain.offsets = offsets;
        chain.stage = stage;
        chain.code = record.text("phronis-code");
        chain.plugin = record.text("phronis-plugin");
        chain.message = record.text("phronis-message");
        chain.value = record.value.unwrap_or_default().to_vec();
    }

    fn settle(
        &mut self,
        chain: Option<usize>,
        id: &str,
        outcome: String,
        may_repeat: bool,
        place: &str,
        report: &mut Report,
    ) {
        let by_id = self.ids.get(id).copied();
        let Some(chain) = chain.filter(|chain| Some(*chain) == by_id).and_then(|at| self.all.get_mut(at)) else {
            return report.wrong(|| format!("{place} settles a letter that is not there"));
        };
        if let Some(before) = &chain.settled {
            if may_repeat && *before == outcome {
                report.repeated += 1;
            } else {
                report.wrong(|| format!("{place} settles as {outcome} what is {before}"));
            }
        }
        chain.settled = Some(outcome);
    }
}

/// The offsets of a range letter.
fn range(value: Option<&[u8]>) -> Vec<i64> {
    let json: Value = value.and_then(|value| serde_json::from_slice(value).ok()).unwrap_or_default();
    let runs = json.get("offsets").and_then(Value::as_array).cloned().unwrap_or_default();
    let bound = |run: &Value, at: usize| run.get(at).and_then(Value::as_i64).unwrap_or_default();
    runs.iter().flat_map(|run| bound(run, 0)..bound(run, 1)).collect()
}
