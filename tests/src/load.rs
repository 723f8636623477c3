//! A steady producer: simulated sensors posted in small bodies, each told durable or not.
//!
//! It never sends an event twice: what was under way when the host died may be in the log or not, and stays so.

use std::time::{Duration, Instant};

use phronis_load::simulate::{Event, Sensors, Settings};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::host::{Host, Room};

/// A producer, and what it was told.
#[derive(Debug)]
pub struct Producer {
    sensors: Sensors,
    stream: String,
    /// Rows that the host said are durable: partition, first offset, count.
    pub acknowledged: Vec<(i32, i64, u64)>,
    /// Events posted, also those without an answer.
    pub sent: u64,
    /// Events that were answered for.
    pub answered: u64,
}

impl Producer {
    /// Sensors of this seed for the stream `sensors`; one event in fifty is malformed.
    pub fn new(seed: u64) -> Self {
        Self::of(seed, "sensors")
    }

    /// The same for another stream.
    pub fn of(seed: u64, stream: &str) -> Self {
        let settings = Settings { seed, keys: 40, malformed: 0.02, fault_every: Some(200), ..Settings::default() };
        let (sensors, stream) = (Sensors::new(settings), stream.to_owned());
        Self { sensors, stream, acknowledged: Vec::new(), sent: 0, answered: 0 }
    }

    /// The next events, and their body.
    pub fn body(&mut self, events: usize) -> (Vec<Event>, Vec<u8>) {
        let events: Vec<_> = self.sensors.by_ref().take(events).collect();
        let mut body = Vec::new();
        for event in &events {
            body.extend_from_slice(&event.bytes);
            body.push(b'\n');
        }
        (events, body)
    }

    /// Posts one body. `Ok(false)`: the host had no room, nothing was taken.
    ///
    /// # Errors
    /// When there was no answer: nobody knows.
    pub fn post(&mut self, host: &Host, events: usize) -> anyhow::Result<bool> {
        let (events, body) = self.body(events);
        self.sent += events.len() as u64;
        let answer = host.post(&self.stream, body)?;
        if answer.status == 429 {
            return Ok(false);
        }
        anyhow::ensure!(answer.is_taken(), "{}: {}", answer.status, answer.text);
        self.answered += events.len() as u64;
        self.acknowledged.extend(answer.ranges());
        Ok(true)
    }

    /// Posts for a while, or until the host does not answer.
    ///
    /// # Errors
    /// Never for a host that dies: that is what it is for.
    pub fn run(&mut self, host: &Host, events: usize, span: Duration) {
        let until = Instant::now() + span;
        while Instant::now() < until {
            match self.post(host, events) {
                Ok(true) => {}
                Ok(false) => std::thread::sleep(Duration::from_millis(20)),
                Err(_) => return,
            }
        }
    }
}

/// Starts a host and kills it under load, again and again; then starts it once more, waits until all is judged, and stops it.
///
/// # Errors
/// When a host does not start or does not end.
pub fn survive(room: &Room, seed: u64, kills: u32) -> anyhow::Result<Producer> {
    let mut chance = StdRng::seed_from_u64(seed);
    let mut producer = Producer::new(seed);
    for _ in 0..kills {
        let host = Host::start_unready(room, &[])?;
        // From "hardly started" to "in full swing".
        let life = Duration::from_millis(chance.random_range(5..1200));
        let events = chance.random_range(1..400);
        std::thread::scope(|scope| {
            let load = scope.spawn(|| producer.run(&host, events, Duration::from_secs(30)));
            std::thread::sleep(life);
            let killed = host.kill();
            drop(load.join());
            killed
        })?;
    }
    let host = Host::start(room)?;
    producer.run(&host, 100, Duration::from_millis(200));
    host.drained("sensors")?;
    let end = host.stop()?;
    anyhow::ensure!(end.success(), "the host ended with {end}");
    Ok(producer)
}
