//! The stream that guards listen to: `GET /v1/agents/stream`, server-sent events.
//!
//! It begins with everyone who is halted, goes on with each change, and beats every second, so that a guard knows
//! how old its knowledge is. Changes are numbered: a guard that misses one, or meets another start of the host, begins anew.
//! A guard that is too slow is cut off, which tells it the same. Nothing here waits for a guard.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use phronis_core::Time;
use phronis_core::agent::{Record, Scope};
use phronis_pipeline::agents::{Agents, Change, Watch};
use serde::Serialize;
use tokio::sync::broadcast::Receiver;
use tokio::time::{Interval, MissedTickBehavior, interval_at};

use super::{Whose, reason, tenant_of};
use crate::access::Caller;
use crate::problem::{Document, Problem};
use crate::state::{App, stopped};

/// How often a beat comes.
const BEAT: Duration = Duration::from_secs(1);

/// What a guard begins with.
#[derive(Debug, Serialize)]
struct Snapshot<'a> {
    epoch: &'a str,
    version: u64,
    at: Time,
    halted: Vec<Halted<'a>>,
}

#[derive(Debug, Serialize)]
struct Halted<'a> {
    agent: Option<&'a str>,
    state: &'a str,
    reason: &'a str,
    actor: &'a str,
    at: Time,
    expires_at: Option<Time>,
    version: u64,
}

#[derive(Debug, Serialize)]
struct Changed<'a> {
    epoch: &'a str,
    version: u64,
    agent: Option<&'a str>,
    state: &'a str,
    reason: &'a str,
    actor: &'a str,
    at: Time,
    expires_at: Option<Time>,
}

#[derive(Debug, Serialize)]
struct Beat<'a> {
    epoch: &'a str,
    version: u64,
    at: Time,
}

/// Follows who is halted (`text/event-stream`), for guards in agents' processes.
///
/// `snapshot` comes first: `{"epoch", "version", "at", "halted": [{"agent", "state", "reason", "actor", "at", "expires_at", "version"}]}`,
/// where a null agent is everything of the tenant. Then `change` for each change
/// (`{"epoch", "version", "agent", "state", "reason", "actor", "at", "expires_at"}`, the version one higher each time)
/// and `beat` every second (`{"epoch", "version", "at"}`).
/// A gap in the versions, another epoch, or no beat for three seconds: connect anew. A listener that is too slow is cut off.
/// A reason that is the words of an alert is told to who brings a key of the tenant.
#[utoipa::path(
    get, path = "/v1/agents/stream", tag = "agents", params(Whose),
    responses(
        (status = 200, description = "events without end", body = String, content_type = "text/event-stream"),
        (status = 404, description = "no such tenant", body = Document),
        (status = 429, description = "too many guards", body = Document),
        (status = 503, description = "the host has just begun and does not know yet who is halted", body = Document),
    ),
)]
pub(crate) async fn follow(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(whose): Query<Whose>,
) -> Result<Response, Problem> {
    let tenant = tenant_of(&app, &caller, whose.tenant.as_deref())?;
    let place = Arc::clone(&app.guards).try_acquire_owned();
    let place = place.map_err(|_| Problem::busy("too many guards listen to this host"))?;
    let agents = app.pipeline.agents();
    let Watch { version, halted, changes } = agents.watch(&tenant)?;
    let sees = caller.sees(&tenant);
    let first = {
        let agents = agents.clone();
        let write = move || snapshot(agents.epoch(), version, agents.time(), &halted, sees);
        tokio::task::spawn_blocking(write).await.map_err(|error| Problem::internal("telling who is halted", &error))?
    };
    let gauge = Guarding::new();
    let events = stream(agents.clone(), first, version, changes, sees).map(move |piece| {
        let _held = (&place, &gauge);
        Ok::<_, std::convert::Infallible>(piece)
    });
    let events = events.take_until(stopped(app.stopping.clone()));
    Ok(([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response())
}

/// What a guard is told, piece by piece; ends when it is too slow, or the pipeline ends.
fn stream(
    agents: Agents,
    first: Bytes,
    version: u64,
    changes: Receiver<Arc<Change>>,
    sees: bool,
) -> impl Stream<Item = Bytes> {
    let mut beats = interval_at(tokio::time::Instant::now() + BEAT, BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = futures::stream::unfold((changes, beats, version), move |(mut changes, mut beats, mut version)| {
        let agents = agents.clone();
        async move {
            let piece = next(&agents, &mut changes, &mut beats, &mut version, sees).await?;
            Some((piece, (changes, beats, version)))
        }
    });
    futures::stream::once(async { first }).chain(events)
}

async fn next(
    agents: &Agents,
    changes: &mut Receiver<Arc<Change>>,
    beats: &mut Interval,
    version: &mut u64,
    sees: bool,
) -> Option<Bytes> {
    tokio::select! {
        change = changes.recv() => {
            // Behind by more than is kept: the guard must begin anew.
            let change = change.ok()?;
            *version = change.version;
            Some(changed(agents.epoch(), &change, sees))
        }
        _ = beats.tick() => Some(event("beat", &Beat { epoch: agents.epoch(), version: *version, at: agents.time() })),
    }
}

fn snapshot(epoch: &str, version: u64, at: Time, halted: &[Arc<Record>], sees: bool) -> Bytes {
    let halted = halted.iter().map(|record| Halted {
        agent: name(&record.scope),
        state: record.state.as_str(),
        reason: reason(record, sees),
        actor: &record.actor,
        at: record.at,
        expires_at: record.expires_at,
        version: record.version,
    });
    event("snapshot", &Snapshot { epoch, version, at, halted: halted.collect() })
}

fn changed(epoch: &str, change: &Change, sees: bool) -> Bytes {
    let Change { version, agent, state, record } = change;
    let is_halt = *state == phronis_core::agent::State::Halted;
    event(
        "change",
        &Changed {
            epoch,
            version: *version,
            agent: agent.as_deref(),
            state: state.as_str(),
            reason: reason(record, sees),
            actor: &record.actor,
            at: record.at,
            // Where a halt ended by itself, the record is still that halt.
            expires_at: record.expires_at.filter(|_| is_halt),
        },
    )
}

/// JSON has no bare line breaks, so that one line of data holds it.
fn event(name: &str, data: &impl Serialize) -> Bytes {
    let mut out = format!("event: {name}\ndata: ").into_bytes();
    // Plain texts and numbers: writing them cannot fail.
    let _infallible = serde_json::to_writer(&mut out, data);
    out.extend_from_slice(b"\n\n");
    out.into()
}

fn name(scope: &Scope) -> Option<&str> {
    match scope {
        Scope::Agent(agent) => Some(agent),
        Scope::Tenant => None,
    }
}

/// Counts a guard while it listens.
struct Guarding(metrics::Gauge);

impl Guarding {
    fn new() -> Self {
        let gauge = metrics::gauge!("phronis_agent_guards");
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Guarding {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
