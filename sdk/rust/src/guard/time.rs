//! The little that a guard needs to know of time.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Microseconds since 1970 by the wall clock.
pub(super) fn wall_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Seconds of a clock that never jumps.
pub(super) fn monotonic_seconds() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_secs()
}

/// Microseconds since 1970 of a time in RFC 3339.
pub(super) fn parse_micros(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (clock, rest) = rest.split_at_checked(8)?;
    let (year, month, day) = three(date, '-')?;
    let (hour, minute, second) = three(clock, ':')?;
    let is_real = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())),
        None => ("", rest),
    };
    let digits: String = fraction.chars().chain("000000".chars()).take(6).collect();
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let (sign, zone) =
                zone.strip_prefix('+').map(|zone| (1, zone)).or_else(|| Some((-1, zone.strip_prefix('-')?)))?;
            let (hours, minutes) = zone.split_once(':')?;
            sign * (number(hours)? * 60 + number(minutes)?) * 60
        }
    };
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    is_real.then_some(seconds * 1_000_000 + number(&digits)?)
}

fn three(text: &str, between: char) -> Option<(i64, i64, i64)> {
    let mut parts = text.split(between);
    let three = (number(parts.next()?)?, number(parts.next()?)?, number(parts.next()?)?);
    parts.next().is_none().then_some(three)
}

fn number(text: &str) -> Option<i64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// Days since 1970 of a date of the Gregorian calendar (Howard Hinnant, `days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_all_zones_are_read() {
        let noon = Some(1_767_355_200_000_000);
        for (text, micros) in [
            ("2026-01-02T12:00:00Z", noon),
            ("2026-01-02T14:30:00+02:30", noon),
            ("2026-01-02t07:00:00-05:00", noon),
            ("2026-01-02T12:00:00.5Z", noon.map(|noon| noon + 500_000)),
            ("2026-01-02T12:00:00.123456789Z", noon.map(|noon| noon + 123_456)),
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T00:00:00Z", Some(951_782_400_000_000)),
            ("2026-01-02T12:00:00", None),
            ("2026-13-02T12:00:00Z", None),
            ("2026-01-02", None),
            ("soon", None),
            ("", None),
            ("2026-01-02T12:00:0éZ", None),
            ("+026-01-02T12:00:00Z", None),
        ] {
            assert_eq!(parse_micros(text), micros, "{text}");
        }
    }
}
