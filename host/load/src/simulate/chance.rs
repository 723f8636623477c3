//! Chance that is a function of seed, key and position: no state, no order, the same on every machine.
//!
//! No library generator: their streams may change between versions, and recorded runs would change with them.

/// A source of numbers that look random.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// An independent source for something numbered.
    pub(super) fn of(self, number: u64) -> Self {
        Self(mix(self.0 ^ mix(number.wrapping_add(1))))
    }

    /// A whole number below `end`; 0 when `end` is 0.
    pub(super) fn below(self, end: u64) -> u64 {
        u64::try_from((u128::from(self.0) * u128::from(end)) >> 64).unwrap_or(0)
    }

    /// A number from 0 to 1, without 1.
    pub(super) fn unit(self) -> f64 {
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number from `low` to `high`.
    pub(super) fn between(self, low: f64, high: f64) -> f64 {
        low + self.unit() * (high - low)
    }

    /// Bell-shaped noise from -1 to 1. It has an end on purpose: normal values never reach a threshold by chance.
    pub(super) fn bell(self) -> f64 {
        let sum: f64 = (0..4).map(|lane| self.of(lane).unit()).sum();
        sum / 2.0 - 1.0
    }
}

/// A wave of period 1 from -1 to 1: two parabolas instead of a sine, whose last digit differs between machines.
pub(super) fn wave(phase: f64) -> f64 {
    let x = (phase - phase.floor()) * 2.0 - 1.0;
    4.0 * x * (1.0 - x.abs())
}

/// The finaliser of `SplitMix64` (Steele, Lea, Flood 2014).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
