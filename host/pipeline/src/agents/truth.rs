//! The store as the kill switch needs it: a halt written into it whatever it has meanwhile.

use phronis_core::agent::{Key, Record, State, WriteBack, write_back};
use phronis_store::agents::Set;
use phronis_store::{Error, Result, Store};

/// Tries to change a record before it counts as fought over: each means that another host changed it in that moment.
const TRIES: usize = 8;

/// How far back the history is read to find a change of ours.
const BACK: u32 = 200;

/// Sees to it that the store has this word, or one that goes before it; the answer is what it has then,
/// and whether it was this call that changed it.
pub(super) async fn settle(store: &Store, word: &Record) -> Result<(Option<Record>, bool)> {
    let mut current = store.agent(&word.key()).await?;
    for _ in 0..TRIES {
        let is_known = is_known(store, word, current.as_ref()).await?;
        let WriteBack::Set(told, expected) = write_back(word, current.as_ref(), is_known) else {
            return Ok((current, false));
        };
        match store.set_agent(&told, expected).await? {
            Set::Stored => return Ok((Some(*told), true)),
            Set::Handled => return Ok((store.agent(&word.key()).await?, false)),
            Set::Stale(now) => current = now.map(|now| *now),
        }
    }
    Err(Error::Unreachable { reason: format!("{} is being changed by others all the time", word.key()) })
}

/// Whether the history has a halt that a newer word went over.
async fn is_known(store: &Store, word: &Record, current: Option<&Record>) -> Result<bool> {
    let is_over = current.is_some_and(|current| current.version >= word.version && !current.is_same_change(word));
    let key: Key = word.key();
    if !is_over || word.is_replicated || word.state != State::Halted {
        return Ok(false);
    }
    let past = store.agent_history(&key, BACK, None).await?;
    Ok(past.items.iter().any(|past| past.is_same_change(word)))
}
