//! What streams do: `GET /v1/streams`, `/v1/streams/{stream}`, `/v1/streams/{stream}/schema`.

use axum::extract::{Extension, Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Json, Response};
use phronis_core::StreamId;
use phronis_pipeline::status::{self, PartitionLag, StreamState};
use serde::Serialize;
use utoipa::ToSchema;

use crate::access::Caller;
use crate::paging::{Page, Paging};
use crate::problem::{Document, Problem};
use crate::state::App;

/// A stream, at one moment.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Stream {
    /// `name`, or `tenant.name`.
    pub(crate) id: String,
    /// Who owns it.
    pub(crate) tenant: String,
    /// Its name within the tenant.
    pub(crate) name: String,
    /// What it does: `starting`, `running`, `blocked`, `held`, `stopped`.
    pub(crate) state: &'static str,
    /// Why it is not running.
    pub(crate) detail: Option<String>,
    /// Its topics.
    topics: Topics,
    /// Partitions of raw, and how far each is; empty as long as the log was never reached.
    partitions: Vec<Partition>,
    /// What it has done since the host started.
    pub(crate) counts: Counts,
    /// What it has still to do.
    pub(crate) lag: Lag,
    /// Link to the JSON Schema of its events.
    schema: String,
}

/// Names of a stream's topics.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Topics {
    raw: String,
    processed: String,
    alerts: String,
    dlq: String,
    retry: String,
    state: String,
}

/// What a stream has done since the host started.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Counts {
    /// Records polled and durably answered for.
    pub(crate) received: u64,
    /// Events delivered.
    pub(crate) delivered: u64,
    /// Letters of the contract gate.
    pub(crate) gate_letters: u64,
    /// Letters of enrichers.
    pub(crate) enrich_letters: u64,
    /// Letters of detectors; their events are delivered.
    pub(crate) detect_letters: u64,
    /// Letters of events whose processed record would be too large for its topic.
    pub(crate) deliver_letters: u64,
    /// Letters of events whose agent was halted.
    pub(crate) halt_letters: u64,
    /// Letters of events that wait behind an earlier one of their key.
    pub(crate) order_letters: u64,
    /// Range letters: each stands for the events of a batch that a plugin with an open breaker was not shown.
    pub(crate) range_letters: u64,
    /// Events that wait in a range letter of an enricher, and are not delivered.
    pub(crate) waiting: u64,
    /// Events dropped by a rule.
    pub(crate) dropped: u64,
    /// Alerts.
    pub(crate) alerts: u64,
    /// Letters that were tried again.
    pub(crate) retries: u64,
    /// Events that were letters and were delivered or dropped since:
    /// received = delivered + dropped + letters of gate, enrichers and delivery - settled.
    pub(crate) settled: u64,
    /// Events that their detector has judged since, whose letter said that it could not.
    pub(crate) settled_debts: u64,
}

/// What a stream has still to do.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Lag {
    /// Records that are not answered for yet.
    pub(crate) records: u64,
    /// How long ago the oldest of them came.
    pub(crate) seconds: f64,
}

/// How far a stream is in one partition of raw.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Partition {
    /// Which, from 0.
    partition: i32,
    /// Offset of the oldest record that is still there.
    earliest: i64,
    /// Offset that the next record will get.
    latest: i64,
    /// The next offset to be read; null before the first commit.
    committed: Option<i64>,
    /// Records that are not answered for yet.
    lag_records: u64,
    /// How long ago the oldest of them came.
    lag_seconds: f64,
}

/// All streams that the key opens.
#[utoipa::path(
    get, path = "/v1/streams", tag = "streams", params(Paging),
    responses((status = 200, description = "the streams", body = Page<Stream>)),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<Stream>>, Problem> {
    Ok(Json(paging.cut(visible(&app, &caller).await?.into_iter(), |stream| stream.id.clone())))
}

/// One stream.
#[utoipa::path(
    get, path = "/v1/streams/{stream}", tag = "streams",
    params(("stream" = String, Path, description = "`name`, or `tenant.name`")),
    responses(
        (status = 200, description = "the stream", body = Stream),
        (status = 404, description = "no such stream", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(stream): Path<String>,
) -> Result<Json<Stream>, Problem> {
    let id = parse(&stream)?;
    let found = visible(&app, &caller).await?.into_iter().find(|stream| stream.id == id.to_string());
    found.map(Json).ok_or_else(|| Problem::not_found(format_args!("stream `{id}`")))
}

/// The JSON Schema of a stream's events, made from its contract.
#[utoipa::path(
    get, path = "/v1/streams/{stream}/schema", tag = "streams",
    params(("stream" = String, Path, description = "`name`, or `tenant.name`")),
    responses(
        (status = 200, description = "a JSON Schema (2020-12)", body = serde_json::Value, content_type = "application/schema+json"),
        (status = 404, description = "no such stream", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn schema(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(stream): Path<String>,
) -> Result<Response, Problem> {
    let id = parse(&stream)?;
    let contract = if caller.sees(&id.tenant) { app.pipeline.contract(&id) } else { None };
    let contract = contract.ok_or_else(|| Problem::not_found(format_args!("stream `{id}`")))?;
    Ok(([(header::CONTENT_TYPE, "application/schema+json")], Json(contract.json_schema())).into_response())
}

/// The streams that a caller may know of.
pub(crate) async fn visible(app: &App, caller: &Caller) -> Result<Vec<Stream>, Problem> {
    let streams = app.ask(phronis_pipeline::Handle::streams).await?;
    Ok(streams.into_iter().filter(|stream| caller.sees(&stream.id.tenant)).map(Stream::from).collect())
}

/// The stream that a path names.
pub(crate) fn parse(stream: &str) -> Result<StreamId, Problem> {
    stream.parse().map_err(|_| Problem::not_found(format_args!("stream `{stream}`")))
}

impl From<status::Stream> for Stream {
    fn from(stream: status::Stream) -> Self {
        let status::Stream { id, topics, partitions, state, detail, counts, lag_records, lag_seconds } = stream;
        Self {
            schema: format!("/v1/streams/{id}/schema"),
            tenant: id.tenant.to_string(),
            name: id.stream.to_string(),
            id: id.to_string(),
            state: match state {
                StreamState::Starting => "starting",
                StreamState::Running => "running",
                StreamState::Blocked => "blocked",
                StreamState::Held => "held",
                StreamState::Stopped => "stopped",
            },
            detail,
            topics: Topics {
                raw: topics.raw.to_string(),
                processed: topics.processed.to_string(),
                alerts: topics.alerts.to_string(),
                dlq: topics.dlq.to_string(),
                retry: topics.retry.to_string(),
                state: topics.state.to_string(),
            },
            partitions: partitions.into_iter().map(Partition::from).collect(),
            counts: Counts {
                received: counts.received,
                delivered: counts.delivered,
                gate_letters: counts.gate_letters,
                enrich_letters: counts.enrich_letters,
                detect_letters: counts.detect_letters,
                deliver_letters: counts.deliver_letters,
                halt_letters: counts.halt_letters,
                order_letters: counts.order_letters,
                range_letters: counts.range_letters,
                waiting: counts.waiting,
                dropped: counts.dropped,
                alerts: counts.alerts,
                retries: counts.retries,
                settled: counts.settled,
                settled_debts: counts.settled_debts,
            },
            lag: Lag { records: lag_records, seconds: lag_seconds },
        }
    }
}

impl From<PartitionLag> for Partition {
    fn from(lag: PartitionLag) -> Self {
        let PartitionLag { partition, earliest, latest, committed, lag_records, lag_seconds } = lag;
        Self { partition, earliest, latest, committed, lag_records, lag_seconds }
    }
}
