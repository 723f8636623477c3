//! Looks after the tables of a stream from time to time, beside what is appended to them.
//!
//! Of several hosts the one that owns the first partition does it; two at once only lose commits to each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use metrics::counter;
use phronis_archive::TableName;

use super::ask::Shared;
use super::lane::Lane;

/// The first round comes this soon at the latest: a host that starts often would have none otherwise.
const FIRST: Duration = Duration::from_secs(60);

/// When tables are looked after.
pub(super) struct Schedule {
    shared: Arc<Shared>,
    next: Instant,
    under_way: Option<JoinHandle<()>>,
    should_stop: Arc<AtomicBool>,
}

impl Schedule {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        let every = shared.options.upkeep_every.unwrap_or(FIRST);
        Self {
            shared: Arc::clone(shared),
            next: Instant::now() + every.min(FIRST),
            under_way: None,
            should_stop: Arc::default(),
        }
    }

    /// Begins a round when it is time for one.
    pub(super) fn look(&mut self, lanes: &[Lane]) {
        let Some(every) = self.shared.options.upkeep_every else { return };
        let is_busy = self.under_way.as_ref().is_some_and(|under_way| !under_way.is_finished());
        if is_busy || Instant::now() < self.next || !lanes.first().is_some_and(|lane| lane.owns(0)) {
            return;
        }
        self.next = Instant::now() + every;
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
