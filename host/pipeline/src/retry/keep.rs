//! The index and the jobs of a stream in the store: a copy that saves reading dlq from its beginning, and nothing more.
//!
//! Written at most once a second, a partition a transaction, and only from where the store stands: an owner of yesterday
//! changes nothing. While the store is away the branch goes on in memory; what changed meanwhile is written when it is back.

use std::collections::BTreeMap;

use phronis_core::StreamId;
use phronis_core::letter::index::{Partition, Positions};
use phronis_store::letters::Applied;
use phronis_store::{Error, Store, redrives};
use serde::{Deserialize, Serialize};

use super::jobs::{Action, Job, JobState, Progress, Selection};
use super::letters::Letters;

/// Jobs that are shown.
const SHOWN: u32 = 100;

/// The store of a stream's letters.
#[derive(Debug)]
pub(super) struct Keeper {
    store: Store,
    stream: StreamId,
    /// Where the store stands, by partition; none: it knows nothing of it.
    stands: BTreeMap<i32, Option<Positions>>,
}

impl Keeper {
    pub(super) fn new(store: Store, stream: StreamId) -> Self {
        Self { store, stream, stands: BTreeMap::new() }
    }

    /// The index of a partition as it was stored; empty where the store does not know, or cannot be asked.
    pub(super) fn load(&mut self, partition: i32) -> Partition {
        self.stands.remove(&partition);
        match self.store.wait(self.store.letters(&self.stream, partition)) {
            Ok(None) => {
                self.stands.insert(partition, None);
            }
            Ok(Some(rows)) => {
                let positions = rows.positions;
                if let Some(index) = Partition::restore(rows) {
                    self.stands.insert(partition, Some(positions));
                    return index;
                }
                tracing::warn!(stream = %self.stream, partition, "the stored index of letters is damaged and made anew from the log");
            }
            Err(error) => {
                tracing::warn!(stream = %self.stream, partition, %error, "the index of letters is made anew from the log");
            }
        }
        Partition::default()
    }

    /// Stores what changed in a partition. The index is looked at for moments only.
    pub(super) fn save(&mut self, partition: i32, letters: &Letters) {
        let known = self.stands.get(&partition).copied();
        if known.is_none()
            && let Err(error) = self.store.wait(self.store.forget_letters(&self.stream, partition))
        {
            tracing::debug!(stream = %self.stream, partition, %error, "the index of letters is not stored");
            return;
        }
        let from = known.flatten();
        let written = from.unwrap_or(Positions { dlq: -1, retry: -1 });
        let changes = letters.change(partition, |index| {
            if known.is_none() {
                index.touch_all();
            }
            index.is_changed(written).then(|| index.take_changes())
        });
        let Some(Some(changes)) = changes else { return };
        match self.store.wait(self.store.apply_letters(&self.stream, partition, from, &changes)) {
            Ok(Applied::Stored) => {
                self.stands.insert(partition, Some(changes.positions));
                return;
            }
            // The store was emptied, another host wrote, or an answer was lost: it gets everything anew.
            Ok(Applied::Fenced) => {
                tracing::info!(stream = %self.stream, partition, "the store stands elsewhere: the index of letters is stored anew");
                self.stands.remove(&partition);
            }
            Err(error) => {
                tracing::debug!(stream = %self.stream, partition, %error, "the index of letters is not stored")
            }
        }
        letters.change(partition, |index| index.give_back(&changes));
    }
}

/// What a job is about, as it stands in the store.
#[derive(Serialize, Deserialize)]
struct Request {
    action: Action,
    selection: Selection,
    total: u64,
}

/// A job as the store keeps it.
pub(crate) fn row_of(job: &Job) -> redrives::Redrive {
    let request = Request { action: job.action, selection: job.selection.clone(), total: job.total };
    redrives::Redrive {
        id: job.id.clone(),
        stream: job.stream.clone(),
        // Enumerations, texts and numbers are always JSON.
        request: serde_json::to_value(request).unwrap_or_default(),
        rate: u64::from(job.rate),
        actor: job.actor.clone(),
        reason: job.reason.clone(),
        state: match job.state {
            JobState::Running => redrives::State::Running,
            JobState::Done => redrives::State::Done,
            JobState::Cancelled => redrives::State::Cancelled,
        },
        detail: job.detail.clone(),
        created_at: job.created_at,
        ended_at: job.ended_at,
        progress: job.progress.iter().map(|(partition, progress)| progress_row(*partition, *progress)).collect(),
    }
}

fn progress_row(partition: i32, progress: Progress) -> redrives::Progress {
    let Progress { next, until, moved, skipped } = progress;
    redrives::Progress { partition, next, until, moved, skipped }
}

/// A job from the store; none when a newer version wrote it.
pub(crate) fn job_of(row: redrives::Redrive) -> Option<Job> {
    let Request { action, selection, total } = serde_json::from_value(row.request).ok()?;
    let progress = |row: redrives::Progress| {
        let redrives::Progress { partition, next, until, moved, skipped } = row;
        (partition, Progress { next, until, moved, skipped })
    };
    Some(Job {
        id: row.id,
        stream: row.stream,
        action,
        selection,
        rate: u32::try_from(row.rate).unwrap_or(u32::MAX),
        actor: row.actor,
        reason: row.reason,
        state: match row.state {
            redrives::State::Running => JobState::Running,
            redrives::State::Done => JobState::Done,
            redrives::State::Cancelled | redrives::State::Failed => JobState::Cancelled,
        },
        detail: row.detail,
        total,
        created_at: row.created_at,
        ended_at: row.ended_at,
        progress: row.progress.into_iter().map(progress).collect(),
    })
}

/// All jobs of a stream that the store remembers, the newest first.
pub(crate) fn jobs(store: &Store, stream: &StreamId) -> Result<Vec<Job>, Error> {
    let page = store.wait(store.redrives(stream, SHOWN, None))?;
    Ok(page.items.into_iter().filter_map(job_of).collect())
}

/// Notes how far a job is in the partitions of this host, and learns how it stands elsewhere, or how it ended;
/// none when the store knows nothing of it.
pub(super) fn note(store: &Store, job: &Job, owned: &[i32]) -> Result<Option<Job>, Error> {
    for (partition, progress) in job.progress.iter().filter(|(partition, _)| owned.contains(partition)) {
        // One that is over there takes no notes.
        if !store.wait(store.note_redrive(&job.id, progress_row(*partition, *progress)))? {
            break;
        }
    }
    Ok(store.wait(store.redrive(&job.id))?.and_then(job_of))
}
