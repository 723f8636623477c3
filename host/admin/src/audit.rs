//! Who changed what, when and why: `GET /v1/audit`. A tenant's key sees what concerns its tenant alone.

use axum::extract::{Extension, Query, State};
use axum::response::Json;
use phronis_core::time::Time;
use phronis_core::{Name, code};
use phronis_store::audit;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::access::Caller;
use crate::options::Role;
use crate::paging::Page;
use crate::problem::{Document, Problem};
use crate::state::App;

/// Which entries.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// By this actor.
    actor: Option<String>,
    /// This action, or all that begin with it and a dot: `agent` stands for `agent.halt` and `agent.reset`.
    action: Option<String>,
    /// About this.
    subject: Option<String>,
    /// Not earlier than this: RFC 3339, a date, or an epoch number.
    from: Option<String>,
    /// Earlier than this.
    until: Option<String>,
    /// Most items, 1 to 1000; 100 unless said.
    limit: Option<u32>,
    /// `next` of the piece before.
    cursor: Option<String>,
}

/// A change that somebody made.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Entry {
    /// Its id.
    id: String,
    /// When, RFC 3339.
    at: String,
    /// Who: the name of a key, or what the caller calls himself.
    actor: String,
    /// What was done.
    action: String,
    /// To what.
    subject: String,
    /// Whose that is; none is the host's own.
    tenant: Option<String>,
    /// Why.
    reason: Option<String>,
    /// What else is known.
    facts: Value,
}

/// Changes, newest first. Needs the role admin.
#[utoipa::path(
    get, path = "/v1/audit", tag = "audit", params(Wanted),
    responses(
        (status = 200, description = "the entries, newest first", body = Page<Entry>),
        (status = 403, description = "a key without the role admin", body = Document),
        (status = 503, description = "the store is away", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Page<Entry>>, Problem> {
    caller.need(Role::Admin)?;
    let limit = wanted.limit.unwrap_or(100).clamp(1, 1000);
    let cursor =
        wanted.cursor.as_deref().map(|cursor| cursor.parse().map_err(|_| bad("cursor", cursor))).transpose()?;
    let filter = audit::Filter {
        actor: wanted.actor,
        action: wanted.action,
        subject: wanted.subject,
        tenant: tenant_of(&caller),
        from: moment("from", wanted.from.as_deref())?,
        until: moment("until", wanted.until.as_deref())?,
    };
    let page = app.pipeline.store().audit(&filter, limit, cursor).await?;
    let items = page.items.into_iter().map(Entry::from).collect();
    Ok(Json(Page { items, next: page.next.map(|next| next.to_string()) }))
}

/// The only tenant that the caller sees.
fn tenant_of(caller: &Caller) -> Option<Name> {
    match caller {
        Caller::Holder(key) => key.tenant.clone(),
        _ => None,
    }
}

fn moment(name: &str, text: Option<&str>) -> Result<Option<Time>, Problem> {
    text.map(|text| text.parse().map_err(|_| bad(name, text))).transpose()
}

fn bad(name: &str, text: &str) -> Problem {
    let hint = "times are RFC 3339 with a zone, where `+` is written %2B; a cursor is the `next` of an answer";
    Problem::new(code::BAD_REQUEST, format!("`{name}` cannot be `{text}`")).hint(hint)
}

impl From<audit::Entry> for Entry {
    fn from(entry: audit::Entry) -> Self {
        Self {
            id: entry.id,
            at: entry.at.to_string(),
            actor: entry.actor,
            action: entry.action,
            subject: entry.subject,
            tenant: entry.tenant.map(|tenant| tenant.to_string()),
            reason: entry.reason,
            facts: entry.facts,
        }
    }
}
