//! Halts and resets: of an agent, of the agent that the body names, of everything of a tenant.
//!
//! They differ in how they name whom they mean; everything else of such a request is read and answered in one way.

use axum::Json;
use axum::extract::{Extension, FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use phronis_core::Name;
use phronis_core::agent::{Key, check_name};
use phronis_pipeline::agents::{Halt, Outcome, Refusal, Reset, Status};
use tokio::task::JoinError;
use utoipa::IntoResponses;

use super::order::{self, Order};
use super::{Agent, Changed, Whose, now, tenant_of, unknown};
use crate::access::Caller;
use crate::once::Once;
use crate::problem::{Document, Problem};
use crate::sign::{IfMatch, Sign, etag};
use crate::state::App;

/// Answers to a halt.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes answers, it is none")]
enum Halted {
    /// halted; the store has it
    #[response(status = 200)]
    Stored(Changed),
    /// halted; the store is away and gets it later (`replicated` is false)
    #[response(status = 202)]
    Later(Changed),
    /// no such tenant
    #[response(status = 404)]
    Unknown(Document),
    /// it has changed since the version that If-Match names; `current` is what it is now
    #[response(status = 412)]
    Other(Document),
    /// no agent, no reason, an end that is past, or an Idempotency-Key of another request
    #[response(status = 422)]
    Invalid(Document),
    /// halted on this host, and written down nowhere
    #[response(status = 503)]
    NotDurable(Document),
}

/// Answers to a reset.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes answers, it is none")]
enum Released {
    /// it may act, unless something else halts it
    #[response(status = 200)]
    Stored(Changed),
    /// no such tenant, or nothing was ever said of it
    #[response(status = 404)]
    Unknown(Document),
    /// someone halted it anew meanwhile, or it is another version; `current` is what it is now
    #[response(status = 412)]
    Other(Document),
    /// no agent, no reason, or an Idempotency-Key of another request
    #[response(status = 422)]
    Invalid(Document),
    /// the store is away: it stays halted
    #[response(status = 503)]
    Away(Document),
}

/// Halts an agent: in force on this host at once, on others and in guards within milliseconds.
#[utoipa::path(
    post, path = "/v1/agents/{agent}/halt", tag = "agents",
    params(("agent" = String, Path, description = "its name, as events have it"), Whose, IfMatch, Sign, Once),
    request_body(content = Order), responses(Halted), security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn halt(Path(agent): Path<String>, asked: Asked) -> Result<Response, Problem> {
    asked.halt(asked.agent(&agent)?).await
}

/// Lets an agent act again. Only while the store answers: an un-halt is never guessed.
#[utoipa::path(
    post, path = "/v1/agents/{agent}/reset", tag = "agents",
    params(("agent" = String, Path, description = "its name, as events have it"), Whose, IfMatch, Sign, Once),
    request_body(content = Order), responses(Released), security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn reset(Path(agent): Path<String>, asked: Asked) -> Result<Response, Problem> {
    asked.reset(asked.agent(&agent)?).await
}

/// Halts everything of a tenant.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/halt", tag = "agents",
    params(("tenant" = String, Path), IfMatch, Sign, Once),
    request_body(content = Order), responses(Halted), security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn halt_tenant(Path(tenant): Path<String>, asked: Asked) -> Result<Response, Problem> {
    asked.halt(Key::tenant(asked.tenant(Some(&tenant))?)).await
}

/// Ends the halt of a whole tenant. Agents that are halted themselves stay so.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/reset", tag = "agents",
    params(("tenant" = String, Path), IfMatch, Sign, Once),
    request_body(content = Order), responses(Released), security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn reset_tenant(Path(tenant): Path<String>, asked: Asked) -> Result<Response, Problem> {
    asked.reset(Key::tenant(asked.tenant(Some(&tenant))?)).await
}

/// Halts the agent that the body names; short form of `POST /v1/agents/{agent}/halt`.
#[utoipa::path(
    post, path = "/halt", tag = "agents", params(Whose, IfMatch, Sign, Once),
    request_body(content = Order), responses(Halted), security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn halt_named(asked: Asked) -> Result<Response, Problem> {
    asked.halt(asked.agent(asked.order.agent()?)?).await
}

/// Lets the agent act again that the body names; short form of `POST /v1/agents/{agent}/reset`.
#[utoipa::path(
    post, path = "/reset", tag = "agents", params(Whose, IfMatch, Sign, Once),
    request_body(content = Order), responses(Released), security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn reset_named(asked: Asked) -> Result<Response, Problem> {
    asked.reset(asked.agent(asked.order.agent()?)?).await
}

/// A request to halt or to reset, apart from how it names whom it means.
pub(crate) struct Asked {
    app: App,
    caller: Caller,
    whose: Whose,
    matched: IfMatch,
    sign: Sign,
    order: Order,
}

impl FromRequest<App> for Asked {
    type Rejection = Response;

    async fn from_request(request: Request, app: &App) -> Result<Self, Response> {
        type Head = (Extension<Caller>, Query<Whose>, IfMatch, Sign);
        let (mut parts, body) = request.into_parts();
        let (Extension(caller), Query(whose), matched, sign) = Head::from_request_parts(&mut parts, app).await?;
        let order = order::read(app, &parts.headers, body).await.map_err(IntoResponse::into_response)?;
        Ok(Self { app: app.clone(), caller, whose, matched, sign, order })
    }
}

impl Asked {
    /// A tenant whose agents the caller may halt.
    fn tenant(&self, wanted: Option<&str>) -> Result<Name, Problem> {
        let tenant = tenant_of(&self.app, &self.caller, wanted)?;
        match self.caller.sees(&tenant) {
            true => Ok(tenant),
            false => Err(Problem::not_found(format_args!("tenant `{tenant}`"))),
        }
    }

    /// An agent that the caller may halt.
    fn agent(&self, agent: &str) -> Result<Key, Problem> {
        check_name(agent).map_err(|reason| order::invalid("agent", format!("the name of the agent {reason}")))?;
        let tenant = self.whose.tenant.as_deref().or(self.order.tenant.as_deref());
        Ok(Key::agent(self.tenant(tenant)?, agent))
    }

    async fn halt(&self, key: Key) -> Result<Response, Problem> {
        let halt = Halt {
            reason: self.order.reason(&self.sign)?,
            actor: self.order.actor(&self.sign),
            cause: None,
            cause_at: None,
            expires_at: self.order.expires_at(now())?,
            if_version: self.matched.version,
            key: key.clone(),
        };
        let agents = self.app.pipeline.agents();
        // In a task of its own: a client that leaves must not stop a change half-way.
        self.answer(&key, tokio::spawn(async move { agents.halt(halt).await }).await)
    }

    async fn reset(&self, key: Key) -> Result<Response, Problem> {
        self.order.has_no_end()?;
        let reset = Reset {
            reason: self.order.reason(&self.sign)?,
            actor: self.order.actor(&self.sign),
            if_version: self.matched.version,
            key: key.clone(),
        };
        let agents = self.app.pipeline.agents();
        self.answer(&key, tokio::spawn(async move { agents.reset(reset).await }).await)
    }

    fn answer(&self, key: &Key, changed: Result<Result<Outcome, Refusal>, JoinError>) -> Result<Response, Problem> {
        let Outcome { record, is_replicated, is_news } =
            match changed.map_err(|error| Problem::internal("changing an agent", &error))? {
                Ok(outcome) => outcome,
                Err(Refusal::Unknown) => return Err(unknown(&self.app, key)),
                Err(refusal) => return Err(refusal.into()),
            };
        let halt = Some(&record).filter(|record| record.is_halted(now())).cloned();
        // What holds it beside, the tenant's halt for one, stands in its status.
        let whole = self.app.pipeline.agents().status(key).ok().and_then(|status| status.halt);
        let mut agent = Agent::of(key, &Status { halt: halt.or(whole), record: Some(record) }, true);
        agent.replicated = is_replicated;
        let status = if is_replicated { StatusCode::OK } else { StatusCode::ACCEPTED };
        Ok((status, etag(agent.version), Json(Changed { agent, changed: is_news })).into_response())
    }
}
