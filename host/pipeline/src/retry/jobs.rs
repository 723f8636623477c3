//! Redrives and discards of many letters: one at a time a stream, at a rate, resumable, and over when every partition is.
//!
//! A job takes letters that stood in dlq when it began there, so that one that fails again is not taken twice.

use std::collections::{BTreeMap, BTreeSet};

use phronis_core::delivery::{Append, Delivery, Receipt};
use phronis_core::letter::DISCARD;
use phronis_core::letter::index::{Discard, Filter, State};
use phronis_core::records::{HeadersBuilder, RecordsBuilder};
use phronis_core::{PluginId, StreamId, Time};
use phronis_log::{Error, Log, Result};
use phronis_store::redrives;
use serde::{Deserialize, Serialize};

use super::keep::{job_of, note};
use super::{Branch, Pace, entry, read_letters};
use crate::clock::{now_ms, now_us};
use crate::failpoint;
use crate::whole::settled;

/// Letters that are looked at in one step, whatever the rate.
const STEP: usize = 1_000;

/// After so many microseconds, what stood in dlq when a job began is folded.
const SETTLED: i64 = 10_000_000;

/// Jobs that are remembered.
const REMEMBERED: usize = 100;

/// Letters that a job may name one by one.
pub const MOST_PLACES: usize = 10_000;

/// Which letters a job is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// These, by partition and offset in dlq.
    Places(BTreeSet<(i32, i64)>),
    /// All outstanding ones that fulfil this.
    Filter(Filter),
}

/// What a job does with its letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Tries them again.
    Redrive,
    /// Gives them up.
    Discard,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It goes on, also after a restart.
    Running,
    /// All its letters were moved.
    Done,
    /// A person stopped it; what was moved stays moved.
    Cancelled,
}

/// How far a job is in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// The next offset to look at.
    pub next: i64,
    /// Where it ends.
    pub until: i64,
    /// Letters of it that were moved.
    pub moved: u64,
    /// Letters that turned out not to be meant, or that were gone.
    pub skipped: u64,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// What it is called.
    pub id: String,
    /// The stream.
    pub stream: StreamId,
    /// What it does.
    pub action: Action,
    /// With which letters.
    pub selection: Selection,
    /// At most so many a second.
    pub rate: u32,
    /// Who asked for it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// How far it is.
    pub state: JobState,
    /// Why it does not get on, when it does not.
    pub detail: Option<String>,
    /// Letters that it was about when it began; those that a filter of times leaves out are counted.
    pub total: u64,
    /// When it was asked for.
    pub created_at: Time,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// By partition.
    pub progress: BTreeMap<i32, Progress>,
}

impl Job {
    /// Letters that were moved or discarded.
    pub fn moved(&self) -> u64 {
        self.progress.values().map(|progress| progress.moved).sum()
    }

    /// Letters that turned out not to be meant, or that were gone.
    pub fn skipped(&self) -> u64 {
        self.progress.values().map(|progress| progress.skipped).sum()
    }

    /// Rises when it ends; how far it is does not count.
    pub fn version(&self) -> u64 {
        if self.state == JobState::Running { 1 } else { 2 }
    }

    /// Takes over what is known of it elsewhere: how far others are, and whether it is over.
    pub(crate) fn catch_up(&mut self, elsewhere: Self) {
        for (partition, progress) in elsewhere.progress {
            let own = self.progress.entry(partition).or_insert(progress);
            if progress.next > own.next {
                *own = progress;
            }
        }
        if elsewhere.state != JobState::Running {
            (self.state, self.detail, self.ended_at) = (elsewhere.state, elsewhere.detail, elsewhere.ended_at);
        }
    }

    /// Stops it, if it runs.
    pub(crate) fn cancel(&mut self) {
        if self.state == JobState::Running {
            self.end(JobState::Cancelled);
        }
    }

    /// Letters a second that are the share of these partitions: as many hosts as work on a job keep its rate together.
    fn share(&self, owned: impl Iterator<Item = i32>) -> u32 {
        let is_unfinished = |progress: &Progress| progress.next < progress.until;
        let all = self.progress.values().filter(|progress| is_unfinished(progress)).count().max(1);
        let own = owned.filter(|partition| self.progress.get(partition).is_some_and(is_unfinished)).count().min(all);
        let share = u64::from(self.rate) * own as u64 / all as u64;
        u32::try_from(share).unwrap_or(u32::MAX).max(1)
    }

    fn end(&mut self, state: JobState) {
        self.state = state;
        self.detail = None;
        self.ended_at = Some(Time(now_us()));
    }
}

/// The jobs of a stream, the newest last.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Vec<Job>);

impl Jobs {
    /// Takes a job on that the store has begun: what is thought to run here ended there.
    pub(crate) fn begin(&mut self, job: Job) {
        self.0
            .iter_mut()
            .filter(|known| known.state == JobState::Running)
            .for_each(|known| known.end(JobState::Cancelled));
        self.0.push(job);
        self.forget();
    }

    /// Takes a job on where no store knows better.
    ///
    /// # Errors
    /// Another one runs.
    pub(crate) fn add(&mut self, job: Job) -> std::result::Result<(), Box<Job>> {
        if let Some(running) = self.running() {
            return Err(Box::new(running.clone()));
        }
        self.0.push(job);
        self.forget();
        Ok(())
    }

    fn forget(&mut self) {
        let forgotten = self.0.len().saturating_sub(REMEMBERED);
        self.0.drain(..forgotten);
    }

    pub(crate) fn all(&self) -> &[Job] {
        &self.0
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Job> {
        self.0.iter().find(|job| job.id == id)
    }

    /// Stops a job that runs; the answer is how it is now, if it is known here. One that is over stays as it is.
    pub(crate) fn cancel(&mut self, id: &str) -> Option<Job> {
        let job = self.0.iter_mut().find(|job| job.id == id)?;
        job.cancel();
        Some(job.clone())
    }

    /// How a job stands in the store.
    pub(super) fn learn(&mut self, job: Job) {
        match self.0.iter_mut().find(|known| known.id == job.id) {
            Some(known) if known.state == JobState::Running => known.catch_up(job),
            // What is over stays so: the store was asked before it had ended there.
            Some(_) => {}
            None => self.0.push(job),
        }
    }

    fn running(&self) -> Option<&Job> {
        self.0.iter().find(|job| job.state == JobState::Running)
    }

    fn change(&mut self, id: &str, change: impl FnOnce(&mut Job)) {
        if let Some(job) = self.0.iter_mut().find(|job| job.id == id && job.state == JobState::Running) {
            change(job);
        }
    }
}

impl Branch<'_> {
    /// Gets on with the job that runs, as far as its rate allows.
    pub(super) fn redrive(&mut self) -> Result<()> {
        let Some(job) = self.parts.letters.jobs().running().cloned() else {
            self.redrive_pace = None;
            return Ok(());
        };
        let owned: Vec<(i32, bool)> =
            self.owned.iter().map(|(partition, owned)| (*partition, owned.not_before().is_none())).collect();
        if owned.is_empty() {
            return Ok(());
        }
        let share = job.share(owned.iter().map(|(partition, _)| *partition));
        let mut pace = match self.redrive_pace.take() {
            Some((id, mut pace)) if id == job.id => {
                pace.set(share);
                pace
            }
            _ => Pace::new(share),
        };
        let is_stored = self.parts.letters.store().is_some();
        let mut detail = None;
        let mut is_over = true;
        for (partition, may_move) in owned {
            let mut progress = job.progress.get(&partition).copied().unwrap_or_else(|| self.begin(partition));
            if may_move && progress.next < progress.until {
                let room = pace.allows(STEP);
                match self.work_on(&job, partition, &mut progress, room) {
                    Ok(Step { worked, waits_for }) => {
                        pace.spend(worked);
                        detail =
                            detail.or_else(|| waits_for.map(|plugin| format!("waits for the breaker of {plugin}")));
                    }
                    Err(error) => {
                        detail = Some(error.to_string());
                        self.stand_still(partition, error)?;
                    }
                }
            }
            is_over &= progress.next >= progress.until;
            failpoint::pass("redrive-stepped");
            self.parts.letters.jobs().change(&job.id, |job| {
                job.progress.insert(partition, progress);
            });
        }
        self.parts.letters.jobs().change(&job.id, |job| {
            job.detail = detail;
            // With a store, other hosts have their part in it, and the store says when it is over.
            if is_over && !is_stored {
                job.end(JobState::Done);
                tracing::info!(id = %job.id, stream = %job.stream, moved = job.moved(), "the job is done");
            }
        });
        self.redrive_pace = Some((job.id, pace));
        Ok(())
    }

    /// Notes how far the job is, and learns of one that was begun, continued or stopped elsewhere or before a restart.
    pub(super) fn follow_jobs(&mut self) {
        let (stream, letters) = (&self.parts.stream.options.id, &self.parts.letters);
        let Some(store) = letters.store() else { return };
        let known = letters.jobs().running().cloned();
        let owned: Vec<i32> = self.owned.keys().copied().collect();
        let outcome = match &known {
            Some(job) => note(store, job, &owned).inspect(|_| failpoint::pass("redrive-noted")).and_then(|found| {
                let is_done = |found: &Job| found.progress.values().all(|progress| progress.next >= progress.until);
                match found {
                    Some(found) if found.state == JobState::Running && is_done(&found) => {
                        // It is over when the store has that; until then this is tried again.
                        if store.wait(store.end_redrive(&job.id, redrives::State::Done, None, Time(now_us())))? {
                            letters.jobs().learn(Job {
                                state: JobState::Done,
                                ended_at: Some(Time(now_us())),
                                ..found
                            });
                            tracing::info!(id = %job.id, %stream, "the job is done");
                        }
                    }
                    Some(found) => letters.jobs().learn(found),
                    None => letters.jobs().change(&job.id, |job| job.end(JobState::Cancelled)),
                }
                Ok(())
            }),
            None => store.wait(store.running_redrives(Some(stream))).map(|rows| {
                rows.into_iter().filter_map(job_of).for_each(|job| letters.jobs().learn(job));
            }),
        };
        if let Err(error) = outcome {
            tracing::debug!(%stream, %error, "how far redrives are is not stored");
        }
    }

    fn begin(&self, partition: i32) -> Progress {
        let until = self.parts.letters.positions(partition).unwrap_or_default().dlq;
        Progress { until, ..Progress::default() }
    }

    /// One step in one partition.
    fn work_on(&mut self, job: &Job, partition: i32, progress: &mut Progress, room: usize) -> Result<Step> {
        if room == 0 {
            return Ok(Step::default());
        }
        let mut offsets = self.chosen(&job.selection, partition, *progress, room);
        // A filter of times looks at more letters than it takes; the rate is for those that it takes.
        let is_last = offsets.len() < room;
        let mut step = Step::default();
        if job.action == Action::Redrive {
            step.waits_for = self.cut_at_breaker(partition, &mut offsets);
        }
        let end = match (&step.waits_for, offsets.last()) {
            (Some(_), last) => last.map_or(progress.next, |last| last.saturating_add(1)),
            (None, Some(last)) if !is_last => last.saturating_add(1),
            (None, _) => self.reached(job, partition, *progress),
        };
        let looked_at = offsets.len() as u64;
        if let Selection::Filter(filter) = &job.selection
            && filter.has_time()
        {
            offsets = self.of_time(filter, partition, &offsets)?;
        }
        let moved = match job.action {
            Action::Redrive => self.send(partition, &offsets, Some(&job.id))?,
            Action::Discard => self.give_up(job, partition, &offsets)?,
        };
        progress.moved += moved;
        progress.skipped += looked_at.saturating_sub(moved);
        progress.next = end;
        step.worked = usize::try_from(moved).unwrap_or(usize::MAX);
        Ok(step)
    }

    /// How far a job has looked when there is nothing more to take: not beyond what is folded.
    fn reached(&self, job: &Job, partition: i32, progress: Progress) -> i64 {
        let folded = self.parts.letters.dlq_position(partition);
        // The last offsets of a topic may be no records, which are never folded.
        let is_old = now_us().saturating_sub(job.created_at.0) > SETTLED;
        if is_old { progress.until } else { progress.until.min(folded).max(progress.next) }
    }

    /// The next letters that are meant and still outstanding.
    fn chosen(&self, selection: &Selection, partition: i32, progress: Progress, most: usize) -> Vec<i64> {
        let letters = &self.parts.letters;
        let mut offsets = match selection {
            Selection::Places(places) => {
                let range = (partition, progress.next)..(partition, progress.until);
                let places = places.range(range).map(|(_, offset)| *offset);
                places.filter(|offset| letters.state(partition, *offset).is_some()).take(most).collect()
            }
            Selection::Filter(filter) => {
                let states = [State::Waiting, State::Parked];
                letters.select(partition, progress.next, most, &states, |class| filter.takes(class))
            }
        };
        offsets.retain(|offset| *offset < progress.until);
        offsets
    }

    /// Leaves out what comes from the first letter on whose plugin's breaker is open; the answer is that plugin.
    fn cut_at_breaker(&self, partition: i32, offsets: &mut Vec<i64>) -> Option<PluginId> {
        let mut asked: BTreeMap<PluginId, bool> = BTreeMap::new();
        for at in 0..offsets.len() {
            let Some(offset) = offsets.get(at).copied() else { break };
            let Some((_, Some(plugin))) = self.parts.letters.state(partition, offset) else { continue };
            let is_open = *asked.entry(plugin.clone()).or_insert_with_key(|plugin| (self.parts.is_open)(plugin));
            if is_open {
                offsets.truncate(at);
                return Some(plugin);
            }
        }
        None
    }

    /// Those that failed for the first time when the filter says.
    fn of_time(&self, filter: &Filter, partition: i32, offsets: &[i64]) -> Result<Vec<i64>> {
        use phronis_core::letter::index::Entry;
        let mut of_time = Vec::new();
        let dlq = &self.parts.stream.options.topics.dlq;
        read_letters(self.parts.log.as_ref(), dlq, partition, offsets, |records, row| {
            if let Entry::Letter { first_failed_at, .. } = entry(records, row)
                && filter.takes_time(first_failed_at)
                && let Some(offset) = records.offsets.values().get(row)
            {
                of_time.push(*offset);
            }
        })?;
        Ok(of_time)
    }

    fn give_up(&mut self, job: &Job, partition: i32, offsets: &[i64]) -> Result<u64> {
        if offsets.is_empty() {
            return Ok(0);
        }
        let parts = self.parts;
        let _alone = parts.letters.alone();
        let discard = Discard {
            offsets: runs(offsets),
            actor: Some(job.actor.clone()),
            reason: job.reason.clone(),
            ..Discard::default()
        };
        let append = discard_append(&self.parts.stream.options.topics.dlq, partition, &job.id, &discard);
        let ticket = self.sink.submit(Delivery { appends: vec![append], commits: Vec::new() })?;
        settled(ticket, &self.parts.should_stop)?;
        failpoint::pass("discard-written");
        self.parts.letters.change(partition, |index| offsets.iter().for_each(|offset| index.moved(*offset)));
        Ok(offsets.len() as u64)
    }
}

/// What one step did.
#[derive(Default)]
struct Step {
    worked: usize,
    /// The plugin whose breaker is open, where it stopped.
    waits_for: Option<PluginId>,
}

/// The record of dlq that gives letters up.
pub(crate) fn discard_append(
    dlq: &phronis_core::records::TopicName,
    partition: i32,
    id: &str,
    discard: &Discard,
) -> Append {
    let mut headers = HeadersBuilder::default();
    headers.push(DISCARD, id.as_bytes());
    // Texts, numbers and lists of them are always JSON.
    let value = serde_json::to_vec(discard).unwrap_or_default();
    let mut records = RecordsBuilder::default();
    records.push(now_ms(), None, Some(&value), headers.as_bytes());
    Append { topic: std::sync::Arc::clone(dlq), partition, records: records.finish() }
}

/// Rising offsets as runs.
pub(crate) fn runs(offsets: &[i64]) -> Vec<(i64, i64)> {
    let mut runs: Vec<(i64, i64)> = Vec::new();
    for offset in offsets {
        match runs.last_mut() {
            Some((_, end)) if end == offset => *end += 1,
            _ => runs.push((*offset, offset + 1)),
        }
    }
    runs
}

/// A fresh id of a job.
pub(crate) fn fresh_id() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// Why an append outside of a job failed.
#[derive(Debug)]
pub(crate) struct NotAppended {
    pub(crate) error: Error,
    /// Whether it is known that nothing of it was taken.
    pub(crate) is_sure: bool,
}

/// Appends outside of a job.
pub(crate) fn append(log: &dyn Log, appends: Vec<Append>) -> std::result::Result<Receipt, NotAppended> {
    let never = std::sync::atomic::AtomicBool::new(false);
    let submitted = log.sink().and_then(|sink| sink.submit(Delivery { appends, commits: Vec::new() }));
    let ticket = submitted.map_err(|error| NotAppended { error, is_sure: true })?;
    settled(ticket, &never).map_err(|error| {
        let is_sure =
            matches!(error, Error::Full { .. } | Error::TooLarge { .. } | Error::UnknownTopic(_) | Error::Invalid(_));
        NotAppended { error, is_sure }
    })
}
