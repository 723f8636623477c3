//! Breakers as they are, and what people say of them: `GET /v1/breakers…`, `PUT …/override`, `GET /cb/state`.
//!
//! What a breaker does is open to all: it holds no bytes of events. To overrule one is for admins.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Json, Response};
use phronis_core::breaker::{self, Counts, Mode};
use phronis_core::time::Time;
use phronis_core::{PluginId, code};
use phronis_pipeline::breakers::{self, Status, Wish};
use phronis_pipeline::plugins::What;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::access::Caller;
use crate::body;
use crate::paging::{Page, Paging};
use crate::plugins::Named;
use crate::plugins::change::{Set, apply, change};
use crate::problem::{Document, Problem};
use crate::sign::{IfMatch, Sign, etag};
use crate::state::App;

/// Longest time that a person may overrule a breaker for: what holds for longer has no end.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// A plugin's breaker on this host, at one moment.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Breaker {
    #[serde(flatten)]
    pub(crate) short: Short,
    /// Who decides: `auto`, `forced_open`, `forced_closed` or `shadow`.
    #[schema(value_type = String)]
    mode: Mode,
    /// What a person said, while it holds.
    #[schema(value_type = Option<Object>)]
    #[serde(rename = "override")]
    over: Option<breakers::Override>,
    /// What stands in the window, by kind.
    #[schema(value_type = Object)]
    counts: Counts,
    /// Deadlines one after the other.
    deadlines_in_a_row: u64,
    /// Times in a row that it opened.
    trips: u32,
    /// Probes that went well, while half-open.
    good_probes: u32,
    /// Range letters that wait to be judged, as far as this host knows.
    ranges_waiting: u64,
    /// Rows that were not shown to the plugin since the host started.
    refused_rows: u64,
    /// Settings in force, all of them.
    #[schema(value_type = Object)]
    settings: breakers::Wanted,
}

/// All breakers at a glance.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Glance {
    /// The worst of them: `open`, `half_open` or `closed`.
    state: &'static str,
    /// Each.
    breakers: Vec<Short>,
}

/// A breaker at a glance.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Short {
    /// The plugin: `tenant/stream/name`.
    pub(crate) plugin: String,
    /// `closed`, `open` or `half_open`.
    #[schema(value_type = String)]
    state: breaker::State,
    /// Failed calls in the window; those that opened it, while it is not closed.
    failures: u64,
    /// Failed calls that open it.
    threshold: u64,
    /// Since when it is not closed, RFC 3339.
    #[schema(value_type = Option<String>)]
    opened_at: Option<Time>,
    /// When it is tried again, RFC 3339.
    #[schema(value_type = Option<String>)]
    retry_at: Option<Time>,
    /// The last time that a rule spoke, with the numbers.
    #[schema(value_type = Option<Object>)]
    last_trip: Option<breakers::Trip>,
}

/// What a person says of a breaker.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Said {
    /// `open`, `close`, `shadow`, or `auto`: it decides itself again.
    state: String,
    /// Why; it stands in the audit and beside the breaker.
    #[serde(default)]
    reason: String,
    /// For how long: `"30m"`; without it, until someone says otherwise.
    #[serde(default, rename = "for")]
    lasts: Option<String>,
}

/// All breakers of this host.
#[utoipa::path(
    get, path = "/v1/breakers", tag = "breakers", params(Paging),
    responses((status = 200, description = "the breakers", body = Page<Breaker>)),
)]
pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(paging): Query<Paging>,
) -> Json<Page<Breaker>> {
    Json(paging.cut(visible(&app, &caller).into_iter().map(Breaker::from), |breaker| breaker.short.plugin.clone()))
}

/// One plugin's breaker.
#[utoipa::path(
    get, path = "/v1/breakers/{tenant}/{stream}/{name}", tag = "breakers", params(Named),
    responses(
        (status = 200, description = "the breaker; `ETag` holds the version of the plugin's settings", body = Breaker),
        (status = 404, description = "no such breaker", body = Document),
    ),
)]
pub(crate) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(named): Path<Named>,
) -> Result<Response, Problem> {
    let status = find(&app, &caller, &named)?;
    let version = app.pipeline.plugin(&status.plugin).map_or(0, |plugin| plugin.version);
    Ok((etag(version), Json(Breaker::from(status))).into_response())
}

/// All breakers at a glance: state, failures, threshold, times.
#[utoipa::path(
    get, path = "/cb/state", tag = "breakers",
    responses((status = 200, description = "the breakers", body = Glance)),
)]
pub(crate) async fn glance(State(app): State<App>, Extension(caller): Extension<Caller>) -> Json<Glance> {
    let all = visible(&app, &caller);
    let is_any = |state| all.iter().any(|breaker| breaker.state == state);
    let worst = [breaker::State::Open, breaker::State::HalfOpen].into_iter().find(|state| is_any(*state));
    let state = worst.unwrap_or(breaker::State::Closed).as_str();
    Json(Glance { state, breakers: all.iter().map(Short::of).collect() })
}

/// Overrules a breaker on all hosts, for a while or until someone says otherwise.
#[utoipa::path(
    put, path = "/v1/breakers/{tenant}/{stream}/{name}/override", tag = "breakers", params(Named, IfMatch, Sign),
    request_body(content = Said, description = "what, why, for how long"),
    responses(Set), security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn put_override(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(named): Path<Named>,
    matched: IfMatch,
    sign: Sign,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let id = find(&app, &caller, &named)?.plugin;
    let held = body::read(&app, &headers, body).await?;
    let said: Said = serde_json::from_slice(&held.bytes)
        .map_err(|error| Problem::new(code::BAD_REQUEST, format!("the body is not valid: {error}; nothing changed")))?;
    let what = What::Override(overruled(&said)?);
    apply(&app, change(id, what, &sign, Some(&said.reason), matched)).await
}

/// Lets a breaker decide itself again.
#[utoipa::path(
    delete, path = "/v1/breakers/{tenant}/{stream}/{name}/override", tag = "breakers", params(Named, IfMatch, Sign),
    responses(Set), security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn delete_override(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(named): Path<Named>,
    matched: IfMatch,
    sign: Sign,
) -> Result<Response, Problem> {
    let id = find(&app, &caller, &named)?.plugin;
    apply(&app, change(id, What::Override(None), &sign, None, matched)).await
}

/// What is to stand in the plugin's record. Who said it is filled in by whoever knows the caller.
fn overruled(said: &Said) -> Result<Option<breakers::Override>, Problem> {
    let refused =
        |detail: String| Problem::new(code::BAD_REQUEST, detail).status(axum::http::StatusCode::UNPROCESSABLE_ENTITY);
    let state = match said.state.as_str() {
        "open" => Wish::Open,
        "close" | "disable" => Wish::Close,
        "shadow" => Wish::Shadow,
        "auto" if said.lasts.is_none() => return Ok(None),
        "auto" => return Err(refused("`auto` has no end: leave `for` out".into())),
        other => {
            return Err(refused(format!(
                "`{}` is no state: use open, close, shadow or auto",
                phronis_core::text::escape(other)
            )));
        }
    };
    if said.reason.trim().is_empty() {
        return Err(refused("a breaker is not overruled without a reason: `reason` says why".into()));
    }
    let now = Time(i64::try_from(since_epoch().as_micros()).unwrap_or(i64::MAX));
    let until = match &said.lasts {
        None => None,
        Some(text) => {
            let lasts = breakers::duration(text).filter(|lasts| !lasts.is_zero() && *lasts <= LONGEST);
            let lasts = lasts.ok_or_else(|| refused("`for` is no time such as \"30m\", from 1ms to 366d".into()))?;
            Some(Time(now.0.saturating_add(i64::try_from(lasts.as_micros()).unwrap_or(i64::MAX))))
        }
    };
    let reason = said.reason.chars().filter(|c| !c.is_control()).take(500).collect();
    Ok(Some(breakers::Override { state, reason, actor: None, at: now, until }))
}

fn since_epoch() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// The breakers that a caller may know of: all, but for a tenant's key.
fn visible(app: &App, caller: &Caller) -> Vec<Status> {
    let is_visible = |status: &Status| caller.may_know(&status.plugin.stream.tenant);
    app.pipeline.breakers().into_iter().filter(is_visible).collect()
}

fn find(app: &App, caller: &Caller, named: &Named) -> Result<Status, Problem> {
    let path = named.to_string();
    let all = visible(app, caller);
    let id: Option<PluginId> = path.parse().ok();
    if let Some(found) = id.and_then(|id| all.iter().find(|status| status.plugin == id)) {
        return Ok(found.clone());
    }
    let names: Vec<String> = all.iter().map(|status| status.plugin.to_string()).collect();
    let problem = Problem::unknown("breaker of a plugin", &path, names.iter().map(String::as_str));
    Err(problem.hint("`GET /v1/breakers` lists them"))
}

/// What counts against it: failed calls of the window, or while it is not closed those that opened it, be they rows or slow calls.
fn failures(status: &Status) -> u64 {
    match (&status.state, &status.last_trip) {
        (breaker::State::Closed, _) | (_, None) => status.counts.hard(),
        (_, Some(trip)) => match trip.reason {
            breaker::Reason::Rows => trip.counts.failed_rows,
            breaker::Reason::Slow => trip.counts.slow,
            _ => trip.counts.hard(),
        },
    }
}

impl From<Status> for Breaker {
    fn from(status: Status) -> Self {
        Self {
            short: Short::of(&status),
            mode: status.mode,
            over: status.over,
            counts: status.counts,
            deadlines_in_a_row: status.deadlines_in_a_row,
            trips: status.trips,
            good_probes: status.good_probes,
            ranges_waiting: status.ranges_waiting,
            refused_rows: status.refused_rows,
            settings: status.settings,
        }
    }
}

impl Short {
    fn of(status: &Status) -> Self {
        Self {
            plugin: status.plugin.to_string(),
            state: status.state,
            failures: failures(status),
            threshold: status.settings.failures.unwrap_or(0).into(),
            opened_at: status.opened_at,
            retry_at: status.retry_at,
            last_trip: status.last_trip.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_person_says_is_checked() {
        let said = |json: &str| overruled(&serde_json::from_str(json).unwrap());
        let over = said(r#"{"state":"open","reason":"noisy\n","for":"30m"}"#).unwrap().unwrap();
        assert_eq!((over.state, over.reason.as_str()), (Wish::Open, "noisy"));
        assert_eq!(over.until.unwrap().0 - over.at.0, 1_800_000_000);
        assert_eq!(said(r#"{"state":"disable","reason":"x"}"#).unwrap().unwrap().state, Wish::Close);
        assert!(said(r#"{"state":"auto"}"#).unwrap().is_none());
        for (json, expect) in [
            (r#"{"state":"shut","reason":"x"}"#, "`shut` is no state"),
            (r#"{"state":"open"}"#, "without a reason"),
            (r#"{"state":"open","reason":" "}"#, "without a reason"),
            (r#"{"state":"open","reason":"x","for":"soon"}"#, "`for` is no time"),
            (r#"{"state":"open","reason":"x","for":"0s"}"#, "`for` is no time"),
            (r#"{"state":"auto","for":"1m"}"#, "`auto` has no end"),
        ] {
            let problem = said(json).unwrap_err();
            assert!(problem.detail().contains(expect), "{}", problem.detail());
        }
        assert!(serde_json::from_str::<Said>(r#"{"state":"open","until":"x"}"#).is_err());
    }
}
