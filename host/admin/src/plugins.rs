//! Plugins as they are and as they should be: `GET /v1/plugins…`; what changes them is in `change`.

pub(crate) mod change;

use std::time::Duration;

use axum::extract::{Extension, Path, Query, State};
use axum::response::{IntoResponse, Json, Response};
use phronis_core::PluginId;
use phronis_core::plugin::{Added, Field, Limits};
use phronis_pipeline::hosts;
use phronis_pipeline::plugins::Good;
use phronis_pipeline::status::{self, PluginState};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::access::Caller;
use crate::paging::{Page, Paging};
use crate::problem::{Document, Problem};
use crate::records::rfc3339;
use crate::sign::etag;
use crate::state::App;

/// A plugin, at one moment.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Plugin {
    /// `tenant/stream/name`.
    pub(crate) id: String,
    /// Who owns it.
    tenant: String,
    /// The stream that it judges.
    stream: String,
    /// Its name within the stream.
    name: String,
    /// What it does: `loading`, `active`, `outdated` (an older good version runs), `bypassed`.
    pub(crate) state: &'static str,
    /// The version that runs.
    pub(crate) active: Option<Version>,
    /// SHA-256 of the file in the folder.
    wanted_digest: Option<String>,
    /// Why the wanted version, or the newest settings, are not in force.
    pub(crate) refusal: Option<Refusal>,
    /// Parameters in force.
    params: Value,
    /// Where they came from.
    params_origin: Origin,
    /// Limits in force.
    #[schema(value_type = Object)]
    limits: Limits,
    /// Where they came from.
    limits_origin: Origin,
    /// Settings of its breaker as somebody wrote them; what is absent is the default. What it does: `/v1/breakers/…`.
    #[schema(value_type = Object)]
    breaker: phronis_pipeline::breakers::Wanted,
    /// Rises with each change of its settings, its breaker's, and of what a person says of its breaker. Stands in `ETag` too.
    settings_version: u64,
    /// Versions that ran well and are kept on this host, the last one first: letters can be shown to them.
    kept: Vec<KeptVersion>,
    /// What it has done since the host started.
    pub(crate) counts: Counts,
    /// What each live host runs of it.
    hosts: Vec<OnHost>,
    /// Whether they all run the same version.
    pub(crate) is_consistent: bool,
}

/// A plugin on a host.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OnHost {
    /// The host.
    node_id: String,
    /// SHA-256 of the component; none where the host processes the stream without the plugin.
    digest: Option<String>,
    /// The author's version.
    version: Option<String>,
    /// Since when it runs there, RFC 3339.
    since: Option<String>,
}

/// A version that is kept.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeptVersion {
    /// SHA-256 of the component.
    digest: String,
    /// The author's version.
    version: String,
}

/// A version that was loaded.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Version {
    /// The plugin's own name.
    name: String,
    /// The author's version.
    pub(crate) version: String,
    /// SHA-256 of the component.
    digest: String,
    /// `detector` or `enricher`.
    #[schema(value_type = String)]
    kind: phronis_core::plugin::Kind,
    /// Fields that it reads.
    #[schema(value_type = Vec<Object>)]
    fields: Vec<Field>,
    /// Fields that it adds.
    #[schema(value_type = Vec<Object>)]
    adds: Vec<Added>,
    /// JSON Schema of its parameters.
    params_schema: Value,
    /// Since when, RFC 3339.
    active_since: Option<String>,
}

/// Why something is not in force.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Refusal {
    /// The stable code.
    pub(crate) code: String,
    /// What, where, why, what to do.
    pub(crate) message: String,
    /// When, RFC 3339.
    at: Option<String>,
    /// SHA-256 of the refused component, when it is one.
    digest: Option<String>,
}

/// Where a live value came from.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Origin {
    /// `default`, `file`, `api` or `cli`.
    source: String,
    /// Who, when known.
    actor: Option<String>,
    /// Rises with each change.
    revision: Option<i64>,
    /// When, RFC 3339.
    at: Option<String>,
}

/// What a plugin has done since the host started.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Counts {
    /// Rows judged or enriched.
    pub(crate) judged: u64,
    /// Rows not shown because a required field was null.
    skipped: u64,
    /// Rows without an answer: letters.
    pub(crate) failed: u64,
    /// Findings.
    pub(crate) findings: u64,
    /// Calls.
    calls: u64,
    /// Calls that failed as a whole.
    failed_calls: u64,
    /// Time spent in the plugin.
    busy_seconds: f64,
}

/// A plugin, or its breaker.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct Named {
    /// Who owns it.
    tenant: String,
    /// The stream that it judges.
    stream: String,
    /// Its name within the stream.
    name: String,
}

impl Named {
    fn id(&self, caller: &Caller) -> Result<PluginId, Problem> {
        let path = self.to_string();
        let id = path.parse::<PluginId>().ok().filter(|id| caller.sees(&id.stream.tenant));
        id.ok_or_else(|| Problem::not_found(format_args!("plugin `{path}`")))
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.tenant, self.stream, self.name)
    }
}

/// All plugins that the key opens.
#[utoipa::path(
    get, path = "/v1/plugins", tag = "plugins", params(Paging),
    responses((status = 200, description = "the plugins", body = Page<Plugin>)),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(paging): Query<Paging>,
) -> Json<Page<Plugin>> {
    Json(paging.cut(visible(&app, &caller), |plugin| plugin.id.clone()))
}

/// One plugin.
#[utoipa::path(
    get, path = "/v1/plugins/{tenant}/{stream}/{name}", tag = "plugins", params(Named),
    responses(
        (status = 200, description = "the plugin; `ETag` holds the version of its settings", body = Plugin),
        (status = 404, description = "no such plugin", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(named): Path<Named>,
) -> Result<Response, Problem> {
    let id = named.id(&caller)?;
    let plugin = app.pipeline.plugin(&id).ok_or_else(|| unknown(&app, &id))?;
    Ok((etag(plugin.version), Json(described(&app, plugin))).into_response())
}

/// The plugins that a caller may know of.
pub(crate) fn visible(app: &App, caller: &Caller) -> impl Iterator<Item = Plugin> {
    let plugins = app.pipeline.plugins().into_iter().filter(|plugin| caller.sees(&plugin.id.stream.tenant));
    plugins.map(|plugin| described(app, plugin))
}

/// There is no such plugin; the nearest one of its tenant.
fn unknown(app: &App, id: &PluginId) -> Problem {
    let own = app.pipeline.plugins().into_iter().filter(|plugin| plugin.id.stream.tenant == id.stream.tenant);
    let names: Vec<String> = own.map(|plugin| plugin.id.to_string()).collect();
    Problem::unknown("plugin", &id.to_string(), names.iter().map(String::as_str))
}

fn described(app: &App, plugin: status::Plugin) -> Plugin {
    let spread = app.pipeline.spread(&plugin.id);
    Plugin::of(plugin, spread)
}

impl Plugin {
    fn of(plugin: status::Plugin, spread: hosts::Spread) -> Self {
        let counts = plugin.counts;
        Self {
            id: plugin.id.to_string(),
            tenant: plugin.id.stream.tenant.to_string(),
            stream: plugin.id.stream.stream.to_string(),
            name: plugin.id.name.to_string(),
            state: match plugin.state {
                PluginState::Loading => "loading",
                PluginState::Active => "active",
                PluginState::Outdated => "outdated",
                PluginState::Bypassed => "bypassed",
            },
            active: plugin.active.map(Version::from),
            wanted_digest: plugin.wanted_digest,
            refusal: plugin.refusal.map(Refusal::from),
            params: plugin.params,
            params_origin: plugin.params_origin.into(),
            limits: plugin.limits,
            limits_origin: plugin.limits_origin.into(),
            breaker: plugin.breaker,
            settings_version: plugin.version,
            kept: plugin.good.into_iter().map(KeptVersion::from).collect(),
            counts: Counts {
                judged: counts.judged,
                skipped: counts.skipped,
                failed: counts.failed,
                findings: counts.findings,
                calls: counts.calls,
                failed_calls: counts.failed_calls,
                busy_seconds: Duration::from_nanos(counts.busy_nanos).as_secs_f64(),
            },
            hosts: spread.hosts.into_iter().map(OnHost::from).collect(),
            is_consistent: spread.is_consistent,
        }
    }
}

impl From<Good> for KeptVersion {
    fn from(good: Good) -> Self {
        Self { digest: good.digest, version: good.version }
    }
}

impl From<hosts::Running> for OnHost {
    fn from(running: hosts::Running) -> Self {
        Self {
            node_id: running.node_id,
            digest: running.digest,
            version: running.version,
            since: running.since.and_then(rfc3339),
        }
    }
}

impl From<status::Version> for Version {
    fn from(version: status::Version) -> Self {
        Self {
            name: version.name,
            version: version.version,
            digest: version.digest,
            kind: version.kind,
            fields: version.fields,
            adds: version.adds,
            params_schema: version.params_schema,
            active_since: rfc3339(version.active_since),
        }
    }
}

impl From<status::Refusal> for Refusal {
    fn from(refusal: status::Refusal) -> Self {
        Self {
            code: refusal.code.to_string(),
            message: refusal.message,
            at: rfc3339(refusal.at),
            digest: refusal.digest,
        }
    }
}

impl From<status::Origin> for Origin {
    fn from(origin: status::Origin) -> Self {
        Self { source: origin.source, actor: origin.actor, revision: origin.revision, at: origin.at.and_then(rfc3339) }
    }
}
