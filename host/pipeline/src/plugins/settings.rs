//! A plugin's live settings: what stands in `<name>.toml`, in a `PUT`, and in `phronis.config`.
//!
//! The truth is the newest good record of `phronis.config`; a file is published there once per content digest.
//! Limits are partial: what is absent is the host's default, and a ceiling is never exceeded.

use std::time::Duration;

use phronis_core::plugin::Limits;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::breakers::{self, Override};

/// Settings as somebody wrote them, before they are checked against a plugin.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) params: Option<Map<String, Value>>,
    pub(crate) limits: Option<WantedLimits>,
    pub(crate) breaker: Option<breakers::Wanted>,
}

/// Limits as written: text for sizes and times, absent is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedLimits {
    /// Linear memory: `"32MiB"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Time for one call: `"50ms"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// Findings, failures and drops that one call may return.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_rows: Option<u32>,
    /// Bytes that one call may return: `"1MiB"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<String>,
    /// Bytes that the plugin may log in a second: `"16KiB"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_bytes: Option<String>,
}

impl WantedLimits {
    /// The limits with the absent ones filled in.
    ///
    /// # Errors
    /// Names the limit whose text is no size or time.
    pub fn over(&self, default: Limits) -> Result<Limits, String> {
        let bytes = |name: &str, text: &Option<String>, default: u64| match text {
            Some(text) => size(text).ok_or_else(|| format!("limits.{name}: `{text}` is not a size such as \"32MiB\"")),
            None => Ok(default),
        };
        let deadline_ms = match &self.deadline {
            Some(text) => {
                millis(text).ok_or_else(|| format!("limits.deadline: `{text}` is not a time such as \"50ms\""))?
            }
            None => default.deadline_ms,
        };
        Ok(Limits {
            memory: bytes("memory", &self.memory, default.memory)?,
            deadline_ms,
            output_rows: self.output_rows.unwrap_or(default.output_rows),
            output_bytes: bytes("output_bytes", &self.output_bytes, default.output_bytes)?,
            log_bytes: bytes("log_bytes", &self.log_bytes, default.log_bytes)?,
        })
    }
}

/// Reads `<name>.toml`.
///
/// # Errors
/// Says line, key and what was expected.
pub(crate) fn parse_file(text: &str) -> Result<Wanted, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        params: Option<toml::Table>,
        limits: Option<WantedLimits>,
        breaker: Option<breakers::Wanted>,
        when_open: Option<breakers::WhenOpen>,
    }
    let file: File = toml::from_str(text).map_err(|e| e.to_string().trim_end().replace('\n', " | "))?;
    let params = match file.params {
        Some(table) => match serde_json::to_value(table) {
            Ok(Value::Object(map)) => Some(map),
            Ok(_) | Err(_) => return Err("params: dates are to be written as texts".into()),
        },
        None => None,
    };
    let breaker = match (file.breaker, file.when_open) {
        (Some(breakers::Wanted { when_open: Some(_), .. }), Some(_)) => {
            return Err("when_open stands twice: once at the top and once in [breaker]".into());
        }
        (breaker, Some(when_open)) => {
            Some(breakers::Wanted { when_open: Some(when_open), ..breaker.unwrap_or_default() })
        }
        (breaker, None) => breaker,
    };
    Ok(Wanted { params, limits: file.limits, breaker })
}

/// A record of `phronis.config`. The key is `plugins/<tenant>/<stream>/<name>`.
///
/// It says all: the topic keeps only the last record of a key, so what is absent in it is the default.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Within the host: absent is unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) params: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limits: Option<WantedLimits>,
    /// When its breaker opens, and what becomes of its batches then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) breaker: Option<breakers::Wanted>,
    /// What a person said of its breaker; absent: nothing. Carried along by writers of other settings.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    pub(crate) over: Option<Override>,
    /// `file`, `api`, `cli`, or what the writer calls itself.
    #[serde(default)]
    pub(crate) source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) actor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// Digest of the newest settings file that was published; carried along by other writers, so that it outlives compaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) file_digest: Option<String>,
}

impl Record {
    /// Reads the value of a record that anybody may have written.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn parse(value: &[u8]) -> Result<Self, String> {
        let record: Self = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        if record.params.is_none() && record.limits.is_none() && record.breaker.is_none() && record.over.is_none() {
            return Err("it has neither `params` nor `limits` nor `breaker` nor `override`".to_owned());
        }
        Ok(record.whole())
    }

    /// What a tombstone says: everything back to its default.
    pub(crate) fn tombstone() -> Self {
        Self { source: "deleted".to_owned(), ..Self::default() }.whole()
    }

    fn whole(self) -> Self {
        let (params, limits) = (self.params.unwrap_or_default(), self.limits.unwrap_or_default());
        let breaker = self.breaker.unwrap_or_default();
        Self { params: Some(params), limits: Some(limits), breaker: Some(breaker), ..self }
    }
}

/// What keys of plugins' settings begin with.
pub(crate) const KEY_PREFIX: &str = "plugins/";

/// The key of a plugin's settings.
pub(crate) fn key(id: &phronis_core::PluginId) -> String {
    format!("{KEY_PREFIX}{id}")
}

/// The plugin that a key of `phronis.config` belongs to.
pub(crate) fn plugin_of(key: &[u8]) -> Option<phronis_core::PluginId> {
    str::from_utf8(key).ok()?.strip_prefix(KEY_PREFIX)?.parse().ok()
}

fn size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let factor = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    number.checked_mul(factor)
}

fn millis(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// A time such as `30s`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    millis(text).map(Duration::from_millis)
}

/// A time as [`duration`] reads it, in the largest unit that shows all of it; below a millisecond nothing is shown.
pub(crate) fn text(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, factor) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis >= factor && millis.is_multiple_of(factor) {
            return format!("{}{unit}", millis / factor);
        }
    }
    format!("{millis}ms")
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_settings_file_says_what_is_wrong_with_it() {
        let wanted = parse_file("[params]\nhigh = 90.5\n[limits]\nmemory = \"8MiB\"\ndeadline = \"20ms\"").unwrap();
        assert_eq!(wanted.params.unwrap()["high"], 90.5);
        let limits = wanted.limits.unwrap().over(Limits::default()).unwrap();
        assert_eq!((limits.memory, limits.deadline_ms), (8 << 20, 20));
        for (text, expect) in [
            ("[param]\nhigh = 1", "unknown field `param`"),
            ("[limits]\nmemroy = \"1MiB\"", "unknown field `memroy`"),
            ("[params", "line 1"),
            ("when_open = \"wait\"", "unknown variant `wait`"),
            ("when_open = \"hold\"\n[breaker]\nwhen_open = \"bypass\"", "when_open stands twice"),
        ] {
            let seen = parse_file(text).unwrap_err();
            assert!(seen.contains(expect), "{seen}");
        }
        let wanted = parse_file("when_open = \"hold\"\n[breaker]\nfailures = 3").unwrap().breaker.unwrap();
        assert_eq!((wanted.when_open, wanted.failures), (Some(breakers::WhenOpen::Hold), Some(3)));
        let limits: WantedLimits = toml::from_str("memory = \"lots\"").unwrap();
        assert!(limits.over(Limits::default()).unwrap_err().contains("limits.memory"));
    }

    #[test]
    fn a_record_says_all_or_is_refused() {
        let record = Record::parse(br#"{"params":{"high":50}}"#).unwrap();
        assert_eq!(record.limits, Some(WantedLimits::default()));
        for (value, expect) in [
            (&b"high = 50"[..], "expected value"),
            (b"null", "invalid type"),
            (br#"{"params":[1]}"#, "invalid type"),
            (br#"{"limits":{"memroy":"1MiB"}}"#, "unknown field"),
            (br#"{"high":50}"#, "neither `params` nor `limits`"),
        ] {
            let seen = Record::parse(value).unwrap_err();
            assert!(seen.contains(expect), "{seen}");
        }
    }

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(size("32MiB"), Some(32 << 20));
        assert_eq!(size("7"), Some(7));
        assert_eq!(size("1 GB"), Some(1_000_000_000));
        assert_eq!(size("x"), None);
        assert_eq!(size("99999999999GiB"), None);
        assert_eq!(millis("2s"), Some(2000));
        assert_eq!(millis("2"), None);
        for (millis, expect) in [(0, "0ms"), (1500, "1500ms"), (30_000, "30s"), (600_000, "10m"), (86_400_000, "1d")] {
            assert_eq!(text(Duration::from_millis(millis)), expect);
            assert_eq!(duration(expect), Some(Duration::from_millis(millis)));
        }
    }
}
