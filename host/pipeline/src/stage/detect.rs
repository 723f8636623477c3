//! Detectors, independent of each other: what one says or fails at is nothing to the others.

use std::sync::Arc;

use phronis_core::letter::Stage;
use phronis_core::plugin::Batch;

use super::select::select;
use super::{Debt, Found, Judged, Stopped, Waiting};
use crate::breakers::WhenOpen;
use crate::crew::Member;

/// Runs one detector over the batch.
pub(crate) fn detect(judged: &mut Judged, member: &mut Member) -> Result<(), Stopped> {
    let placed = member.placed.clone();
    let version = &placed.version;
    let selection = select(judged, &version.fields, &placed.columns)?;
    let batch = Batch {
        partition: judged.checked.records.partition,
        watermark: judged.watermark,
        rows: selection.rows,
        columns: &selection.columns,
    };
    let asked = member.detect(&batch);
    judged.skipped.extend(selection.skipped.iter().map(|event| (*event, Arc::clone(version))));
    let judgement = match asked {
        Ok(judgement) => judgement,
        Err(WhenOpen::Hold) => return Err(Stopped::Held),
        Err(WhenOpen::Bypass) => {
            judged.bypassed.extend(selection.events().map(|event| (event, Arc::clone(version))));
            member.count(0, selection.skipped.len());
            return Ok(());
        }
        Err(WhenOpen::Letter) => {
            let events = selection.events().collect();
            judged.ranges.push(Waiting { plugin: Arc::clone(version), stage: Stage::Detect, events });
            member.count(0, selection.skipped.len());
            return Ok(());
        }
    };
    for finding in judgement.findings {
        judged.found.push(Found { event: selection.event(finding.row), by: placed.clone(), finding });
    }
    let failures = judgement.failures.len();
    for failure in judgement.failures {
        judged.debts.push(Debt { event: selection.event(failure.row), plugin: Arc::clone(version), failure });
    }
    member.count(selection.rows.saturating_sub(failures), selection.skipped.len());
    Ok(())
}
