//! Plugins as they are and as they should be: `GET /v1/plugins…`, `PUT …/params`, `PUT …/limits`, `PUT …/breaker`.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Json;
use phronis_core::plugin::{Added, Field, Limits};
use phronis_core::{PluginId, Time, code};
use phronis_pipeline::hosts;
use phronis_pipeline::plugins::{Change, ChangeError, What};
use phronis_pipeline::status::{self, PluginState};
use phronis_store::audit;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

use crate::access::Caller;
use crate::body;
use crate::paging::{Page, Paging};
use crate::problem::{Document, FieldProblem, Problem};
use crate::records::rfc3339;
use crate::state::App;

/// How long a change may take to be in force before the answer says that it is not known.
const IN_FORCE: Duration = Duration::from_secs(30);

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

/// How a change is to be made.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Manner {
    /// Checks the change and changes nothing.
    #[serde(default)]
    dry_run: bool,
}

/// A change in force, or what would be.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Applied {
    /// Whether it is in force; false for a dry run.
    is_applied: bool,
    /// The revision of the change.
    revision: Option<i64>,
    /// All values in force, defaults filled in.
    value: Value,
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
    get, path = "/v1/plugins/{tenant}/{stream}/{name}", tag = "plugins",
    params(("tenant" = String, Path), ("stream" = String, Path), ("name" = String, Path)),
    responses(
        (status = 200, description = "the plugin", body = Plugin),
        (status = 404, description = "no such plugin", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(path): Path<(String, String, String)>,
) -> Result<Json<Plugin>, Problem> {
    let id = parse(&path, &caller)?;
    let plugin = app.pipeline.plugin(&id).ok_or_else(|| Problem::not_found(format_args!("plugin `{id}`")))?;
    Ok(Json(described(&app, plugin)))
}

/// Sets all of a plugin's parameters (those left out go back to their defaults): checked against its JSON Schema and by the plugin itself, in force from its next batch on.
#[utoipa::path(
    put, path = "/v1/plugins/{tenant}/{stream}/{name}/params", tag = "plugins",
    params(
        ("tenant" = String, Path), ("stream" = String, Path), ("name" = String, Path), Manner,
        ("X-Reason" = Option<String>, Header, description = "why, for the audit"),
        ("X-Actor" = Option<String>, Header, description = "who, for the audit"),
    ),
    request_body(content = serde_json::Value, description = "an object with the parameters"),
    responses(
        (status = 200, description = "in force", body = Applied),
        (status = 404, description = "no such plugin", body = Document),
        (status = 422, description = "refused: nothing changed; `problems` says which member and why", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn put_params(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(path): Path<(String, String, String)>,
    Query(manner): Query<Manner>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Applied>, Problem> {
    change(app, caller, &path, manner, headers, body, What::Params).await
}

/// Sets all of a plugin's limits (those left out go back to the host's defaults), below the ceilings of the host and the tenant: `{"memory": "32MiB", "deadline": "50ms"}`.
#[utoipa::path(
    put, path = "/v1/plugins/{tenant}/{stream}/{name}/limits", tag = "plugins",
    params(
        ("tenant" = String, Path), ("stream" = String, Path), ("name" = String, Path), Manner,
        ("X-Reason" = Option<String>, Header, description = "why, for the audit"),
        ("X-Actor" = Option<String>, Header, description = "who, for the audit"),
    ),
    request_body(content = serde_json::Value, description = "an object with the limits"),
    responses(
        (status = 200, description = "in force", body = Applied),
        (status = 404, description = "no such plugin", body = Document),
        (status = 422, description = "refused: nothing changed; `problems` says which member and why", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn put_limits(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(path): Path<(String, String, String)>,
    Query(manner): Query<Manner>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Applied>, Problem> {
    change(app, caller, &path, manner, headers, body, What::Limits).await
}

/// Sets all of the settings of a plugin's breaker (those left out go back to their defaults), without losing what was counted: `{"when_open": "bypass", "failures": 5, "window": "60s"}`.
#[utoipa::path(
    put, path = "/v1/plugins/{tenant}/{stream}/{name}/breaker", tag = "plugins",
    params(
        ("tenant" = String, Path), ("stream" = String, Path), ("name" = String, Path), Manner,
        ("X-Reason" = Option<String>, Header, description = "why, for the audit"),
        ("X-Actor" = Option<String>, Header, description = "who, for the audit"),
    ),
    request_body(content = serde_json::Value, description = "an object with the settings"),
    responses(
        (status = 200, description = "in force", body = Applied),
        (status = 404, description = "no such plugin", body = Document),
        (status = 422, description = "refused: nothing changed; `problems` says which member and why", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn put_breaker(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(path): Path<(String, String, String)>,
    Query(manner): Query<Manner>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Applied>, Problem> {
    change(app, caller, &path, manner, headers, body, What::Breaker).await
}

async fn change(
    app: App,
    caller: Caller,
    path: &(String, String, String),
    manner: Manner,
    headers: HeaderMap,
    body: Body,
    what: fn(Value) -> What,
) -> Result<Json<Applied>, Problem> {
    let id = parse(path, &caller)?;
    let held = body::read(&app, &headers, body).await?;
    let value: Value = serde_json::from_slice(&held.bytes)
        .map_err(|error| Problem::new(code::BAD_REQUEST, format!("the body is not JSON: {error}; nothing changed")))?;
    let reason = text_of(&headers, "x-reason");
    make(app, caller, id, what(value), reason, &headers, manner.dry_run).await
}

/// Changes a plugin now; without a reason of its own, that of the headers.
pub(crate) async fn apply(
    app: App,
    caller: Caller,
    id: PluginId,
    what: What,
    reason: Option<String>,
    headers: &HeaderMap,
) -> Result<Json<Applied>, Problem> {
    let reason = reason.or_else(|| text_of(headers, "x-reason"));
    make(app, caller, id, what, reason, headers, false).await
}

async fn make(
    app: App,
    caller: Caller,
    id: PluginId,
    what: What,
    reason: Option<String>,
    headers: &HeaderMap,
    is_dry_run: bool,
) -> Result<Json<Applied>, Problem> {
    let (source, actor) = (source_of(headers).to_owned(), actor_of(&caller, headers));
    let (action, value) = told(&what);
    let note = audit::Entry {
        id: String::new(),
        at: Time::default(),
        actor: actor.clone().unwrap_or_else(|| "unknown".to_owned()),
        action: action.to_owned(),
        subject: id.to_string(),
        tenant: Some(id.stream.tenant.clone()),
        reason: reason.clone(),
        facts: json!({ "value": value, "source": source }),
    };
    let change = Change { id, what, source, actor, reason, is_dry_run };
    let pipeline = app.pipeline.clone();
    // In a task of its own: a client that leaves must not stop a change half-way.
    let changing = tokio::spawn(async move {
        let changed = pipeline.change(change).await;
        if let (Ok(applied), false) = (&changed, is_dry_run) {
            pipeline.store().record_audit(noted(note, applied.revision)).await;
        }
        changed
    });
    let Ok(changed) = timeout(IN_FORCE, changing).await else {
        let detail = "the change is written and not in force yet";
        return Err(Problem::new(code::BACK_PRESSURE, detail)
            .status(StatusCode::SERVICE_UNAVAILABLE)
            .hint("look at the plugin: its params_origin and limits_origin say what is in force"));
    };
    let changed = changed.map_err(|error| Problem::internal("changing the plugin", &error))?;
    let applied = changed.map_err(problem_of)?;
    Ok(Json(Applied { is_applied: !is_dry_run, revision: applied.revision, value: applied.value }))
}

/// What a change is called in the audit, and what it sets.
fn told(what: &What) -> (&'static str, Value) {
    match what {
        What::Params(value) => ("plugin.params", value.clone()),
        What::Limits(value) => ("plugin.limits", value.clone()),
        What::Breaker(value) => ("plugin.breaker", value.clone()),
        What::Override(over) => ("breaker.override", json!(over)),
    }
}

/// The entry of a change that is in force, which has this revision.
fn noted(mut note: audit::Entry, revision: Option<i64>) -> audit::Entry {
    note.at = Time(jiff::Timestamp::now().as_microsecond());
    note.id = format!("{}/{}/{}/{}", note.action, note.subject, revision.unwrap_or(-1), note.at.0);
    if let Value::Object(facts) = &mut note.facts {
        facts.insert("revision".to_owned(), revision.into());
    }
    note
}

fn problem_of(error: ChangeError) -> Problem {
    match error {
        ChangeError::Unknown(id) => Problem::not_found(format_args!("plugin `{id}`")),
        ChangeError::Refused { code, message, problems } => {
            let fields = problems.into_iter().map(|p| FieldProblem { field: p.path, reason: p.message });
            Problem::new(code, message).status(StatusCode::UNPROCESSABLE_ENTITY).problems(fields.collect())
        }
        ChangeError::Log(error) => error.into(),
        ChangeError::Closed => phronis_log::Error::Closed.into(),
        other => Problem::internal("changing the plugin", &other),
    }
}

/// The plugins that a caller may know of.
pub(crate) fn visible(app: &App, caller: &Caller) -> impl Iterator<Item = Plugin> {
    let plugins = app.pipeline.plugins().into_iter().filter(|plugin| caller.sees(&plugin.id.stream.tenant));
    plugins.map(|plugin| described(app, plugin))
}

fn parse((tenant, stream, name): &(String, String, String), caller: &Caller) -> Result<PluginId, Problem> {
    let path = format!("{tenant}/{stream}/{name}");
    let id = path.parse::<PluginId>().ok().filter(|id| caller.sees(&id.stream.tenant));
    id.ok_or_else(|| Problem::not_found(format_args!("plugin `{path}`")))
}

/// Our CLI says who it is in its User-Agent; all else is `api`.
fn source_of(headers: &HeaderMap) -> &'static str {
    let agent = headers.get(header::USER_AGENT).map(axum::http::HeaderValue::as_bytes).unwrap_or_default();
    if agent.starts_with(b"phronis/") { "cli" } else { "api" }
}

/// The key's name, which is known, before the name that the request gives itself, which is not.
pub(crate) fn actor_of(caller: &Caller, headers: &HeaderMap) -> Option<String> {
    match (caller.name(), text_of(headers, "x-actor")) {
        (Some(key), Some(given)) => Some(format!("{key} ({given})")),
        (Some(key), None) => Some(key.to_owned()),
        (None, given) => given,
    }
}

pub(crate) fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(headers.get(name)?.as_bytes()).into_owned();
    // Long enough for a sentence and a link to a ticket.
    Some(text.chars().filter(|c| !c.is_control()).take(500).collect())
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
