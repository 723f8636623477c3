//! How fast events go: a steady rate, or as fast as they happened.
//!
//! Pure: the time since the start is an argument, nobody sleeps here.

use std::time::Duration;

/// How much a sender that was held up may catch up at once. Longer, and a pause ends in a flood.
const CATCH_UP: Duration = Duration::from_millis(200);

/// When events may go.
#[derive(Debug, Clone)]
pub struct Pace(Kind);

/// Whether the next event may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// It goes now.
    Now,
    /// Not before this time since the start.
    At(Duration),
}

#[derive(Debug, Clone)]
enum Kind {
    Unlimited,
    /// `sent` events have gone since `since`.
    Rate {
        per_second: f64,
        since: Duration,
        sent: u64,
    },
    /// `origin` is the time and the event time, in milliseconds, of the first event.
    EventTime {
        speed: f64,
        origin: Option<(Duration, i64)>,
    },
}

impl Pace {
    /// As fast as the other side takes them.
    pub fn unlimited() -> Self {
        Self(Kind::Unlimited)
    }

    /// So many events a second; a rate that is not above zero is none.
    pub fn rate(per_second: f64) -> Self {
        match per_second.is_finite() && per_second > 0.0 {
            true => Self(Kind::Rate { per_second, since: Duration::ZERO, sent: 0 }),
            false => Self::unlimited(),
        }
    }

    /// As far apart as their event times, divided by `speed`.
    pub fn event_time(speed: f64) -> Self {
        match speed.is_finite() && speed > 0.0 {
            true => Self(Kind::EventTime { speed, origin: None }),
            false => Self::unlimited(),
        }
    }

    /// How many events may go at `now`, at most `wanted`. By event time it is one after the other: see [`Pace::due`].
    pub fn allowance(&self, now: Duration, wanted: usize) -> usize {
        let Kind::Rate { per_second, since, sent } = &self.0 else { return wanted };
        let earned = earned(*per_second, now.saturating_sub(*since));
        usize::try_from(earned.saturating_sub(*sent)).unwrap_or(wanted).min(wanted)
    }

    /// Takes note that `events` have gone at `now`.
    pub fn sent(&mut self, now: Duration, events: usize) {
        if let Kind::Rate { per_second, since, sent } = &mut self.0 {
            *sent += events as u64;
            // What was not used for too long is gone.
            let behind = now.saturating_sub(*since).saturating_sub(Duration::from_secs_f64(*sent as f64 / *per_second));
            if behind > CATCH_UP {
                *since += behind - CATCH_UP;
            }
        }
    }

    /// Whether an event of this event time (milliseconds since 1970) may go at `now`.
    /// Times that run backwards go at once, in their order in the file.
    pub fn due(&mut self, now: Duration, event_time_ms: i64) -> Due {
        let at = match &mut self.0 {
            Kind::Unlimited => return Due::Now,
            Kind::Rate { per_second, since, sent } => {
                *since + Duration::from_secs_f64((*sent + 1) as f64 / *per_second)
            }
            Kind::EventTime { speed, origin } => {
                let (start, first) = *origin.get_or_insert((now, event_time_ms));
                let apart = event_time_ms.saturating_sub(first).max(0) as f64 / 1000.0 / *speed;
                start.saturating_add(Duration::try_from_secs_f64(apart).unwrap_or(Duration::MAX))
            }
        };
        if at <= now { Due::Now } else { Due::At(at) }
    }

    /// When the next event may go at the earliest, where that does not hang on its event time.
    pub fn next_at(&self) -> Duration {
        match &self.0 {
            Kind::Rate { per_second, since, sent } => {
                *since + Duration::from_secs_f64((*sent + 1) as f64 / *per_second)
            }
            _ => Duration::ZERO,
        }
    }
}

/// Events earned in a span of time.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and a saturating cast")]
fn earned(per_second: f64, span: Duration) -> u64 {
    // A nanosecond more than it is, so that the time that `next_at` names is late enough in spite of rounding.
    (per_second * (span + Duration::from_nanos(1)).as_secs_f64()) as u64
}
