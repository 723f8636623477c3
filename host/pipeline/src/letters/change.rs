//! What people do about letters: try them again, give them up, or post an edited copy.

use std::collections::BTreeMap;
use std::sync::Arc;

use phronis_core::delivery::Append;
use phronis_core::letter::Kind;
use phronis_core::letter::index::{Discard, Filter};
use phronis_core::records::{NewRecords, RecordsBuilder};
use phronis_core::{StreamId, Time};

use phronis_store::audit::Entry;
use phronis_store::redrives::{Started, State};
use serde_json::{Value, json};

use super::{Action, At, Detail, Job, JobState, Place, Progress, Selection};
use crate::Handle;
use crate::clock::{now_ms, now_us};
use crate::failpoint;
use crate::retry::{Letters, append, discard_append, fresh_id, job_of, jobs, row_of, runs};

/// On an event of raw that a person made of a letter: the stream and the place of the letter.
const EDITED_FROM: &str = "phronis-edited-from";

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

/// An edited copy of a letter's event.
#[derive(Debug, Clone)]
pub struct Edit {
    /// Of which stream.
    pub stream: StreamId,
    /// The letter.
    pub place: Place,
    /// The new event.
    pub value: Vec<u8>,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// There is no such stream or letter, or nobody waits for it any more.
    #[error("there is no outstanding letter {place} in the stream `{stream}`", place = place(*.at))]
    Unknown {
        /// The stream.
        stream: StreamId,
        /// Where it would be.
        at: Place,
    },
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

fn place((partition, offset): Place) -> String {
    format!("{partition}-{offset}")
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
    fn audit(&self, letters: &Letters, (id, action, subject, actor, reason): Audited<'_>, facts: Value) {
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
        let known: Vec<Job> = letters.jobs().all().iter().rev().cloned().collect();
        let stored = letters.store().and_then(|store| jobs(store, stream).ok());
        stored.map_or_else(|| known.clone(), |stored| newest(stored, &known))
    }

    /// A job of any stream.
    pub fn job(&self, id: &str) -> Option<Job> {
        let known = self.shared.letters.values().find_map(|letters| letters.jobs().get(id).cloned());
        known.or_else(|| {
            let store = self.shared.letters.values().next()?.store()?;
            store.wait(store.redrive(id)).ok().flatten().and_then(job_of)
        })
    }

    /// Stops a job; the answer is how it is now.
    ///
    /// # Errors
    /// The store does not answer; it goes on.
    pub fn cancel_job(&self, id: &str, actor: &str, reason: &str) -> Result<Option<Job>, Refused> {
        let Some(job) = self.job(id) else { return Ok(None) };
        let Some((_, letters)) = self.letters_of(&job.stream) else { return Ok(None) };
        if let Some(store) = letters.store() {
            let detail = format!("cancelled by {actor}");
            store.wait(store.end_redrive(id, State::Cancelled, Some(&detail), Time(now_us())))?;
        }
        let cancelled = letters.jobs().cancel(id).unwrap_or_else(|| {
            let mut job = job.clone();
            job.cancel();
            job
        });
        if job.state == JobState::Running {
            let who = (format!("{id}-cancel"), "letters.cancel", &job.stream, actor, reason);
            self.audit(letters, who, json!({ "job": id, "moved": cancelled.moved(), "letters": job.total }));
        }
        Ok(Some(cancelled))
    }

    /// Gives letters up at once; a filter of times is for [`Handle::start_job`].
    /// The answer is the id of the discard, and how many letters there were.
    ///
    /// # Errors
    /// Nothing was given up.
    pub fn discard(&self, order: &Order) -> Result<(String, u64), Refused> {
        let (stream, letters) = self.letters_of(&order.stream).ok_or(Refused::UnknownStream(order.stream.clone()))?;
        let count = self.meant(&order.stream, &order.selection);
        if count == 0 {
            return Err(Refused::Nothing);
        }
        let (actor, reason, id) = (Some(order.actor.clone()), order.reason.clone(), fresh_id());
        let dlq = &stream.options.topics.dlq;
        let mut appends: Vec<Append> = Vec::new();
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
                let discard = Discard { actor: actor.clone(), reason: reason.clone(), ..discard };
                appends.push(discard_append(dlq, partition, &id, &discard));
            }
        }
        append(self.shared.log.as_ref(), appends)?;
        failpoint::pass("discard-written");
        let facts = json!({ "selection": order.selection, "letters": count });
        self.audit(letters, (id.clone(), "letters.discard", &order.stream, &order.actor, &order.reason), facts);
        Ok((id, count))
    }

    /// Posts an edited copy of a letter's event as a new event, and gives the letter up.
    /// The answer is the partition of raw that it stands in.
    ///
    /// # Errors
    /// The letter was not given up. Nothing was posted either, unless the log failed between the two.
    pub fn edit(&self, edit: &Edit) -> Result<i32, Refused> {
        let unknown = || Refused::Unknown { stream: edit.stream.clone(), at: edit.place };
        let At::Letter(detail) = self.letter(&edit.stream, edit.place)? else { return Err(unknown()) };
        let (stream, letters) = self.letters_of(&edit.stream).ok_or_else(unknown)?;
        let Detail { found, original, .. } = *detail;
        if found.state.is_none() {
            return Err(unknown());
        }
        if Kind::of(found.record.body.headers(0)) == Kind::Range {
            return Err(Refused::Range);
        }
        let (partition, offset) = edit.place;
        let mut headers = original;
        headers.push(EDITED_FROM, format!("{}/{}", edit.stream, place(edit.place)).as_bytes());
        let mut records = RecordsBuilder::default();
        records.push(now_ms(), found.record.body.key(0), Some(&edit.value), headers.as_bytes());
        // The same key belongs into the same partition, and the letter's record came from there.
        let target = found.letter.origin.partition;
        let discard = Discard {
            offsets: vec![(offset, offset.saturating_add(1))],
            actor: Some(edit.actor.clone()),
            reason: format!("edited: {}", edit.reason),
            ..Discard::default()
        };
        let topics = &stream.options.topics;
        let copy = appended(&topics.raw, target, records.finish());
        let id = fresh_id();
        let given_up = discard_append(&topics.dlq, partition, &id, &discard);
        let log = self.shared.log.as_ref();
        // Where the two are not one write, the copy comes first: an end between them leaves the event twice, and loses none.
        let writes = if log.is_atomic() { vec![vec![copy, given_up]] } else { vec![vec![copy], vec![given_up]] };
        for write in writes {
            append(log, write)?;
            failpoint::pass("edit-posted");
        }
        let facts = json!({ "letter": place(edit.place), "id": found.letter.id.to_string() });
        self.audit(letters, (id, "letters.edit", &edit.stream, &edit.actor, &edit.reason), facts);
        Ok(target)
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
type Audited<'a> = (String, &'a str, &'a StreamId, &'a str, &'a str);

fn audited<'a>(job: &'a Job, step: &str) -> Audited<'a> {
    let action = match job.action {
        Action::Redrive => "letters.redrive",
        Action::Discard => "letters.discard",
    };
    (format!("{}-{step}", job.id), action, &job.stream, &job.actor, &job.reason)
}

/// What the store says, with what this host knows better: the store is told once a second.
fn newest(stored: Vec<Job>, known: &[Job]) -> Vec<Job> {
    let better = |job: Job| {
        let own = known.iter().find(|own| own.id == job.id && own.state == job.state && own.moved() >= job.moved());
        own.cloned().unwrap_or(job)
    };
    stored.into_iter().map(better).collect()
}

fn appended(topic: &phronis_core::records::TopicName, partition: i32, records: NewRecords) -> Append {
    Append { topic: Arc::clone(topic), partition, records }
}
