//! Times as microseconds since 1970-01-01T00:00:00Z: read from what producers write, written as RFC 3339.
//!
//! The common shape is parsed by hand because it is on the hot path (a library parser costs about ten times as much);
//! rarer ISO 8601 shapes go to jiff. Nothing here looks at a clock or a time zone database.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// A moment, in microseconds since 1970-01-01T00:00:00Z. Shown and serialised as RFC 3339 in UTC with microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub i64);

impl Time {
    /// The moment of a record's timestamp.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(32);
        write_rfc3339(&mut text, self.0);
        f.pad(str::from_utf8(&text).unwrap_or_default())
    }
}

/// A text that is not a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a time: expected RFC 3339, a date, or epoch seconds or milliseconds")]
pub struct InvalidTime;

impl FromStr for Time {
    type Err = InvalidTime;

    fn from_str(text: &str) -> Result<Self, InvalidTime> {
        parse(text.as_bytes()).map(Self).ok_or(InvalidTime)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Reads a time as a text: RFC 3339 with any zone or none (then UTC), a date, or an epoch number.
pub fn parse(text: &[u8]) -> Option<i64> {
    common(text).or_else(|| epoch_text(text)).or_else(|| rare(text))
}

/// Reads an epoch number, guessing the unit by its size: seconds up to the year 5138, then milliseconds, microseconds, nanoseconds.
pub fn from_epoch(number: i64) -> Option<i64> {
    match number.unsigned_abs() {
        0..100_000_000_000 => number.checked_mul(SECOND),
        100_000_000_000..100_000_000_000_000 => number.checked_mul(1_000),
        100_000_000_000_000..100_000_000_000_000_000 => Some(number),
        _ => Some(number.div_euclid(1_000)),
    }
}

/// [`from_epoch`] for a number with a fraction.
pub fn from_epoch_float(number: f64) -> Option<i64> {
    let micros = match number.abs() {
        n if n < 1e11 => number * 1e6,
        n if n < 1e14 => number * 1e3,
        n if n < 1e17 => number,
        n if n < 9e18 => number / 1e3,
        _ => return None, // also NaN
    };
    #[expect(clippy::cast_possible_truncation, reason = "the magnitude was checked above")]
    Some(micros.round() as i64)
}

/// Appends `2024-11-22T12:00:00.123456Z`.
pub fn write_rfc3339(out: &mut Vec<u8>, micros: i64) {
    let (year, month, day) = civil(micros.div_euclid(DAY));
    let of_day = micros.rem_euclid(DAY);
    let (seconds, fraction) = (of_day / SECOND, of_day % SECOND);
    if !(0..=9999).contains(&year) {
        // RFC 3339 has four digits; ISO 8601's expanded form is the least wrong beyond.
        out.extend_from_slice(format!("{}{:06}", if year < 0 { '-' } else { '+' }, year.abs()).as_bytes());
    } else {
        digits(out, year, 4);
    }
    for (mark, number, width) in [
        (b'-', month, 2),
        (b'-', day, 2),
        (b'T', seconds / 3600, 2),
        (b':', seconds / 60 % 60, 2),
        (b':', seconds % 60, 2),
        (b'.', fraction, 6),
    ] {
        out.push(mark);
        digits(out, number, width);
    }
    out.push(b'Z');
}

fn digits(out: &mut Vec<u8>, number: i64, width: u32) {
    for place in (0..width).rev() {
        let digit = number / 10_i64.pow(place) % 10;
        out.push(b'0' + u8::try_from(digit).unwrap_or(0));
    }
}

/// `YYYY-MM-DD`, then optionally `T` or a space, `HH:MM`, `:SS`, a fraction, and a zone.
fn common(text: &[u8]) -> Option<i64> {
    let (date, rest) = text.split_first_chunk::<10>()?;
    let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1] = *date else { return None };
    let (year, month, day) = (two(y0, y1)? * 100 + two(y2, y3)?, two(m0, m1)?, two(d0, d1)?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    let midnight = days(year, month, day) * DAY;
    let Some((separator, rest)) = rest.split_first() else { return Some(midnight) };
    if !matches!(separator, b'T' | b't' | b' ') {
        return None;
    }
    let (clock, mut rest) = rest.split_first_chunk::<5>()?;
    let [h0, h1, b':', n0, n1] = *clock else { return None };
    let (hour, minute) = (two(h0, h1)?, two(n0, n1)?);
    let mut micros = 0;
    if let Some((&[b':', s0, s1], after)) = rest.split_first_chunk::<3>() {
        let second = two(s0, s1)?;
        if second > 59 {
            return None;
        }
        micros = second * SECOND;
        rest = after;
        if let Some((b'.', after)) = rest.split_first() {
            let (fraction, after) = fraction(after)?;
            micros += fraction;
            rest = after;
        }
    }
    if hour > 23 || minute > 59 {
        return None;
    }
    Some(midnight + (hour * 60 + minute) * 60 * SECOND + micros - zone(rest)?)
}

/// Digits after the point, as microseconds (finer ones are cut), and what follows.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let count = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let (fraction, rest) = text.split_at_checked(count)?;
    if count == 0 {
        return None;
    }
    let value = (0..6).fold(0, |sum, place| sum * 10 + fraction.get(place).map_or(0, |b| i64::from(b - b'0')));
    Some((value, rest))
}

/// The zone's distance from UTC, in microseconds; nothing is UTC.
fn zone(text: &[u8]) -> Option<i64> {
    let (sign, hours, minutes) = match *text {
        [] | [b'Z' | b'z'] => return Some(0),
        [sign, h0, h1] => (sign, two(h0, h1)?, 0),
        [sign, h0, h1, m0, m1] | [sign, h0, h1, b':', m0, m1] => (sign, two(h0, h1)?, two(m0, m1)?),
        _ => return None,
    };
    if hours > 23 || minutes > 59 {
        return None;
    }
    let distance = (hours * 60 + minutes) * 60 * SECOND;
    match sign {
        b'+' => Some(distance),
        b'-' => Some(-distance),
        _ => None,
    }
}

fn epoch_text(text: &[u8]) -> Option<i64> {
    let text = str::from_utf8(text).ok()?;
    if !text.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
        return None;
    }
    text.parse().map_or_else(|_| from_epoch_float(text.parse().ok()?), from_epoch)
}

/// Leap seconds, compact and lower-case forms, commas, annotations.
fn rare(text: &[u8]) -> Option<i64> {
    const PARSER: jiff::fmt::temporal::DateTimeParser = jiff::fmt::temporal::DateTimeParser::new();
    if let Ok(moment) = PARSER.parse_timestamp(text) {
        return Some(moment.as_microsecond());
    }
    let civil = PARSER.parse_datetime(text).ok()?;
    Some(jiff::tz::Offset::UTC.to_timestamp(civil).ok()?.as_microsecond())
}

fn two(tens: u8, ones: u8) -> Option<i64> {
    (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a proleptic Gregorian date (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The inverse of [`days`]: year, month, day.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: i64 = 1_732_276_800 * SECOND;

    #[test]
    fn times_are_read_in_every_shape_that_producers_write() {
        for (text, micros) in [
            ("2024-11-22T12:00:00Z", Some(NOON)),
            ("2024-11-22T12:00:00.123456789Z", Some(NOON + 123_456)),
            ("2024-11-22 12:00:00.5", Some(NOON + 500_000)),
            ("2024-11-22T12:00", Some(NOON)),
            ("2024-11-22T13:00:00+01:00", Some(NOON)),
            ("2024-11-22T06:30:00-0530", Some(NOON)),
            ("2024-11-22T13:00:00+01", Some(NOON)),
            ("2024-11-22", Some(NOON - 12 * 3600 * SECOND)),
            ("1969-12-31T23:59:59.999999Z", Some(-1)),
            ("1732276800", Some(NOON)),
            ("1732276800123", Some(NOON + 123_000)),
            ("1732276800.25", Some(NOON + 250_000)),
            ("20241122T120000Z", Some(NOON)),
            ("2024-02-30T00:00:00Z", None),
            ("2024-11-22T24:00:00Z", None),
            ("2024-11-22T12:00:00.Z", None),
            ("2024-11-22T12:00:00+26:00", None),
            ("2024-13-01", None),
            ("yesterday", None),
            ("NaN", None),
            ("", None),
        ] {
            assert_eq!(parse(text.as_bytes()), micros, "{text}");
        }
    }

    #[test]
    fn the_unit_of_an_epoch_number_is_guessed_by_its_size() {
        for number in [1_732_276_800, 1_732_276_800_000, 1_732_276_800_000_000, 1_732_276_800_000_000_000] {
            assert_eq!(from_epoch(number), Some(NOON), "{number}");
            assert_eq!(from_epoch_float(number as f64), Some(NOON), "{number}");
        }
        assert_eq!(from_epoch_float(f64::NAN), None);
        assert_eq!(from_epoch_float(1e300), None);
    }

    proptest! {
        #[test]
        fn parser_and_writer_agree_with_jiff(micros in -62_135_596_800_000_000_i64..=253_402_300_799_999_999, zone in -1439_i32..=1439) {
            let moment = jiff::Timestamp::from_microsecond(micros).unwrap();
            let mut ours = Vec::new();
            write_rfc3339(&mut ours, micros);
            prop_assert_eq!(str::from_utf8(&ours).unwrap(), moment.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string());
            prop_assert_eq!(common(&ours), Some(micros));
            let offset = jiff::tz::Offset::from_seconds(zone * 60).unwrap();
            if let Ok(text) = std::panic::catch_unwind(|| moment.display_with_offset(offset).to_string())
                && text.starts_with(|c: char| c.is_ascii_digit())
            {
                prop_assert_eq!(common(text.as_bytes()), Some(micros), "{}", text);
            }
        }

        #[test]
        fn whatever_the_hand_parser_takes_jiff_reads_the_same(text in r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?Z") {
            prop_assert_eq!(common(text.as_bytes()), text.parse::<jiff::Timestamp>().ok().map(|t| t.as_microsecond()));
        }
    }
}
