//! What people do about letters: `/v1/redrives`, `/v1/discards`, and an edited copy of a letter's event.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use phronis_core::{StreamId, Time, code};
use phronis_pipeline::letters::{Action, Cancel, Edit, Job, JobState, MOST_PLACES, Order, Refused, Selection};
use phronis_pipeline::status::PluginState;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::access::Caller;
use crate::body;
use crate::letters::{OfStream, Wanted, place, place_text, stream_of, unknown, visible};
use crate::once::Once;
use crate::problem::{Document, FieldProblem, Problem};
use crate::sign::{ANYONE, IfMatch, Sign, etag};
use crate::state::App;

/// The fastest redrive.
const MOST_RATE: u32 = 100_000;

/// Which letters, and what to do with them.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    /// The stream.
    stream: String,
    /// These letters, by place.
    #[serde(default)]
    #[schema(example = json!(["3-42"]))]
    letters: Vec<String>,
    /// All outstanding letters that fulfil this.
    #[serde(flatten)]
    wanted: Wanted,
    /// Means all outstanding letters of the stream, when nothing else is said.
    #[serde(default)]
    all: bool,
    /// Of a redrive: only if a plugin of the stream runs in this version (SHA-256, hex). Letters go through what runs, and it
    /// may have been replaced since somebody looked.
    if_running: Option<String>,
    /// Letters a second, at most 100 000; 500 unless said.
    rate: Option<u32>,
    /// Why. Needed, here or in `X-Reason`: it stands in the audit.
    reason: Option<String>,
}

/// A redrive, or a discard that looks at each letter.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobItem {
    /// What it is called.
    id: String,
    /// The stream.
    stream: String,
    /// `redrive` or `discard`.
    action: &'static str,
    /// `running`, `done` or `cancelled`.
    state: &'static str,
    /// Why it does not get on, when it does not.
    detail: Option<String>,
    /// Which letters.
    #[schema(value_type = Object)]
    selection: serde_json::Value,
    /// At most so many a second.
    rate: u32,
    /// Letters that were outstanding and meant when it began.
    total: u64,
    /// Letters that were moved.
    moved: u64,
    /// Letters that were gone, or outside of the times.
    skipped: u64,
    /// Who asked for it.
    actor: String,
    /// Why.
    reason: String,
    /// When it was asked for.
    #[schema(value_type = String)]
    created_at: Time,
    /// When it ended.
    #[schema(value_type = Option<String>)]
    ended_at: Option<Time>,
}

/// All redrives.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Jobs {
    /// By stream, the newest first.
    items: Vec<JobItem>,
}

/// What a discard did.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Discarded {
    /// What it is called.
    id: String,
    /// Letters that were outstanding and meant.
    letters: u64,
    /// The job that goes on, when each letter must be looked at.
    job: Option<JobItem>,
}

/// The edited copy.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Edited {
    /// The partition of raw that it stands in.
    partition: i32,
    /// The letter that it is a copy of.
    letter: String,
    /// Whether the letter was given up for it; else `detail` says why not, and it is for a person to do so.
    is_given_up: bool,
    /// What is known, when it is not.
    detail: Option<String>,
}

/// Tries letters again: by place, by class, or by a filter, at a capped rate. One at a time a stream.
#[utoipa::path(
    post, path = "/v1/redrives", tag = "letters", request_body(content = Request),
    params(Sign, Once),
    responses(
        (status = 202, description = "it begins; `ETag` holds its version", body = JobItem),
        (status = 400, description = "the request is not valid, or gives no reason", body = Document),
        (status = 404, description = "no such stream", body = Document),
        (status = 409, description = "another one of the stream runs (`running` has its id), or no letter is meant", body = Document),
        (status = 410, description = "no plugin of the stream runs in the version that `if_running` names", body = Document),
        (status = 422, description = "the Idempotency-Key came with another request before", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn start(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    sign: Sign,
    Json(request): Json<Request>,
) -> Result<Response, Problem> {
    let version = request.if_running.clone();
    let order = order(&app, &caller, &sign, request, Action::Redrive)?;
    if let Some(digest) = version {
        runs(&app, &order.stream, &digest)?;
    }
    let job = app.ask(move |pipeline| pipeline.start_job(order)).await?.map_err(refused)?;
    Ok((StatusCode::ACCEPTED, tagged(job)).into_response())
}

/// All redrives that are remembered.
#[utoipa::path(
    get, path = "/v1/redrives", tag = "letters", params(OfStream),
    responses((status = 200, description = "the redrives", body = Jobs)),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<OfStream>,
) -> Result<Json<Jobs>, Problem> {
    let streams: Vec<StreamId> = match &query.stream {
        Some(stream) => vec![stream_of(&app, &caller, stream)?],
        None => visible(&app, &caller),
    };
    let jobs =
        app.ask(move |pipeline| streams.iter().flat_map(|stream| pipeline.jobs(stream)).collect::<Vec<_>>()).await?;
    Ok(Json(Jobs { items: jobs.into_iter().map(JobItem::of).collect() }))
}

/// One redrive.
#[utoipa::path(
    get, path = "/v1/redrives/{id}", tag = "letters", params(("id" = String, Path)),
    responses(
        (status = 200, description = "the redrive; `ETag` holds its version, which rises when it ends", body = JobItem),
        (status = 404, description = "no such redrive", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    Ok(tagged(known(&app, &caller, &id).await?).into_response())
}

/// Stops a redrive. What was moved stays moved; one that is over stays as it is.
#[utoipa::path(
    delete, path = "/v1/redrives/{id}", tag = "letters", params(("id" = String, Path), IfMatch, Sign),
    responses(
        (status = 200, description = "how it is now; `ETag` holds its version", body = JobItem),
        (status = 400, description = "no reason is given", body = Document),
        (status = 404, description = "no such redrive", body = Document),
        (status = 412, description = "it is at another version than If-Match names; `current` is the one it is at", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn cancel(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    matched: IfMatch,
    sign: Sign,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    known(&app, &caller, &id).await?;
    let (actor, reason) = who(&sign, None)?;
    let cancel = Cancel { id: id.clone(), actor, reason, if_version: matched.version };
    let job = app.ask(move |pipeline| pipeline.cancel_job(&cancel)).await?.map_err(refused)?;
    job.map(|job| tagged(job).into_response()).ok_or_else(|| no_job(&id))
}

/// Gives letters up for good: nobody waits for them any more. They stay in dlq.
#[utoipa::path(
    post, path = "/v1/discards", tag = "letters", request_body(content = Request),
    params(Sign, Once),
    responses(
        (status = 202, description = "they are given up; with a filter of times, a job does so", body = Discarded),
        (status = 400, description = "the request is not valid, or gives no reason", body = Document),
        (status = 409, description = "no letter is meant, or a job of the stream runs", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn discard(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    sign: Sign,
    Json(request): Json<Request>,
) -> Result<(StatusCode, Json<Discarded>), Problem> {
    if request.if_running.is_some() {
        return Err(Problem::new(code::BAD_REQUEST, "`if_running` is for redrives: a discard goes through no plugin"));
    }
    let order = order(&app, &caller, &sign, request, Action::Discard)?;
    let is_job = matches!(&order.selection, Selection::Filter(filter) if filter.has_time());
    if is_job {
        let job = app.ask(move |pipeline| pipeline.start_job(order)).await?.map_err(refused)?;
        let (id, letters) = (job.id.clone(), job.total);
        return Ok((StatusCode::ACCEPTED, Json(Discarded { id, letters, job: Some(JobItem::of(job)) })));
    }
    let (id, letters) = app.ask(move |pipeline| pipeline.discard(&order)).await?.map_err(refused)?;
    Ok((StatusCode::ACCEPTED, Json(Discarded { id, letters, job: None })))
}

/// Posts an edited copy of a letter's event as a new event (header `phronis-edited-from`), and gives the letter up.
#[utoipa::path(
    post, path = "/v1/letters/{stream}/{place}/edit", tag = "letters",
    params(
        ("stream" = String, Path), ("place" = String, Path),
        IfMatch, Sign, Once,
    ),
    request_body(content = serde_json::Value, description = "the new event, byte for byte"),
    responses(
        (status = 202, description = "posted; `is_given_up` says whether the letter was given up for it", body = Edited),
        (status = 400, description = "no reason is given, or the letter has no event of its own", body = Document),
        (status = 404, description = "no letter stands there", body = Document),
        (status = 409, description = "nobody waits for the letter any more, an edit of it is half done, or another host edits it", body = Document),
        (status = 412, description = "the letter is at another version than If-Match names; `current` is the one it is at", body = Document),
        (status = 503, description = "nobody knows whether it was posted (PH2405), or the host does not know its letters yet", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn edit(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path((stream, at)): Path<(String, String)>,
    matched: IfMatch,
    sign: Sign,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Edited>), Problem> {
    let (stream, at) = (stream_of(&app, &caller, &stream)?, place(&at)?);
    let (actor, reason) = who(&sign, None)?;
    let held = body::read(&app, &headers, body).await?;
    let edit = Edit { stream, place: at, value: held.bytes.to_vec(), actor, reason, if_version: matched.version };
    // A blocking call goes on when the client leaves: no edit ends half-way because of that.
    let posted = app.ask(move |pipeline| pipeline.edit(&edit)).await?.map_err(refused)?;
    let is_given_up = posted.trouble.is_none();
    let edited = Edited { partition: posted.partition, letter: place_text(at), is_given_up, detail: posted.trouble };
    Ok((StatusCode::ACCEPTED, Json(edited)))
}

fn order(app: &App, caller: &Caller, sign: &Sign, request: Request, action: Action) -> Result<Order, Problem> {
    let stream = stream_of(app, caller, &request.stream)?;
    let selection = match (request.letters.is_empty(), request.wanted.is_empty()) {
        (false, true) if request.letters.len() <= MOST_PLACES => {
            let places = request.letters.iter().map(|text| place(text)).collect::<Result<BTreeSet<_>, _>>()?;
            Selection::Places(places)
        }
        (false, true) => {
            let detail = format!("more than {MOST_PLACES} letters by name: name their class, or a filter");
            return Err(Problem::new(code::BAD_REQUEST, detail));
        }
        (false, false) => {
            return Err(Problem::new(code::BAD_REQUEST, "`letters` and a filter do not go together"));
        }
        (true, true) if !request.all => {
            return Err(Problem::new(code::BAD_REQUEST, "the request does not say which letters")
                .hint("send `letters`, `class`, another filter, or `all: true`"));
        }
        (true, _) => Selection::Filter(request.wanted.filter()?),
    };
    if request.rate.is_some_and(|rate| !(1..=MOST_RATE).contains(&rate)) {
        return Err(Problem::new(code::BAD_REQUEST, format!("`rate` is not from 1 to {MOST_RATE} letters a second")));
    }
    let (actor, reason) = who(sign, request.reason.as_deref())?;
    Ok(Order { action, stream, selection, rate: request.rate, actor, reason })
}

/// That a plugin of the stream runs in this version.
fn runs(app: &App, stream: &StreamId, digest: &str) -> Result<(), Problem> {
    let plugins = app.pipeline.plugins().into_iter().filter(|plugin| plugin.id.stream == *stream);
    let plugins = plugins.filter(|plugin| plugin.state != PluginState::Bypassed);
    let running: Vec<_> = plugins.filter_map(|plugin| Some((plugin.id.name, plugin.active?))).collect();
    if running.iter().any(|(_, version)| version.digest == digest) {
        return Ok(());
    }
    let those: Vec<String> =
        running.iter().map(|(name, version)| format!("{name}@{} ({})", version.version, version.digest)).collect();
    let detail = format!("no plugin of the stream `{stream}` runs in the version with the digest {digest}");
    Err(Problem::new(code::LETTER_VERSION_GONE, detail).hint(format!("these run: {}", those.join(", "))))
}

/// Who, and why; nobody decides about letters without saying so.
fn who(sign: &Sign, reason: Option<&str>) -> Result<(String, String), Problem> {
    let Some(reason) = sign.reason(reason) else {
        let missing = FieldProblem { field: "reason".to_owned(), reason: "is missing: say why".to_owned() };
        let problem = Problem::new(code::BAD_REQUEST, "no reason is given: the next person will ask; nothing changed");
        return Err(problem
            .problems(vec![missing])
            .hint("send `reason` in the body of a redrive or discard, or the header X-Reason"));
    };
    Ok((sign.actor(None).unwrap_or_else(|| ANYONE.to_owned()), reason))
}

/// A job with its version.
fn tagged(job: Job) -> impl IntoResponse {
    (etag(job.version()), Json(JobItem::of(job)))
}

async fn known(app: &App, caller: &Caller, id: &str) -> Result<Job, Problem> {
    let asked = id.to_owned();
    let job = app.ask(move |pipeline| pipeline.job(&asked)).await?;
    job.filter(|job| caller.sees(&job.stream.tenant)).ok_or_else(|| no_job(id))
}

fn no_job(id: &str) -> Problem {
    Problem::not_found(format_args!("redrive `{id}`")).hint("`GET /v1/redrives` lists them")
}

fn refused(error: Refused) -> Problem {
    match error {
        Refused::Occupied(running) => {
            Problem::new(code::REDRIVE_RUNNING, Refused::Occupied(running.clone()).to_string())
                .members(&serde_json::json!({ "running": running.id }))
        }
        Refused::Unknown { stream, at } => unknown(&stream, at),
        Refused::UnknownStream(stream) => Problem::not_found(format_args!("stream `{stream}`")),
        Refused::Nothing | Refused::Over { .. } => Problem::new(code::NO_LETTER_MEANT, error.to_string()),
        Refused::Changed { version } => Problem::new(code::PRECONDITION_FAILED, error.to_string())
            .members(&serde_json::json!({ "current": version })),
        Refused::HalfDone { why: Some(_), .. } => {
            Problem::new(code::EDIT_HALF_DONE, error.to_string()).status(StatusCode::SERVICE_UNAVAILABLE)
        }
        Refused::HalfDone { .. } => Problem::new(code::EDIT_HALF_DONE, error.to_string()),
        Refused::Claimed => Problem::new(code::EDIT_ELSEWHERE, error.to_string()),
        Refused::Reading(_) => Problem::busy(error.to_string()).status(StatusCode::SERVICE_UNAVAILABLE),
        Refused::Range => Problem::new(code::BAD_REQUEST, error.to_string()),
        Refused::Newer => Problem::new(code::REDRIVE_RUNNING, error.to_string()),
        Refused::Store(error) => error.into(),
        Refused::Log(error) => error.into(),
        other => Problem::internal("changing letters", &other),
    }
}

impl JobItem {
    fn of(job: Job) -> Self {
        Self {
            moved: job.moved(),
            skipped: job.skipped(),
            action: match job.action {
                Action::Redrive => "redrive",
                Action::Discard => "discard",
            },
            state: match job.state {
                JobState::Running => "running",
                JobState::Done => "done",
                JobState::Cancelled => "cancelled",
            },
            selection: match &job.selection {
                Selection::Places(places) => {
                    let places: Vec<String> = places.iter().map(|place| place_text(*place)).collect();
                    serde_json::json!({ "letters": places })
                }
                Selection::Filter(filter) => serde_json::to_value(filter).unwrap_or_default(),
            },
            id: job.id,
            stream: job.stream.to_string(),
            detail: job.detail,
            rate: job.rate,
            total: job.total,
            actor: job.actor,
            reason: job.reason,
            created_at: job.created_at,
            ended_at: job.ended_at,
        }
    }
}
