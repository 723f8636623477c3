//! What a client is told when something goes wrong: RFC 9457 problem documents.
//!
//! A handler returns a [`Problem`]; the layer [`render`] adds where it happened and writes the document.
//! What the framework refuses by itself (bad queries, bad paths) becomes a problem document in the same place.

use std::borrow::Cow;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use phronis_core::text::did_you_mean;
use phronis_core::{Code, code};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::pages;

/// When to try again while the log is away: brokers that are restarted take some seconds.
pub(crate) const AWAY_SECONDS: u32 = 5;

/// A problem, as it is sent.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Document {
    /// Relative link to the page of the code.
    #[serde(rename = "type")]
    #[schema(example = "/errors/PH4004")]
    of_type: String,
    /// What the code means.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What happened this time.
    detail: Cow<'static, str>,
    /// The path of the request.
    instance: String,
    /// The stable code.
    #[schema(value_type = String, example = "PH4004")]
    code: Code,
    /// What to do.
    hint: Cow<'static, str>,
    /// Whether the same request may succeed later without anyone changing anything.
    retryable: bool,
    /// Which members of the request are wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<FieldProblem>,
    /// More members, as the route says.
    #[serde(flatten)]
    #[schema(ignore)]
    more: Map<String, Value>,
}

/// A wrong member of a request.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct FieldProblem {
    /// Path of the member.
    pub(crate) field: String,
    /// What is wrong with it.
    pub(crate) reason: String,
}

/// Something that went wrong with a request.
#[derive(Debug, Clone)]
pub(crate) struct Problem(Box<Facts>);

#[derive(Debug, Clone)]
struct Facts {
    code: Code,
    status: StatusCode,
    detail: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    retry_after: Option<u32>,
    is_retryable: bool,
    problems: Vec<FieldProblem>,
    more: Map<String, Value>,
}

impl Problem {
    /// A problem with the usual status of its code.
    pub(crate) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let status = usual_status(code);
        Self(Box::new(Facts {
            code,
            status,
            detail: detail.into(),
            hint: None,
            retry_after: None,
            is_retryable: matches!(status.as_u16(), 408 | 429 | 503),
            problems: Vec::new(),
            more: Map::new(),
        }))
    }

    /// There is no such thing, or it is someone else's.
    pub(crate) fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(code::NOT_FOUND, format!("there is no {what}"))
    }

    /// There is no `what` of this name; the nearest of those that are known is told.
    pub(crate) fn unknown<'a>(what: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        Self::not_found(format_args!("{what} `{name}`{}", did_you_mean(name, known)))
    }

    /// The host failed; what exactly is in its log, not in the answer.
    pub(crate) fn internal(doing: &'static str, error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "{doing} failed");
        Self::new(code::INTERNAL, format!("{doing} failed; the host's log says why"))
    }

    /// The host cannot take more right now.
    pub(crate) fn busy(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(code::BACK_PRESSURE, detail).retry_after(1)
    }

    pub(crate) fn status(mut self, status: StatusCode) -> Self {
        self.0.status = status;
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.0.retry_after = Some(seconds);
        self.0.is_retryable = true;
        self
    }

    pub(crate) fn problems(mut self, problems: Vec<FieldProblem>) -> Self {
        self.0.problems = problems;
        self
    }

    /// Adds members that the route promises.
    pub(crate) fn members(mut self, members: &impl Serialize) -> Self {
        if let Ok(Value::Object(members)) = serde_json::to_value(members) {
            self.0.more.extend(members);
        }
        self
    }

    pub(crate) fn code(&self) -> Code {
        self.0.code
    }

    #[cfg(test)]
    pub(crate) fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The document, for the end of an answer that has begun.
    pub(crate) fn as_value(&self, instance: &str) -> Value {
        serde_json::to_value(self.document(instance)).unwrap_or_default()
    }

    fn document(&self, instance: &str) -> Document {
        let Facts { code, status, detail, hint, is_retryable, problems, more, .. } = &*self.0;
        Document {
            of_type: format!("/errors/{code}"),
            title: code.title(),
            status: status.as_u16(),
            detail: detail.clone(),
            instance: instance.to_owned(),
            code: *code,
            hint: hint.clone().unwrap_or_else(|| Cow::Borrowed(pages::what_to_do(*code))),
            retryable: *is_retryable,
            problems: problems.clone(),
            more: more.clone(),
        }
    }
}

impl IntoResponse for Problem {
    /// An empty answer that carries the problem to [`render`].
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

impl From<phronis_store::Error> for Problem {
    fn from(error: phronis_store::Error) -> Self {
        use phronis_store::Error;
        let away = StatusCode::SERVICE_UNAVAILABLE;
        match &error {
            // The host asks the store again several times a second.
            Error::Unreachable { .. } | Error::Full { .. } => {
                Self::new(error.code(), error.to_string()).status(away).retry_after(1)
            }
            _ => {
                tracing::error!(code = %error.code(), %error, "the store failed");
                let detail = format!("{}; the host's log says more", error.code().title());
                Self::new(error.code(), detail).status(away)
            }
        }
    }
}

impl From<phronis_log::Error> for Problem {
    fn from(error: phronis_log::Error) -> Self {
        use phronis_log::Error;
        match &error {
            Error::Full { .. } => Self::new(code::LOG_FULL, error.to_string()).retry_after(1),
            Error::Unreachable { .. } => Self::new(code::LOG_UNREACHABLE, error.to_string()).retry_after(AWAY_SECONDS),
            Error::TooLarge { .. } => Self::new(code::RECORD_TOO_LARGE, error.to_string()),
            Error::UnknownTopic(_) => Self::new(code::NOT_FOUND, error.to_string()),
            Error::OutOfRange { offset, earliest, .. } => {
                let status = if offset < earliest { StatusCode::GONE } else { StatusCode::BAD_REQUEST };
                Self::new(code::OFFSET_OUT_OF_RANGE, error.to_string()).status(status)
            }
            Error::Closed => {
                Self::new(code::LOG_FAILED, "the host is stopping").status(StatusCode::SERVICE_UNAVAILABLE)
            }
            _ => {
                tracing::error!(%error, "the log failed");
                Self::new(code::LOG_FAILED, "the log cannot be read or written; the host's log says why")
            }
        }
    }
}

/// Layer: writes problems as documents.
pub(crate) async fn render(request: Request, next: Next) -> Response {
    let instance = request.uri().path().to_owned();
    let mut response = next.run(request).await;
    if let Some(problem) = response.extensions_mut().remove::<Arc<Problem>>() {
        return write(&problem, &instance, response);
    }
    if is_framework_error(&response) {
        let (parts, body) = response.into_parts();
        // The framework's own sentences are short; the limit only keeps a surprise small.
        let text = to_bytes(body, 4096).await.unwrap_or_default();
        let detail = String::from_utf8_lossy(&text).trim().to_owned();
        let problem = Problem::new(code_of(parts.status), detail).status(parts.status);
        return write(&problem, &instance, Response::from_parts(parts, Body::empty()));
    }
    response
}

fn write(problem: &Problem, instance: &str, response: Response) -> Response {
    let body = serde_json::to_vec(&problem.document(instance)).unwrap_or_default();
    let (mut parts, _) = response.into_parts();
    parts.status = problem.0.status;
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(seconds) = problem.0.retry_after {
        parts.headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if parts.status == StatusCode::UNAUTHORIZED {
        parts.headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    Response::from_parts(parts, Body::from(body))
}

/// Whether the answer is a plain sentence of the framework rather than one of our handlers'.
fn is_framework_error(response: &Response) -> bool {
    let is_error = response.status().is_client_error() || response.status().is_server_error();
    let of_type = response.headers().get(header::CONTENT_TYPE);
    is_error && of_type.is_none_or(|of_type| of_type.as_bytes().starts_with(b"text/plain"))
}

fn code_of(status: StatusCode) -> Code {
    match status {
        StatusCode::NOT_FOUND => code::NOT_FOUND,
        StatusCode::METHOD_NOT_ALLOWED => code::METHOD_NOT_ALLOWED,
        StatusCode::PAYLOAD_TOO_LARGE => code::BODY_TOO_LARGE,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => code::UNSUPPORTED_CONTENT,
        status if status.is_server_error() => code::INTERNAL,
        _ => code::BAD_REQUEST,
    }
}

fn usual_status(code: Code) -> StatusCode {
    const TABLE: &[(Code, StatusCode)] = &[
        (code::BODY_TOO_LARGE, StatusCode::PAYLOAD_TOO_LARGE),
        (code::ALL_ROWS_REFUSED, StatusCode::UNPROCESSABLE_ENTITY),
        (code::NOT_FOUND, StatusCode::NOT_FOUND),
        (code::UNKNOWN_TOPIC, StatusCode::NOT_FOUND),
        (code::UNAUTHORIZED, StatusCode::UNAUTHORIZED),
        (code::FORBIDDEN, StatusCode::FORBIDDEN),
        (code::FOREIGN_ORIGIN, StatusCode::FORBIDDEN),
        (code::FOREIGN_HOST, StatusCode::MISDIRECTED_REQUEST),
        (code::HEADER_NEEDED, StatusCode::FORBIDDEN),
        (code::BACK_PRESSURE, StatusCode::TOO_MANY_REQUESTS),
        (code::LOG_FULL, StatusCode::TOO_MANY_REQUESTS),
        (code::LOG_UNREACHABLE, StatusCode::SERVICE_UNAVAILABLE),
        (code::TOPICS_MISSING, StatusCode::SERVICE_UNAVAILABLE),
        (code::RECORD_TOO_LARGE, StatusCode::PAYLOAD_TOO_LARGE),
        (code::INTERNAL, StatusCode::INTERNAL_SERVER_ERROR),
        (code::LOG_FAILED, StatusCode::INTERNAL_SERVER_ERROR),
        (code::METHOD_NOT_ALLOWED, StatusCode::METHOD_NOT_ALLOWED),
        (code::UNSUPPORTED_CONTENT, StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (code::TOO_SLOW, StatusCode::REQUEST_TIMEOUT),
        (code::PRECONDITION_FAILED, StatusCode::PRECONDITION_FAILED),
        (code::KEY_REUSED, StatusCode::UNPROCESSABLE_ENTITY),
        (code::RESET_REFUSED, StatusCode::SERVICE_UNAVAILABLE),
        (code::AGENTS_UNKNOWN, StatusCode::SERVICE_UNAVAILABLE),
        (code::HALT_NOT_DURABLE, StatusCode::SERVICE_UNAVAILABLE),
        (code::PARAMS_REFUSED, StatusCode::UNPROCESSABLE_ENTITY),
        (code::SETTINGS_INVALID, StatusCode::UNPROCESSABLE_ENTITY),
        (code::CEILING_EXCEEDED, StatusCode::UNPROCESSABLE_ENTITY),
        (code::REDRIVE_RUNNING, StatusCode::CONFLICT),
        (code::LETTER_VERSION_GONE, StatusCode::GONE),
        (code::NO_LETTER_MEANT, StatusCode::CONFLICT),
        (code::LETTER_EVENT_GONE, StatusCode::GONE),
        (code::EDIT_HALF_DONE, StatusCode::CONFLICT),
        (code::EDIT_ELSEWHERE, StatusCode::CONFLICT),
        (code::QUERY_REFUSED, StatusCode::FORBIDDEN),
        (code::QUERY_NO_TABLE, StatusCode::NOT_FOUND),
        (code::QUERY_ROWS, StatusCode::UNPROCESSABLE_ENTITY),
        (code::QUERY_BYTES, StatusCode::UNPROCESSABLE_ENTITY),
        (code::QUERY_MEMORY, StatusCode::UNPROCESSABLE_ENTITY),
        (code::QUERY_TIME, StatusCode::UNPROCESSABLE_ENTITY),
        (code::QUERY_BUSY, StatusCode::TOO_MANY_REQUESTS),
        (code::QUERY_FAILED, StatusCode::SERVICE_UNAVAILABLE),
        (code::ARCHIVE_OFF, StatusCode::SERVICE_UNAVAILABLE),
    ];
    TABLE.iter().find(|(known, _)| *known == code).map_or(StatusCode::BAD_REQUEST, |(_, status)| *status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_what_where_and_what_to_do() {
        let problem = Problem::busy("too many bytes").members(&serde_json::json!({"accepted": 0}));
        let document = serde_json::to_value(problem.document("/ingest")).unwrap();
        assert_eq!(document["type"], "/errors/PH4010");
        assert_eq!(document["status"], 429);
        assert_eq!(document["code"], "PH4010");
        assert_eq!(document["instance"], "/ingest");
        assert_eq!(document["retryable"], true);
        assert_eq!(document["accepted"], 0);
        assert!(document["hint"].as_str().is_some_and(|hint| !hint.is_empty()));
        assert!(document.get("problems").is_none());
    }

    #[test]
    fn a_log_that_is_away_is_tried_again_and_a_record_too_large_is_not() {
        let away = phronis_log::Error::Unreachable { reason: "no broker answers".to_owned() };
        let large = phronis_log::Error::TooLarge { topic: "t".to_owned(), bytes: 2_000_000, most: 1_048_588 };
        for (error, status, code, is_retryable) in [(away, 503, "PH3005", true), (large, 413, "PH3006", false)] {
            let document = serde_json::to_value(Problem::from(error).document("/ingest")).unwrap();
            assert_eq!(document["status"], status);
            assert_eq!(document["code"], code);
            assert_eq!(document["retryable"], is_retryable);
        }
    }
}
