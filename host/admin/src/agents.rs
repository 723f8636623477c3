//! Agents and who is halted: `/v1/agents…`, `/v1/tenants/{tenant}/halt|reset`, and the short forms `/halt`, `/reset`, `/status/{agent}`.
//!
//! Whether an agent may act is asked by every one of its tool calls, so reading is open to all; changing it needs a key.
//! The words of an alert hold bytes of its event: who may not see the tenant's events is not told them ([`reason`]).
//! `?tenant=` says whose agent it is; without it, the tenant of the key, else `default`.

pub(crate) mod change;
mod order;
pub(crate) mod stream;

use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::response::{IntoResponse, Response};
use phronis_core::agent::{self, Key, Record, Scope};
use phronis_core::name::DEFAULT_TENANT;
use phronis_core::text::did_you_mean;
use phronis_core::{Name, Time, code};
use phronis_pipeline::agents::{Refusal, Status};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::access::Caller;
use crate::paging::{Page, Paging};
use crate::problem::{AWAY_SECONDS, Document, Problem};
use crate::sign::etag;
use crate::state::App;

/// Names that are compared with one that is not known.
const COMPARED: usize = 10_000;

/// Instead of the words of an alert.
const WITH_A_KEY: &str = "an alert of the plugin that is named as the actor; its words are shown with a key";

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
    /// Why it is as it is, in words; those of an alert are shown with a key of the tenant.
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
    /// Why, in words; those of an alert are shown with a key of the tenant.
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
    #[param(value_type = Option<String>)]
    state: Option<agent::State>,
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
    let sees = caller.sees(&tenant);
    let agents = app.pipeline.agents().all(&tenant)?.into_iter().filter_map(|status| {
        let key = status.record.as_ref()?.key();
        wanted.state.is_none_or(|state| state == status.state()).then(|| Agent::of(&key, &status, sees))
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
    let shown = Agent::of(&key, &app.pipeline.agents().status(&key)?, caller.sees(&key.tenant));
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
        return Err(unknown(&app, &key));
    }
    let sees = caller.sees(&key.tenant);
    let items = page.items.into_iter().map(|record| Change::of(record, sees)).collect();
    Ok(Json(Page { items, next: page.next.map(|next| next.to_string()) }))
}

/// The tenant that a request means.
fn tenant_of(app: &App, caller: &Caller, wanted: Option<&str>) -> Result<Name, Problem> {
    let own = || caller.tenant().map_or(DEFAULT_TENANT, Name::as_str);
    let wanted = wanted.unwrap_or_else(own);
    let agents = app.pipeline.agents();
    let found = wanted.parse::<Name>().ok().filter(|tenant| agents.has_tenant(tenant));
    found.ok_or_else(|| Problem::not_found(format_args!("tenant `{wanted}`")))
}

/// Nothing was ever said of it; the nearest name of whom something was.
fn unknown(app: &App, key: &Key) -> Problem {
    let Scope::Agent(agent) = &key.scope else { return Problem::not_found("halt of this tenant, now or before") };
    let known = app.pipeline.agents().all(&key.tenant).unwrap_or_default();
    let names = known.iter().filter_map(|status| match &status.record.as_ref()?.scope {
        Scope::Agent(agent) => Some(agent.as_str()),
        Scope::Tenant => None,
    });
    let nearest = did_you_mean(agent, names.take(COMPARED));
    Problem::not_found(format_args!("agent `{agent}` of whom anything was ever said{nearest}"))
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Changed(current) => {
                let detail = format!(
                    "it is {} now, at version {}, by {}: {}; nothing changed",
                    current.state.as_str(),
                    current.version,
                    current.actor,
                    current.reason
                );
                // Who may change it sees the tenant.
                let change = Change::of(*current, true);
                Self::new(code::PRECONDITION_FAILED, detail).members(&serde_json::json!({ "current": change }))
            }
            Refusal::StoreAway(error) => {
                let detail = format!("{error}; what is halted stays halted");
                Self::new(code::RESET_REFUSED, detail).retry_after(AWAY_SECONDS)
            }
            Refusal::NotDurable(reason) => Self::new(code::HALT_NOT_DURABLE, reason).retry_after(1),
            Refusal::NotKnown => Self::new(code::AGENTS_UNKNOWN, refusal.to_string()).retry_after(1),
            other => Self::internal("changing an agent", &other),
        }
    }
}

/// Why, as far as the caller may know.
fn reason(record: &Record, sees: bool) -> &str {
    if sees || record.cause.is_none() { &record.reason } else { WITH_A_KEY }
}

fn now() -> Time {
    Time(jiff::Timestamp::now().as_microsecond())
}

impl Agent {
    fn of(key: &Key, status: &Status, sees: bool) -> Self {
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
            reason: telling.map(|record| reason(record, sees).to_owned()),
            actor: telling.map(|record| record.actor.clone()),
            cause: telling.and_then(|record| record.cause).map(|cause| cause.to_string()),
            at: telling.map(|record| record.at.to_string()),
            expires_at: telling.and_then(|record| record.expires_at).map(|ends| ends.to_string()),
            replicated: telling.is_none_or(|record| record.is_replicated),
        }
    }
}

impl Change {
    fn of(record: Record, sees: bool) -> Self {
        Self {
            state: record.state.as_str(),
            version: record.version,
            reason: reason(&record, sees).to_owned(),
            actor: record.actor,
            cause: record.cause.map(|cause| cause.to_string()),
            at: record.at.to_string(),
            expires_at: record.expires_at.map(|ends| ends.to_string()),
        }
    }
}
