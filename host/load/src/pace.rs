//! How fast events go: a steady rate, or as fast as they happened.
//!
//! Pure: the time since the start is an argument, nobody sleeps here.

use std::time::Duration;

/// How much a sender that was held up may catch up. Shorter, and slow posts never reach the rate;
/// longer, and a pause ends in a flood.
const CATCH_UP: Duration = Duration::from_secs(1);

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
        let backlog = earned(*per_second, now.saturating_sub(*since)).saturating_sub(*sent);
        let most = earned(*per_second, CATCH_UP).max(1);
        usize::try_from(backlog.min(most)).unwrap_or(wanted).min(wanted)
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

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_rate_holds_over_any_steps() {
        for step in [1, 7, 50, 100] {
            let mut pace = Pace::rate(333.0);
            let mut sent = 0;
            for now in (0..=10_000).step_by(step) {
                let may = pace.allowance(ms(now), 1_000);
                pace.sent(ms(now), may);
                sent += may;
                assert!(sent as f64 <= 333.0 * now as f64 / 1000.0 + 1e-3, "never ahead at {now} ms");
            }
            assert!((3_290..=3_330).contains(&sent), "{sent} in steps of {step} ms");
        }
    }

    #[test]
    fn the_next_time_is_one_at_which_an_event_may_go() {
        let mut pace = Pace::rate(7.0);
        let mut now = Duration::ZERO;
        for sent in 0..100 {
            assert_eq!(pace.allowance(now, 10), 0, "after {sent}");
            assert_eq!(pace.due(now, 0), Due::At(pace.next_at()));
            now = pace.next_at();
            assert_eq!((pace.allowance(now, 10), pace.due(now, 0)), (1, Due::Now), "after {sent}");
            pace.sent(now, 1);
        }
        assert_eq!(now.as_secs(), 14);
    }

    #[test]
    fn a_sender_that_was_held_up_catches_up_a_little_and_does_not_flood() {
        let mut pace = Pace::rate(1_000.0);
        assert_eq!(pace.allowance(ms(10_000), usize::MAX), 1_000);
        pace.sent(ms(10_000), 1_000);
        assert_eq!(pace.allowance(ms(10_000), usize::MAX), 1_000);
        pace.sent(ms(10_000), 1_000);
        assert_eq!(pace.allowance(ms(10_100), usize::MAX), 100);
        assert_eq!(Pace::rate(0.1).allowance(ms(60_000), usize::MAX), 1, "slow rates still get on");
    }

    #[test]
    fn event_time_runs_at_its_speed_from_the_first_event_on() {
        let mut pace = Pace::event_time(60.0);
        let start = 1_386_018_900_000;
        assert_eq!(pace.due(ms(500), start), Due::Now);
        assert_eq!(pace.due(ms(500), start + 300_000), Due::At(ms(5_500)));
        assert_eq!(pace.due(ms(5_500), start + 300_000), Due::Now);
        assert_eq!(pace.due(ms(5_500), start - 1_000), Due::Now, "a time that runs back");
        assert_eq!(pace.due(ms(5_500), i64::MAX), Due::At(pace_end(start)));
    }

    fn pace_end(start: i64) -> Duration {
        ms(500) + Duration::from_secs_f64((i64::MAX - start) as f64 / 1000.0 / 60.0)
    }

    #[test]
    fn without_a_usable_number_nothing_is_held_back() {
        for mut pace in [Pace::unlimited(), Pace::rate(0.0), Pace::rate(f64::NAN), Pace::event_time(-1.0)] {
            assert_eq!((pace.allowance(ms(0), 7), pace.due(ms(0), 9), pace.next_at()), (7, Due::Now, ms(0)));
        }
    }
}
