//! How often each agent called in the last minute, counted by the second.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Agents that are counted; beyond, those that were quiet the longest are forgotten.
const AGENTS: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Minutes(Mutex<HashMap<String, VecDeque<(u64, u64)>>>);

impl Minutes {
    /// Counts one call. Gives those of this second and the 59 before it.
    pub(super) fn note(&self, agent: &str, second: u64) -> u64 {
        let mut agents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !agents.contains_key(agent) {
            if agents.len() >= AGENTS {
                make_room(&mut agents, second);
            }
            agents.insert(agent.to_owned(), VecDeque::new());
        }
        let Some(seconds) = agents.get_mut(agent) else { return 1 };
        match seconds.back_mut() {
            Some((last, count)) if *last >= second => *count += 1,
            _ => seconds.push_back((second, 1)),
        }
        while seconds.front().is_some_and(|(first, _)| first + 60 <= second) {
            seconds.pop_front();
        }
        seconds.iter().map(|(_, count)| count).sum()
    }
}

/// Forgets who did not call for a minute, or, if all did, half of them.
fn make_room(agents: &mut HashMap<String, VecDeque<(u64, u64)>>, second: u64) {
    agents.retain(|_, seconds| seconds.back().is_some_and(|(last, _)| last + 60 > second));
    if agents.len() >= AGENTS {
        let mut lasts: Vec<u64> = agents.values().filter_map(|seconds| seconds.back()).map(|(last, _)| *last).collect();
        let middle = lasts.len() / 2;
        let (_, median, _) = lasts.select_nth_unstable(middle);
        let median = *median;
        let mut left = AGENTS / 2;
        agents.retain(|_, seconds| {
            let stays = left > 0 && seconds.back().is_some_and(|(last, _)| *last >= median);
            left -= usize::from(stays);
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_in_a_minute_slide() {
        let minutes = Minutes::default();
        let noted: Vec<u64> =
            [0, 0, 30, 59, 60, 89, 90, 1000].iter().map(|second| minutes.note("a", *second)).collect();
        assert_eq!(noted, [1, 2, 3, 4, 3, 4, 4, 1]);
        assert_eq!(minutes.note("b", 1000), 1);
    }

    #[test]
    fn memory_does_not_grow_with_agents_or_calls() {
        let minutes = Minutes::default();
        for at in 0..50_000 {
            minutes.note(&format!("a{at}"), at / 1000);
            minutes.note("busy", at / 1000);
        }
        let agents = minutes.0.lock().unwrap();
        assert!(agents.len() <= AGENTS && agents["busy"].len() <= 60);
    }
}
