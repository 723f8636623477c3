//! What a lane takes: records that the source brought, and those that it passed while the table could not take them.

use std::sync::Arc;
use std::time::Instant;

use metrics::counter;
use phronis_archive::Kind;
use phronis_core::code;
use phronis_core::records::{Records, RecordsBuilder};
use phronis_log::{Error as LogError, Position, Result};

use super::{CATCH_UP, Failure, Lane, Trouble};
use crate::archive::READ;
use crate::archive::ask::Asked;
use crate::clock::now_us;
use crate::lasting::BACKOFF;

impl Lane {
    /// Takes records that the source brought, as far as the table does not have them.
    pub(in crate::archive) fn take(&mut self, records: Records, asked: &mut Asked<'_>) {
        let (Some(end), takes) = (records.next_offset(), self.takes()) else { return };
        let partition = records.partition;
        let Some(owned) = self.owned.get_mut(&partition) else { return };
        let before = std::mem::replace(&mut owned.polled, end);
        let is_next = owned.gap.is_none() && owned.next.is_some_and(|next| next >= before && next < end);
        if takes && is_next {
            self.append(records, end, asked);
        }
    }

    /// Reads some of what the source has passed and the table has not.
    pub(in crate::archive) fn catch_up(&mut self, asked: &mut Asked<'_>) -> Result<()> {
        if !self.takes() {
            return Ok(());
        }
        let behind: Vec<i32> =
            self.owned.iter().filter(|(_, owned)| owned.is_behind()).map(|(partition, _)| *partition).collect();
        for partition in behind {
            match self.read_on(partition) {
                Ok(Some((records, end))) => self.append(records, end, asked),
                Ok(None) => {}
                Err(LogError::OutOfRange { earliest, .. }) => self.missed(partition, earliest, asked),
                Err(error) => return Err(error),
            }
            if !self.takes() {
                break;
            }
        }
        Ok(())
    }

    /// The next records of a partition from the log itself, and how far they reach.
    fn read_on(&mut self, partition: i32) -> Result<Option<(Records, i64)>> {
        let Some(owned) = self.owned.get_mut(&partition) else { return Ok(None) };
        let Some(next) = owned.next else { return Ok(None) };
        let reader = match &mut owned.reader {
            Some(reader) => reader,
            None => owned.reader.insert(self.log.reader(&self.table.topic, partition, Position::Offset(next))?),
        };
        let Some(records) = reader.next(READ, CATCH_UP)? else {
            self.log.health()?;
            // These offsets are none of records, but markers of transactions, or what compaction took.
            let Some(end) = owned.nothing_until() else { return Ok(None) };
            let body = RecordsBuilder::default().finish();
            let nothing =
                Records { topic: Arc::clone(&self.table.topic), partition, offsets: Vec::<i64>::new().into(), body };
            return Ok(Some((nothing, end)));
        };
        let within = records.offsets.values().partition_point(|offset| *offset < owned.polled);
        let end = if within < records.len() { owned.polled } else { records.next_offset().unwrap_or(next) };
        Ok(Some((records.slice(0, within), end)))
    }

    /// Appends records that reach up to `end`; those that the table has are left out.
    fn append(&mut self, records: Records, end: i64, asked: &mut Asked<'_>) {
        let partition = records.partition;
        let Some(from) = self.owned.get(&partition).and_then(|owned| owned.next) else { return };
        let known = records.offsets.values().partition_point(|offset| *offset < from);
        let records = records.slice(known, records.len() - known);
        if self.table.kind == Kind::Events && !self.widen(&records, asked) {
            return;
        }
        let Some((committer, rows)) = &mut self.open else { return };
        let made = match rows.make(records, now_us()) {
            Ok(made) => made,
            Err(error) => {
                return self.failed(&Failure { code: code::INTERNAL, detail: error.to_string(), is_final: false });
            }
        };
        let count = made.rows.num_rows();
        let outcome = asked.wait(committer.append(partition, from, end, made.rows));
        match outcome {
            Some(Ok(())) => {}
            Some(Err(error)) => return self.failed(&error.into()),
            None => return,
        }
        let labels = self.labels();
        counter!("phronis_archive_records_total", &labels).increment(count as u64);
        for (what, records) in [("foreign", made.foreign), ("undecoded", made.undecoded)] {
            if records > 0 {
                tracing::warn!(
                    stream = %self.stream, topic = %self.table.topic, partition, records,
                    "records that are {what} are archived as they are: somebody else wrote them, or the contract changed its types"
                );
                let labels = [
                    ("stream", self.stream.to_string()),
                    ("table", self.table.kind.to_string()),
                    ("why", what.to_owned()),
                ];
                counter!("phronis_archive_odd_records_total", &labels).increment(records);
            }
        }
        if let Some(owned) = self.owned.get_mut(&partition) {
            owned.next = Some(end);
            if !owned.is_behind() {
                owned.reader = None;
            }
        }
    }

    /// Makes the table wider, when records have columns that it has not. False when it is closed thereafter.
    fn widen(&mut self, records: &Records, asked: &mut Asked<'_>) -> bool {
        let Some((_, rows)) = &self.open else { return false };
        let unknown = rows.unknown(records);
        if unknown.is_empty() {
            return true;
        }
        let names: Vec<&str> = unknown.iter().map(|column| column.name.as_str()).collect();
        tracing::info!(stream = %self.stream, table = %self.table.name, columns = names.join(", "), "the table gets columns");
        self.learn(&unknown);
        self.commit(asked);
        self.close();
        false
    }

    /// What the table wants next is not in the log any more.
    fn missed(&mut self, partition: i32, earliest: i64, asked: &mut Asked<'_>) {
        let labels = self.labels();
        let Some(owned) = self.owned.get_mut(&partition) else { return };
        owned.reader = None;
        let from = owned.next.unwrap_or_default();
        tracing::error!(
            stream = %self.stream, table = %self.table.name, partition, from, earliest, code = %code::ARCHIVE_GAP,
            "the log deleted records that were not archived"
        );
        counter!("phronis_archive_gap_records_total", &labels)
            .increment(u64::try_from(earliest.saturating_sub(from)).unwrap_or(0));
        if !asked.shared.options.skips_gaps {
            owned.gap = Some(earliest);
            let detail = format!(
                "records {from} to {earliest} of {}/{partition} were deleted before they were archived; \
                 `[archive] on_gap = \"skip\"` goes on without them",
                self.table.topic
            );
            self.note(Some((code::ARCHIVE_GAP, detail.clone())));
            let (until, pause) = (Instant::now(), BACKOFF.0);
            self.trouble = Some(Trouble { detail, until, pause, is_gap: true });
            return;
        }
        let Some((committer, rows)) = &mut self.open else { return };
        let nothing = arrow_array::RecordBatch::new_empty(rows.schema());
        match asked.wait(committer.append(partition, from, earliest, nothing)) {
            Some(Ok(())) => owned.next = Some(earliest),
            Some(Err(error)) => self.failed(&error.into()),
            None => {}
        }
    }
}
