//! Machine temperatures: a base, a daily curve, slow drift and noise a sensor; overheating, spikes, stuck and silent sensors.

use std::{sync::Arc, time::Duration};

use super::{
    Event, Expect, Fault, FaultKind, Malformation, Settings,
    chance::{Chance, wave},
    schedule::{Active, Planned, Schedule, Truth},
    time_text,
};

const KINDS: &[Planned] = &[
    Planned { kind: FaultKind::Overheat, shortest: 12, longest: 30 },
    Planned { kind: FaultKind::Spike, shortest: 1, longest: 3 },
    Planned { kind: FaultKind::Stuck, shortest: 15, longest: 30 },
    Planned { kind: FaultKind::DropOut, shortest: 10, longest: 30 },
];

/// Readings without end: `{"sensor_id":"S0001","seq":12,"value":45.21,"unit":"C","ts":1767225600000}`.
/// Sensors take turns; each counts its own readings without a gap.
#[derive(Debug)]
pub struct Sensors {
    settings: Settings,
    chance: Chance,
    schedule: Schedule,
    truth: Truth,
    sensors: Vec<Sensor>,
    /// Turns taken by all sensors together.
    slot: u64,
}

#[derive(Debug)]
struct Sensor {
    name: Arc<str>,
    chance: Chance,
    seq: u64,
    base: f64,
    swing: f64,
    phase: f64,
    is_fahrenheit: bool,
    /// Turns that it has been silent.
    silent: u64,
}

impl Sensors {
    /// No normal reading reaches this, in °C.
    pub const NORMAL_BELOW: f64 = 70.0;

    /// Every reading that counts as a fault is at least this, in °C.
    pub const FAULT_FROM: f64 = 97.0;

    /// What a sensor shows at most on its way to a fault, in °C.
    const WARM: f64 = 82.0;

    /// The beginning of a run.
    pub fn new(settings: Settings) -> Self {
        let chance = Chance::new(settings.seed);
        let sensors: Vec<_> =
            (0..settings.keys.max(1)).map(|key| Sensor::new(key, chance, settings.fahrenheit)).collect();
        Self {
            schedule: Schedule::new(settings.seed, settings.fault_every, KINDS),
            truth: Truth::new(sensors.len()),
            settings,
            chance,
            sensors,
            slot: 0,
        }
    }

    /// The faults of the events so far, in the order of their beginning.
    pub fn faults(&self) -> &[Fault] {
        self.truth.faults()
    }

    /// The reading of one turn, or nothing when the sensor is silent.
    fn turn(&mut self, slot: u64) -> Option<Event> {
        let keys = self.sensors.len() as u64;
        let (turn, index) = (slot / keys, usize::try_from(slot % keys).ok()?);
        let key = u32::try_from(index).ok()?;
        let sensor = self.sensors.get_mut(index)?;
        let mut active = self.schedule.active(key, turn);
        if active.is_some_and(|active| active.kind == FaultKind::DropOut) {
            sensor.silent += 1;
            return None;
        }
        let per_second = self.settings.per_second.max(1e-6);
        let at = Duration::from_secs_f64(slot as f64 / per_second);
        let chance = self.chance.of(u64::from(key)).of(turn);
        let silence = (sensor.silent as f64) * keys as f64 / per_second;
        if std::mem::take(&mut sensor.silent) > 0 {
            active = Some(Active { kind: FaultKind::DropOut, turn: 0, turns: 1, chance });
        }
        let celsius = sensor.celsius(at, self.settings.day, chance, active);
        let malformed = active.is_none().then(|| Malformation::pick(chance.of(1), self.settings.malformed)).flatten();
        let time_ms = self.settings.start_ms.saturating_add(i64::try_from(at.as_millis()).unwrap_or(i64::MAX));
        let event = Event {
            key: Arc::clone(&sensor.name),
            seq: sensor.seq,
            at,
            time_ms,
            bytes: sensor.text(celsius, &time_text(time_ms, self.settings.times), malformed),
            is_fault: celsius >= Self::FAULT_FROM,
            fault: active.map(|active| active.kind),
            expect: malformed.map_or(Expect::Delivered, Expect::Refused),
        };
        sensor.seq += 1;
        let is_drop_out = event.fault == Some(FaultKind::DropOut);
        self.truth.note(key, &event, active, if is_drop_out { silence } else { celsius });
        Some(event)
    }
}

impl Iterator for Sensors {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        loop {
            let slot = self.slot;
            self.slot += 1;
            if let Some(event) = self.turn(slot) {
                return Some(event);
            }
        }
    }
}

impl Sensor {
    fn new(key: u32, chance: Chance, fahrenheit: f64) -> Self {
        let own = chance.of(u64::from(key)).of(u64::MAX);
        Self {
            name: format!("S{:04}", u64::from(key) + 1).into(),
            chance: own,
            seq: 0,
            base: own.of(1).between(35.0, 50.0),
            swing: own.of(2).between(4.0, 10.0),
            phase: own.of(3).unit(),
            is_fahrenheit: own.of(4).unit() < fahrenheit,
            silent: 0,
        }
    }

    /// The temperature, rounded to what the event shows.
    fn celsius(&self, at: Duration, day: Duration, chance: Chance, active: Option<Active>) -> f64 {
        let days = at.as_secs_f64() / day.as_secs_f64().max(1e-3) + self.phase;
        // Drift is a curve over about ten days that differs from sensor to sensor.
        let drift = 4.0 * wave(days / self.chance.of(5).between(8.0, 12.0));
        let normal = self.base + self.swing * wave(days) + drift + 2.5 * chance.bell();
        let value = match active {
            Some(Active { kind: FaultKind::Overheat, turn, turns, chance: fault }) => {
                let peak = fault.between(105.0, 130.0);
                // Up in the first third, down in the last quarter.
                let share = (turn + 1) as f64 / (turns + 1) as f64;
                let rise = (share * 3.0).min((1.0 - share) * 4.0).min(1.0);
                let value = normal + (peak - normal) * rise;
                // Nothing between warm and hot: a threshold in the middle leaves no doubt.
                match value {
                    warm if warm < 90.0 => warm.min(Sensors::WARM),
                    hot => hot.max(Sensors::FAULT_FROM),
                }
            }
            Some(Active { kind: FaultKind::Spike, chance: fault, turn, .. }) => fault.of(turn).between(110.0, 140.0),
            Some(Active { kind: FaultKind::Stuck, chance: fault, .. }) => self.base + self.swing * (fault.unit() - 0.5),
            _ => normal,
        };
        (value * 100.0).round() / 100.0
    }

    fn text(&self, celsius: f64, time: &str, malformed: Option<Malformation>) -> Vec<u8> {
        let (value, unit) = if self.is_fahrenheit { (celsius * 1.8 + 32.0, "F") } else { (celsius, "C") };
        let value = match malformed {
            Some(Malformation::WrongType) => "\"value\":\"hot\",".to_owned(),
            Some(Malformation::MissingField) => String::new(),
            Some(Malformation::OutOfRange) => "\"value\":1000000.00,".to_owned(),
            _ => format!("\"value\":{value:.2},"),
        };
        let (name, seq) = (&self.name, self.seq);
        let mut text =
            format!(r#"{{"sensor_id":"{name}","seq":{seq},{value}"unit":"{unit}","ts":{time}}}"#).into_bytes();
        if malformed == Some(Malformation::Truncated) {
            text.truncate(text.len() * 2 / 3);
        }
        text
    }
}
