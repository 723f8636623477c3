//! Which live events a listener gets.

use phronis_core::plugin::Severity;
use phronis_core::{StreamId, code};
use phronis_pipeline::live::{Event, Kind};
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;

use crate::access::Caller;
use crate::problem::Problem;

/// The filters of the query; an event must pass all that are given.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// One stream: `name`, or `tenant.name`.
    stream: Option<String>,
    /// One plugin: its name, or `tenant/stream/name`.
    plugin: Option<String>,
    /// Alerts that are at least this bad: `info`, `warning`, `critical`.
    severity: Option<String>,
    /// Kinds, with commas between: `alert`, `plugin`, `config`, `breaker`, `agent`.
    kind: Option<String>,
}

/// Filters, parsed once.
#[derive(Debug)]
pub(crate) struct Filter {
    caller: Caller,
    stream: Option<StreamId>,
    plugin: Option<String>,
    severity: Option<Severity>,
    kinds: Vec<Kind>,
}

/// The members of an event that filters look at.
#[derive(Debug, Default, Deserialize)]
struct Facts {
    #[serde(default)]
    plugin: Value,
    #[serde(default)]
    severity: Option<Severity>,
}

impl Filter {
    pub(crate) fn new(wanted: Wanted, caller: Caller) -> Result<Self, Problem> {
        let refused = |what: &str, allowed: &'static str| {
            Problem::new(code::BAD_REQUEST, format!("the filter `{what}` is not valid")).hint(allowed)
        };
        let stream = match wanted.stream {
            None => None,
            Some(stream) => Some(stream.parse().map_err(|_| refused("stream", "use `name` or `tenant.name`"))?),
        };
        let severity = match wanted.severity.as_deref() {
            None => None,
            Some("info") => Some(Severity::Info),
            Some("warning") => Some(Severity::Warning),
            Some("critical") => Some(Severity::Critical),
            Some(_) => return Err(refused("severity", "use info, warning or critical")),
        };
        let mut kinds = Vec::new();
        for kind in wanted.kind.iter().flat_map(|kinds| kinds.split(',')) {
            let known = [Kind::Alert, Kind::Plugin, Kind::Config, Kind::Breaker, Kind::Agent]
                .into_iter()
                .find(|known| known.as_str() == kind.trim());
            let hint = "use alert, plugin, config, breaker, agent, with commas between";
            kinds.push(known.ok_or_else(|| refused("kind", hint))?);
        }
        Ok(Self { caller, stream, plugin: wanted.plugin, severity, kinds })
    }

    /// Whether the listener gets this event.
    pub(crate) fn passes(&self, event: &Event) -> bool {
        if !self.caller.sees(&event.stream.tenant)
            || self.stream.as_ref().is_some_and(|stream| *stream != event.stream)
            || !(self.kinds.is_empty() || self.kinds.contains(&event.kind))
        {
            return false;
        }
        if self.plugin.is_none() && self.severity.is_none() {
            return true;
        }
        let facts: Facts = serde_json::from_slice(&event.json).unwrap_or_default();
        let is_bad_enough = self.severity.is_none_or(|least| facts.severity.is_some_and(|severity| severity >= least));
        is_bad_enough && self.plugin.as_ref().is_none_or(|plugin| is_of(event, &facts.plugin, plugin))
    }
}

/// Whether the event is about the plugin: alerts carry an object with its name, changes may carry its whole id.
fn is_of(event: &Event, given: &Value, wanted: &str) -> bool {
    let name = given.get("name").unwrap_or(given).as_str().unwrap_or_default();
    let short = name.rsplit('/').next().unwrap_or_default();
    let full = format!("{}/{}/{short}", event.stream.tenant, event.stream.stream);
    wanted == short || wanted == full
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::options::{Key, KeyHash, Role};

    fn event(kind: Kind, stream: &str, json: &'static str) -> Event {
        Event { kind, stream: stream.parse().unwrap(), id: "1".into(), json: json.into() }
    }

    #[test]
    fn an_event_must_pass_all_filters() {
        let alert = event(Kind::Alert, "acme.press", r#"{"plugin":{"name":"hot"},"severity":"warning"}"#);
        let change = event(Kind::Plugin, "acme.press", r#"{"plugin":"acme/press/hot"}"#);
        for (stream, plugin, severity, kind, passes) in [
            (None, None, None, None, (true, true)),
            (Some("acme.press"), None, None, None, (true, true)),
            (Some("press"), None, None, None, (false, false)),
            (None, Some("hot"), None, None, (true, true)),
            (None, Some("acme/press/hot"), None, None, (true, true)),
            (None, Some("default/press/hot"), None, None, (false, false)),
            (None, Some("cold"), None, None, (false, false)),
            (None, None, Some("warning"), None, (true, false)),
            (None, None, Some("critical"), None, (false, false)),
            (None, None, None, Some("alert"), (true, false)),
            (None, None, None, Some("config,plugin"), (false, true)),
            (Some("acme.press"), Some("hot"), Some("info"), Some("alert"), (true, false)),
        ] {
            let own = |text: Option<&str>| text.map(str::to_owned);
            let wanted = Wanted { stream: own(stream), plugin: own(plugin), severity: own(severity), kind: own(kind) };
            let told = format!("{wanted:?}");
            let filter = Filter::new(wanted, Caller::Anyone).unwrap();
            assert_eq!((filter.passes(&alert), filter.passes(&change)), passes, "{told}");
        }
    }

    #[test]
    fn a_tenants_key_gets_its_own_events_alone() {
        let key = Key {
            name: "k".to_owned(),
            hash: KeyHash([0; 32]),
            tenant: Some("acme".parse().unwrap()),
            role: Role::Admin,
        };
        let filter = Filter::new(Wanted::default(), Caller::Holder(Arc::new(key))).unwrap();
        assert!(filter.passes(&event(Kind::Alert, "acme.press", "{}")));
        assert!(!filter.passes(&event(Kind::Alert, "press", "{}")));
    }

    #[test]
    fn an_unknown_filter_value_is_refused() {
        for wanted in [
            Wanted { kind: Some("alerts".to_owned()), ..Wanted::default() },
            Wanted { severity: Some("bad".to_owned()), ..Wanted::default() },
            Wanted { stream: Some("No Stream".to_owned()), ..Wanted::default() },
        ] {
            assert_eq!(Filter::new(wanted, Caller::Anyone).unwrap_err().code(), code::BAD_REQUEST);
        }
    }
}
