//! What people do about letters: try them again, or give them up. Edited copies are in `edit`.

use std::collections::BTreeMap;

use phronis_core::letter::index::{Discard, Filter};
use phronis_core::{StreamId, Time};

use phronis_store::audit::Entry;
use phronis_store::redrives::{Started, State};
use serde_json::{Value, json};

use super::edit::CLAIM;
use super::{Action, Edited, Job, JobState, Place, Progress, Selection};
use crate::Handle;
use crate::clock::now_us;
use crate::failpoint;
use crate::retry::{Letters, NotAppended, append, discard_append, fresh_id, job_of, jobs, row_of, runs};

/// A wish to do something with letters.
#[derive(Debug, Clone)]
pub struct Order {
    /// What.
    pub action: Action,
    /// Of which stream.
    pub stream: StreamId,
    /// With which letters.
    pub selection: Selection,
    /// At most so many a second; else as many as the stream says.
    pub rate: Option<u32>,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// A wish to stop a job.
#[derive(Debug, Clone)]
pub struct Cancel {
    /// Which.
    pub id: String,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Only if it is still at this version.
    pub if_version: Option<u64>,
}

/// Why nothing was done, or not all of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// There is no such stream or letter.
    #[error("there is no letter {place} in the stream `{stream}`", place = place(*.at))]
    Unknown {
        /// The stream.
        stream: StreamId,
        /// Where it would be.
        at: Place,
    },
    /// Nobody waits for the letter any more.
    #[error("nobody waits for the letter {place} of the stream `{stream}` any more: it was answered for, moved or given up", place = place(*.at))]
    Over {
        /// The stream.
        stream: StreamId,
        /// Where it stands.
        at: Place,
    },
    /// An edit of the letter is half done, or may be: the one that was asked for, or one before it.
    #[error("{}", half_done(stream, *at, *partition, *edited, why.as_deref()))]
    HalfDone {
        /// The stream.
        stream: StreamId,
        /// Where the letter stands.
        at: Place,
        /// The partition of raw where the copy stands, or would.
        partition: i32,
        /// What is known.
        edited: Edited,
        /// What failed, where it was this edit.
        why: Option<Box<phronis_log::Error>>,
    },
    /// Another host edits the letter, or did so a moment ago.
    #[error("another host edits the letter, or did so within the last {} seconds; nothing was posted", CLAIM.as_secs())]
    Claimed,
    /// It is not as the request presumes.
    #[error("it is at version {version} now; nothing changed")]
    Changed {
        /// What it is now.
        version: u64,
    },
    /// The host has just taken the partition over.
    #[error("what became of the letters of partition {0} is being read, nothing changed; try again in a moment")]
    Reading(i32),
    /// The stream is not known here.
    #[error("there is no stream `{0}`")]
    UnknownStream(StreamId),
    /// Another job of the stream runs.
    #[error("{} {} of the stream `{}` is under way", name(.0.action), .0.id, .0.stream)]
    Occupied(Box<Job>),
    /// No letter is meant.
    #[error("no outstanding letter is meant")]
    Nothing,
    /// A letter about many events has no event that could be edited.
    #[error("the letter is about many events and has none of its own to edit")]
    Range,
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] phronis_store::Error),
    /// A newer version of the host began the job that runs.
    #[error("a job of a newer version of the host is under way in the stream")]
    Newer,
    /// The log could not take it.
    #[error(transparent)]
    Log(#[from] phronis_log::Error),
}

impl From<NotAppended> for Refused {
    fn from(not: NotAppended) -> Self {
        Self::Log(not.error)
    }
}

pub(super) fn place((partition, offset): Place) -> String {
    format!("{partition}-{offset}")
}

fn half_done(stream: &StreamId, at: Place, raw: i32, edited: Edited, why: Option<&phronis_log::Error>) -> String {
    let letter = format!("{stream}/{}", place(at));
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    match edited {
        Edited::Unsure => format!(
            "nobody knows whether an edited copy of the letter {letter} was posted{why}: look for a record with the header \
             phronis-edited-from: {letter} in partition {raw} of raw; then discard the letter, or redrive it by its name"
        ),
        Edited::Half | Edited::Whole => format!(
            "an edited copy of the letter {letter} was posted to partition {raw} of raw, and the letter could not be given up{why}: \
             discard it"
        ),
    }
}

fn name(action: Action) -> &'static str {
    match action {
        Action::Redrive => "the redrive",
        Action::Discard => "the discard",
    }
}

impl Handle {
    /// Begins a redrive, or a discard that must look at each letter.
    ///
    /// # Errors
    /// Nothing was begun.
    pub fn start_job(&self, order: Order) -> Result<Job, Refused> {
        let (running, letters) = self.letters_of(&order.stream).ok_or(Refused::UnknownStream(order.stream.clone()))?;
        let usual = running.options.letter_rates.redrive;
        let total = self.meant(&order.stream, &order.selection);
        if total == 0 {
            return Err(Refused::Nothing);
        }
        let progress = self.ahead(&order.stream)?;
        let Order { action, stream, selection, rate, actor, reason } = order;
        let job = Job {
            id: fresh_id(),
            stream,
            action,
            selection,
            rate: rate.unwrap_or(usual).max(1),
            actor,
            reason,
            state: JobState::Running,
            detail: None,
            total,
            created_at: Time(now_us()),
            ended_at: None,
            progress,
        };
        if let Some(store) = letters.store() {
            match store.wait(store.start_redrive(&row_of(&job)))? {
                Started::Running => {}
                Started::Occupied(running) => {
                    let running = job_of(*running).ok_or(Refused::Newer)?;
                    return Err(Refused::Occupied(Box::new(running)));
                }
            }
            // Whoever names a letter has looked at it.
            if let Selection::Places(places) = &job.selection {
                letters.release(places);
            }
            letters.jobs().begin(job.clone());
        } else {
            letters.jobs().add(job.clone()).map_err(Refused::Occupied)?;
        }
        let facts = json!({ "selection": job.selection, "rate": job.rate, "letters": job.total });
        self.audit(letters, audited(&job, "begin"), facts);
        Ok(job)
    }

    /// What a job of a stream has before it, by partition.
    fn ahead(&self, stream: &StreamId) -> Result<BTreeMap<i32, Progress>, Refused> {
        let (running, _) = self.letters_of(stream).ok_or(Refused::UnknownStream(stream.clone()))?;
        let info = self.shared.log.topic(&running.options.topics.dlq)?;
        let progress = |latest| Progress { until: latest, ..Progress::default() };
        Ok((0..).zip(info.partitions).map(|(number, partition)| (number, progress(partition.latest))).collect())
    }

    /// Writes down who did what. What was done is done, also when the store is away.
    pub(super) fn audit(&self, letters: &Letters, (id, action, subject, actor, reason): Audited<'_>, facts: Value) {
        let Some(store) = letters.store() else { return };
        let entry = Entry {
            id,
            at: Time(now_us()),
            actor: actor.to_owned(),
            action: action.to_owned(),
            subject: subject.to_string(),
            tenant: Some(subject.tenant.clone()),
            reason: Some(reason.to_owned()).filter(|reason| !reason.is_empty()),
            facts,
        };
        store.wait(store.record_audit(entry));
    }

    /// The jobs of a stream, the newest first.
    ///
    /// From the store, where it answers; else those that this host knows.
    pub fn jobs(&self, stream: &StreamId) -> Vec<Job> {
        let Some((_, letters)) = self.letters_of(stream) else { return Vec::new() };
        let stored = letters.store().and_then(|store| jobs(store, stream).ok());
        let known = letters.jobs();
        match stored {
            Some(stored) => stored.into_iter().map(|job| newest(known.get(&job.id), job)).collect(),
            None => known.all().iter().rev().cloned().collect(),
        }
    }

    /// A job of any stream: from the store, where it answers; else as this host knows it.
    pub fn job(&self, id: &str) -> Option<Job> {
        let known = self.shared.letters.values().find_map(|letters| letters.jobs().get(id).cloned());
        let store = self.shared.letters.values().next()?.store();
        match store.map(|store| store.wait(store.redrive(id))) {
            Some(Ok(stored)) => stored.and_then(job_of).map(|job| newest(known.as_ref(), job)),
            Some(Err(_)) | None => known,
        }
    }

    /// Stops a job; the answer is how it is now. One that is over stays as it is.
    ///
    /// # Errors
    /// The store does not answer, or it is at another version: it goes on.
    pub fn cancel_job(&self, cancel: &Cancel) -> Result<Option<Job>, Refused> {
        let Cancel { id, actor, reason, if_version } = cancel;
        let Some(job) = self.job(id) else { return Ok(None) };
        let Some((_, letters)) = self.letters_of(&job.stream) else { return Ok(None) };
        let as_it_is = |job: Job| match if_version.is_some_and(|version| version != job.version()) {
            true => Err(Refused::Changed { version: job.version() }),
            false => Ok(Some(job)),
        };
        if job.state != JobState::Running || if_version.is_some_and(|version| version != job.version()) {
            return as_it_is(job);
        }
        if let Some(store) = letters.store() {
            let detail = format!("cancelled by {actor}");
            if !store.wait(store.end_redrive(id, State::Cancelled, Some(&detail), Time(now_us())))? {
                // It ended in this moment.
                return self.job(id).map_or(Ok(None), as_it_is);
            }
        }
        let mut cancelled = letters.jobs().cancel(id).unwrap_or_else(|| job.clone());
        cancelled.catch_up(job);
        cancelled.cancel();
        let who = (format!("{id}-cancel"), "letters.cancel", &cancelled.stream, actor.as_str(), reason.as_str());
        self.audit(letters, who, json!({ "job": id, "moved": cancelled.moved(), "letters": cancelled.total }));
        Ok(Some(cancelled))
    }

    /// Gives letters up at once; a filter of times is for [`Handle::start_job`].
    /// The answer is the id of the discard, and how many letters there were.
    ///
    /// # Errors
    /// Nothing was given up; or nobody knows, and giving it up once more does no harm.
    pub fn discard(&self, order: &Order) -> Result<(String, u64), Refused> {
        let (stream, letters) = self.letters_of(&order.stream).ok_or(Refused::UnknownStream(order.stream.clone()))?;
        let alone = letters.alone();
        let count = self.meant(&order.stream, &order.selection);
        if count == 0 {
            return Err(Refused::Nothing);
        }
        let (actor, reason, id) = (Some(order.actor.clone()), order.reason.clone(), fresh_id());
        let dlq = &stream.options.topics.dlq;
        let mut discards: Vec<(i32, Discard)> = Vec::new();
        for (partition, ahead) in self.ahead(&order.stream)? {
            let discard = match &order.selection {
                Selection::Places(places) => {
                    let offsets: Vec<i64> =
                        places.iter().filter(|(of, _)| *of == partition).map(|(_, offset)| *offset).collect();
                    Discard { offsets: runs(&offsets), ..Discard::default() }
                }
                Selection::Filter(filter) => {
                    let filter = Filter { since: None, until: None, ..filter.clone() };
                    Discard { filter: Some(filter), below: ahead.until, ..Discard::default() }
                }
            };
            if discard.filter.is_some() || !discard.offsets.is_empty() {
                discards.push((partition, Discard { actor: actor.clone(), reason: reason.clone(), ..discard }));
            }
        }
        let appends = discards.iter().map(|(partition, discard)| discard_append(dlq, *partition, &id, discard));
        let receipt = append(self.shared.log.as_ref(), appends.collect())?;
        failpoint::pass("discard-written");
        // At once: what is redriven next must not find them.
        for ((partition, discard), at) in discards.iter().zip(receipt.base_offsets) {
            letters.change(*partition, |index| index.give_up(discard, at));
        }
        drop(alone);
        let facts = json!({ "selection": order.selection, "letters": count });
        self.audit(letters, (id.clone(), "letters.discard", &order.stream, &order.actor, &order.reason), facts);
        Ok((id, count))
    }

    /// How many outstanding letters are meant; times are not asked.
    pub fn meant(&self, stream: &StreamId, selection: &Selection) -> u64 {
        let Some((_, letters)) = self.letters_of(stream) else { return 0 };
        match selection {
            Selection::Places(places) => {
                // What another host owns, it knows best.
                let is_meant = |(partition, offset): &&Place| {
                    !letters.owns(*partition) || letters.state(*partition, *offset).is_some()
                };
                places.iter().filter(is_meant).count() as u64
            }
            Selection::Filter(filter) => {
                let classes = self.letter_classes(stream).unwrap_or_default().into_iter();
                let meant = classes.filter(|status| filter.takes(&status.class));
                meant.map(|status| status.summary.waiting + status.summary.parked).sum()
            }
        }
    }
}

/// What an audit entry is about: its id, the action, the stream, who, why.
pub(super) type Audited<'a> = (String, &'a str, &'a StreamId, &'a str, &'a str);

fn audited<'a>(job: &'a Job, step: &str) -> Audited<'a> {
    let action = match job.action {
        Action::Redrive => "letters.redrive",
        Action::Discard => "letters.discard",
    };
    (format!("{}-{step}", job.id), action, &job.stream, &job.actor, &job.reason)
}

/// What the store says of a job, with what this host knows better: the store is told once a second.
fn newest(known: Option<&Job>, stored: Job) -> Job {
    match known.filter(|known| known.state == JobState::Running) {
        Some(known) => {
            let mut job = known.clone();
            job.catch_up(stored);
            job
        }
        None => stored,
    }
}
