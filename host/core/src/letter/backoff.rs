//! When a letter is tried again: exponential backoff with jitter, up to a number of attempts; after that it waits for a person.
//!
//! The jitter follows from the letter's id, so that the same letter always gets the same time, whoever writes it,
//! and letters of one bad moment do not come back in one moment.

use std::time::Duration;

use super::Stage;
use crate::code::{self, Code};
use crate::id::Id;
use crate::time::Time;

/// How letters of a stream come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The wait after the first failure; it doubles with each further one.
    pub base: Duration,
    /// The longest wait.
    pub cap: Duration,
    /// How often an event is tried in all, the first time included. 1 parks every letter at once.
    pub attempts: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self { base: Duration::from_secs(1), cap: Duration::from_secs(600), attempts: 8 }
    }
}

/// Codes of which another try alone changes nothing.
const HOPELESS: [Code; 7] = [
    code::AGENT_HALTED,
    code::RECORD_TOO_LARGE,
    code::PLUGIN_GONE,
    code::LETTER_FOREIGN,
    code::RANGE_GONE,
    code::QUARANTINED,
    code::WAITS_BEHIND,
];

impl Policy {
    /// When a letter is tried again after its attempt number `attempt` failed at `now`; `None`: it is parked.
    ///
    /// What the contract refuses, and what is too large for its topic, stays so until somebody changes something.
    pub fn due(&self, id: Id, stage: Stage, code: Code, attempt: u32, now: Time) -> Option<Time> {
        let may_help = matches!(stage, Stage::Enrich | Stage::Detect) && !HOPELESS.contains(&code);
        let delay = i64::try_from(self.delay(id, attempt).as_micros()).unwrap_or(i64::MAX);
        (may_help && attempt < self.attempts).then(|| Time(now.0.saturating_add(delay)))
    }

    /// The wait after an attempt, before jitter: it never shrinks, and never exceeds the cap.
    pub fn tier(&self, attempt: u32) -> Duration {
        let factor = 1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }

    /// The wait after an attempt: between four fifths of its tier and all of it.
    pub fn delay(&self, id: Id, attempt: u32) -> Duration {
        let tier = self.tier(attempt);
        // An id is evenly distributed, and each attempt looks at another part of it.
        let part = id.0.as_chunks::<4>().0.get(attempt as usize % 4).copied().unwrap_or_default();
        let spread = u128::from(u32::from_le_bytes(part)) * (tier.as_nanos() / 5) / u128::from(u32::MAX);
        tier.saturating_sub(Duration::from_nanos(u64::try_from(spread).unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_another_try_may_help_is_tried_again() {
        let policy = Policy::default();
        for (stage, code, attempt, is_tried) in [
            (Stage::Detect, code::ROW_FAILED, 1, true),
            (Stage::Detect, code::PLUGIN_TRAP, 7, true),
            (Stage::Detect, code::PLUGIN_TRAP, 8, false),
            (Stage::Detect, code::PLUGIN_TRAP, u32::MAX, false),
            (Stage::Enrich, code::PLUGIN_BUDGET, 1, true),
            (Stage::Enrich, code::PLUGIN_GONE, 1, false),
            (Stage::Detect, code::RECORD_TOO_LARGE, 1, false),
            (Stage::Detect, code::QUARANTINED, 1, false),
            (Stage::Detect, code::AGENT_HALTED, 1, false),
            (Stage::Order, code::WAITS_BEHIND, 0, false),
            (Stage::Gate, code::MISSING_FIELD, 1, false),
            (Stage::Deliver, code::RECORD_TOO_LARGE, 1, false),
        ] {
            let due = policy.due(Id([7; 16]), stage, code, attempt, Time(5));
            assert_eq!(due.is_some(), is_tried, "{stage:?} {code} {attempt}");
        }
        let tiers: Vec<_> = (1..=12).map(|attempt| policy.tier(attempt).as_secs()).collect();
        assert_eq!(tiers, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
    }

    proptest! {
        #[test]
        fn waits_grow_tier_by_tier_up_to_the_cap_and_are_the_same_for_the_same_letter(
            id: [u8; 16], base in 0_u64..10_000_000, cap in 0_u64..10_000_000_000, attempt in 1_u32..100, now in 0_i64..1 << 60,
        ) {
            let policy = Policy { base: Duration::from_micros(base), cap: Duration::from_micros(cap), attempts: 101 };
            let (id, tier) = (Id(id), policy.tier(attempt));
            prop_assert!(tier <= policy.cap && tier <= policy.tier(attempt + 1));
            let delay = policy.delay(id, attempt);
            prop_assert!(delay <= tier && delay >= tier * 4 / 5 - Duration::from_nanos(1).min(tier));
            prop_assert_eq!(delay, policy.delay(id, attempt));
            let due = policy.due(id, Stage::Detect, code::ROW_FAILED, attempt, Time(now)).unwrap();
            prop_assert_eq!(u128::try_from(due.0 - now).unwrap(), delay.as_micros());
        }
    }

    #[test]
    fn letters_of_one_moment_come_back_spread() {
        let policy = Policy { base: Duration::from_secs(1000), ..Policy::default() };
        let delays: std::collections::BTreeSet<_> = (0..=255_u8)
            .map(|n| policy.delay(Id(blake3::hash(&[n]).as_bytes()[..16].try_into().unwrap()), 1))
            .collect();
        assert!(delays.len() > 250);
        assert!(delays.last().unwrap().saturating_sub(*delays.first().unwrap()) > policy.tier(1) / 6);
    }
}
