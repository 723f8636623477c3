//! Agents and who is halted: `/v1/agents…`, `/v1/tenants/{tenant}/halt|reset`, and the short forms `/halt`, `/reset`, `/status/{agent}`.
//!
//! Whether an agent may act is asked by every one of its tool calls, so reading is open to all; changing it needs a key.
//! `?tenant=` says whose agent it is; without it, the tenant of the key, else `default`.

mod order;
mod stream;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use phronis_core::agent::{self, Key, Record, Scope};
use phronis_core::name::DEFAULT_TENANT;
use phronis_core::text::did_you_mean;
use phronis_core::{Name, Time, code};
use phronis_pipeline::agents::{Halt, Outcome, Refusal, Reset, Status};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::access::Caller;
use crate::agents::order::Order;
use crate::paging::{Page, Paging};
use crate::problem::{AWAY_SECONDS, Document, Problem};
use crate::state::App;
pub(crate) use stream::{__path_follow, follow};

/// Names that are compared with one that is not known.
const COMPARED: usize = 10_000;

/// An agent, at one moment.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Agent {
    /// Its name; null is everything of the tenant.
    agent: Option<String>,
    /// Whose it is.
    tenant: String,
    /// `running` or `halted`.
    state: &'static str,
    /// What halts it: `agent`, or `tenant` when everything of the tenant is halted.
    halted_by: Option<&'static str>,
    /// Rises with each change of the agent itself; 0 when nothing was ever said of it. Stands in `ETag` too.
    version: u64,
    /// Why it is as it is, in words.
    reason: Option<String>,
    /// Who said so.
    actor: Option<String>,
    /// The alert that it follows from.
    cause: Option<String>,
    /// When it was said, RFC 3339.
    at: Option<String>,
    /// When the halt ends by itself, RFC 3339.
    expires_at: Option<String>,
    /// Whether the store has it; else it is written back when the store returns.
    replicated: bool,
}

/// A change of an agent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Change {
    /// `running` or `halted`.
    state: &'static str,
    /// Rises with each change.
    version: u64,
    /// Why, in words.
    reason: String,
    /// Who said so.
    actor: String,
    /// The alert that it followed from.
    cause: Option<String>,
    /// When, RFC 3339.
    at: String,
    /// When the halt was to end by itself, RFC 3339.
    expires_at: Option<String>,
}

/// What a request changed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Changed {
    #[serde(flatten)]
    agent: Agent,
    /// Whether it was otherwise before.
    changed: bool,
}

/// Whose agents.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Whose {
    /// The tenant; without it, that of the key, else `default`.
    tenant: Option<String>,
}

/// Which agents.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// Only those in this state: `halted` or `running`.
    state: Option<String>,
}

/// The agents of a tenant of whom something was ever said: those that are halted, and those that were.
#[utoipa::path(
    get, path = "/v1/agents", tag = "agents", params(Whose, Wanted, Paging),
    responses(
        (status = 200, description = "the agents, by name; the tenant as a whole comes first", body = Page<Agent>),
        (status = 404, description = "no such tenant", body = Document),
        (status = 503, description = "the host has just begun and does not know yet who is halted", body = Document),
    ),
)]
pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(whose): Query<Whose>,
    Query(wanted): Query<Wanted>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<Agent>>, Problem> {
    let tenant = tenant_of(&app, &caller, whose.tenant.as_deref())?;
    if let Some(state) = wanted.state.as_deref().filter(|state| !["halted", "running"].contains(state)) {
        let detail = format!("the filter `state` is not valid: {}", agent::State::Halted.as_str());
        tracing::debug!(state, "an unknown state is asked for");
        return Err(Problem::new(code::BAD_REQUEST, detail).hint("use halted or running"));
    }
    let all = app.pipeline.agents().all(&tenant).map_err(|refusal| refused(refusal, "", std::iter::empty()))?;
    let agents = all.into_iter().filter_map(|status| {
        let key = status.record.as_ref()?.key();
        wanted.state.as_ref().is_none_or(|state| *state == status.state().as_str()).then(|| Agent::of(&key, &status))
    });
    Ok(Json(paging.cut(agents, |agent| agent.agent.clone().unwrap_or_default())))
}

/// Whether an agent may act, and why. One of whom nothing was ever said is running.
#[utoipa::path(
    get, path = "/v1/agents/{agent}", tag = "agents",
    params(("agent" = String, Path, description = "its name, as events have it"), Whose),
    responses(
        (status = 200, description = "the agent; `ETag` holds its version", body = Agent),
        (status = 404, description = "no such tenant", body = Document),
        (status = 503, description = "the host has just begun and does not know yet who is halted", body = Document),
    ),
)]
pub(crate) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
    Query(whose): Query<Whose>,
) -> Result<Response, Problem> {
    let key = Key::agent(tenant_of(&app, &caller, whose.tenant.as_deref())?, agent);
    let status = app.pipeline.agents().status(&key).map_err(|refusal| refused(refusal, "", std::iter::empty()))?;
    let shown = Agent::of(&key, &status);
    Ok((etag(shown.version), Json(shown)).into_response())
}

/// Whether an agent may act, and why; short form of `GET /v1/agents/{agent}`.
#[utoipa::path(
    get, path = "/status/{agent}", tag = "agents",
    params(("agent" = String, Path, description = "its name, as events have it"), Whose),
    responses((status = 200, description = "the agent; `ETag` holds its version", body = Agent)),
)]
pub(crate) async fn status(
    app: State<App>,
    caller: Extension<Caller>,
    agent: Path<String>,
    whose: Query<Whose>,
) -> Result<Response, Problem> {
    show(app, caller, agent, whose).await
}

/// Who halted and reset an agent, when and why, newest first.
#[utoipa::path(
    get, path = "/v1/agents/{agent}/history", tag = "agents",
    params(("agent" = String, Path, description = "its name, as events have it"), Whose, Paging),
    responses(
        (status = 200, description = "the changes", body = Page<Change>),
        (status = 404, description = "nothing was ever said of it", body = Document),
        (status = 503, description = "the store is away", body = Document),
    ),
)]
pub(crate) async fn history(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
    Query(whose): Query<Whose>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<Change>>, Problem> {
    let key = Key::agent(tenant_of(&app, &caller, whose.tenant.as_deref())?, agent);
    let invalid = |_| Problem::new(code::BAD_REQUEST, "the cursor is not valid").hint("use `next` of the page before");
    let cursor = paging.cursor.as_deref().map(str::parse).transpose().map_err(invalid)?;
    let limit = u32::try_from(paging.limit()).unwrap_or(u32::MAX);
    let page = app.pipeline.agents().history(&key, limit, cursor).await?;
    if page.items.is_empty() && cursor.is_none() {
        return Err(refused_about(&app, &key, Refusal::Unknown));
    }
    let items = page.items.into_iter().map(Change::from).collect();
    Ok(Json(Page { items, next: page.next.map(|next| next.to_string()) }))
}

/// Halts an agent: in force on this host at once, on others and in guards within milliseconds.
#[utoipa::path(
    post, path = "/v1/agents/{agent}/halt", tag = "agents",
    params(
        ("agent" = String, Path, description = "its name, as events have it"), Whose,
        ("If-Match" = Option<String>, Header, description = "the `ETag` that it must still have"),
    ),
    request_body(content = Order),
    responses(
        (status = 200, description = "halted; the store has it", body = Changed),
        (status = 202, description = "halted; the store is away and gets it later (`replicated` is false)", body = Changed),
        (status = 412, description = "it has changed since the version that If-Match names; `current` is what it is now", body = Document),
        (status = 422, description = "no reason, or an end that is past", body = Document),
        (status = 503, description = "halted on this host, and written down nowhere", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn halt(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
    Query(whose): Query<Whose>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let order = order::read(&app, &headers, body).await?;
    let whose = Whose { tenant: whose.tenant.or_else(|| order.tenant.clone()) };
    let key = named(&app, &caller, whose.tenant.as_deref(), &agent)?;
    halted(app, caller, key, order, &headers).await
}

/// Lets an agent act again. Only while the store answers: an un-halt is never guessed.
#[utoipa::path(
    post, path = "/v1/agents/{agent}/reset", tag = "agents",
    params(
        ("agent" = String, Path, description = "its name, as events have it"), Whose,
        ("If-Match" = Option<String>, Header, description = "the `ETag` that it must still have"),
    ),
    request_body(content = Order),
    responses(
        (status = 200, description = "it may act", body = Changed),
        (status = 404, description = "nothing was ever said of it", body = Document),
        (status = 412, description = "someone halted it anew meanwhile, or it is another version; `current` is what it is now", body = Document),
        (status = 422, description = "no reason", body = Document),
        (status = 503, description = "the store is away: it stays halted", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn reset(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
    Query(whose): Query<Whose>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let order = order::read(&app, &headers, body).await?;
    let whose = Whose { tenant: whose.tenant.or_else(|| order.tenant.clone()) };
    let key = named(&app, &caller, whose.tenant.as_deref(), &agent)?;
    was_reset(app, caller, key, order, &headers).await
}

/// Halts everything of a tenant.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/halt", tag = "agents",
    params(("tenant" = String, Path), ("If-Match" = Option<String>, Header, description = "the `ETag` that it must still have")),
    request_body(content = Order),
    responses(
        (status = 200, description = "halted; the store has it", body = Changed),
        (status = 202, description = "halted; the store is away and gets it later (`replicated` is false)", body = Changed),
        (status = 404, description = "no such tenant", body = Document),
        (status = 422, description = "no reason, or an end that is past", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn halt_tenant(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let order = order::read(&app, &headers, body).await?;
    let key = Key::tenant(own(&caller, tenant_of(&app, &caller, Some(&tenant))?)?);
    halted(app, caller, key, order, &headers).await
}

/// Ends the halt of a whole tenant. Agents that are halted themselves stay so.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/reset", tag = "agents",
    params(("tenant" = String, Path), ("If-Match" = Option<String>, Header, description = "the `ETag` that it must still have")),
    request_body(content = Order),
    responses(
        (status = 200, description = "its agents may act, unless they are halted themselves", body = Changed),
        (status = 404, description = "no such tenant, or it was never halted", body = Document),
        (status = 503, description = "the store is away: it stays halted", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn reset_tenant(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let order = order::read(&app, &headers, body).await?;
    let key = Key::tenant(own(&caller, tenant_of(&app, &caller, Some(&tenant))?)?);
    was_reset(app, caller, key, order, &headers).await
}

/// Halts the agent that the body names; short form of `POST /v1/agents/{agent}/halt`.
#[utoipa::path(
    post, path = "/halt", tag = "agents", params(Whose), request_body(content = Order),
    responses(
        (status = 200, description = "halted; the store has it", body = Changed),
        (status = 202, description = "halted; the store is away and gets it later (`replicated` is false)", body = Changed),
        (status = 422, description = "no agent, no reason, or an end that is past", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn halt_named(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(whose): Query<Whose>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let order = order::read(&app, &headers, body).await?;
    let key = named(&app, &caller, whose.tenant.as_deref().or(order.tenant.as_deref()), order.agent()?)?;
    halted(app, caller, key, order, &headers).await
}

/// Lets the agent act again that the body names; short form of `POST /v1/agents/{agent}/reset`.
#[utoipa::path(
    post, path = "/reset", tag = "agents", params(Whose), request_body(content = Order),
    responses(
        (status = 200, description = "it may act", body = Changed),
        (status = 404, description = "nothing was ever said of it", body = Document),
        (status = 422, description = "no agent or no reason", body = Document),
        (status = 503, description = "the store is away: it stays halted", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn reset_named(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(whose): Query<Whose>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let order = order::read(&app, &headers, body).await?;
    let key = named(&app, &caller, whose.tenant.as_deref().or(order.tenant.as_deref()), order.agent()?)?;
    was_reset(app, caller, key, order, &headers).await
}

async fn halted(app: App, caller: Caller, key: Key, order: Order, headers: &HeaderMap) -> Result<Response, Problem> {
    let now = now();
    let halt = Halt {
        reason: order.reason(headers)?,
        actor: order.actor(&caller, headers),
        cause: None,
        expires_at: order.expires_at(now)?,
        if_version: order::if_match(headers)?,
        key: key.clone(),
    };
    let agents = app.pipeline.agents();
    // In a task of its own: a client that leaves must not stop a change half-way.
    let changing = tokio::spawn(async move { agents.halt(halt).await }).await;
    answer(&app, &key, changing)
}

async fn was_reset(app: App, caller: Caller, key: Key, order: Order, headers: &HeaderMap) -> Result<Response, Problem> {
    order.has_no_end()?;
    let reset = Reset {
        reason: order.reason(headers)?,
        actor: order.actor(&caller, headers),
        if_version: order::if_match(headers)?,
        key: key.clone(),
    };
    let agents = app.pipeline.agents();
    let changing = tokio::spawn(async move { agents.reset(reset).await }).await;
    answer(&app, &key, changing)
}

fn answer(
    app: &App,
    key: &Key,
    changed: Result<Result<Outcome, Refusal>, tokio::task::JoinError>,
) -> Result<Response, Problem> {
    let changed = changed.map_err(|error| Problem::internal("changing an agent", &error))?;
    let outcome = changed.map_err(|refusal| refused_about(app, key, refusal))?;
    let Outcome { record, is_replicated, is_news } = outcome;
    let halt = Some(&record).filter(|record| record.is_halted(now())).cloned();
    // What holds it beside, the tenant's halt for one, stands in its status.
    let whole = app.pipeline.agents().status(key).ok().and_then(|status| status.halt);
    let mut agent = Agent::of(key, &Status { halt: halt.or(whole), record: Some(record) });
    agent.replicated = is_replicated;
    let status = if is_replicated { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, etag(agent.version), Json(Changed { agent, changed: is_news })).into_response())
}

/// The tenant that a request means.
fn tenant_of(app: &App, caller: &Caller, wanted: Option<&str>) -> Result<Name, Problem> {
    let own = || caller.tenant().map_or(DEFAULT_TENANT, Name::as_str);
    let wanted = wanted.unwrap_or_else(own);
    let agents = app.pipeline.agents();
    let found = wanted.parse::<Name>().ok().filter(|tenant| agents.has_tenant(tenant));
    found.ok_or_else(|| Problem::not_found(format_args!("tenant `{wanted}`")))
}

/// A tenant whose agents the caller may halt.
fn own(caller: &Caller, tenant: Name) -> Result<Name, Problem> {
    if caller.sees(&tenant) { Ok(tenant) } else { Err(Problem::not_found(format_args!("tenant `{tenant}`"))) }
}

/// An agent that the caller may halt.
fn named(app: &App, caller: &Caller, tenant: Option<&str>, agent: &str) -> Result<Key, Problem> {
    agent::check_name(agent).map_err(|reason| order::invalid("agent", format!("the name of the agent {reason}")))?;
    Ok(Key::agent(own(caller, tenant_of(app, caller, tenant)?)?, agent))
}

fn refused_about(app: &App, key: &Key, refusal: Refusal) -> Problem {
    let agents = app.pipeline.agents();
    let known = agents.all(&key.tenant).unwrap_or_default();
    let names = known.iter().filter_map(|status| match &status.record.as_ref()?.scope {
        Scope::Agent(agent) => Some(agent.as_str()),
        Scope::Tenant => None,
    });
    let what = match &key.scope {
        Scope::Agent(agent) => agent.as_str(),
        Scope::Tenant => "",
    };
    refused(refusal, what, names.take(COMPARED))
}

fn refused<'a>(refusal: Refusal, agent: &str, names: impl Iterator<Item = &'a str>) -> Problem {
    match refusal {
        Refusal::Unknown if agent.is_empty() => Problem::not_found("halt of this tenant, now or before"),
        Refusal::Unknown => {
            let nearest = did_you_mean(agent, names);
            Problem::not_found(format_args!("agent `{agent}` of whom anything was ever said{nearest}"))
        }
        Refusal::Changed(current) => {
            let detail = format!(
                "it is {} now, at version {}, by {}: {}; nothing changed",
                current.state.as_str(),
                current.version,
                current.actor,
                current.reason
            );
            let change = Change::from(*current);
            Problem::new(code::PRECONDITION_FAILED, detail).members(&serde_json::json!({ "current": change }))
        }
        Refusal::StoreAway(error) => {
            let detail = format!("{error}; what is halted stays halted");
            Problem::new(code::RESET_REFUSED, detail).retry_after(AWAY_SECONDS)
        }
        Refusal::NotDurable(reason) => Problem::new(code::HALT_NOT_DURABLE, reason).retry_after(1),
        Refusal::NotKnown => Problem::new(code::AGENTS_UNKNOWN, refusal.to_string()).retry_after(1),
        other => Problem::internal("changing an agent", &other),
    }
}

fn etag(version: u64) -> [(header::HeaderName, HeaderValue); 1] {
    let value = HeaderValue::from_str(&format!("\"{version}\"")).unwrap_or(HeaderValue::from_static("\"0\""));
    [(header::ETAG, value)]
}

fn now() -> Time {
    Time(jiff::Timestamp::now().as_microsecond())
}

impl Agent {
    fn of(key: &Key, status: &Status) -> Self {
        // What halts it says why; else its own last word.
        let telling = status.halt.as_ref().or(status.record.as_ref());
        let agent = match &key.scope {
            Scope::Agent(agent) => Some(agent.clone()),
            Scope::Tenant => None,
        };
        Self {
            agent,
            tenant: key.tenant.to_string(),
            state: status.state().as_str(),
            halted_by: status.halt.as_ref().map(|halt| match halt.scope {
                Scope::Agent(_) => "agent",
                Scope::Tenant => "tenant",
            }),
            version: status.version(),
            reason: telling.map(|record| record.reason.clone()),
            actor: telling.map(|record| record.actor.clone()),
            cause: telling.and_then(|record| record.cause).map(|cause| cause.to_string()),
            at: telling.map(|record| record.at.to_string()),
            expires_at: telling.and_then(|record| record.expires_at).map(|ends| ends.to_string()),
            replicated: telling.is_none_or(|record| record.is_replicated),
        }
    }
}

impl From<Record> for Change {
    fn from(record: Record) -> Self {
        Self {
            state: record.state.as_str(),
            version: record.version,
            reason: record.reason,
            actor: record.actor,
            cause: record.cause.map(|cause| cause.to_string()),
            at: record.at.to_string(),
            expires_at: record.expires_at.map(|ends| ends.to_string()),
        }
    }
}
