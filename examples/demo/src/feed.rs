//! The sensors: simulated readings, posted at a steady pace or in a burst, and the truth about each.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use phronis_load::simulate::{Sensors, Settings};
use phronis_tests::host::{Answer, Host};
use serde_json::json;

use crate::judge::Truth;

/// Time between posts: short, so that a reading hardly waits for company.
const TICK: Duration = Duration::from_millis(10);

/// Readings a post of the burst.
const BODY: usize = 5_000;

/// The sensor that is always too hot while the detector is replaced, so that every moment has someone to judge.
pub(crate) const PROBE: &str = "probe";

/// All sensors, and what became of their posts.
pub(crate) struct Feed {
    /// Ends the steady pace.
    pub(crate) should_stop: AtomicBool,
    /// Each post carries a probe.
    pub(crate) probes: AtomicBool,
    state: Mutex<State>,
}

struct State {
    sensors: Sensors,
    /// Readings that are faults: sensor and number.
    faults: HashSet<(String, u64)>,
    probes: u64,
    /// When a row was posted: by partition and first offset, how many rows and when.
    posts: BTreeMap<(i32, i64), (u64, Instant)>,
}

impl Feed {
    pub(crate) fn new() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // The burst is minutes of readings in a moment, and silent sensors take time too: nothing is in the future.
        let ahead = Duration::from_secs_f64(1.2 * crate::BURST as f64 / crate::RATE);
        let start = now.saturating_sub(ahead);
        let settings = Settings {
            seed: 7,
            per_second: crate::RATE,
            start_ms: i64::try_from(start.as_millis()).unwrap_or_default(),
            fault_every: Some(250),
            malformed: 0.002,
            day: Duration::from_secs(60),
            ..Settings::default()
        };
        let state =
            State { sensors: Sensors::new(settings), faults: HashSet::new(), probes: 0, posts: BTreeMap::new() };
        Self { should_stop: AtomicBool::new(false), probes: AtomicBool::new(false), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Posts readings at a steady pace until it is told to stop.
    pub(crate) fn steady(&self, host: &Host, per_second: f64) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut sent = 0u32;
        while !self.should_stop.load(Ordering::Relaxed) && !crate::say::was_interrupted() {
            let due = started.elapsed().as_secs_f64() * per_second;
            let mut body = Vec::new();
            while f64::from(sent) < due {
                self.state().reading(&mut body);
                sent += 1;
            }
            if self.probes.load(Ordering::Relaxed) {
                self.state().probe(&mut body);
            }
            if !body.is_empty() {
                self.post(host, body)?;
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    /// The bodies of a burst.
    pub(crate) fn bodies(&self, readings: usize) -> Vec<Vec<u8>> {
        let mut state = self.state();
        let mut bodies = Vec::new();
        for _ in 0..readings.div_ceil(BODY) {
            let mut body = Vec::new();
            (0..BODY).for_each(|_| state.reading(&mut body));
            bodies.push(body);
        }
        bodies
    }

    /// Posts bodies one after the other; where the host has no room, it waits as it is told.
    pub(crate) fn burst(&self, host: &Host, bodies: Vec<Vec<u8>>) -> anyhow::Result<()> {
        bodies.into_iter().try_for_each(|body| self.post(host, body))
    }

    fn post(&self, host: &Host, body: Vec<u8>) -> anyhow::Result<()> {
        for _ in 0..600 {
            let at = Instant::now();
            let answer: Answer = host.post("sensors", body.clone())?;
            if answer.status == 429 {
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
            anyhow::ensure!(answer.is_taken(), "the host answered {}: {}", answer.status, answer.text);
            let mut state = self.state();
            for (partition, first, count) in answer.ranges() {
                state.posts.insert((partition, first), (count, at));
            }
            return Ok(());
        }
        anyhow::bail!("the host had no room for a minute")
    }

    /// When the reading that stands there was posted.
    pub(crate) fn posted(&self, partition: i32, offset: i64) -> Option<Instant> {
        let state = self.state();
        let ((_, first), (count, at)) = state.posts.range(..=(partition, offset)).next_back()?;
        let nth = u64::try_from(offset.checked_sub(*first)?).ok()?;
        (state.posts.contains_key(&(partition, *first)) && nth < *count).then_some(*at)
    }

    /// What the host said is durable.
    pub(crate) fn acknowledged(&self) -> Vec<(i32, i64, u64)> {
        self.state().posts.iter().map(|((partition, first), (count, _))| (*partition, *first, *count)).collect()
    }

    /// The truth about all readings so far.
    pub(crate) fn truth(&self, high: f64, lower: f64) -> Truth {
        let state = self.state();
        Truth::new(state.faults.clone(), state.sensors.faults(), state.probes, high, lower)
    }
}

impl State {
    fn reading(&mut self, body: &mut Vec<u8>) {
        let Some(event) = self.sensors.next() else { return };
        if event.is_fault {
            self.faults.insert((event.key.as_ref().to_owned(), event.seq));
        }
        body.extend_from_slice(&event.bytes);
        body.push(b'\n');
    }

    fn probe(&mut self, body: &mut Vec<u8>) {
        let probe = json!({"sensor_id": PROBE, "seq": self.probes, "value": 120.0, "unit": "C"});
        self.probes += 1;
        body.extend_from_slice(probe.to_string().as_bytes());
        body.push(b'\n');
    }
}
