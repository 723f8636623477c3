//! What people do about letters: try them again, give them up, or post an edited copy.

use std::sync::Arc;

use phronis_core::delivery::Append;
use phronis_core::letter::index::{Discard, Filter, State};
use phronis_core::records::{NewRecords, RecordsBuilder};
use phronis_core::{StreamId, Time};

use super::{Action, At, Detail, Job, JobState, Place, Selection};
use crate::Handle;
use crate::clock::{now_ms, now_us};
use crate::retry::{append, discard_append, fresh_id, runs};

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
    /// At most so many a second.
    pub rate: u32,
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
        let (_, letters) = self.letters_of(&order.stream).ok_or(Refused::UnknownStream(order.stream.clone()))?;
        let total = self.meant(&order.stream, &order.selection);
        if total == 0 {
            return Err(Refused::Nothing);
        }
        let Order { action, stream, selection, rate, actor, reason } = order;
        let job = Job {
            id: fresh_id(),
            stream,
            action,
            selection,
            rate: rate.max(1),
            actor,
            reason,
            state: JobState::Running,
            detail: None,
            total,
            created_at: Time(now_us()),
            ended_at: None,
            progress: std::collections::BTreeMap::new(),
        };
        letters.jobs().add(job.clone()).map_err(Refused::Occupied)?;
        Ok(job)
    }

    /// The jobs of a stream, the newest first.
    pub fn jobs(&self, stream: &StreamId) -> Vec<Job> {
        let jobs = self.letters_of(stream).map(|(_, letters)| letters.jobs().all().to_vec());
        jobs.into_iter().flatten().rev().collect()
    }

    /// A job of any stream.
    pub fn job(&self, id: &str) -> Option<Job> {
        self.shared.letters.values().find_map(|letters| letters.jobs().get(id).cloned())
    }

    /// Stops a job; the answer is how it is now.
    pub fn cancel_job(&self, id: &str) -> Option<Job> {
        self.shared.letters.values().find_map(|letters| letters.jobs().cancel(id))
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
        for (partition, _) in letters.conditions() {
            let discard = match &order.selection {
                Selection::Places(places) => {
                    let offsets: Vec<i64> =
                        places.iter().filter(|(of, _)| *of == partition).map(|(_, offset)| *offset).collect();
                    Discard { offsets: runs(&offsets), ..Discard::default() }
                }
                Selection::Filter(filter) => {
                    let below = letters.dlq_position(partition);
                    let filter = Filter { since: None, until: None, ..filter.clone() };
                    Discard { filter: Some(filter), below, ..Discard::default() }
                }
            };
            if discard.filter.is_some() || !discard.offsets.is_empty() {
                let discard = Discard { actor: actor.clone(), reason: reason.clone(), ..discard };
                appends.push(discard_append(dlq, partition, &id, &discard));
            }
        }
        append(self.shared.log.as_ref(), appends)?;
        Ok((id, count))
    }

    /// Posts an edited copy of a letter's event as a new event, and gives the letter up.
    /// The answer is the partition of raw that it stands in.
    ///
    /// # Errors
    /// Nothing was posted.
    pub fn edit(&self, edit: &Edit) -> Result<i32, Refused> {
        let unknown = || Refused::Unknown { stream: edit.stream.clone(), at: edit.place };
        let At::Letter(detail) = self.letter(&edit.stream, edit.place)? else { return Err(unknown()) };
        let (stream, _) = self.letters_of(&edit.stream).ok_or_else(unknown)?;
        let Detail { found, original, .. } = *detail;
        if found.state.is_none() {
            return Err(unknown());
        }
        if found.letter.code == phronis_core::code::BREAKER_OPEN {
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
        append(self.shared.log.as_ref(), vec![copy, discard_append(&topics.dlq, partition, &fresh_id(), &discard)])?;
        Ok(target)
    }

    /// How many outstanding letters are meant; times are not asked.
    pub fn meant(&self, stream: &StreamId, selection: &Selection) -> u64 {
        let Some((_, letters)) = self.letters_of(stream) else { return 0 };
        match selection {
            Selection::Places(places) => {
                places.iter().filter(|(partition, offset)| letters.state(*partition, *offset).is_some()).count() as u64
            }
            Selection::Filter(filter) => {
                let states = [State::Waiting, State::Parked];
                let count = |partition| letters.count_below(partition, i64::MAX, &states, |class| filter.takes(class));
                letters.conditions().into_iter().map(|(partition, _)| count(partition)).sum()
            }
        }
    }
}

fn appended(topic: &phronis_core::records::TopicName, partition: i32, records: NewRecords) -> Append {
    Append { topic: Arc::clone(topic), partition, records }
}
