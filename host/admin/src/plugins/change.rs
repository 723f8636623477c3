//! Changes of a plugin's live settings: `PUT …/params`, `PUT …/limits`, `PUT …/breaker`.
//!
//! They differ in what they set; the breaker's override (`breakers`) is made and answered here as well.

use std::time::Duration;

use axum::extract::{Extension, FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use phronis_core::{PluginId, Time, code};
use phronis_pipeline::plugins::{Change, ChangeError, What};
use phronis_store::audit;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::timeout;
use utoipa::{IntoParams, IntoResponses, ToSchema};

use super::{Named, unknown};
use crate::access::Caller;
use crate::body;
use crate::problem::{Document, FieldProblem, Problem};
use crate::sign::{ANYONE, IfMatch, Sign, etag};
use crate::state::App;

/// How long a change may take to be in force before the answer says that it is not known.
const IN_FORCE: Duration = Duration::from_secs(30);

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

/// Answers to a change of settings.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes answers, it is none")]
pub(crate) enum Set {
    /// in force; `ETag` holds the version of all settings of the plugin
    #[response(status = 200)]
    Done(Applied),
    /// no such plugin
    #[response(status = 404)]
    Unknown(Document),
    /// the settings have changed since the version that If-Match names; `current` is what it is now
    #[response(status = 412)]
    Other(Document),
    /// refused: nothing changed; `problems` says which member and why
    #[response(status = 422)]
    Refused(Document),
}

/// Sets all of a plugin's parameters (those left out go back to their defaults): checked against its JSON Schema and by the plugin itself, in force from its next batch on.
#[utoipa::path(
    put, path = "/v1/plugins/{tenant}/{stream}/{name}/params", tag = "plugins",
    params(Named, Manner, IfMatch, Sign),
    request_body(content = serde_json::Value, description = "an object with the parameters"),
    responses(Set), security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn put_params(wanted: Wanted) -> Result<Response, Problem> {
    wanted.set(What::Params).await
}

/// Sets all of a plugin's limits (those left out go back to the host's defaults), below the ceilings of the host and the tenant: `{"memory": "32MiB", "deadline": "50ms"}`.
#[utoipa::path(
    put, path = "/v1/plugins/{tenant}/{stream}/{name}/limits", tag = "plugins",
    params(Named, Manner, IfMatch, Sign),
    request_body(content = serde_json::Value, description = "an object with the limits"),
    responses(Set), security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn put_limits(wanted: Wanted) -> Result<Response, Problem> {
    wanted.set(What::Limits).await
}

/// Sets all of the settings of a plugin's breaker (those left out go back to their defaults), without losing what was counted: `{"when_open": "bypass", "failures": 5, "window": "60s"}`.
#[utoipa::path(
    put, path = "/v1/plugins/{tenant}/{stream}/{name}/breaker", tag = "plugins",
    params(Named, Manner, IfMatch, Sign),
    request_body(content = serde_json::Value, description = "an object with the settings"),
    responses(Set), security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn put_breaker(wanted: Wanted) -> Result<Response, Problem> {
    wanted.set(What::Breaker).await
}

/// A request to set what its body says.
pub(crate) struct Wanted {
    app: App,
    id: PluginId,
    value: Value,
    manner: Manner,
    matched: IfMatch,
    sign: Sign,
}

impl FromRequest<App> for Wanted {
    type Rejection = Response;

    async fn from_request(request: Request, app: &App) -> Result<Self, Response> {
        type Head = (Extension<Caller>, Path<Named>, Query<Manner>, IfMatch, Sign);
        let (mut parts, body) = request.into_parts();
        let head = Head::from_request_parts(&mut parts, app).await?;
        let (Extension(caller), Path(named), Query(manner), matched, sign) = head;
        let id = named.id(&caller).map_err(IntoResponse::into_response)?;
        let held = body::read(app, &parts.headers, body).await.map_err(IntoResponse::into_response)?;
        let value = serde_json::from_slice(&held.bytes).map_err(|error| {
            let detail = format!("the body is not JSON: {error}; nothing changed");
            Problem::new(code::BAD_REQUEST, detail).into_response()
        })?;
        Ok(Self { app: app.clone(), id, value, manner, matched, sign })
    }
}

impl Wanted {
    async fn set(self, what: fn(Value) -> What) -> Result<Response, Problem> {
        let Self { app, id, value, manner, matched, sign } = self;
        let change = change(id, what(value), &sign, None, matched);
        apply(&app, Change { is_dry_run: manner.dry_run, ..change }).await
    }
}

/// A change as a request wants it; without a reason of its own, that of the headers.
pub(crate) fn change(id: PluginId, what: What, sign: &Sign, reason: Option<&str>, matched: IfMatch) -> Change {
    Change {
        id,
        what,
        source: sign.source.to_owned(),
        actor: sign.actor(None),
        reason: sign.reason(reason),
        if_version: matched.version,
        is_dry_run: false,
    }
}

/// Makes a change now, and writes down who did so.
pub(crate) async fn apply(app: &App, change: Change) -> Result<Response, Problem> {
    let (action, value) = told(&change.what);
    let note = audit::Entry {
        id: String::new(),
        at: Time::default(),
        actor: change.actor.clone().unwrap_or_else(|| ANYONE.to_owned()),
        action: action.to_owned(),
        subject: change.id.to_string(),
        tenant: Some(change.id.stream.tenant.clone()),
        reason: change.reason.clone(),
        facts: json!({ "value": value, "source": change.source }),
    };
    let is_dry_run = change.is_dry_run;
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
    let applied = changed.map_err(|error| problem_of(app, error))?;
    let told = Applied { is_applied: !is_dry_run, revision: applied.revision, value: applied.value };
    Ok((etag(applied.version), Json(told)).into_response())
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

fn problem_of(app: &App, error: ChangeError) -> Problem {
    match error {
        ChangeError::Unknown(id) => unknown(app, &id),
        ChangeError::Refused { code, message, problems } => {
            let fields = problems.into_iter().map(|p| FieldProblem { field: p.path, reason: p.message });
            Problem::new(code, message).status(StatusCode::UNPROCESSABLE_ENTITY).problems(fields.collect())
        }
        ChangeError::Changed { version } => {
            let detail = format!("its settings are at version {version} now; nothing changed");
            Problem::new(code::PRECONDITION_FAILED, detail).members(&json!({ "current": version }))
        }
        ChangeError::Log(error) => error.into(),
        ChangeError::Closed => phronis_log::Error::Closed.into(),
        other => Problem::internal("changing the plugin", &other),
    }
}
