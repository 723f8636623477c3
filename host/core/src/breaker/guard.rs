//! The host's guard over all its breakers: when most plugins trip at once, the host is to blame, not they.
//!
//! A full disk cache, a starved CPU or a fault of ours makes every plugin run into its deadline. Opening all breakers then
//! would leave everything unjudged. So from that moment no breaker trips for as long as most wish to; those that are open
//! recover as usual. Pure; its owner asks it under a lock, once for each trip.

use std::collections::VecDeque;
use std::time::Duration;

/// Who may still trip.
#[derive(Debug)]
pub struct Guard {
    /// Plugins that have a breaker.
    plugins: usize,
    /// The last wish to trip of each plugin, oldest first.
    wishes: VecDeque<(Duration, u64)>,
    suspected_since: Option<Duration>,
}

impl Guard {
    /// How close together trips must be.
    pub const WITHIN: Duration = Duration::from_secs(60);

    /// Fewer plugins than this say nothing about the host.
    pub const AT_LEAST: usize = 3;

    /// Trusts the host.
    pub fn new() -> Self {
        Self { plugins: 0, wishes: VecDeque::new(), suspected_since: None }
    }

    /// How many plugins have a breaker now.
    pub fn set_plugins(&mut self, plugins: usize) {
        self.plugins = plugins;
    }

    /// Whether a plugin's breaker may trip. A wish counts also when it is refused.
    pub fn may_trip(&mut self, now: Duration, plugin: u64) -> bool {
        self.tick(now);
        self.wishes.retain(|(_, other)| *other != plugin);
        self.wishes.push_back((now, plugin));
        if self.are_most() {
            self.suspected_since.get_or_insert(now);
        }
        self.suspected_since.is_none()
    }

    /// Forgets what is long past: when fewer than most wished to trip within [`Guard::WITHIN`], the host is trusted again,
    /// and the few that still fail trip.
    pub fn tick(&mut self, now: Duration) {
        while self.wishes.front().is_some_and(|(at, _)| now.saturating_sub(*at) >= Self::WITHIN) {
            self.wishes.pop_front();
        }
        if !self.are_most() {
            self.suspected_since = None;
        }
    }

    fn are_most(&self) -> bool {
        let many = self.wishes.len();
        many >= Self::AT_LEAST && many.saturating_mul(2) > self.plugins
    }

    /// Since when the host is the suspect.
    pub fn suspected_since(&self) -> Option<Duration> {
        self.suspected_since
    }

    /// The plugins that wished to trip within the last minute.
    pub fn wishes(&self) -> impl Iterator<Item = u64> {
        self.wishes.iter().map(|(_, plugin)| *plugin)
    }
}

impl Default for Guard {
    fn default() -> Self {
        Self::new()
    }
}
