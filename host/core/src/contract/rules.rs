//! What the gate checks of a value beside its type.

use regex::Regex;

use crate::code::{self, Code};

/// The rules of one field. All that are there must hold.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Fewest characters of a text, or items of a list.
    pub min_length: Option<usize>,
    /// Most characters of a text, or items of a list.
    pub max_length: Option<usize>,
    /// What a text must contain a match of.
    pub pattern: Option<Regex>,
    /// The shape of a text.
    pub format: Option<Format>,
    /// Smallest and largest value.
    pub range: Option<Range>,
    /// What a number must be a whole multiple of.
    pub multiple_of: Option<f64>,
    /// The values that are allowed.
    pub one_of: Option<OneOf>,
}

/// A range of values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Range {
    /// Both ends belong to it; times are microseconds.
    Integers {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// A range of doubles.
    Numbers {
        /// Lower end.
        min: f64,
        /// Upper end.
        max: f64,
        /// The lower end does not belong to it.
        above: bool,
        /// The upper end does not belong to it.
        below: bool,
    },
}

/// Values that are allowed.
#[derive(Debug, Clone, PartialEq)]
pub enum OneOf {
    /// Texts, sorted.
    Texts(Vec<String>),
    /// Integers, sorted.
    Integers(Vec<i64>),
    /// Numbers, sorted.
    Numbers(Vec<f64>),
}

/// The formats that the gate checks. Others that ODCS knows are documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`, hexadecimal.
    Uuid,
    /// Four numbers with dots.
    Ipv4,
    /// RFC 4291.
    Ipv6,
}

/// A rule that a value breaks, and what would have been right.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) code: Code,
    pub(crate) expected: String,
}

/// Boxed so that the way without a complaint stays narrow.
pub(crate) type Held = Result<(), Box<Broken>>;

impl Rules {
    pub(crate) fn text(&self, value: &[u8]) -> Held {
        if self.min_length.is_some() || self.max_length.is_some() {
            // Every byte that does not continue a character starts one.
            self.length(value.iter().filter(|&&b| b & 0xc0 != 0x80).count(), "characters")?;
        }
        if self.pattern.is_none() && self.format.is_none() && self.one_of.is_none() {
            return Ok(());
        }
        let value = str::from_utf8(value).unwrap_or_default();
        if let Some(pattern) = &self.pattern
            && !pattern.is_match(value)
        {
            return broken(code::PATTERN_MISMATCH, || format!("a text that matches `{pattern}`"));
        }
        if let Some(format) = self.format
            && !format.fits(value)
        {
            return broken(code::PATTERN_MISMATCH, || format!("a text of the form {}", format.name()));
        }
        match &self.one_of {
            Some(OneOf::Texts(texts)) if texts.binary_search_by(|text| text.as_str().cmp(value)).is_err() => {
                broken(code::NOT_IN_ENUM, || list(texts.iter().map(|text| format!("`{text}`"))))
            }
            _ => Ok(()),
        }
    }

    #[inline]
    pub(crate) fn integer(&self, value: i64) -> Held {
        if let Some(Range::Integers { min, max }) = self.range
            && !(min..=max).contains(&value)
        {
            return broken(code::OUT_OF_RANGE, || self.range_text(|bound| bound.to_string()));
        }
        if let Some(step) = self.multiple_of
            && value as f64 % step != 0.0
        {
            return broken(code::OUT_OF_RANGE, || format!("a multiple of {step}"));
        }
        match &self.one_of {
            Some(OneOf::Integers(allowed)) if allowed.binary_search(&value).is_err() => {
                broken(code::NOT_IN_ENUM, || list(allowed.iter().map(i64::to_string)))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn time(&self, value: i64) -> Held {
        match self.range {
            Some(Range::Integers { min, max }) if !(min..=max).contains(&value) => {
                broken(code::OUT_OF_RANGE, || self.range_text(|bound| crate::time::Time(bound).to_string()))
            }
            _ => Ok(()),
        }
    }

    #[inline]
    pub(crate) fn number(&self, value: f64) -> Held {
        if let Some(Range::Numbers { min, max, above, below }) = self.range {
            let is_low = if above { value <= min } else { value < min };
            let is_high = if below { value >= max } else { value > max };
            if is_low || is_high {
                return broken(code::OUT_OF_RANGE, || self.range_text(|bound| bound.to_string()));
            }
        }
        if let Some(step) = self.multiple_of {
            let times = value / step;
            // 0.3 is no binary multiple of 0.1; a billionth of a step is what rounding can explain.
            if (times - times.round()).abs() > 1e-9 * times.abs().max(1.0) {
                return broken(code::OUT_OF_RANGE, || format!("a multiple of {step}"));
            }
        }
        match &self.one_of {
            Some(OneOf::Numbers(allowed)) if !allowed.contains(&value) => {
                broken(code::NOT_IN_ENUM, || list(allowed.iter().map(f64::to_string)))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn items(&self, count: usize) -> Held {
        self.length(count, "items")
    }

    fn length(&self, count: usize, of: &str) -> Held {
        if self.min_length.is_some_and(|min| count < min) || self.max_length.is_some_and(|max| count > max) {
            return broken(code::WRONG_LENGTH, || match (self.min_length, self.max_length) {
                (Some(min), Some(max)) => format!("{min} to {max} {of}"),
                (Some(min), None) => format!("at least {min} {of}"),
                (_, max) => format!("at most {} {of}", max.unwrap_or_default()),
            });
        }
        Ok(())
    }

    fn range_text(&self, integer: impl Fn(i64) -> String) -> String {
        let parts = match self.range {
            Some(Range::Integers { min, max }) => [
                (min > i64::MIN).then(|| format!("at least {}", integer(min))),
                (max < i64::MAX).then(|| format!("at most {}", integer(max))),
            ],
            Some(Range::Numbers { min, max, above, below }) => [
                min.is_finite().then(|| format!("{} {min}", if above { "more than" } else { "at least" })),
                max.is_finite().then(|| format!("{} {max}", if below { "less than" } else { "at most" })),
            ],
            None => [None, None],
        };
        parts.into_iter().flatten().collect::<Vec<_>>().join(" and ")
    }
}

impl Format {
    fn fits(self, value: &str) -> bool {
        match self {
            Self::Uuid => {
                value.len() == 36
                    && value.bytes().enumerate().all(|(at, byte)| match at {
                        8 | 13 | 18 | 23 => byte == b'-',
                        _ => byte.is_ascii_hexdigit(),
                    })
            }
            Self::Ipv4 => value.parse::<std::net::Ipv4Addr>().is_ok(),
            Self::Ipv6 => value.parse::<std::net::Ipv6Addr>().is_ok(),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uuid => "uuid",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

#[cold]
fn broken(code: Code, expected: impl FnOnce() -> String) -> Held {
    Err(Box::new(Broken { code, expected: expected() }))
}

/// `one of a, b, c`, shortened: it ends up in a header.
fn list(values: impl ExactSizeIterator<Item = String>) -> String {
    const SHOWN: usize = 12;
    let more = values.len().saturating_sub(SHOWN);
    let shown = values.take(SHOWN).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("one of {shown} and {more} more") } else { format!("one of {shown}") }
}
