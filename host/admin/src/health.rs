//! Whether the host lives and can work: `GET /livez`, `/readyz`, `/metrics`.
//!
//! The first two are open to everyone; names of other tenants' streams are not in them.

use axum::extract::{Extension, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use phronis_core::StreamId;
use phronis_pipeline::status;
use serde::Serialize;
use utoipa::ToSchema;

use crate::access::Caller;
use crate::options::Role;
use crate::problem::{Document, Problem};
use crate::state::App;

/// Whether the host can do its work.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Readiness {
    /// Whether all checks are as they should be.
    is_ready: bool,
    /// How many are not.
    failing: usize,
    /// The checks that are not as they should be, as far as the caller may know of them.
    checks: Vec<Check>,
    /// What is not as it should be and keeps no event from being judged: the store or the archive is away.
    warnings: Vec<Check>,
}

/// Something that is looked at.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Check {
    /// What was looked at.
    name: String,
    /// What is wrong.
    detail: Option<String>,
}

/// The process runs.
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200, description = "it does", body = String)))]
pub(crate) async fn live() -> &'static str {
    "ok\n"
}

/// Whether the host can do its work.
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    responses(
        (status = 200, description = "it can", body = Readiness),
        (status = 503, description = "it cannot; the failing checks say why", body = Readiness),
    ),
)]
pub(crate) async fn ready(State(app): State<App>, Extension(caller): Extension<Caller>) -> Result<Response, Problem> {
    let checks = app.ask(phronis_pipeline::Handle::checks).await?;
    let failing: Vec<_> = checks.into_iter().filter(|check| !check.is_ok).collect();
    let is_stopping = *app.stopping.borrow();
    let readiness = Readiness {
        is_ready: failing.is_empty() && !is_stopping,
        failing: failing.len(),
        checks: failing.into_iter().filter_map(|check| shown(check, &caller)).collect(),
        warnings: store(&app)
            .into_iter()
            .chain(app.pipeline.archive_troubles())
            .filter_map(|check| shown(check, &caller))
            .collect(),
    };
    let status = if readiness.is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(readiness)).into_response())
}

/// The metrics of the process, in Prometheus' text format.
#[utoipa::path(
    get, path = "/metrics", tag = "health",
    responses(
        (status = 200, description = "the metrics", body = String),
        (status = 401, description = "a key is needed when the host listens beyond loopback", body = Document),
    ),
    security((), ("key" = []), ("bearer" = [])),
)]
pub(crate) async fn metrics(State(app): State<App>, Extension(caller): Extension<Caller>) -> Result<Response, Problem> {
    if !app.is_loopback {
        caller.need(Role::Read)?;
    }
    let rendering = tokio::task::spawn_blocking(move || app.options.metrics.render()).await;
    let text = rendering.map_err(|error| Problem::internal("rendering the metrics", &error))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

/// What is wrong with the store, when something is.
fn store(app: &App) -> Option<status::Check> {
    let error = app.pipeline.store().health().err()?;
    let detail = format!("{error} ({})", error.code());
    Some(status::Check { name: "store".to_owned(), is_ok: false, detail })
}

/// A check as a caller may see it: whole for who owns all, and for the stream of one's own; a stranger sees no names
/// of streams and no details.
fn shown(check: status::Check, caller: &Caller) -> Option<Check> {
    let stream = check.name.strip_prefix("stream ").and_then(|name| name.parse::<StreamId>().ok());
    let is_own = stream.as_ref().is_some_and(|stream| caller.sees(&stream.tenant));
    if caller.sees_all() || is_own {
        return Some(Check { name: check.name, detail: Some(check.detail) });
    }
    let is_general = check.name.bytes().all(|byte| byte.is_ascii_alphabetic());
    is_general.then_some(Check { name: check.name, detail: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_sees_no_stream_and_no_detail() {
        let check = |name: &str| status::Check { name: name.to_owned(), is_ok: false, detail: "why".to_owned() };
        assert!(shown(check("stream acme.press"), &Caller::Nameless).is_none());
        assert_eq!(shown(check("log"), &Caller::Nameless).map(|check| check.detail), Some(None));
        let whole = shown(check("stream acme.press"), &Caller::Anyone).and_then(|check| check.detail);
        assert_eq!(whole.as_deref(), Some("why"));
    }
}
