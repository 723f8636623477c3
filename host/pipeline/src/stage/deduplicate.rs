//! Drops events whose de-duplication key was seen before, within a bounded window of keys a partition.
//!
//! The window remembers at which offset it saw a key, so that a batch that is judged again
//! (its delivery failed) does not find itself to be a duplicate.

use std::collections::{HashMap, VecDeque};

use super::{Judged, Leaving};

/// The keys that a partition has seen lately.
#[derive(Debug)]
pub(crate) struct Window {
    capacity: usize,
    /// Key digest → offset of the event that was let through.
    seen: HashMap<[u8; 16], i64>,
    order: VecDeque<[u8; 16]>,
}

impl Window {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), seen: HashMap::new(), order: VecDeque::new() }
    }

    /// Remembers the key of an event; returns the offset of an earlier event with the same key.
    fn remember(&mut self, key: &[u8], offset: i64) -> Option<i64> {
        let digest = digest(key);
        if let Some(first) = self.seen.get(&digest) {
            return (*first < offset).then_some(*first);
        }
        if self.order.len() == self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        self.seen.insert(digest, offset);
        self.order.push_back(digest);
        None
    }
}

/// Marks the duplicates of a batch as dropped.
pub(crate) fn deduplicate(judged: &mut Judged, field: usize, window: &mut Window) {
    let events = judged.checked.events.len();
    for event in 0..events {
        let Some(key) = judged.checked.events.scalar(field, event) else { continue };
        let row = judged.checked.events.record(event);
        let Some(offset) = judged.checked.records.offsets.values().get(row).copied() else { continue };
        if let Some(first) = window.remember(&key, offset) {
            let reason = format!("same key as offset {first}");
            let event = u32::try_from(event).unwrap_or(u32::MAX);
            judged.leaving.insert(event, Leaving::Dropped { by: "deduplication".into(), reason });
        }
    }
}

/// Shorter than the keys, and no two keys have the same: a collision would drop an event that is none's duplicate.
fn digest(key: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(blake3::hash(key).as_bytes().first_chunk::<16>().unwrap_or(&[0; 16]));
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_duplicate_within_the_window_and_never_of_itself() {
        let mut window = Window::new(2);
        assert_eq!(window.remember(b"a", 1), None);
        assert_eq!(window.remember(b"a", 1), None, "judged again");
        assert_eq!(window.remember(b"a", 2), Some(1));
        assert_eq!(window.remember(b"b", 3), None);
        assert_eq!(window.remember(b"c", 4), None);
        assert_eq!(window.remember(b"a", 5), None, "out of the window");
    }
}
