//! A rate: so many a second, evenly, without saving up for a flood.

use std::time::Instant;

/// How much of a second's share may be used at once.
const BURST: f64 = 0.1;

/// A rate of letters.
#[derive(Debug)]
pub(crate) struct Pace {
    a_second: f64,
    /// Letters that may be moved now.
    room: f64,
    at: Instant,
}

impl Pace {
    pub(crate) fn new(a_second: u32) -> Self {
        Self { a_second: f64::from(a_second.max(1)), room: 1.0, at: Instant::now() }
    }

    /// Another rate from now on.
    pub(crate) fn set(&mut self, a_second: u32) {
        self.a_second = f64::from(a_second.max(1));
    }

    /// How many may go now, `most` at most.
    pub(crate) fn allows(&mut self, most: usize) -> usize {
        self.pass(Instant::now());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between nothing and a tenth of u32"
        )]
        let room = self.room.max(0.0) as usize;
        room.min(most)
    }

    /// So many went.
    pub(crate) fn spend(&mut self, letters: usize) {
        self.room -= f64::from(u32::try_from(letters).unwrap_or(u32::MAX));
    }

    fn pass(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.room = (self.room + passed * self.a_second).min((self.a_second * BURST).max(1.0));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_second_has_its_share_and_no_more() {
        for (rate, seconds, expected) in [(1_000, 10, 10_000), (3, 20, 60), (50_000, 1, 50_000)] {
            let mut pace = Pace::new(rate);
            let mut sum = 0;
            for _ in 0..seconds * 100 {
                pace.pass(pace.at + Duration::from_millis(10));
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small and not negative")]
                let room = pace.room.max(0.0) as usize;
                pace.spend(room);
                sum += room;
            }
            let (low, high) = (expected * 99 / 100 - 1, expected + expected / 100 + 1);
            assert!((low..=high).contains(&sum), "{sum} of {expected}");
        }
        // A long rest is not made up for.
        let mut pace = Pace::new(1_000);
        pace.pass(pace.at + Duration::from_secs(3600));
        assert!(pace.room <= 100.0);
    }
}
