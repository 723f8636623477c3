//! The hosts that share the log: `GET /v1/hosts`. For keys of all tenants: machines are the operator's, not a tenant's.

use axum::extract::{Extension, State};
use axum::response::Json;
use phronis_core::code;
use serde::Serialize;
use utoipa::ToSchema;

use crate::access::Caller;
use crate::problem::{Document, Problem};
use crate::records::rfc3339;
use crate::state::App;

/// All live hosts.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Hosts {
    /// The hosts, by node id.
    items: Vec<Host>,
}

/// A host that was heard of within the last 30 seconds.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Host {
    /// Its node id.
    node_id: String,
    /// Whether it is the one that answers.
    is_this: bool,
    /// The branches that it runs.
    roles: Vec<String>,
    /// Where it serves HTTP.
    listen: Option<String>,
    /// The version of Phronis.
    version: String,
    /// The machine that it runs on.
    hostname: String,
    /// Its process there.
    pid: u32,
    /// When it was started, RFC 3339.
    started_at: Option<String>,
    /// When it was last heard of, RFC 3339.
    last_heard_at: Option<String>,
}

/// All live hosts that share the log.
#[utoipa::path(
    get, path = "/v1/hosts", tag = "health",
    responses(
        (status = 200, description = "the hosts", body = Hosts),
        (status = 403, description = "a key of one tenant", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn list(State(app): State<App>, Extension(caller): Extension<Caller>) -> Result<Json<Hosts>, Problem> {
    if !caller.sees_all() {
        return Err(Problem::new(code::FORBIDDEN, "hosts are for keys of all tenants"));
    }
    let items = app.pipeline.hosts().into_iter().map(|host| Host {
        node_id: host.node_id,
        is_this: host.is_this,
        roles: host.roles,
        listen: host.listen.map(|listen| listen.to_string()),
        version: host.version,
        hostname: host.hostname,
        pid: host.pid,
        started_at: rfc3339(host.started_at),
        last_heard_at: rfc3339(host.heard_at),
    });
    Ok(Json(Hosts { items: items.collect() }))
}
