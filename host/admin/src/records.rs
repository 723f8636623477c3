//! Reads a topic: `GET /v1/topics/{topic}/records`, one JSON object a line.
//!
//! The log's readers block, so each request has a thread of the blocking pool, and there are only so many of them.
//! The thread ends when the client leaves (its channel closes), when the server stops, or at the end of the topic.

mod line;
mod tail;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use phronis_core::code;
use phronis_log::Position;
use serde::Deserialize;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

pub use line::Line;
pub(crate) use line::rfc3339;

use crate::access::Caller;
use crate::problem::{Document, Problem};
use crate::records::tail::{Tail, Wanted};
use crate::state::{App, stopped};
use crate::topics;

/// Pieces of an answer between the reader and the connection: enough to read ahead of the socket, little to hold.
const PIECES: usize = 4;

/// Which records.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Selection {
    /// `earliest`, `latest`, an offset, or `@` and a time in RFC 3339; unless said `latest` with follow and `earliest` without.
    from: Option<String>,
    /// One partition; all unless said.
    partition: Option<i32>,
    /// Most records; no bound unless said.
    limit: Option<u64>,
    /// Goes on with what comes, until the client leaves. Without it the answer ends where the topic ends now.
    #[serde(default)]
    follow: bool,
}

/// Reads records of a topic, one JSON object a line (`application/x-ndjson`).
///
/// Records of one partition come in their order; without a partition, those of several partitions come interleaved.
/// With follow, a reader that retention overtook goes on with the oldest record that is left.
#[utoipa::path(
    get, path = "/v1/topics/{topic}/records", tag = "topics",
    params(("topic" = String, Path), Selection),
    responses(
        (status = 200, description = "the records", body = Line<'static>, content_type = "application/x-ndjson"),
        (status = 400, description = "a parameter is not valid", body = Document),
        (status = 404, description = "no such topic or partition", body = Document),
        (status = 410, description = "the offset is not in the log any more", body = Document),
        (status = 429, description = "too many readers", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn read(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(topic): Path<String>,
    Query(query): Query<Selection>,
) -> Result<Response, Problem> {
    if !topics::Readable::by(&app, &caller).has(&topic) {
        return Err(Problem::not_found(format_args!("topic `{topic}`")));
    }
    let wanted = Wanted {
        from: position(query.from.as_deref(), query.follow)?,
        partition: query.partition,
        limit: query.limit.unwrap_or(u64::MAX),
        is_following: query.follow,
        topic,
    };
    let place = Arc::clone(&app.readers).try_acquire_owned();
    let place = place.map_err(|_| Problem::busy("too many readers of topics are open"))?;
    let log = app.pipeline.log();
    // Opened before the answer begins, so that a wrong offset still gets a status of its own.
    let opening = tokio::task::spawn_blocking(move || Tail::open(&*log, wanted)).await;
    let tail = opening.map_err(|error| Problem::internal("opening the topic", &error))??;
    let (pieces, answer) = tokio::sync::mpsc::channel(PIECES);
    let stopping = app.stopping.clone();
    tokio::task::spawn_blocking(move || {
        tail.run(&pieces, || *stopping.borrow());
        drop(place);
    });
    let answer = ReceiverStream::new(answer).take_until(stopped(app.stopping.clone()));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(answer)).into_response())
}

fn position(from: Option<&str>, is_following: bool) -> Result<Position, Problem> {
    let refused = |why: &str| {
        Problem::new(code::BAD_REQUEST, format!("`from` {why}"))
            .hint("use earliest, latest, an offset like 42, or a time like @2026-01-31T12:00:00Z")
    };
    match from {
        None if is_following => Ok(Position::Latest),
        None | Some("earliest") => Ok(Position::Earliest),
        Some("latest") => Ok(Position::Latest),
        Some(from) => match from.strip_prefix('@') {
            // A `+` of an offset that was not escaped arrives as a space.
            Some(time) => match time.replace(' ', "+").parse::<jiff::Timestamp>() {
                Ok(time) => Ok(Position::Timestamp(time.as_millisecond())),
                Err(_) => Err(refused("is not a time in RFC 3339 with a zone")),
            },
            None => match from.parse::<i64>() {
                Ok(offset) if offset >= 0 => Ok(Position::Offset(offset)),
                _ => Err(refused("is not a position")),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_words_offsets_and_times() {
        for (from, is_following, expected) in [
            (None, false, Some(Position::Earliest)),
            (None, true, Some(Position::Latest)),
            (Some("earliest"), true, Some(Position::Earliest)),
            (Some("42"), false, Some(Position::Offset(42))),
            (Some("@1970-01-01T00:00:01.5Z"), false, Some(Position::Timestamp(1500))),
            (Some("@1970-01-01T01:00:00 01:00"), false, Some(Position::Timestamp(0))),
            (Some("-1"), false, None),
            (Some("@yesterday"), false, None),
            (Some("@1970-01-01T00:00:00"), false, None),
            (Some(""), false, None),
        ] {
            assert_eq!(position(from, is_following).ok(), expected, "{from:?}");
        }
    }
}
