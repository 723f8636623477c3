//! An edited copy of a letter's event: posted as a new event, and the letter given up for it, once.
//!
//! Where the log takes both together, they are one. Elsewhere the copy is written first: when the second write fails, or nobody
//! knows how one ended, that is said, and the letter is held back, so that nothing delivers its event once more unseen.
//! Hosts that share a store wait for each other: who edits a letter claims it there first, for as long as the others may need to hear
//! of its end.

use std::sync::Arc;
use std::time::Duration;

use phronis_core::delivery::Append;
use phronis_core::letter::Kind;
use phronis_core::letter::index::Discard;
use phronis_core::records::{HeadersBuilder, RecordsBuilder};
use phronis_core::{StreamId, Time};
use phronis_log::{Error as LogError, Log};
use phronis_store::edits::Letter;
use serde_json::json;

use super::change::place;
use super::{At, Detail, Edited, Found, Place, Refused, state, version};
use crate::Handle;
use crate::clock::{now_ms, now_us};
use crate::failpoint;
use crate::retry::{Letters, append, discard_append, fresh_id};
use crate::stream::Stream;

/// On an event of raw that a person made of a letter: the stream and the place of the letter.
const EDITED_FROM: &str = "phronis-edited-from";

/// How long a claim holds: both writes of an edit, and others reading the second one.
pub(super) const CLAIM: Duration = Duration::from_secs(30);

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
        claim(letters, edit, &id)?;
        let posted = post(self.shared.log.as_ref(), copy, given_up);
        let (edited, error) = posted.inspect_err(|_| release(letters, &id))?;
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

/// Keeps other hosts from editing a letter meanwhile.
fn claim(letters: &Letters, edit: &Edit, id: &str) -> Result<(), Refused> {
    let Some(store) = letters.store() else { return Ok(()) };
    let (partition, offset) = edit.place;
    let letter = Letter { stream: &edit.stream, partition, offset };
    let now = now_us();
    let until = now.saturating_add(i64::try_from(CLAIM.as_micros()).unwrap_or(i64::MAX));
    if store.wait(store.claim_edit(letter, id, Time(now), Time(until)))? { Ok(()) } else { Err(Refused::Claimed) }
}

/// Lets others edit a letter of which nothing was posted. Where the store does not answer, the claim ends by itself.
fn release(letters: &Letters, id: &str) {
    let Some(store) = letters.store() else { return };
    if let Err(error) = store.wait(store.release_edit(id)) {
        tracing::warn!(%error, id, "a letter that was not edited can be edited again only in a while");
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
