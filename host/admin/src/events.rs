//! Takes events: `POST /v1/streams/{stream}/events`, `POST /ingest`, `POST /ingest/state`.
//!
//! An answer of 202 or 422 means that every row is durable in the stream's raw topic; any other answer that nothing was taken,
//! except where it says that this is not known: a log that did not answer in time may still have taken them.
//! Large bodies are split and checked on blocking threads, since that costs CPU.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use phronis_core::{StreamId, code};
use phronis_pipeline::ingest::{self, Form, Pending};
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::access::Caller;
use crate::body::{self, Held};
use crate::problem::{AWAY_SECONDS, Document, Problem};
use crate::state::App;

/// A body that is split in less time (tens of microseconds) than handing it to another thread would save.
const SMALL: usize = 4 << 10;

/// How long a request waits for its turn to be split; longer means that the processors are busy.
const TURN: Duration = Duration::from_secs(2);

/// The host or its log is not there for now.
const AWAY: StatusCode = StatusCode::SERVICE_UNAVAILABLE;

/// What was taken.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Taken {
    /// Rows that will be judged.
    accepted: usize,
    /// Rows that the contract refuses; they are in the raw topic as well and become letters.
    refused_count: usize,
    /// Where all rows are in the raw topic.
    ranges: Vec<Range>,
    /// The first 1000 refused rows.
    refused: Vec<Refused>,
}

/// Rows of one partition.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Range {
    /// The partition.
    partition: i32,
    /// The offset of the first row.
    first_offset: i64,
    /// How many rows.
    count: usize,
}

/// A row that becomes a letter.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Refused {
    /// Which row of the body, from 0.
    index: usize,
    /// The stable code.
    code: String,
    /// The field that is wrong, when it is one.
    field: Option<String>,
    /// Why, in words.
    reason: String,
    /// The letter's id.
    letter_id: String,
}

/// What was taken, in the short form's words.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Accepted {
    /// Always `accepted`.
    #[schema(example = "accepted")]
    status: &'static str,
    #[serde(flatten)]
    taken: Taken,
}

/// Takes events of a stream: one JSON object, a JSON array of objects, or one object a line.
///
/// Every row is durable before the answer. Rows that the contract refuses are named and become letters.
#[utoipa::path(
    post, path = "/v1/streams/{stream}/events", tag = "events",
    params(("stream" = String, Path, description = "`name`, or `tenant.name`")),
    request_body(content((serde_json::Value = "application/json"), (String = "application/x-ndjson")),
        description = "one event, an array of events, or one event a line; `Content-Encoding: gzip` is accepted"),
    responses(
        (status = 202, description = "taken", body = Taken),
        (status = 400, description = "not splittable into events: nothing was taken", body = Document),
        (status = 404, description = "no such stream, or a host that takes no events", body = Document),
        (status = 413, description = "too large: the body (nothing was taken), or an event for its topic (PH3006)", body = Document),
        (status = 415, description = "a type or encoding that is not accepted: nothing was taken", body = Document),
        (status = 422, description = "every row is refused; all are kept and become letters (with the members of 202)", body = Document),
        (status = 429, description = "back-pressure: nothing was taken, see Retry-After", body = Document),
        (status = 503, description = "the log is away, see Retry-After; the detail says whether nothing was taken or that it is not known", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn post(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(stream): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let stream = stream.parse().map_err(|_| Problem::not_found(format_args!("stream `{stream}`")))?;
    let taken = take(&app, &caller, stream, &headers, body).await?;
    Ok((StatusCode::ACCEPTED, Json(taken)).into_response())
}

/// Takes events of the default stream; short form of `POST /v1/streams/sensors/events`.
#[utoipa::path(
    post, path = "/ingest", tag = "events",
    request_body(content((serde_json::Value = "application/json"), (String = "application/x-ndjson"))),
    responses(
        (status = 202, description = "taken", body = Accepted),
        (status = 422, description = "every row is refused; all are kept and become letters", body = Document),
        (status = 429, description = "back-pressure: nothing was taken, see Retry-After", body = Document),
        (status = 503, description = "the log is away, see Retry-After; the detail says whether nothing was taken or that it is not known", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn post_default(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let stream = app.options.ingest_stream.clone();
    let taken = take(&app, &caller, stream, &headers, body).await?;
    Ok((StatusCode::ACCEPTED, Json(Accepted { status: "accepted", taken })).into_response())
}

/// Takes the state of agents: `{agent_id, status, timestamp, metadata}`, one or many.
#[utoipa::path(
    post, path = "/ingest/state", tag = "events",
    request_body(content((serde_json::Value = "application/json"), (String = "application/x-ndjson"))),
    responses(
        (status = 202, description = "taken", body = Accepted),
        (status = 422, description = "every row is refused; all are kept and become letters", body = Document),
        (status = 429, description = "back-pressure: nothing was taken, see Retry-After", body = Document),
        (status = 503, description = "the log is away, see Retry-After; the detail says whether nothing was taken or that it is not known", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn post_state(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let stream = app.options.state_stream.clone();
    let taken = take(&app, &caller, stream, &headers, body).await?;
    Ok((StatusCode::ACCEPTED, Json(Accepted { status: "accepted", taken })).into_response())
}

async fn take(app: &App, caller: &Caller, stream: StreamId, headers: &HeaderMap, body: Body) -> Result<Taken, Problem> {
    if !caller.sees(&stream.tenant) || app.pipeline.contract(&stream).is_none() {
        return Err(Problem::not_found(format_args!("stream `{stream}`")));
    }
    let form = form_of(headers)?;
    let held = body::read(app, headers, body).await?;
    // The body stays in the budget until its events are durable.
    let (pending, _held) = split(app, stream, held, form).await?;
    answer(pending.durable().await.map_err(problem_of)?)
}

/// Splits and checks a body, and hands its events to the log: a large one off the async threads, a few at a time.
async fn split(app: &App, stream: StreamId, held: Held, form: Form) -> Result<(Pending, Held), Problem> {
    if held.bytes.len() <= SMALL {
        let pending = app.pipeline.ingest(&stream, &held.bytes, form).map_err(problem_of)?;
        return Ok((pending, held));
    }
    let turn = timeout(TURN, Arc::clone(&app.ingests).acquire_owned()).await;
    let Ok(Ok(turn)) = turn else {
        return Err(Problem::busy("too many events are being taken: nothing was taken"));
    };
    let splitting = app.ask(move |pipeline| {
        let pending = pipeline.ingest(&stream, &held.bytes, form);
        drop(turn);
        pending.map(|pending| (pending, held))
    });
    splitting.await?.map_err(problem_of)
}

fn answer(taken: ingest::Taken) -> Result<Taken, Problem> {
    let refused = taken.refused.into_iter().map(|row| Refused {
        index: row.index,
        code: row.code.to_string(),
        field: row.field,
        reason: row.reason,
        letter_id: row.letter_id,
    });
    let ranges = taken.ranges.into_iter().map(|range| Range {
        partition: range.partition,
        first_offset: range.first_offset,
        count: range.count,
    });
    let answer = Taken {
        accepted: taken.accepted,
        refused_count: taken.refused_count,
        ranges: ranges.collect(),
        refused: refused.collect(),
    };
    if answer.accepted > 0 {
        return Ok(answer);
    }
    let detail = format!(
        "none of the {} events passes the contract; all are kept in the raw topic and become letters",
        answer.refused_count
    );
    Err(Problem::new(code::ALL_ROWS_REFUSED, detail).members(&answer))
}

fn problem_of(error: ingest::Error) -> Problem {
    match error {
        ingest::Error::UnknownStream(stream) => Problem::not_found(format_args!("stream `{stream}`")),
        ingest::Error::Empty => Problem::new(code::BODY_NOT_SPLITTABLE, "the body is empty: nothing was taken"),
        ingest::Error::NotSplittable { reason } => {
            Problem::new(code::BODY_NOT_SPLITTABLE, format!("{reason}: nothing was taken"))
        }
        ingest::Error::Log(error @ phronis_log::Error::Full { .. }) => {
            Problem::new(code::LOG_FULL, format!("{error}; nothing was taken")).retry_after(1)
        }
        ingest::Error::NotServed { .. } => Problem::new(code::NOT_FOUND, error.to_string())
            .hint("`GET /v1/hosts` lists hosts; post to one with the role `serve`"),
        ingest::Error::NotReady { code, reason } => {
            Problem::new(code, format!("{reason}; nothing was taken")).status(AWAY).retry_after(AWAY_SECONDS)
        }
        ingest::Error::Log(error @ phronis_log::Error::Unreachable { .. }) => {
            Problem::new(code::LOG_UNREACHABLE, format!("{error}; nothing was taken")).retry_after(AWAY_SECONDS)
        }
        ingest::Error::Log(error @ phronis_log::Error::UnknownTopic(_)) => {
            Problem::new(code::UNKNOWN_TOPIC, format!("{error}; nothing was taken"))
                .status(AWAY)
                .retry_after(AWAY_SECONDS)
        }
        ingest::Error::InDoubt(_) => Problem::new(code::LOG_UNREACHABLE, error.to_string())
            .retry_after(AWAY_SECONDS)
            .hint("sending them again is safe where the contract de-duplicates; else look into the raw topic first"),
        ingest::Error::Log(error) => error.into(),
        other => Problem::internal("taking the events", &other),
    }
}

/// How the body is to be cut, by its type. `curl -d` sends a form's type with whatever it is given: look at that.
fn form_of(headers: &HeaderMap) -> Result<Form, Problem> {
    let given = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    let of_type = given.map(|given| given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    match of_type.as_deref() {
        None | Some("application/json" | "application/x-www-form-urlencoded") => Ok(Form::Auto),
        Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => Ok(Form::Lines),
        Some(_) => Err(Problem::new(code::UNSUPPORTED_CONTENT, "the body's type is not accepted: nothing was taken")
            .hint("send Content-Type application/json or application/x-ndjson")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_away_says_when_to_come_back_and_what_is_known() {
        let away = || phronis_log::Error::Unreachable { reason: "no broker answers".to_owned() };
        let not_ready = ingest::Error::NotReady { code: code::TOPICS_MISSING, reason: "topic t is missing".to_owned() };
        let unknown = phronis_log::Error::UnknownTopic("t".to_owned());
        for (error, status, code, says) in [
            (ingest::Error::Log(away()), 503, "PH3005", "nothing was taken"),
            (ingest::Error::InDoubt(away()), 503, "PH3005", "may or may not have been taken"),
            (not_ready, 503, "PH3007", "nothing was taken"),
            (ingest::Error::Log(unknown), 503, "PH3004", "nothing was taken"),
            (ingest::Error::NotServed { roles: "process".to_owned() }, 404, "PH4004", "its roles are: process"),
        ] {
            let problem = problem_of(error);
            assert!(problem.detail().contains(says), "{problem:?}");
            assert_eq!(problem.code().to_string(), code);
            let response = problem.into_response();
            assert_eq!(response.status().as_u16(), status);
        }
    }

    #[test]
    fn the_type_says_how_a_body_is_cut() {
        for (given, expected) in [
            (None, Some(Form::Auto)),
            (Some("application/json"), Some(Form::Auto)),
            (Some("Application/JSON; charset=utf-8"), Some(Form::Auto)),
            (Some("application/x-www-form-urlencoded"), Some(Form::Auto)),
            (Some("application/x-ndjson"), Some(Form::Lines)),
            (Some("text/plain"), None),
            (Some("multipart/form-data; boundary=x"), None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(given) = given {
                headers.insert(header::CONTENT_TYPE, given.parse().unwrap());
            }
            assert_eq!(form_of(&headers).ok(), expected, "{given:?}");
        }
    }
}
