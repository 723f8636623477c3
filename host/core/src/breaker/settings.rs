//! What opens a breaker and for how long, as somebody set it; the defaults are those of the design.

use std::time::Duration;

/// When a breaker opens, and how it recovers.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How far back failures count.
    pub window: Duration,
    /// Hard failures in the window that open it.
    pub failures: u32,
    /// Deadlines one after the other that open it at once.
    pub deadlines: u32,
    /// Failed rows in the window that open it.
    pub rows: Rows,
    /// Slow calls in the window that open it; none: calls are never too slow.
    pub slow: Option<Slow>,
    /// How long it is open for the first time.
    pub open_for: Duration,
    /// How long it is open at most, however often it failed.
    pub open_most: Duration,
    /// Batches that must go well before it closes.
    pub probes: u32,
    /// How long begun probes may take.
    pub probes_within: Duration,
    /// A close that lasts as long forgives earlier trips.
    pub forgiven_after: Duration,
}

/// Which failed rows open a breaker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rows {
    /// This share of the rows shown, once there are at least so many.
    Share {
        /// From 0 to 1.
        share: f64,
        /// Rows shown, below which nothing is said.
        of_at_least: u64,
    },
    /// This many.
    Count(u64),
    /// None: failed rows never open it.
    Never,
}

/// Which calls are slow, and how many of them open a breaker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slow {
    /// A call that takes longer is slow. Calls are timed by batch: it is the mean of a batch's calls.
    pub above: Duration,
    /// Share of the calls, from 0 to 1.
    pub share: f64,
    /// Calls, below which nothing is said.
    pub of_at_least: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(60),
            failures: 5,
            deadlines: 3,
            rows: Rows::Share { share: 0.5, of_at_least: 100 },
            slow: None,
            open_for: Duration::from_secs(30),
            open_most: Duration::from_secs(600),
            probes: 3,
            probes_within: Duration::from_secs(60),
            forgiven_after: Duration::from_secs(600),
        }
    }
}

impl Settings {
    /// The longest window: one bucket a second is kept.
    pub const LONGEST_WINDOW: Duration = Duration::from_secs(600);

    /// The shortest open time: each trip is an alert, a word to the other hosts and a row of the audit,
    /// and a plugin that fails at once must not flood them.
    pub const SHORTEST_OPEN: Duration = Duration::from_secs(1);

    /// The most probes.
    pub const MOST_PROBES: u32 = 1000;

    /// What is wrong with them, by field.
    ///
    /// # Errors
    /// The field, and what it should be.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let is_share = |share: f64| share > 0.0 && share <= 1.0;
        let second = Duration::from_secs(1);
        if self.window < second || self.window > Self::LONGEST_WINDOW {
            return Err(("window", format!("from 1s to {}s", Self::LONGEST_WINDOW.as_secs())));
        }
        for (name, number) in [("failures", self.failures), ("deadlines", self.deadlines), ("probes", self.probes)] {
            if number == 0 {
                return Err((name, "at least 1".into()));
            }
        }
        if self.probes > Self::MOST_PROBES {
            return Err(("probes", format!("at most {}", Self::MOST_PROBES)));
        }
        match self.rows {
            Rows::Share { share, .. } if !is_share(share) => return Err(("rows_share", "above 0, at most 1".into())),
            Rows::Count(0) => return Err(("rows", "at least 1".into())),
            Rows::Share { .. } | Rows::Count(_) | Rows::Never => {}
        }
        if self.slow.is_some_and(|slow| !is_share(slow.share)) {
            return Err(("slow_share", "above 0, at most 1".into()));
        }
        if self.open_for < Self::SHORTEST_OPEN {
            return Err(("open_for", format!("at least {}s", Self::SHORTEST_OPEN.as_secs())));
        }
        if self.open_most < self.open_for {
            return Err(("open_most", "at least as long as open_for".into()));
        }
        Ok(())
    }

    /// How long it is open after `trips` tries in a row that failed before this one.
    ///
    /// The first time exactly [`Settings::open_for`], then twice as long each time, times 0.9 to 1.1 so that what tripped
    /// together does not come back together, and never longer than [`Settings::open_most`].
    pub fn open_time(&self, trips: u32, jitter: u64) -> Duration {
        if trips == 0 {
            return self.open_for.min(self.open_most);
        }
        let doubled = self.open_for.checked_mul(1u32.checked_shl(trips).unwrap_or(u32::MAX)).unwrap_or(Duration::MAX);
        let doubled = doubled.min(self.open_most);
        // Thousandths from 900 to 1100.
        let thousandths = u32::try_from(900 + spread(jitter) % 201).unwrap_or(1000);
        (doubled / 1000).saturating_mul(thousandths).min(self.open_most)
    }
}

/// Spreads a seed over all bits (the finaliser of SplitMix64), so that neighbours are far apart.
fn spread(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
