//! The breakers of all plugins, one a plugin, shared by its workers; what they do stands in `phronis_core::breaker`.
//!
//! [`Breakers`] is the registry; it lives beside the board of plugins and outlives versions.
//! [`Kept`] is one of them with its policy: what becomes of a batch while it is open, and what a person said.
//! `watch` is the thread that moves time on and tells everyone of changes. Nothing here is on a worker's path
//! but [`Kept::cell`] and what it leads to.

mod tell;
mod wanted;
mod watch;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use phronis_core::PluginId;
use phronis_core::breaker::{self, Counts, Guard, Mode, Shared, State};
use phronis_core::records::Records;
use phronis_core::time::Time;

use crate::clock::now_us;
use crate::plugins::settings;

pub(crate) use wanted::Policy;
pub use wanted::{Override, Wanted, WhenOpen, Wish};
pub(crate) use watch::Watch;

/// What a worker does stands in the index of letters after this time, by far.
const INDEX_LATE: Duration = Duration::from_secs(5);

/// All breakers of this host.
#[derive(Debug)]
pub(crate) struct Breakers {
    all: Mutex<BTreeMap<PluginId, Arc<Kept>>>,
    /// Which breakers of other hosts are open.
    elsewhere: Mutex<BTreeMap<PluginId, BTreeMap<String, Elsewhere>>>,
    guard: Arc<Mutex<Guard>>,
    clock: Clock,
    /// Wakes the watch when something changed.
    wake: mpsc::SyncSender<()>,
    woken: Mutex<Option<mpsc::Receiver<()>>>,
}

/// An open breaker of another host.
#[derive(Debug, Clone, Copy)]
struct Elsewhere {
    /// Until when, by the clock of that host.
    until: Time,
    /// When this one heard of it.
    heard: Duration,
}

/// The breakers' clock: it never goes back, and knows the wall's time for those who read it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// Since a fixed moment.
    pub(crate) fn now(self) -> Duration {
        self.0.elapsed()
    }

    /// The wall's time of a moment, by the wall clock of now.
    pub(crate) fn wall(self, at: Duration) -> Time {
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Time(now_us().saturating_sub(micros(self.now())).saturating_add(micros(at)))
    }

    /// The moment of a time on the wall, by the wall clock of now; one that is past is now.
    pub(crate) fn moment(self, at: Time) -> Duration {
        self.now() + Duration::from_micros(u64::try_from(at.0.saturating_sub(now_us())).unwrap_or(0))
    }
}

/// A plugin's breaker and its policy.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) id: PluginId,
    shared: Arc<Shared>,
    clock: Clock,
    wake: mpsc::SyncSender<()>,
    when_open: AtomicU8,
    ranges_most: AtomicU64,
    /// Range letters that wait to be judged, as far as this host knows.
    ranges: AtomicU64,
    /// When that changed here, in milliseconds of the breakers' clock; and whether the index was heard at all.
    ranges_touched: AtomicU64,
    are_ranges_known: AtomicBool,
    /// When it was last told that raw may soon forget the records of the oldest; 0: it is not so.
    ranges_late_at: AtomicU64,
    /// Rows that it kept from the plugin.
    refused_rows: AtomicU64,
    policy: Mutex<Policy>,
    over: Mutex<Option<Override>>,
    /// Whether a version of the plugin is there.
    is_live: AtomicBool,
}

impl Breakers {
    pub(crate) fn new() -> Self {
        let (wake, woken) = mpsc::sync_channel(1);
        Self {
            all: Mutex::default(),
            elsewhere: Mutex::default(),
            guard: Arc::default(),
            clock: Clock(Instant::now()),
            wake,
            woken: Mutex::new(Some(woken)),
        }
    }

    /// A plugin's breaker; a new one is closed.
    pub(crate) fn of(&self, id: &PluginId) -> Arc<Kept> {
        let mut all = lock(&self.all);
        if let Some(kept) = all.get(id) {
            return Arc::clone(kept);
        }
        let policy = Policy::default();
        let seed = seed(id);
        let shared = Shared::new(policy.settings.clone(), seed, Arc::clone(&self.guard), self.clock.now());
        let kept = Arc::new(Kept {
            id: id.clone(),
            shared: Arc::new(shared),
            clock: self.clock,
            wake: self.wake.clone(),
            when_open: AtomicU8::new(policy.when_open as u8),
            ranges_most: AtomicU64::new(policy.ranges_most),
            ranges: AtomicU64::new(0),
            ranges_touched: AtomicU64::new(0),
            are_ranges_known: AtomicBool::new(false),
            ranges_late_at: AtomicU64::new(0),
            refused_rows: AtomicU64::new(0),
            policy: Mutex::new(policy),
            over: Mutex::default(),
            is_live: AtomicBool::new(false),
        });
        all.insert(id.clone(), Arc::clone(&kept));
        kept
    }

    /// Whether a plugin would not be asked now: what the retry branch asks before it moves a letter.
    /// A plugin that is not there (yet, or any more) is waited for until its breaker would have been tried again:
    /// then its letters learn that it is gone.
    /// The worker that judges a letter may be another host's, so an open breaker of any host counts.
    pub(crate) fn is_open(&self, id: &PluginId) -> bool {
        self.is_open_at(id, self.clock.now())
    }

    fn is_open_at(&self, id: &PluginId, now: Duration) -> bool {
        let kept = lock(&self.all).get(id).cloned();
        if kept.as_ref().is_some_and(|kept| kept.is_open() && (kept.is_live() || kept.is_before_retry())) {
            return true;
        }
        let elsewhere = lock(&self.elsewhere);
        let Some(hosts) = elsewhere.get(id) else { return false };
        // The clock of another host may be years ahead: no breaker is open for longer than it may be.
        let default = || breaker::Settings::default().open_most;
        let most = kept.map_or_else(default, |kept| lock(&kept.policy).settings.open_most);
        hosts.values().any(|other| other.until.0 > now_us() && now.saturating_sub(other.heard) < most)
    }

    /// Learns from `phronis.control` which breakers of other hosts are open, and until when: what one of them said before it died
    /// holds no longer than that. Those that a person keeps open are so on each host.
    pub(crate) fn hear(&self, records: &Records, node_id: &str) {
        for (plugin, node, said) in tell::said(records).into_iter().filter(|(_, node, _)| node != node_id) {
            let until = said.filter(|said| said.state == State::Open).and_then(|said| said.retry_at);
            let mut elsewhere = lock(&self.elsewhere);
            match until {
                Some(until) => {
                    let heard = self.clock.now();
                    elsewhere.entry(plugin).or_default().insert(node, Elsewhere { until, heard });
                }
                None => {
                    if let Some(hosts) = elsewhere.get_mut(&plugin) {
                        hosts.remove(&node);
                    }
                }
            }
        }
    }

    /// How many range letters of a plugin are outstanding, and whether raw may soon forget the records of the oldest.
    pub(crate) fn set_ranges(&self, id: &PluginId, letters: u64, is_late: bool) {
        if let Some(kept) = lock(&self.all).get(id) {
            kept.set_ranges(letters);
            let late_at = if is_late { kept.now_ms().max(1) } else { 0 };
            kept.ranges_late_at.store(late_at, Ordering::Relaxed);
        }
    }

    /// The plugins that are there, by id.
    pub(crate) fn all(&self) -> Vec<Arc<Kept>> {
        let all: Vec<_> = lock(&self.all).values().filter(|kept| kept.is_live()).cloned().collect();
        self.guard.lock().unwrap_or_else(PoisonError::into_inner).set_plugins(all.len());
        all
    }

    /// One of them, if there is such a plugin.
    pub(crate) fn get(&self, id: &PluginId) -> Option<Arc<Kept>> {
        self.all().into_iter().find(|kept| kept.id == *id)
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }
}

impl Default for Policy {
    fn default() -> Self {
        let default = |_| Self { settings: breaker::Settings::default(), when_open: WhenOpen::Letter, ranges_most: 0 };
        Wanted::default().policy(None).unwrap_or_else(default)
    }
}

impl Kept {
    /// A breaker that nobody else hears of, for trying a plugin out.
    pub(crate) fn apart(id: &PluginId) -> Arc<Self> {
        Breakers::new().of(id)
    }

    /// A worker's way to ask and to count.
    pub(crate) fn cell(&self) -> breaker::Cell {
        self.shared.cell()
    }

    /// The breakers' time.
    pub(crate) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Something changed that should be told.
    pub(crate) fn news(&self) {
        // Full means that the watch will look anyway.
        self.wake.try_send(()).ok();
    }

    /// Whether a batch that came now would not be shown to the plugin.
    pub(crate) fn is_open(&self) -> bool {
        self.shared.is_open()
    }

    /// Whether the plugin is asked as usual.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.view(self.now()).state == State::Closed
    }

    /// What becomes of a batch while it is open; too many range letters, or too old ones, make it wait.
    pub(crate) fn when_open(&self) -> WhenOpen {
        match self.when_open.load(Ordering::Relaxed) {
            wait if wait == WhenOpen::Hold as u8 => WhenOpen::Hold,
            pass if pass == WhenOpen::Bypass as u8 => WhenOpen::Bypass,
            _ if self.are_ranges_late() => WhenOpen::Hold,
            _ if self.ranges.load(Ordering::Relaxed) >= self.ranges_most.load(Ordering::Relaxed) => WhenOpen::Hold,
            _ => WhenOpen::Letter,
        }
    }

    /// Why the worker must wait, if it must.
    pub(crate) fn why_held(&self) -> Option<String> {
        if !self.is_open() || self.when_open() != WhenOpen::Hold {
            return None;
        }
        let name = &self.id.name;
        let (ranges, most) = (self.ranges.load(Ordering::Relaxed), self.ranges_most.load(Ordering::Relaxed));
        if self.when_open.load(Ordering::Relaxed) == WhenOpen::Hold as u8 {
            return Some(format!("waits for the breaker of {name} to close (PH2202)"));
        }
        if self.are_ranges_late() {
            return Some(format!(
                "waits for the breaker of {name} to close: the oldest of {ranges} range letters has waited for half of the time \
                 that raw keeps records (PH2202)"
            ));
        }
        Some(format!("waits for the breaker of {name} to close: {ranges} range letters wait, {most} may (PH2202)"))
    }

    /// Range letters that are outstanding, as the index has them: the truth, a moment late.
    /// So it holds once nothing was written or judged for longer than that, and for the first time at once.
    fn set_ranges(&self, letters: u64) {
        let touched = Duration::from_millis(self.ranges_touched.load(Ordering::Relaxed));
        if !self.are_ranges_known.swap(true, Ordering::Relaxed) {
            self.ranges.fetch_max(letters, Ordering::Relaxed);
        } else if self.now().saturating_sub(touched) > INDEX_LATE {
            self.ranges.store(letters, Ordering::Relaxed);
        }
    }

    fn touch_ranges(&self) {
        self.ranges_touched.store(self.now_ms(), Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX)
    }

    /// As long as somebody says so: the branch that counts letters may be another host's by now.
    fn are_ranges_late(&self) -> bool {
        let late_at = self.ranges_late_at.load(Ordering::Relaxed);
        late_at > 0 && Duration::from_millis(self.now_ms().saturating_sub(late_at)) < INDEX_LATE * 2
    }

    /// Range letters became durable.
    pub(crate) fn ranges_written(&self, letters: u64) {
        self.touch_ranges();
        self.ranges.fetch_add(letters, Ordering::Relaxed);
    }

    /// Range letters are settled: judged, or discarded.
    pub(crate) fn ranges_settled(&self, letters: u64) {
        self.touch_ranges();
        let settle = |ranges: u64| Some(ranges.saturating_sub(letters));
        // The closure always gives a value.
        let _always = self.ranges.fetch_update(Ordering::Relaxed, Ordering::Relaxed, settle);
    }

    /// Rows were not shown to the plugin.
    pub(crate) fn refused(&self, rows: usize) {
        self.refused_rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Whether a version of the plugin is there.
    pub(crate) fn set_live(&self, is_live: bool) {
        self.is_live.store(is_live, Ordering::Relaxed);
    }

    fn is_before_retry(&self) -> bool {
        self.shared.view(self.now()).retry_at.is_some_and(|at| at > self.now())
    }

    fn is_live(&self) -> bool {
        self.is_live.load(Ordering::Relaxed)
    }

    /// Settings and what a person said, in force from now on.
    pub(crate) fn apply(&self, policy: &Policy, over: Option<&Override>) {
        if *lock(&self.policy) != *policy {
            self.when_open.store(policy.when_open as u8, Ordering::Relaxed);
            self.ranges_most.store(policy.ranges_most, Ordering::Relaxed);
            self.shared.set_settings(policy.settings.clone());
            *lock(&self.policy) = policy.clone();
        }
        let over = over.filter(|over| over.until.is_none_or(|until| until.0 > now_us()));
        let mut known = lock(&self.over);
        if known.as_ref() == over {
            return;
        }
        *known = over.cloned();
        drop(known);
        let mode = over.map_or(Mode::Auto, |over| over.state.mode());
        let until = over.and_then(|over| over.until).map(|until| self.clock.moment(until));
        if self.shared.set_mode(self.now(), mode, until) {
            self.news();
        }
    }

    /// The plugin has another version or other parameters.
    pub(crate) fn renew(&self) {
        if self.shared.renew(self.now()) {
            self.news();
        }
    }

    /// What there is to see.
    pub(crate) fn status(&self) -> Status {
        let view = self.shared.view(self.now());
        let policy = lock(&self.policy).clone();
        let over = lock(&self.over).clone().filter(|_| view.mode != Mode::Auto);
        let wall = |at| self.clock.wall(at);
        Status {
            plugin: self.id.clone(),
            state: view.state,
            mode: view.mode,
            over,
            opened_at: view.opened_at.map(wall),
            retry_at: view.retry_at.map(wall),
            counts: view.counts,
            deadlines_in_a_row: view.streak,
            trips: view.trips,
            last_trip: view.last_trip.map(|trip| Trip::of(&trip, self.clock)),
            good_probes: view.good_probes,
            ranges_waiting: self.ranges.load(Ordering::Relaxed),
            refused_rows: self.refused_rows.load(Ordering::Relaxed),
            settings: policy.written(),
        }
    }
}

/// A breaker, at one moment.
#[derive(Debug, Clone)]
pub struct Status {
    /// Whose.
    pub plugin: PluginId,
    /// What it does.
    pub state: State,
    /// Who decides.
    pub mode: Mode,
    /// What a person said, while it holds.
    pub over: Option<Override>,
    /// Since when it is not closed.
    pub opened_at: Option<Time>,
    /// When it will be tried again.
    pub retry_at: Option<Time>,
    /// What stands in the window; a state that began just now begins with none.
    pub counts: Counts,
    /// Deadlines one after the other.
    pub deadlines_in_a_row: u64,
    /// Times in a row that it opened.
    pub trips: u32,
    /// The last time that a rule spoke.
    pub last_trip: Option<Trip>,
    /// Probes that went well, while half-open.
    pub good_probes: u32,
    /// Range letters that wait to be judged, as far as this host knows.
    pub ranges_waiting: u64,
    /// Rows that were not shown to the plugin since the process started.
    pub refused_rows: u64,
    /// Settings in force, all of them.
    pub settings: Wanted,
}

/// Why and with which numbers a breaker opened, or would have.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Trip {
    /// The rule.
    pub reason: breaker::Reason,
    /// When.
    pub at: Time,
    /// What stood in the window, or what the failed probe did.
    pub counts: Counts,
    /// Deadlines one after the other.
    pub deadlines_in_a_row: u64,
}

impl Trip {
    fn of(trip: &breaker::Trip, clock: Clock) -> Self {
        Self { reason: trip.reason, at: clock.wall(trip.at), counts: trip.counts, deadlines_in_a_row: trip.streak }
    }
}

/// A time as settings have it: `30s`, `10m`.
pub fn duration(text: &str) -> Option<Duration> {
    settings::duration(text)
}

/// Tells a plugin from others, the same on all hosts.
fn seed(id: &PluginId) -> u64 {
    let hash = blake3::hash(id.to_string().as_bytes());
    hash.as_bytes().first_chunk().copied().map_or(0, u64::from_le_bytes)
}

/// A lock that a panicking holder cannot poison: what it guards is replaced whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use phronis_core::records::RecordsBuilder;
    use serde_json::json;

    use super::*;

    fn said(node: &str, state: &str, retry_in: i64) -> Records {
        let key = format!("breakers/default/sensors/hot/{node}");
        let value = json!({ "state": state, "retry_at": Time(now_us() + retry_in) }).to_string();
        let mut body = RecordsBuilder::default();
        body.push(0, Some(key.as_bytes()), Some(value.as_bytes()), &[]);
        Records { topic: "phronis.control".into(), partition: 0, offsets: vec![0].into(), body: body.finish() }
    }

    #[test]
    fn letters_wait_for_an_open_breaker_of_any_host_and_for_none_that_is_over() {
        let hot: PluginId = "default/sensors/hot".parse().unwrap();
        let breakers = Breakers::new();
        let hears = |node: &str, state: &str, retry_in: i64| {
            breakers.hear(&said(node, state, retry_in), "me");
            breakers.is_open(&hot)
        };
        assert!(!breakers.is_open(&hot));
        assert!(!hears("me", "open", 60_000_000), "its own are known better");
        assert!(!hears("a", "open", -1), "a host that died long ago");
        assert!(hears("a", "open", 60_000_000));
        assert!(hears("b", "open", 60_000_000));
        assert!(hears("a", "half_open", 0), "the other one is still open");
        assert!(!hears("b", "closed", 0));
    }

    #[test]
    fn letters_wait_no_longer_for_a_breaker_elsewhere_than_one_may_be_open() {
        let hot: PluginId = "default/sensors/hot".parse().unwrap();
        let breakers = Breakers::new();
        // A host whose clock is a year ahead.
        breakers.hear(&said("a", "open", 365 * 86_400_000_000), "me");
        let most = breaker::Settings::default().open_most;
        assert!(breakers.is_open_at(&hot, most - Duration::from_secs(1)));
        assert!(!breakers.is_open_at(&hot, most + Duration::from_secs(60)));
        let policy = Wanted { open_most: Some("2h".to_owned()), ..Wanted::default() }.policy(None).unwrap();
        breakers.of(&hot).apply(&policy, None);
        assert!(breakers.is_open_at(&hot, most + Duration::from_secs(60)), "where it may be open for longer");
    }

    #[test]
    fn letters_do_not_wait_for_the_breaker_of_a_plugin_that_is_gone() {
        let hot: PluginId = "default/sensors/hot".parse().unwrap();
        let breakers = Breakers::new();
        let kept = breakers.of(&hot);
        kept.set_live(true);
        kept.shared.set_mode(Duration::ZERO, Mode::ForcedOpen, None);
        assert!(breakers.is_open(&hot));
        kept.set_live(false);
        assert!(!breakers.is_open(&hot));
    }
}
