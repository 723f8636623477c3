//! An edited copy of a letter's event: posted as a new event, and the letter given up for it, once.
//!
//! Where the log takes both together, they are one. Elsewhere the copy is written first: when the second write fails, or nobody
//! knows how one ended, that is said, and the letter is held back, so that nothing delivers its event once more unseen.
//! The limit of the promise: it is one host's. Two hosts that edit one letter within the same second do not hear of each other.

use std::sync::Arc;

use phronis_core::StreamId;
use phronis_core::delivery::Append;
use phronis_core::letter::Kind;
use phronis_core::letter::index::Discard;
use phronis_core::records::{HeadersBuilder, RecordsBuilder};
use phronis_log::{Error as LogError, Log};
use serde_json::json;

use super::change::place;
use super::{At, Detail, Edited, Found, Place, Refused, state, version};
use crate::Handle;
use crate::clock::now_ms;
use crate::failpoint;
use crate::retry::{Letters, append, discard_append, fresh_id};
use crate::stream::Stream;

/// On an event of raw that a person made of a letter: the stream and the place of the letter.
const EDITED_FROM: &str = "phronis-edited-from";

/// A wish for an edited copy of a letter's event.
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
    /// Only if the letter is still at this version.
    pub if_version: Option<u64>,
}

/// An edited copy that was posted.
#[derive(Debug, Clone)]
pub struct Posted {
    /// The partition of raw that it stands in.
    pub partition: i32,
    /// Why the letter is not given up for it, when it is not.
    pub trouble: Option<String>,
}

impl Handle {
    /// Posts an edited copy of a letter's event as a new event, and gives the letter up.
    ///
    /// # Errors
    /// Nothing was posted; with [`Refused::HalfDone`], nobody knows.
    pub fn edit(&self, edit: &Edit) -> Result<Posted, Refused> {
        let unknown = || Refused::Unknown { stream: edit.stream.clone(), at: edit.place };
        // What reads the log for long comes before others must wait.
        let At::Letter(detail) = self.letter(&edit.stream, edit.place)? else { return Err(unknown()) };
        let (stream, letters) = self.letters_of(&edit.stream).ok_or_else(unknown)?;
        let Detail { found, original, .. } = *detail;
        // The same key belongs into the same partition, and the letter's record came from there.
        let target = found.letter.origin.partition;
        let alone = letters.alone();
        may_edit(stream, letters, edit, target)?;
        if Kind::of(found.record.body.headers(0)) == Kind::Range {
            return Err(Refused::Range);
        }
        let id = fresh_id();
        let (copy, given_up) = writes(stream, &found, original, edit, &id);
        let (edited, error) = post(self.shared.log.as_ref(), copy, given_up)?;
        if edited == Edited::Whole {
            // At once: what is redriven or edited next must not find it.
            letters.change(edit.place.0, |index| index.moved(edit.place.1));
        }
        letters.note_edit(edit.place, edited);
        drop(alone);
        let outcome = match edited {
            Edited::Whole => "done",
            Edited::Half => "the letter is not given up",
            Edited::Unsure => "not known",
        };
        let facts = json!({ "letter": place(edit.place), "id": found.letter.id.to_string(), "outcome": outcome });
        self.audit(letters, (id, "letters.edit", &edit.stream, &edit.actor, &edit.reason), facts);
        let half_done = |why| half_done(edit, target, edited, Some(why));
        match (edited, error) {
            (Edited::Unsure, Some(error)) => {
                let refused = half_done(error);
                tracing::warn!("{refused}");
                Err(refused)
            }
            (_, error) => {
                let trouble = error.map(|error| half_done(error).to_string());
                trouble.iter().for_each(|trouble| tracing::warn!("{trouble}"));
                Ok(Posted { partition: target, trouble })
            }
        }
    }
}

/// Whether a letter still stands as the edit presumes. Nobody changes it meanwhile on this host.
fn may_edit(stream: &Stream, letters: &Letters, edit: &Edit, target: i32) -> Result<(), Refused> {
    let (partition, _) = edit.place;
    if letters.owns(partition) && !letters.is_read(partition) {
        return Err(Refused::Reading(partition));
    }
    let state = state(stream, letters, edit.place);
    if edit.if_version.is_some_and(|expected| expected != version(state)) {
        return Err(Refused::Changed { version: version(state) });
    }
    if state.is_none() {
        return Err(Refused::Over { stream: edit.stream.clone(), at: edit.place });
    }
    match letters.edited(edit.place) {
        Some(edited) => Err(half_done(edit, target, edited, None)),
        None => Ok(()),
    }
}

/// The copy, and the record of dlq that gives the letter up for it.
fn writes(stream: &Stream, found: &Found, mut headers: HeadersBuilder, edit: &Edit, id: &str) -> (Append, Append) {
    headers.push(EDITED_FROM, format!("{}/{}", edit.stream, place(edit.place)).as_bytes());
    let mut records = RecordsBuilder::default();
    records.push(now_ms(), found.record.body.key(0), Some(&edit.value), headers.as_bytes());
    let (partition, offset) = edit.place;
    let discard = Discard {
        offsets: vec![(offset, offset.saturating_add(1))],
        actor: Some(edit.actor.clone()),
        reason: format!("edited: {}", edit.reason),
        ..Discard::default()
    };
    let (topics, target) = (&stream.options.topics, found.letter.origin.partition);
    let copy = Append { topic: Arc::clone(&topics.raw), partition: target, records: records.finish() };
    (copy, discard_append(&topics.dlq, partition, id, &discard))
}

fn half_done(edit: &Edit, partition: i32, edited: Edited, why: Option<LogError>) -> Refused {
    Refused::HalfDone { stream: edit.stream.clone(), at: edit.place, partition, edited, why: why.map(Box::new) }
}

/// Writes the copy and the end of the letter: what is known then, and what failed.
///
/// # Errors
/// Nothing was written.
fn post(log: &dyn Log, copy: Append, given_up: Append) -> Result<(Edited, Option<LogError>), Refused> {
    let (first, second) = match log.delivers_whole() {
        true => (vec![copy, given_up], None),
        false => (vec![copy], Some(given_up)),
    };
    if let Err(not) = append(log, first) {
        return if not.is_sure { Err(not.into()) } else { Ok((Edited::Unsure, Some(not.error))) };
    }
    failpoint::pass("edit-posted");
    let given_up = second.map_or(Ok(()), |second| append(log, vec![second]).map(drop));
    Ok(given_up.map_or_else(|not| (Edited::Half, Some(not.error)), |()| (Edited::Whole, None)))
}
