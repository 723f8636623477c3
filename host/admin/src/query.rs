//! Asks the archive: `POST /v1/query`, one statement of SQL, answered as JSON, JSON lines or CSV.
//!
//! The answer is written as it comes. What goes wrong before the first rows has a status of its own; what goes wrong after
//! them stands at the end of the answer (`problem`), and breaks the connection where CSV has no place for it.
//! When the client leaves, the body is dropped, and the query with it.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{StreamExt, stream};
use phronis_archive::query::{Answer, Encoder, Engine, Error, Format, Question, time_ms};
use phronis_core::code;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::access::Caller;
use crate::archive;
use crate::body;
use crate::problem::{Document, Problem};
use crate::state::{App, stopped};

/// A question.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ask {
    /// One statement that reads.
    #[schema(example = "SELECT sensor_id, count(*) FROM default_sensors_events GROUP BY sensor_id")]
    sql: String,
    /// `json`, `ndjson` or `csv`; else what `Accept` says, else `json`.
    format: Option<String>,
    /// Reads all tables as they were at this time, where the SQL does not say otherwise.
    #[schema(example = "2026-11-22T10:00:00Z")]
    as_of: Option<String>,
}

/// An answer in JSON.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only described: it is written piece by piece")]
pub(crate) struct Answered {
    /// Name and type of each column.
    columns: Vec<Value>,
    /// The tables that were read, and the snapshot of each.
    tables: Vec<Value>,
    /// The rows, an object each.
    rows: Vec<Value>,
    /// How many rows there are.
    row_count: u64,
    /// Why there are no more, if the answer broke off.
    problem: Option<Value>,
}

/// Asks the archive in SQL. Only reads; only the tables that the key opens are there.
///
/// `FROM t FOR TIMESTAMP AS OF '…'` and `FROM t FOR VERSION AS OF n` read older states of a table.
#[utoipa::path(
    post, path = "/v1/query", tag = "archive", request_body(content = Ask),
    responses(
        (status = 200, description = "the answer", content(
            (Answered = "application/json"), (String = "application/x-ndjson"), (String = "text/csv"),
        )),
        (status = 400, description = "the SQL is wrong; `line`, `column` and `excerpt` say where", body = Document),
        (status = 403, description = "the SQL does more than read", body = Document),
        (status = 404, description = "no such table", body = Document),
        (status = 422, description = "a limit of rows, bytes, memory or time was reached", body = Document),
        (status = 429, description = "too many queries run", body = Document),
        (status = 503, description = "there is no archive, or it does not answer", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn ask(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let held = body::read(&app, &headers, body).await?;
    let ask: Ask = serde_json::from_slice(&held.bytes).map_err(|error| {
        Problem::new(code::BAD_REQUEST, format!("the body is no question: {error}"))
            .hint("send {\"sql\": \"SELECT …\"}")
    })?;
    let format = format_of(&ask, &headers)?;
    let as_of = ask
        .as_of
        .as_deref()
        .map(time_ms)
        .transpose()
        .map_err(|error| Problem::new(code::BAD_REQUEST, format!("`as_of` is {error}")))?;
    let engine = engine(&app)?;
    let question = Question { sql: &ask.sql, as_of, tenant: caller.tenant() };
    let answer = engine.ask(question).await?;
    let encoder = Encoder::new(format);
    let head = encoder.begin(answer.schema(), answer.tables())?;
    let pieces = stream::once(async { Ok(Bytes::from(head)) }).chain(rest(answer, encoder, format));
    let pieces = pieces.take_until(stopped(app.stopping.clone()));
    Ok(([(header::CONTENT_TYPE, format.media_type())], Body::from_stream(pieces)).into_response())
}

/// The engine, made with the first query: most hosts are never asked.
fn engine(app: &App) -> Result<Arc<Engine>, Problem> {
    let archive = archive::of(app)?;
    let mut place = app.queries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(engine) = &*place {
        return Ok(Arc::clone(engine));
    }
    let engine = Engine::new(archive, app.options.query.clone());
    let engine = engine.map_err(|error| Problem::internal("starting the query engine", &error))?;
    Ok(Arc::clone(place.insert(Arc::new(engine))))
}

/// What comes after the head.
fn rest(answer: Answer, encoder: Encoder, format: Format) -> impl futures::Stream<Item = io::Result<Bytes>> {
    stream::unfold(Some((answer, encoder)), move |state| async move {
        let (mut answer, mut encoder) = state?;
        let written = match answer.next().await {
            Some(Ok(batch)) => encoder.rows(&batch),
            Some(Err(error)) => Err(error),
            None => return Some((Ok(Bytes::from(encoder.end(None))), None)),
        };
        Some(match written {
            Ok(bytes) => (Ok(Bytes::from(bytes)), Some((answer, encoder))),
            Err(error) if format == Format::Csv => (Err(io::Error::other(error)), None),
            Err(error) => {
                let problem = Problem::from(error).as_value("/v1/query");
                (Ok(Bytes::from(encoder.end(Some(&problem)))), None)
            }
        })
    })
}

fn format_of(ask: &Ask, headers: &HeaderMap) -> Result<Format, Problem> {
    if let Some(word) = &ask.format {
        return Format::named(word).ok_or_else(|| {
            Problem::new(code::BAD_REQUEST, format!("there is no format `{word}`")).hint("use json, ndjson or csv")
        });
    }
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    let known = accepted.split(',').filter_map(|part| match part.split(';').next().unwrap_or_default().trim() {
        "application/json" | "application/*" | "*/*" => Some(Format::Json),
        "application/x-ndjson" | "application/jsonl" | "application/jsonlines" => Some(Format::JsonLines),
        "text/csv" | "text/*" => Some(Format::Csv),
        _ => None,
    });
    // Browsers name pages first and take anything in the end.
    Ok(known.into_iter().next().unwrap_or(Format::Json))
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        if matches!(error, Error::Failed(_)) {
            tracing::warn!(%error, "a query failed");
        }
        let problem = Self::new(error.code(), error.to_string());
        let problem = match error.at() {
            Some(at) => problem.members(&json!({"line": at.line, "column": at.column, "excerpt": at.excerpt})),
            None => problem,
        };
        match error {
            Error::Busy { .. } => problem.retry_after(1),
            Error::Failed(_) => problem.retry_after(5),
            _ => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_what_was_asked_for() {
        let of = |format: Option<&str>, accept: Option<&'static str>| {
            let ask = Ask { sql: String::new(), format: format.map(str::to_owned), as_of: None };
            let mut headers = HeaderMap::new();
            accept.map(|accept| headers.insert(header::ACCEPT, accept.parse().unwrap()));
            format_of(&ask, &headers).ok()
        };
        for (format, accept, expected) in [
            (None, None, Some(Format::Json)),
            (None, Some("text/csv"), Some(Format::Csv)),
            (None, Some("application/x-ndjson, */*;q=0.1"), Some(Format::JsonLines)),
            (None, Some("text/html,application/xhtml+xml"), Some(Format::Json)),
            (Some("csv"), Some("application/json"), Some(Format::Csv)),
            (Some("xml"), None, None),
        ] {
            assert_eq!(of(format, accept), expected, "{format:?} {accept:?}");
        }
    }
}
