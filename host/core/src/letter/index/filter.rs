//! Which letters a person means.

use serde::{Deserialize, Serialize};

use super::Class;
use crate::code::Code;
use crate::letter::Stage;
use crate::name::Name;
use crate::time::Time;

/// Letters that fulfil all that is said; what is not said is any.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Exactly this class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// The step that refused the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// The plugin that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<Name>,
    /// The plugin's version, as its author counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Failed for the first time then, or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Failed for the first time before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

impl Filter {
    /// Whether letters of a class may fulfil it; the time is not asked.
    pub fn takes(&self, class: &Class) -> bool {
        let (name, version) = class.plugin.as_ref().map(|(name, version)| (name, &**version)).unzip();
        self.class.as_ref().is_none_or(|wanted| wanted == class)
            && self.stage.is_none_or(|stage| stage == class.stage)
            && self.code.is_none_or(|code| code == class.code)
            && self.plugin.as_ref().is_none_or(|plugin| Some(plugin) == name)
            && self.version.as_deref().is_none_or(|wanted| Some(wanted) == version)
    }

    /// Whether a letter that failed for the first time then fulfils it, where its class does.
    pub fn takes_time(&self, first_failed_at: Time) -> bool {
        self.since.is_none_or(|since| first_failed_at >= since)
            && self.until.is_none_or(|until| first_failed_at < until)
    }

    /// Whether classes alone do not say which letters are meant.
    pub fn has_time(&self) -> bool {
        self.since.is_some() || self.until.is_some()
    }
}
