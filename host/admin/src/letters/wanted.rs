//! Which letters are meant: in the query of a list, and in the body of a redrive or a discard.

use phronis_core::letter::Stage;
use phronis_core::letter::index::{Class, Filter};
use phronis_core::{Code, Name, Time, code};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::problem::Problem;

/// Which letters are meant, as texts.
#[derive(Debug, Default, Clone, Deserialize, Serialize, IntoParams, ToSchema)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct Wanted {
    /// Exactly this class.
    #[schema(example = "detect/PH2003/threshold@1.2.0")]
    pub(crate) class: Option<String>,
    /// `gate`, `enrich`, `detect`, `deliver`.
    pub(crate) stage: Option<String>,
    /// Like `PH2003`.
    pub(crate) code: Option<String>,
    /// The plugin that failed.
    pub(crate) plugin: Option<String>,
    /// Its version.
    pub(crate) version: Option<String>,
    /// Failed for the first time then or later (RFC 3339).
    pub(crate) since: Option<String>,
    /// Failed for the first time before (RFC 3339).
    pub(crate) until: Option<String>,
}

impl Wanted {
    /// Whether anything is said.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { class, stage, code, plugin, version, since, until } = self;
        [class, stage, code, plugin, version, since, until].into_iter().all(Option::is_none)
    }

    /// The filter that is meant.
    pub(crate) fn filter(&self) -> Result<Filter, Problem> {
        fn read<T>(name: &str, text: Option<&String>, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Problem> {
            let Some(text) = text else { return Ok(None) };
            let refused = || Problem::new(code::BAD_REQUEST, format!("`{name}` is not valid: `{text}`"));
            parse(text).map(Some).ok_or_else(refused)
        }
        // A `+` of a zone that was not escaped arrives as a space.
        let time = |text: &str| text.replace(' ', "+").parse::<Time>().ok();
        Ok(Filter {
            class: read("class", self.class.as_ref(), |text| text.parse::<Class>().ok())?,
            stage: read("stage", self.stage.as_ref(), Stage::parse)?,
            code: read("code", self.code.as_ref(), Code::parse)?,
            plugin: read("plugin", self.plugin.as_ref(), |text| text.parse::<Name>().ok())?,
            version: self.version.clone(),
            since: read("since", self.since.as_ref(), time)?,
            until: read("until", self.until.as_ref(), time)?,
        })
    }
}
