//! Looks after the tables of a stream from time to time, beside what is appended to them.
//!
//! Of several hosts the one that owns the first partition does it; two at once only lose commits to each other.
//!
//! A round comes before its time when a table has clearly more snapshots than are kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use metrics::counter;
use phronis_archive::{TableName, Upkeep};

use super::ask::Shared;
use super::lane::Lane;

/// The first round comes this soon at the latest: a host that starts often would have none otherwise.
const FIRST: Duration = Duration::from_secs(60);

/// Least time from one round to one that comes before its time: where snapshots cannot go, trying again soon helps nobody.
const PAUSE: Duration = Duration::from_secs(60);

/// When tables are looked after.
pub(super) struct Schedule {
    shared: Arc<Shared>,
    next: Instant,
    begun: Instant,
    /// The newest snapshot of each table when the last round began: until there is another, the lane does not know what the round did.
    seen: Vec<Option<i64>>,
    under_way: Option<JoinHandle<()>>,
    should_stop: Arc<AtomicBool>,
}

impl Schedule {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        let every = shared.options.upkeep_every.unwrap_or(FIRST);
        Self {
            shared: Arc::clone(shared),
            next: Instant::now() + every.min(FIRST),
            begun: Instant::now(),
            seen: Vec::new(),
            under_way: None,
            should_stop: Arc::default(),
        }
    }

    /// Begins a round when it is time for one.
    pub(super) fn look(&mut self, lanes: &[Lane]) {
        let Some(every) = self.shared.options.upkeep_every else { return };
        let is_busy = self.under_way.as_ref().is_some_and(|under_way| !under_way.is_finished());
        let tables: Vec<_> = lanes.iter().map(Lane::snapshots).collect();
        let is_crowded = is_crowded(&tables, &self.seen, &self.shared.options.upkeep);
        let is_time = Instant::now() >= self.next || is_crowded && self.begun.elapsed() >= PAUSE;
        if is_busy || !is_time || !lanes.first().is_some_and(|lane| lane.owns(0)) {
            return;
        }
        (self.begun, self.next) = (Instant::now(), Instant::now() + every);
        self.seen = tables.into_iter().map(|table| table.and_then(|(_, newest)| newest)).collect();
        let tables: Vec<TableName> = lanes.iter().map(|lane| lane.table.name.clone()).collect();
        let (shared, should_stop) = (Arc::clone(&self.shared), Arc::clone(&self.should_stop));
        let round = move || {
            let all = async {
                for table in tables {
                    look_after(&shared, &table).await;
                }
            };
            shared.block_on(all, &should_stop);
        };
        match std::thread::Builder::new().name("archive-upkeep".to_owned()).spawn(round) {
            Ok(under_way) => self.under_way = Some(under_way),
            Err(error) => tracing::warn!(%error, "tables are not looked after"),
        }
    }
}

/// Whether a table has clearly more snapshots than should be kept. Known are the number of each table's snapshots and the newest,
/// and which was the newest when the last round began.
fn is_crowded(tables: &[Option<(usize, Option<i64>)>], seen: &[Option<i64>], upkeep: &Upkeep) -> bool {
    tables.iter().enumerate().any(|(index, table)| {
        let is_news = |newest| seen.get(index).is_none_or(|seen| *seen != newest);
        table.is_some_and(|(count, newest)| upkeep.is_due(count) && is_news(newest))
    })
}

impl Drop for Schedule {
    fn drop(&mut self) {
        // Ends soon: the branch ends because the host does, or begins anew.
        self.should_stop.store(true, Ordering::Relaxed);
        if let Some(Err(_)) = self.under_way.take().map(JoinHandle::join) {
            tracing::error!("the thread that looks after tables panicked");
        }
    }
}

/// One round of one table. What could not be done is found again by the next.
async fn look_after(shared: &Shared, table: &TableName) {
    let name = table.to_string();
    let labels = [("stream", table.stream_id().to_string()), ("table", table.kind.to_string())];
    let outcome = async { shared.archive().await?.maintain(&name, &shared.options.upkeep).await }.await;
    match outcome {
        Ok(report) => {
            counter!("phronis_archive_upkeep_rounds_total", &labels).increment(1);
            counter!("phronis_archive_compacted_files_total", &labels).increment(report.compacted as u64);
            counter!("phronis_archive_expired_snapshots_total", &labels).increment(report.expired as u64);
            counter!("phronis_archive_deleted_files_total", &labels)
                .increment((report.deleted + report.orphans) as u64);
            if report.compacted + report.expired + report.deleted + report.orphans + report.merged > 0 {
                tracing::info!(
                    table = name,
                    compacted = report.compacted,
                    merged = report.merged,
                    expired = report.expired,
                    deleted = report.deleted,
                    orphans = report.orphans,
                    "looked after a table"
                );
            }
        }
        Err(error) => {
            counter!("phronis_archive_upkeep_failures_total", &labels).increment(1);
            tracing::warn!(table = name, %error, code = %error.code(), "a table could not be looked after");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_comes_early_when_there_are_many_snapshots_that_the_last_one_has_not_seen() {
        let check = |tables: &[Option<(usize, Option<i64>)>], seen: &[Option<i64>], expected| {
            assert_eq!(is_crowded(tables, seen, &Upkeep::default()), expected, "{tables:?} {seen:?}");
        };
        check(&[Some((499, Some(1))), None], &[], false);
        check(&[Some((3, Some(1))), Some((500, Some(2)))], &[], true);
        check(&[Some((3, Some(1))), Some((500, Some(2)))], &[Some(1), Some(2)], false);
        check(&[Some((3, Some(1))), Some((700, Some(9)))], &[Some(1), Some(2)], true);
        check(&[], &[], false);
    }
}
