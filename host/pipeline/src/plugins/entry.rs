//! One plugin as the control thread sees it, and the making of a version from a component and settings.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use phronis_core::plugin::Limits;
use phronis_core::{PluginId, code};
use phronis_engine::Component;
use serde_json::{Map, Value};

use super::order::Wish;
use super::settings::{Record, Wanted, WantedLimits};
use super::{ChangeError, Counters, FieldProblem, Problem, Version};
use crate::{breakers, status};

/// Settings that a version runs with, and where they came from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    pub(crate) params: Map<String, Value>,
    pub(crate) limits: WantedLimits,
    pub(crate) params_origin: status::Origin,
    pub(crate) limits_origin: status::Origin,
    pub(crate) breaker: breakers::Wanted,
    /// What a person said of its breaker.
    pub(crate) over: Option<breakers::Override>,
}

impl Settings {
    /// Whether a version made with these would be another one.
    pub(crate) fn differs(&self, other: &Self) -> bool {
        (&self.params, &self.limits, &self.breaker) != (&other.params, &other.limits, &other.breaker)
    }

    /// These settings with what a record changes.
    pub(crate) fn with(&self, record: &Record, revision: i64, at: i64) -> Self {
        let origin = status::Origin {
            source: record.source.clone(),
            actor: record.actor.clone(),
            revision: Some(revision),
            at: Some(at),
        };
        let mut settings = self.clone();
        if let Some(params) = &record.params {
            settings.params = params.clone();
            settings.params_origin = origin.clone();
        }
        if let Some(limits) = &record.limits {
            settings.limits = limits.clone();
            settings.limits_origin = origin;
        }
        if let Some(breaker) = &record.breaker {
            settings.breaker = breaker.clone();
        }
        settings.over.clone_from(&record.over);
        settings
    }
}

/// A component that was loaded and does not run (yet).
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) component: Component,
    pub(crate) bytes: Arc<[u8]>,
}

/// One plugin.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: PluginId,
    /// Digest of the file in the folder; none once it is deleted, empty when it is there but was not read.
    pub(crate) file_digest: Option<String>,
    pub(crate) is_loading: bool,
    /// The newest loaded component, while it does not run.
    pub(crate) candidate: Option<Candidate>,
    pub(crate) active: Option<Arc<Version>>,
    pub(crate) active_since: i64,
    /// Settings in force.
    pub(crate) settings: Settings,
    /// The newest settings of the config topic, which may be refused.
    pub(crate) newest: Settings,
    /// The newest offset of the config topic that was taken, good or bad.
    pub(crate) taken: Option<i64>,
    /// The newest record of the config topic cannot be read: the last good settings stay, also after a restart.
    pub(crate) is_newest_bad: bool,
    /// The settings file beside the component, with its digest.
    pub(crate) file: Option<(String, Wanted)>,
    /// A settings file that is not published yet, with its digest.
    pub(crate) unpublished: Option<(String, Wanted)>,
    /// Digest of the newest published settings file.
    pub(crate) published: Option<String>,
    /// Why the newest component does not run.
    pub(crate) refusal: Option<status::Refusal>,
    /// Why the newest settings are not in force.
    pub(crate) settings_refusal: Option<status::Refusal>,
    /// The active component, while it is not on the shelf of good versions.
    pub(crate) unshelved: Option<Arc<[u8]>>,
    /// Why the active version cannot run beside the others.
    pub(crate) misfit: Option<status::Refusal>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) breaker: Arc<breakers::Kept>,
}

impl Entry {
    pub(crate) fn new(id: PluginId, breaker: Arc<breakers::Kept>) -> Self {
        Self {
            id,
            breaker,
            file_digest: None,
            is_loading: false,
            candidate: None,
            active: None,
            active_since: 0,
            settings: Settings::default(),
            newest: Settings::default(),
            taken: None,
            is_newest_bad: false,
            file: None,
            unpublished: None,
            published: None,
            refusal: None,
            settings_refusal: None,
            unshelved: None,
            misfit: None,
            counters: Arc::default(),
        }
    }

    /// The components that settings are tried on, the newest first.
    pub(crate) fn components(&self) -> Vec<Component> {
        let candidate = self.candidate.iter().map(|candidate| &candidate.component);
        candidate.chain(self.active.iter().map(|version| &version.component)).cloned().collect()
    }

    /// Makes a version, asking the component whether it accepts the settings.
    pub(crate) fn build(&self, component: &Component, settings: &Settings, rules: &Rules) -> Result<Version, Refused> {
        let params = component.defaults(&Value::Object(settings.params.clone())).map_err(|problems| {
            let problems: Vec<_> =
                problems.into_iter().map(|p| FieldProblem { path: p.path, message: p.message }).collect();
            let words: Vec<_> = problems.iter().map(|p| format!("{}: {}", p.path, p.message)).collect();
            Refused { problem: Problem { code: code::PARAMS_REFUSED, message: words.join("; ") }, fields: problems }
        })?;
        let refuse = |code, message| Refused { problem: Problem { code, message }, fields: Vec::new() };
        let limits = settings.limits.over(rules.limits_default).map_err(|m| refuse(code::SETTINGS_INVALID, m))?;
        let limits = phronis_engine::limits::lower(limits, &rules.limits_ceiling).map_err(|problems| {
            let words: Vec<_> = problems.into_iter().map(|problem| problem.message).collect();
            refuse(code::CEILING_EXCEEDED, words.join("; "))
        })?;
        let policy = settings.breaker.policy(rules.raw_retention).map_err(|(field, message)| {
            let problem = Problem { code: code::SETTINGS_INVALID, message: format!("breaker.{field}: {message}") };
            Refused { problem, fields: vec![FieldProblem { path: format!("/{field}"), message }] }
        })?;
        let shape = component.probe(&self.id, &params, limits).map_err(|r| refuse(r.code, r.message))?;
        Ok(Version {
            id: self.id.clone(),
            component: component.clone(),
            params,
            limits,
            fields: shape.fields.into(),
            adds: shape.adds.into(),
            may_halt: rules.may_halt.contains(&self.id.name),
            counters: Arc::clone(&self.counters),
            breaker: Arc::clone(&self.breaker),
            policy,
            is_retired: AtomicBool::new(false),
        })
    }

    /// The version of the settings: of the newest record that was taken, good or bad.
    pub(crate) fn version(&self) -> u64 {
        self.taken.and_then(|offset| u64::try_from(offset).ok()).map_or(0, |offset| offset.saturating_add(1))
    }

    /// What the status page says.
    pub(crate) fn status(&self, rules: &Rules) -> status::Plugin {
        let state = match (&self.active, &self.misfit) {
            (None, _) if self.is_loading || (self.candidate.is_some() && self.refusal.is_none()) => {
                status::PluginState::Loading
            }
            (None, _) | (Some(_), Some(_)) => status::PluginState::Bypassed,
            (Some(active), None) if self.file_digest.as_deref() == Some(active.component.digest()) => {
                status::PluginState::Active
            }
            (Some(_), None) => status::PluginState::Outdated,
        };
        let params = self.active.as_ref().map(|active| active.params.clone());
        status::Plugin {
            id: self.id.clone(),
            state,
            active: self.active.as_ref().map(|active| self.version_status(active)),
            wanted_digest: self.file_digest.clone().filter(|digest| !digest.is_empty()),
            refusal: [&self.misfit, &self.refusal, &self.settings_refusal].into_iter().find_map(Clone::clone),
            params: params.unwrap_or_else(|| Value::Object(self.settings.params.clone())),
            params_origin: self.settings.params_origin.clone(),
            limits: self.active.as_ref().map_or(rules.limits_default, |active| active.limits),
            limits_origin: self.settings.limits_origin.clone(),
            breaker: self.settings.breaker.clone(),
            version: self.version(),
            good: Vec::new(),
            counts: self.counters.snapshot(),
        }
    }

    fn version_status(&self, version: &Version) -> status::Version {
        let manifest = version.component.manifest();
        status::Version {
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            digest: version.component.digest().to_owned(),
            kind: version.component.kind(),
            fields: version.fields.to_vec(),
            adds: version.adds.to_vec(),
            params_schema: manifest.params_schema.clone(),
            active_since: self.active_since,
        }
    }
}

/// What the host's configuration says about the plugins of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) contract: Arc<phronis_core::contract::Contract>,
    pub(crate) limits_default: Limits,
    pub(crate) limits_ceiling: Limits,
    pub(crate) may_halt: std::collections::BTreeSet<phronis_core::Name>,
    pub(crate) holds_when_missing: bool,
    /// How long raw keeps records; none: for ever.
    pub(crate) raw_retention: Option<std::time::Duration>,
}

impl Rules {
    pub(crate) fn of(stream: &crate::stream::Options) -> Self {
        Self {
            contract: Arc::clone(&stream.contract),
            limits_default: stream.limits_default,
            limits_ceiling: stream.limits_ceiling,
            may_halt: stream.may_halt.clone(),
            holds_when_missing: stream.holds_when_missing,
            raw_retention: stream.retention.age,
        }
    }
}

/// Why a version cannot be made.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) problem: Problem,
    pub(crate) fields: Vec<FieldProblem>,
}

impl From<Refused> for ChangeError {
    fn from(refused: Refused) -> Self {
        Self::Refused { code: refused.problem.code, message: refused.problem.message, problems: refused.fields }
    }
}

impl Version {
    pub(crate) fn wish(&self) -> Wish {
        Wish {
            name: self.id.name.clone(),
            kind: self.component.kind(),
            fields: Arc::clone(&self.fields),
            adds: Arc::clone(&self.adds),
        }
    }
}
