//! Letters: `GET /v1/letter_classes`, `GET /v1/letters…`.
//!
//! What would become of one now is asked in `dry_run`; what changes something about them is in `redrives`.

pub(crate) mod dry_run;
mod wanted;

use axum::extract::{Extension, Path, Query, State};
use axum::response::{IntoResponse, Json, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use phronis_core::letter::Letter;
use phronis_core::letter::index::{Class, State as Waits};
use phronis_core::records::Headers;
use phronis_core::{Code, StreamId, Time, code};
use phronis_pipeline::letters::{At, Attempt, ClassStatus, Condition, Detail, Edited, Found, Place};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

pub(crate) use self::wanted::Wanted;
use crate::access::Caller;
use crate::paging::{Page, Paging};
use crate::problem::{Document, Problem};
use crate::records::Line;
use crate::sign::etag;
use crate::state::App;

/// Of which stream.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OfStream {
    /// The stream; all that the key opens unless said.
    pub(crate) stream: Option<String>,
}

/// Of which stream.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct OfOne {
    /// The stream.
    stream: String,
}

/// The classes of letters.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Classes {
    /// By stream and class.
    items: Vec<ClassItem>,
    /// What keeps letters from coming back, by stream.
    trouble: Vec<Trouble>,
}

/// Letters that failed in the same way.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ClassItem {
    /// The stream.
    stream: String,
    /// Its name: stage, code, and plugin and version where it was one.
    #[schema(example = "detect/PH2003/threshold@1.2.0")]
    class: String,
    /// What the code means.
    title: &'static str,
    /// Letters that were ever written, each attempt for itself.
    count: u64,
    /// Letters that will be tried again by themselves.
    waiting: u64,
    /// Letters that wait for a person.
    parked: u64,
    /// When a record of the class failed for the first time.
    #[schema(value_type = String)]
    first: Time,
    /// When the last letter of the class was written.
    #[schema(value_type = String)]
    last: Time,
    /// When the oldest outstanding letter failed for the first time, or a little before.
    #[schema(value_type = Option<String>)]
    oldest: Option<Time>,
    /// First seen within the last hour.
    is_new: bool,
    /// Link to the page of the code.
    help: String,
}

/// Why letters do not come back.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Trouble {
    /// The stream.
    stream: String,
    /// The partition; none when it is about all of them.
    partition: Option<i32>,
    /// The stable code, where there is one.
    #[schema(value_type = Option<String>)]
    code: Option<Code>,
    /// Why.
    detail: String,
}

/// A letter, without its event.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Item {
    /// The stream.
    stream: String,
    /// Where it stands: partition and offset in dlq.
    #[schema(example = "3-42")]
    place: String,
    /// `waiting` or `parked`; none when nobody waits for it any more.
    state: Option<&'static str>,
    /// What became of an edit of it on this host: `whole`, `half` (the copy is posted, the letter not given up), or `unsure`.
    edited: Option<&'static str>,
    /// The same for all attempts.
    id: String,
    /// Its class.
    class: String,
    /// The step that refused the record.
    stage: &'static str,
    /// The stable code.
    #[schema(value_type = String)]
    code: Code,
    /// Why, in words.
    message: String,
    /// The plugin.
    plugin: Option<Plugin>,
    /// How often it was tried.
    attempt: u32,
    /// When it failed for the first time.
    #[schema(value_type = String)]
    first_failed_at: Time,
    /// When this letter was written.
    #[schema(value_type = String)]
    written_at: Time,
    /// When it is tried again.
    #[schema(value_type = Option<String>)]
    due_at: Option<Time>,
    /// Where the record was first read.
    origin: Origin,
    /// The trace of the record.
    trace_id: Option<String>,
    /// Bytes of the record's value.
    value_bytes: usize,
}

/// The plugin that failed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Plugin {
    name: String,
    version: String,
    digest: String,
}

/// Where the record was first read.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Origin {
    topic: String,
    partition: i32,
    offset: i64,
}

/// A letter with its event and all attempts.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Shown<'a> {
    /// The letter.
    letter: Item,
    /// The record of dlq: key, value and headers, ours after its own.
    record: Line<'a>,
    /// The record's own headers: names and values; bytes that are not text are base64.
    headers: Vec<Header>,
    /// All attempts up to this one, the first one first.
    attempts: Vec<AttemptItem>,
    /// The first attempts are not in dlq any more.
    is_cut: bool,
    /// Link to the page of the code.
    help: String,
}

/// A header.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Header {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

/// One attempt.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AttemptItem {
    /// Where its letter stands.
    place: String,
    /// Its number, from 1.
    attempt: u32,
    /// When it failed.
    #[schema(value_type = String)]
    at: Time,
    /// The stable code.
    #[schema(value_type = String)]
    code: Code,
    /// Why.
    message: String,
    /// The plugin's version.
    version: Option<String>,
}

/// Classes of letters, with what is outstanding.
#[utoipa::path(
    get, path = "/v1/letter_classes", tag = "letters", params(OfStream),
    responses((status = 200, description = "the classes", body = Classes), (status = 404, description = "no such stream", body = Document)),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn classes(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<OfStream>,
) -> Result<Json<Classes>, Problem> {
    let streams = match &query.stream {
        Some(stream) => vec![stream_of(&app, &caller, stream)?],
        None => visible(&app, &caller),
    };
    let mut all = Classes { items: Vec::new(), trouble: Vec::new() };
    for stream in streams {
        let asked = stream.clone();
        let classes = app.ask(move |pipeline| pipeline.letter_classes(&asked)).await?.unwrap_or_default();
        all.items.extend(classes.into_iter().map(|class| ClassItem::of(&stream, class)));
        all.trouble.extend(trouble(&app, &stream));
    }
    Ok(Json(all))
}

/// Outstanding letters, by place.
#[utoipa::path(
    get, path = "/v1/letters", tag = "letters", params(OfOne, Wanted, Paging),
    responses(
        (status = 200, description = "the letters, by place", body = Page<Item>),
        (status = 400, description = "a parameter is not valid", body = Document),
        (status = 404, description = "no such stream", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<OfOne>,
    Query(wanted): Query<Wanted>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<Item>>, Problem> {
    let stream = stream_of(&app, &caller, &query.stream)?;
    let filter = wanted.filter()?;
    let after = paging.cursor.as_deref().map(place).transpose()?;
    let (asked, limit) = (stream.clone(), paging.limit());
    let (found, next) = app.ask(move |pipeline| pipeline.list_letters(&asked, &filter, after, limit)).await??;
    let items = found.iter().map(|found| Item::of(&stream, found)).collect();
    Ok(Json(Page { items, next: next.map(place_text) }))
}

/// One letter: its event, its headers, and every attempt.
#[utoipa::path(
    get, path = "/v1/letters/{stream}/{place}", tag = "letters",
    params(("stream" = String, Path), ("place" = String, Path, description = "partition and offset in dlq: `3-42`")),
    responses(
        (status = 200, description = "the letter; `ETag` holds its version, which rises when nobody waits for it any more", body = Shown<'static>),
        (status = 404, description = "no letter stands there", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path((stream, at)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let (stream, at) = (stream_of(&app, &caller, &stream)?, place(&at)?);
    let asked = stream.clone();
    match app.ask(move |pipeline| pipeline.letter(&asked, at)).await?? {
        At::Letter(detail) => Ok((etag(detail.found.version()), shown(&stream, &detail)?).into_response()),
        At::Settlement(outcome, previous) => Err(unknown(&stream, at).hint(format!(
            "at this place stands the end of the letter {}: it was {}",
            place_text((at.0, previous)),
            outcome.as_str()
        ))),
        At::Nothing => Err(unknown(&stream, at)),
    }
}

/// The stream of this name, if the caller may know of it.
pub(crate) fn stream_of(app: &App, caller: &Caller, name: &str) -> Result<StreamId, Problem> {
    let all = visible(app, caller);
    let known = name.parse::<StreamId>().ok().filter(|id| all.contains(id));
    known.ok_or_else(|| {
        let names: Vec<String> = all.iter().map(ToString::to_string).collect();
        Problem::unknown("stream", name, names.iter().map(String::as_str)).hint("`GET /v1/streams` lists the streams")
    })
}

/// The streams that the caller may know of.
pub(crate) fn visible(app: &App, caller: &Caller) -> Vec<StreamId> {
    let streams = app.pipeline.topics().into_iter().map(|(stream, _)| stream);
    streams.filter(|stream| caller.sees(&stream.tenant)).collect()
}

pub(crate) fn unknown(stream: &StreamId, at: Place) -> Problem {
    Problem::not_found(format_args!("letter {} in the stream `{stream}`", place_text(at)))
        .hint("`GET /v1/letters` lists the outstanding letters")
}

/// A place as it is written.
pub(crate) fn place_text((partition, offset): Place) -> String {
    format!("{partition}-{offset}")
}

/// Reads a place.
pub(crate) fn place(text: &str) -> Result<Place, Problem> {
    let parsed = text.split_once('-').and_then(|(partition, offset)| {
        let (partition, offset) = (partition.parse().ok()?, offset.parse().ok()?);
        (partition >= 0 && offset >= 0).then_some((partition, offset))
    });
    parsed.ok_or_else(|| {
        Problem::new(code::BAD_REQUEST, format!("`{text}` is not the place of a letter"))
            .hint("a place is a partition and an offset of dlq, like 3-42")
    })
}

fn trouble(app: &App, stream: &StreamId) -> Vec<Trouble> {
    let Some(branch) = app.pipeline.letter_branch(stream) else { return Vec::new() };
    let name = stream.to_string();
    let whole = branch.trouble.map(|detail| Trouble { stream: name.clone(), partition: None, code: None, detail });
    let blocked = branch.partitions.into_iter().filter_map(|(partition, condition)| match condition {
        Condition::Blocked { code, detail } => {
            Some(Trouble { stream: name.clone(), partition: Some(partition), code: Some(code), detail })
        }
        _ => None,
    });
    whole.into_iter().chain(blocked).collect()
}

fn shown(stream: &StreamId, detail: &Detail) -> Result<Json<serde_json::Value>, Problem> {
    let Detail { found, attempts, is_cut, .. } = detail;
    let record = Line::of(&found.record, 0).ok_or_else(|| unknown(stream, found.place))?;
    let attempt = |attempt: &Attempt| AttemptItem {
        place: place_text((found.place.0, attempt.offset)),
        attempt: attempt.attempt,
        at: attempt.at,
        code: attempt.code,
        message: attempt.message.clone(),
        version: attempt.version.clone(),
    };
    let shown = Shown {
        letter: Item::of(stream, found),
        record,
        headers: headers(detail.original.headers()),
        attempts: attempts.iter().map(attempt).collect(),
        is_cut: *is_cut,
        help: format!("/errors/{}", found.letter.code),
    };
    let shown = serde_json::to_value(shown).map_err(|error| Problem::internal("showing the letter", &error))?;
    Ok(Json(shown))
}

fn headers(headers: Headers<'_>) -> Vec<Header> {
    let header = |(name, value): (&str, &[u8])| {
        let text = str::from_utf8(value).ok().map(str::to_owned);
        let base64 = text.is_none().then(|| STANDARD.encode(value));
        Header { name: name.to_owned(), value: text, base64 }
    };
    headers.map(header).collect()
}

impl ClassItem {
    fn of(stream: &StreamId, status: ClassStatus) -> Self {
        let ClassStatus { class, summary, is_new } = status;
        Self {
            stream: stream.to_string(),
            class: class.to_string(),
            title: class.code.title(),
            count: summary.count,
            waiting: summary.waiting,
            parked: summary.parked,
            first: summary.first,
            last: summary.last,
            oldest: summary.oldest,
            is_new,
            help: format!("/errors/{}", class.code),
        }
    }
}

impl Item {
    fn of(stream: &StreamId, found: &Found) -> Self {
        let Letter { id, origin, plugin, stage, code, message, attempt, first_failed_at, due_at, trace_id, .. } =
            &found.letter;
        let class = Class {
            stage: *stage,
            code: *code,
            plugin: plugin.as_ref().map(|plugin| (plugin.name.clone(), plugin.version.as_str().into())),
        };
        Self {
            stream: stream.to_string(),
            place: place_text(found.place),
            state: found.state.map(|state| match state {
                Waits::Waiting => "waiting",
                Waits::Parked => "parked",
            }),
            edited: found.edited.map(|edited| match edited {
                Edited::Whole => "whole",
                Edited::Half => "half",
                Edited::Unsure => "unsure",
            }),
            id: id.to_string(),
            class: class.to_string(),
            stage: stage.as_str(),
            code: *code,
            message: message.clone(),
            plugin: plugin.as_ref().map(|plugin| Plugin {
                name: plugin.name.to_string(),
                version: plugin.version.clone(),
                digest: plugin.digest.clone(),
            }),
            attempt: *attempt,
            first_failed_at: *first_failed_at,
            written_at: found.written_at,
            due_at: *due_at,
            origin: Origin { topic: origin.topic.to_string(), partition: origin.partition, offset: origin.offset },
            trace_id: trace_id.clone(),
            value_bytes: found.record.body.value(0).map_or(0, <[u8]>::len),
        }
    }
}
