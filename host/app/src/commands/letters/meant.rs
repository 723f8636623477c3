//! Which letters a command means: by name, by class, by a filter.

use clap::Args as ClapArgs;
use phronis_core::partition::DEFAULT_STREAM;
use serde_json::{Map, Value};

use crate::commands::parse_time;
use crate::failure::Failure;
use crate::output::cell;

/// A filter.
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct Which {
    /// The stream
    #[arg(short, long, value_name = "STREAM", default_value = DEFAULT_STREAM)]
    pub(super) stream: String,
    #[command(flatten)]
    pub(super) filter: Filter,
}

#[derive(Debug, Clone, Default, ClapArgs)]
pub(super) struct Filter {
    /// Only this class, as in the list: `detect/PH2003/threshold@1.2.0`
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
    /// Only what this step refused: gate, enrich, detect, deliver, halt, order
    #[arg(long, value_name = "STAGE")]
    stage: Option<String>,
    /// Only this code
    #[arg(long, value_name = "CODE")]
    code: Option<String>,
    /// Only of this plugin
    #[arg(long, value_name = "NAME", id = "of-plugin")]
    of_plugin: Option<String>,
    /// Only of this version of the plugin
    #[arg(long = "plugin-version", value_name = "VERSION")]
    of_version: Option<String>,
    /// Only letters that failed for the first time then or later: `2h`, `7d`, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<String>,
    /// Only letters that failed for the first time before
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<String>,
}

/// Letters by name, or a filter.
#[derive(Debug, Clone, ClapArgs)]
pub(super) struct Meant {
    /// Letters: stream/partition-offset
    letters: Vec<Letter>,
    /// The stream, for a filter
    #[arg(short, long, value_name = "STREAM", conflicts_with = "letters")]
    stream: Option<String>,
    #[command(flatten)]
    filter: Filter,
    /// All outstanding letters of the stream
    #[arg(long)]
    all: bool,
}

/// A letter by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) stream: String,
    pub(super) place: String,
}

impl std::str::FromStr for Letter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (stream, place) = text.rsplit_once('/').unwrap_or((DEFAULT_STREAM, text));
        let is_place = place
            .split_once('-')
            .is_some_and(|(partition, offset)| partition.parse::<u32>().is_ok() && offset.parse::<u64>().is_ok());
        if !is_place || stream.parse::<phronis_core::StreamId>().is_err() {
            return Err("expected stream/partition-offset, like sensors/3-42".to_owned());
        }
        Ok(Self { stream: stream.to_owned(), place: place.to_owned() })
    }
}

impl Letter {
    pub(super) fn path(&self, then: &str) -> String {
        format!("/v1/letters/{}/{}{then}", self.stream, self.place)
    }
}

impl std::fmt::Display for Letter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.stream, self.place)
    }
}

impl Which {
    /// The parts of a query.
    pub(super) fn texts(&self) -> Vec<(&'static str, Option<&str>)> {
        self.filter.texts().into_iter().chain([("stream", Some(self.stream.as_str()))]).collect()
    }
}

impl Filter {
    fn texts(&self) -> [(&'static str, Option<&str>); 7] {
        let Self { class, stage, code, of_plugin, of_version, since, until } = self;
        [
            ("class", class.as_deref()),
            ("stage", stage.as_deref()),
            ("code", code.as_deref()),
            ("plugin", of_plugin.as_deref()),
            ("version", of_version.as_deref()),
            ("since", since.as_deref()),
            ("until", until.as_deref()),
        ]
    }

    /// Whether it asks for times: a class has none that a letter could be outside of.
    pub(super) fn has_time(&self) -> bool {
        self.since.is_some() || self.until.is_some()
    }

    /// Whether a class of the list is one of those that are asked for.
    pub(super) fn takes_class(&self, item: &Value) -> bool {
        let class = cell(item, "/class");
        let mut parts = class.splitn(3, '/');
        let (stage, code, plugin) = (parts.next(), parts.next(), parts.next().unwrap_or_default());
        let (name, version) = plugin.split_once('@').unwrap_or_default();
        let is = |wanted: &Option<String>, found: Option<&str>| wanted.is_none() || wanted.as_deref() == found;
        is(&self.class, Some(&class))
            && is(&self.stage, stage)
            && is(&self.code, code)
            && is(&self.of_plugin, Some(name))
            && is(&self.of_version, Some(version))
    }
}

impl Meant {
    pub(super) fn body(&self) -> Result<Map<String, Value>, Failure> {
        let mut body = Map::new();
        let filter = self.filter.texts().into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.into())));
        let filter: Map<String, Value> = filter.collect();
        if let Some(first) = self.letters.first() {
            if self.letters.iter().any(|letter| letter.stream != first.stream) {
                return Err(Failure::usage("letters of several streams: one stream at a time"));
            }
            if self.all || !filter.is_empty() {
                return Err(Failure::usage("letters by name and a filter do not go together"));
            }
            body.insert("stream".to_owned(), first.stream.clone().into());
            let places: Vec<&str> = self.letters.iter().map(|letter| letter.place.as_str()).collect();
            body.insert("letters".to_owned(), places.into());
            return Ok(body);
        }
        if filter.is_empty() && !self.all {
            return Err(Failure::usage("which letters? name them, or a --class, another filter, or --all")
                .next("`phronis letters list` shows the classes"));
        }
        let stream = self.stream.clone().unwrap_or_else(|| DEFAULT_STREAM.to_owned());
        body.insert("stream".to_owned(), stream.into());
        body.extend(filter);
        if self.all {
            body.insert("all".to_owned(), true.into());
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_named_by_its_stream_and_place() {
        for (text, expected) in [
            ("3-42", Some(("sensors", "3-42"))),
            ("acme.pumps/0-7", Some(("acme.pumps", "0-7"))),
            ("sensors/3", None),
            ("3--42", None),
            ("../3-42", None),
        ] {
            let letter = text.parse::<Letter>().ok();
            let found = letter.as_ref().map(|letter| (letter.stream.as_str(), letter.place.as_str()));
            assert_eq!(found, expected, "{text}");
        }
    }
}
