//! Opens a lane's table: its columns, the topics that fill it, and where it goes on in each partition.

use std::sync::Arc;
use std::time::Instant;

use phronis_archive::{Committer, Kind, Source, TableSpec};
use phronis_core::plugin::Added;
use phronis_core::records::TopicName;
use phronis_log::{Error as LogError, Log, Position, Result};

use super::{CATCH_UP, Failure, Lane, usize_of};
use crate::archive::READ;
use crate::archive::ask::Asked;
use crate::archive::rows::{AlertRows, EventRows, LetterRows, Rows};

/// Records before those that are read, in which the plugins of these stand: as many as a batch has at most.
const LOOK_BACK: i64 = 8192;

/// The events' part of a stream's memory; alerts and letters have the rest in equal parts.
const EVENTS_SHARE: (usize, usize) = (3, 5);

impl Lane {
    /// Opens the table, when there is something to archive and it is not open.
    pub(in crate::archive) fn open(&mut self, asked: &mut Asked<'_>) {
        if self.open.is_some() || self.owned.is_empty() || self.is_resting() {
            return;
        }
        if self.table.kind == Kind::Events {
            let lineup = self.board.lineup(&self.stream);
            self.learn(&lineup.added);
        }
        match self.try_open(asked) {
            Ok(Some(opened)) => {
                self.goes_well();
                self.committed_at = Instant::now();
                self.open = Some(opened);
            }
            Ok(None) => {}
            Err(failure) => self.failed(&failure),
        }
    }

    fn try_open(&mut self, asked: &mut Asked<'_>) -> std::result::Result<Option<(Committer, Rows)>, Failure> {
        let mut rows = self.rows();
        let identity = self.log.topic_identity(&self.table.topic)?;
        self.identity = Some(identity.clone());
        let source =
            Source { topic: self.table.topic.to_string(), identity, origin: Some(self.log.topic_identity(&self.raw)?) };
        let spec = TableSpec { name: self.table.name.clone(), schema: rows.schema(), key: rows.key(), source };
        let shared = asked.shared;
        let mut options = shared.options.write.clone();
        options.buffer_bytes = options.buffer_bytes.min(self.share(shared.options.memory / shared.streams));
        let opened = asked.wait(async {
            let archive = shared.archive().await?;
            Committer::open(&archive, spec, &options).await
        });
        let Some(committer) = opened.transpose()? else { return Ok(None) };
        if self.table.kind == Kind::Events {
            shared.known.learn(&self.stream, &committer.columns());
        }
        for (partition, owned) in &mut self.owned {
            let archived = committer.resume(*partition);
            (owned.archived, owned.reader, owned.gap) = (archived, None, None);
            let next = match archived {
                Some(next) => next,
                // Nothing of it was ever archived: all that the log has.
                None => earliest(self.log.as_ref(), &self.table.topic, *partition)?,
            };
            owned.next = Some(next);
            if let Rows::Events(rows) = &mut rows {
                look_back(self.log.as_ref(), &self.table.topic, *partition, next, rows)?;
            }
        }
        self.tell_places();
        tracing::info!(stream = %self.stream, table = %self.table.name, "the table is open");
        Ok(Some((committer, rows)))
    }

    fn share(&self, memory: usize) -> usize {
        let events = memory / EVENTS_SHARE.1 * EVENTS_SHARE.0;
        if self.table.kind == Kind::Events { events } else { (memory - events) / 2 }
    }

    fn rows(&self) -> Rows {
        match self.table.kind {
            Kind::Events => Rows::Events(Box::new(EventRows::new(&self.contract, Arc::clone(&self.raw), &self.added))),
            Kind::Alerts => Rows::Alerts(AlertRows::new()),
            Kind::Letters => Rows::Letters(LetterRows::new()),
        }
    }

    /// Takes note of columns that enrichers add.
    pub(super) fn learn(&mut self, added: &[Added]) {
        for column in added {
            if !self.added.iter().any(|known| known.name == column.name) {
                self.added.push(column.clone());
            }
        }
    }
}

fn earliest(log: &dyn Log, topic: &TopicName, partition: i32) -> Result<i64> {
    let info = log.topic(topic)?;
    let found = info.partitions.get(usize_of(partition)).map(|info| info.earliest);
    found.ok_or_else(|| LogError::Invalid(format!("{topic} has no partition {partition}")))
}

/// Looks for the plugins of the next events, which stand on the first that were written with them.
fn look_back(log: &dyn Log, topic: &TopicName, partition: i32, next: i64, rows: &mut EventRows) -> Result<()> {
    let first = earliest(log, topic, partition)?;
    let from = next.saturating_sub(LOOK_BACK).max(first);
    if from >= next {
        return Ok(());
    }
    let mut reader = match log.reader(topic, partition, Position::Offset(from)) {
        // Retention went on meanwhile, or the topic ends before: there is nothing to look at.
        Err(LogError::OutOfRange { .. }) => return Ok(()),
        reader => reader?,
    };
    while reader.position() < next {
        let Some(records) = reader.next(READ, CATCH_UP)? else { return Ok(()) };
        let within = records.offsets.values().partition_point(|offset| *offset < next);
        rows.look_back(&records.slice(0, within));
        if within < records.len() {
            return Ok(());
        }
    }
    Ok(())
}
