//! Enrichers, one after the other: each adds its columns, drops rows by its rule, or has no answer for a row.

use std::sync::Arc;

use arrow_array::{ArrayRef, new_null_array};
use phronis_core::letter::Stage;
use phronis_core::plugin::{Batch, Enrichment};

use super::select::select;
use super::{Judged, Leaving, Stopped, Waiting};
use crate::breakers::WhenOpen;
use crate::crew::Member;

/// Leaves an enricher out whose columns nobody reads this time: they are there, and null.
pub(crate) fn pass_by(judged: &mut Judged, member: &Member) {
    let events = judged.checked.events.len();
    for added in member.placed.version.adds.iter() {
        judged.added.push(new_null_array(&added.of_type.arrow(), events));
    }
}

/// Runs one enricher over the batch.
///
/// A range letter holds no key back, so in an ordered stream events wait in raw while the breaker is open.
pub(crate) fn enrich(judged: &mut Judged, member: &mut Member, is_ordered: bool) -> Result<(), Stopped> {
    let events = judged.checked.events.len();
    let placed = member.placed.clone();
    let version = &placed.version;
    let selection = select(judged, &version.fields, &placed.columns)?;
    let batch = Batch {
        partition: judged.checked.records.partition,
        watermark: judged.watermark,
        rows: selection.rows,
        columns: &selection.columns,
    };
    let mut answered = selection.rows;
    let enrichment = match member.enrich(&batch, &version.adds) {
        Ok(enrichment) => enrichment,
        Err(WhenOpen::Hold) => return Err(Stopped::Held),
        Err(WhenOpen::Letter) if is_ordered => return Err(Stopped::Held),
        Err(WhenOpen::Bypass) => {
            judged.bypassed.extend(selection.events().map(|event| (event, Arc::clone(version))));
            answered = 0;
            Enrichment::default()
        }
        Err(WhenOpen::Letter) => {
            let events: Vec<u32> = selection.events().collect();
            judged.leaving.extend(events.iter().map(|event| (*event, Leaving::Waits)));
            judged.ranges.push(Waiting { plugin: Arc::clone(version), stage: Stage::Enrich, events });
            answered = 0;
            Enrichment::default()
        }
    };
    for (index, added) in version.adds.iter().enumerate() {
        let column: ArrayRef = match enrichment.columns.get(index) {
            Some(column) => selection.spread(column, events)?,
            None => new_null_array(&added.of_type.arrow(), events),
        };
        judged.added.push(column);
    }
    for drop in enrichment.drops {
        let by = version.id.name.as_str().into();
        judged.leaving.insert(selection.event(drop.row), Leaving::Dropped { by, reason: drop.reason });
    }
    let failures = enrichment.failures.len();
    for failure in enrichment.failures {
        let plugin = Arc::clone(version);
        judged.leaving.insert(selection.event(failure.row), Leaving::Failed { plugin, failure });
    }
    member.count(answered.saturating_sub(failures), selection.skipped.len());
    Ok(())
}
