//! Sizes and durations as people write them: `64MiB`, `50ms`.
//!
//! A bare number is refused on purpose: nobody should have to guess its unit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A size in bytes, written as `512`, `16KiB`, `64MiB`, `1GiB` or with decimal units (`10MB`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Bytes(pub u64);

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = || format!("`{text}` is not a size: write a number and a unit, such as \"64MiB\" or \"1GB\"");
        let (number, unit) = split(text).ok_or_else(hint)?;
        let (_, factor) = SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(hint)?;
        scale(number, *factor).map(Self).ok_or_else(hint)
    }
}

impl fmt::Display for Bytes {
    /// The largest binary unit that divides the size.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, factor): &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(*factor);
        match SIZES.iter().take(4).find(fits) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// Parses a duration: `50ms`, `30s`, `1.5h`, `7d`, `1h30m`.
///
/// # Errors
/// Says what is wrong and what a duration looks like.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let hint = || format!("`{text}` is not a duration: write a number and a unit, such as \"50ms\", \"30s\" or \"7d\"");
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(hint());
    }
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(hint)?;
        let (number, tail) = rest.split_at(unit_at);
        let unit_len = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let (_, nanos) = DURATIONS.iter().find(|(name, _)| *name == unit).ok_or_else(hint)?;
        let part = scale(number, *nanos).map(Duration::from_nanos).ok_or_else(hint)?;
        total = total.checked_add(part).ok_or_else(hint)?;
        rest = tail.trim_start();
    }
    Ok(total)
}

/// Shows a duration in the largest unit that divides it.
pub fn show_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let fits = |(_, factor): &&(&str, u64)| nanos != 0 && nanos.is_multiple_of(u128::from(*factor));
    match DURATIONS.iter().find(fits) {
        Some((unit, factor)) => format!("{}{unit}", nanos / u128::from(*factor)),
        None => "0s".to_owned(),
    }
}

const DURATIONS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic())?;
    Some(text.split_at(unit_at))
}

/// `number × factor`, where the number may have decimals; `None` when it is no number or too large.
fn scale(number: &str, factor: u64) -> Option<u64> {
    let number = number.trim();
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let (whole, decimals) = number.split_once('.')?;
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !are_digits(whole) || !are_digits(decimals) || decimals.len() > 9 {
        return None;
    }
    let unit = 10_u128.checked_pow(u32::try_from(decimals.len()).ok()?)?;
    let scaled = whole.parse::<u128>().ok()?.checked_mul(unit)?.checked_add(decimals.parse().ok()?)?;
    u64::try_from(scaled.checked_mul(u128::from(factor))? / unit).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_and_durations_read_as_people_write_them() {
        for (text, bytes) in [("64MiB", 64 << 20), ("1.5 kib", 1536), ("10MB", 10_000_000), ("7B", 7), ("0B", 0)] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for (text, millis) in [("50ms", 50), ("30s", 30_000), ("1.5h", 5_400_000), ("1h30m", 5_400_000), ("0s", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "64", "MiB", "-1s", "1 fortnight", "1e3s", "99999999999999999999d", "1s2"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(bytes: u64, millis in 0_u64..10_000_000_000) {
            prop_assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)));
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
    }
}
