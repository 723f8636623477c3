//! A breaker's live settings, as they stand in `<name>.toml`, in a `PUT`, and in `phronis.config`, and what people said.
//!
//! Everything is optional: what is absent is the default. What it comes to is checked once, here.

use std::time::Duration;

use phronis_core::breaker::{Mode, Rows, Settings, Slow};
use phronis_core::time::Time;
use serde::{Deserialize, Serialize};

use crate::plugins::settings::{duration, text};

/// Range letters of a plugin that may wait at a time: with one a batch, hours of a busy stream.
const RANGES_MOST: u64 = 10_000;

/// What becomes of a batch while the breaker is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenOpen {
    /// One range letter says which records the plugin was not shown; it judges them when the breaker closes.
    #[default]
    Letter,
    /// The events pass without the plugin, marked.
    Bypass,
    /// The worker waits.
    Hold,
}

impl WhenOpen {
    /// As it stands in settings and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Letter => "letter",
            Self::Bypass => "bypass",
            Self::Hold => "hold",
        }
    }
}

/// A breaker's settings as written: text for times, absent is the default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    /// `letter`, `bypass` or `hold`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when_open: Option<WhenOpen>,
    /// Range letters that may wait before `letter` becomes `hold`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranges_most: Option<u64>,
    /// How far back failures count: `"60s"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<String>,
    /// Traps, deadlines, memory failures and bad outputs that open it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<u32>,
    /// Deadlines one after the other that open it at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadlines: Option<u32>,
    /// Failed rows that open it, instead of a share; 0: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Share of failed rows that opens it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows_share: Option<f64>,
    /// Rows below which the share says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows_at_least: Option<u64>,
    /// Calls that take longer are slow: `"20ms"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_above: Option<String>,
    /// Share of slow calls that opens it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_share: Option<f64>,
    /// Calls below which the share says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_at_least: Option<u64>,
    /// How long it is open for the first time: `"30s"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_for: Option<String>,
    /// How long it is open at most: `"10m"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_most: Option<String>,
    /// Batches that must go well before it closes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probes: Option<u32>,
    /// How long begun probes may take: `"60s"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probes_within: Option<String>,
    /// A close that lasts as long forgives earlier trips: `"10m"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forgiven_after: Option<String>,
}

/// What a plugin's breaker does, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Policy {
    pub(crate) settings: Settings,
    pub(crate) when_open: WhenOpen,
    pub(crate) ranges_most: u64,
}

impl Wanted {
    /// The policy, with the absent filled in. Range letters must be judged before raw forgets their records:
    /// `retention` is how long raw keeps them, none is for ever.
    ///
    /// # Errors
    /// The field, and what is wrong with it.
    pub(crate) fn policy(&self, retention: Option<Duration>) -> Result<Policy, (String, String)> {
        let mut settings = Settings::default();
        // A stream that forgets quickly gets shorter times, unless somebody asks for longer ones.
        let longest = retention.map_or(Duration::MAX, |age| age / 2);
        settings.open_most = settings.open_most.min(longest).max(Settings::SHORTEST_OPEN);
        settings.open_for = settings.open_for.min(settings.open_most);
        let when_open = self.when_open.unwrap_or_default();
        self.times(&mut settings)?;
        if let Some(failures) = self.failures {
            settings.failures = failures;
        }
        if let Some(deadlines) = self.deadlines {
            settings.deadlines = deadlines;
        }
        if let Some(probes) = self.probes {
            settings.probes = probes;
        }
        settings.rows = self.rows()?;
        settings.slow = self.slow()?;
        settings.check().map_err(|(field, should)| (field.to_owned(), format!("must be {should}")))?;
        if when_open == WhenOpen::Letter
            && let Some(age) = retention.filter(|age| *age <= settings.open_most)
        {
            let message = format!(
                "raw keeps records for {}, which is not longer than {}: range letters would outlive them; lower \
                 open_most, raise the retention, or set when_open to \"bypass\" or \"hold\"",
                text(age),
                text(settings.open_most)
            );
            return Err(("open_most".into(), message));
        }
        Ok(Policy { settings, when_open, ranges_most: self.ranges_most.unwrap_or(RANGES_MOST) })
    }

    fn times(&self, settings: &mut Settings) -> Result<(), (String, String)> {
        let has_own_most = self.open_most.is_some();
        for (name, wanted, into) in [
            ("window", &self.window, &mut settings.window),
            ("open_for", &self.open_for, &mut settings.open_for),
            ("open_most", &self.open_most, &mut settings.open_most),
            ("probes_within", &self.probes_within, &mut settings.probes_within),
            ("forgiven_after", &self.forgiven_after, &mut settings.forgiven_after),
        ] {
            if let Some(wanted) = wanted {
                *into = time(name, wanted)?;
            }
        }
        if !has_own_most {
            settings.open_most = settings.open_most.max(settings.open_for);
        }
        Ok(())
    }

    fn rows(&self) -> Result<Rows, (String, String)> {
        let is_shared = self.rows_share.is_some() || self.rows_at_least.is_some();
        match self.rows {
            Some(_) if is_shared => Err(("rows".into(), "is a count: it excludes rows_share and rows_at_least".into())),
            Some(0) => Ok(Rows::Never),
            Some(count) => Ok(Rows::Count(count)),
            None => Ok(Rows::Share {
                share: self.rows_share.unwrap_or(0.5),
                of_at_least: self.rows_at_least.unwrap_or(100),
            }),
        }
    }

    fn slow(&self) -> Result<Option<Slow>, (String, String)> {
        let Some(above) = &self.slow_above else {
            let is_idle = self.slow_share.is_none() && self.slow_at_least.is_none();
            return if is_idle { Ok(None) } else { Err(("slow_above".into(), "is needed to tell slow calls".into())) };
        };
        Ok(Some(Slow {
            above: time("slow_above", above)?,
            share: self.slow_share.unwrap_or(0.5),
            of_at_least: self.slow_at_least.unwrap_or(20),
        }))
    }
}

impl Policy {
    /// All settings in force, as they would be written.
    pub(crate) fn written(&self) -> Wanted {
        let Settings { window, failures, deadlines, rows, slow, open_for, open_most, probes, .. } = &self.settings;
        let (count, share, at_least) = match *rows {
            Rows::Share { share, of_at_least } => (None, Some(share), Some(of_at_least)),
            Rows::Count(count) => (Some(count), None, None),
            Rows::Never => (Some(0), None, None),
        };
        Wanted {
            when_open: Some(self.when_open),
            ranges_most: Some(self.ranges_most),
            window: Some(text(*window)),
            failures: Some(*failures),
            deadlines: Some(*deadlines),
            rows: count,
            rows_share: share,
            rows_at_least: at_least,
            slow_above: slow.map(|slow| text(slow.above)),
            slow_share: slow.map(|slow| slow.share),
            slow_at_least: slow.map(|slow| slow.of_at_least),
            open_for: Some(text(*open_for)),
            open_most: Some(text(*open_most)),
            probes: Some(*probes),
            probes_within: Some(text(self.settings.probes_within)),
            forgiven_after: Some(text(self.settings.forgiven_after)),
        }
    }
}

fn time(name: &str, wanted: &str) -> Result<Duration, (String, String)> {
    duration(wanted).ok_or_else(|| (name.to_owned(), format!("`{wanted}` is not a time such as \"30s\"")))
}

/// What a person wants of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// Kept open: the plugin is not asked.
    Open,
    /// Kept closed, whatever happens.
    #[serde(alias = "disable")]
    Close,
    /// Counts and says what it would have done.
    Shadow,
}

impl Wish {
    /// As it stands in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Close => "close",
            Self::Shadow => "shadow",
        }
    }

    pub(crate) fn mode(self) -> Mode {
        match self {
            Self::Open => Mode::ForcedOpen,
            Self::Close => Mode::ForcedClosed,
            Self::Shadow => Mode::Shadow,
        }
    }
}

/// What a person said of a breaker. It stands in the plugin's record of `phronis.config`, so that every host obeys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// What.
    pub state: Wish,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// Who, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// When it was said.
    pub at: Time,
    /// When it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(toml: &str, retention: Option<u64>, expect: Result<fn(&mut Policy), &str>) {
        let wanted: Wanted = toml::from_str(toml).unwrap();
        let retention = retention.map(Duration::from_secs);
        match (wanted.policy(retention), expect) {
            (Ok(policy), Ok(change)) => {
                let mut expect = Wanted::default().policy(None).unwrap();
                change(&mut expect);
                assert_eq!(policy, expect, "{toml}");
                assert_eq!(policy.written().policy(retention), Ok(policy), "what is shown can be set");
            }
            (Err((field, message)), Err(expect)) => {
                let seen = format!("{field}: {message}");
                assert!(seen.contains(expect), "{seen}");
            }
            (seen, _) => panic!("{toml}: {seen:?}"),
        }
    }

    #[test]
    fn what_is_written_is_what_holds() {
        check("", None, Ok(|_| {}));
        check(
            "when_open = \"hold\"\nfailures = 2",
            None,
            Ok(|p| (p.when_open, p.settings.failures) = (WhenOpen::Hold, 2)),
        );
        check("rows = 7", None, Ok(|p| p.settings.rows = Rows::Count(7)));
        check("rows = 0", None, Ok(|p| p.settings.rows = Rows::Never));
        check(
            "slow_above = \"20ms\"",
            None,
            Ok(|p| {
                let above = Duration::from_millis(20);
                p.settings.slow = Some(Slow { above, share: 0.5, of_at_least: 20 });
            }),
        );
        check(
            "open_for = \"20m\"",
            None,
            Ok(|p| {
                p.settings.open_for = Duration::from_secs(1200);
                p.settings.open_most = Duration::from_secs(1200);
            }),
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        check("window = \"soon\"", None, Err("window: `soon` is not a time"));
        check("window = \"0s\"", None, Err("window: must be from 1s"));
        check("rows = 3\nrows_share = 0.5", None, Err("rows: is a count"));
        check("slow_share = 0.5", None, Err("slow_above: is needed"));
        check("probes = 0", None, Err("probes: must be at least 1"));
        check("open_most = \"1s\"", None, Err("open_most: must be at least as long"));
        check("open_for = \"1ms\"", None, Err("open_for: must be at least 1s"));
    }

    #[test]
    fn raw_must_keep_records_for_longer_than_a_breaker_is_open() {
        let hour = Some(3600);
        check("open_most = \"2h\"", hour, Err("raw keeps records for 1h, which is not longer than 2h"));
        check(
            "open_most = \"2h\"\nwhen_open = \"hold\"",
            hour,
            Ok(|p| {
                (p.when_open, p.settings.open_most) = (WhenOpen::Hold, Duration::from_secs(7200));
            }),
        );
        check(
            "",
            Some(40),
            Ok(|p| {
                (p.settings.open_for, p.settings.open_most) = (Duration::from_secs(20), Duration::from_secs(20));
            }),
        );
    }
}
