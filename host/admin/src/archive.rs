//! What is archived: `GET /v1/archive/tables`, one table, and its snapshots. Other tenants' tables do not exist.

use axum::extract::{Extension, Path, Query, State};
use axum::response::Json;
use phronis_archive::{Archive, TableName, describe};
use phronis_core::code;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::access::Caller;
use crate::paging::{Page, Paging};
use crate::problem::{Document, Problem};
use crate::state::App;

/// The host's archive.
///
/// # Errors
/// There is none, or it was not reached yet.
pub(crate) fn of(app: &App) -> Result<Archive, Problem> {
    app.pipeline
        .archive()
        .ok_or_else(|| Problem::new(code::ARCHIVE_OFF, "this host has no archive, or has not reached it yet"))
}

/// A table of the archive.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ArchivedTable {
    /// Its name, `<tenant>_<stream>_events`, `…_alerts` or `…_letters`.
    name: String,
    /// Whose it is.
    tenant: String,
    /// The stream.
    stream: String,
    /// `events`, `alerts` or `letters`.
    kind: String,
    /// Rows.
    rows: u64,
    /// Data files.
    files: u64,
    /// Bytes of the data files.
    bytes: u64,
    /// The newest snapshot's id.
    snapshot: Option<String>,
    /// When it was made.
    committed_at: Option<String>,
    /// How many snapshots can be read.
    snapshots: u64,
    /// Where its files are.
    location: String,
    /// The file of its newest metadata, for engines that read without a catalog.
    metadata: Option<String>,
    /// Its columns, when one table is asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    columns: Vec<ArchivedColumn>,
    /// What its files are divided by, when one table is asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    partitioned_by: Vec<String>,
    /// How far each partition of its source is archived, when one table is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<Value>,
}

/// A column of a table.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ArchivedColumn {
    /// Its name.
    name: String,
    /// Its type, in Iceberg's words.
    #[serde(rename = "type")]
    of_type: String,
    /// Whether it is never null.
    required: bool,
}

/// A snapshot of a table.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Snapshot {
    /// Its id, for `FOR VERSION AS OF`.
    id: String,
    /// When it was made.
    at: String,
    /// What was done: `append`, `replace`, `delete`, `overwrite`.
    operation: String,
    /// Whether it is what queries read now.
    current: bool,
    /// Rows that it has.
    rows: u64,
    /// Data files that it has.
    files: u64,
    /// Bytes of its data files.
    bytes: u64,
    /// Rows that it added.
    added_rows: u64,
    /// Files that it added.
    added_files: u64,
}

impl ArchivedTable {
    fn of(described: describe::Described) -> Self {
        Self {
            name: described.name,
            tenant: described.tenant,
            stream: described.stream,
            kind: described.kind,
            rows: described.rows,
            files: described.files,
            bytes: described.bytes,
            snapshot: described.snapshot,
            committed_at: described.committed_at.map(|at| at.to_string()),
            snapshots: described.snapshots,
            location: described.location,
            metadata: described.metadata,
            columns: Vec::new(),
            partitioned_by: Vec::new(),
            progress: None,
        }
    }
}

/// The tables that the key opens.
#[utoipa::path(
    get, path = "/v1/archive/tables", tag = "archive", params(Paging),
    responses(
        (status = 200, description = "the tables, by name", body = Page<ArchivedTable>),
        (status = 503, description = "there is no archive, or it does not answer", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn tables(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<ArchivedTable>>, Problem> {
    let archive = of(&app)?;
    let names = archive.catalog().list().await?;
    let names = names.into_iter().filter_map(|name| name.parse::<TableName>().ok());
    let page = paging.cut(names.filter(|name| caller.sees(&name.tenant)), TableName::to_string);
    let mut items = Vec::with_capacity(page.items.len());
    for name in page.items {
        // One that is dropped just now is gone.
        if let Some(table) = archive.catalog().load(&name.to_string()).await? {
            items.push(ArchivedTable::of(describe::describe(&name, &table)));
        }
    }
    Ok(Json(Page { items, next: page.next }))
}

/// A table, with its columns and how far its source is archived.
#[utoipa::path(
    get, path = "/v1/archive/tables/{table}", tag = "archive", params(("table" = String, Path)),
    responses(
        (status = 200, description = "the table", body = ArchivedTable),
        (status = 404, description = "no such table", body = Document),
        (status = 503, description = "there is no archive, or it does not answer", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn table(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(table): Path<String>,
) -> Result<Json<ArchivedTable>, Problem> {
    let (name, table) = known(&app, &caller, &table).await?;
    let describe::Detailed { table, columns, partitioned_by, progress } = describe::detail(&name, &table);
    let column = |describe::Column { name, of_type, required }| ArchivedColumn { name, of_type, required };
    let columns = columns.into_iter().map(column).collect();
    Ok(Json(ArchivedTable { columns, partitioned_by, progress, ..ArchivedTable::of(table) }))
}

/// The snapshots of a table, the newest first.
#[utoipa::path(
    get, path = "/v1/archive/tables/{table}/snapshots", tag = "archive", params(("table" = String, Path), Paging),
    responses(
        (status = 200, description = "the snapshots", body = Page<Snapshot>),
        (status = 404, description = "no such table", body = Document),
        (status = 503, description = "there is no archive, or it does not answer", body = Document),
    ),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn snapshots(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(table): Path<String>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<Snapshot>>, Problem> {
    let (_, table) = known(&app, &caller, &table).await?;
    let all = describe::snapshots(table.metadata()).into_iter().map(|taken| Snapshot {
        id: taken.id,
        at: taken.at.to_string(),
        operation: taken.operation,
        current: taken.current,
        rows: taken.rows,
        files: taken.files,
        bytes: taken.bytes,
        added_rows: taken.added_rows,
        added_files: taken.added_files,
    });
    // The newest stands first: the cursor is the last one that was shown.
    let mut rest = all.skip_while(|item| paging.cursor.as_ref().is_some_and(|cursor| item.id != *cursor));
    if paging.cursor.is_some() {
        rest.next();
    }
    let mut rest = rest.peekable();
    let items: Vec<Snapshot> = rest.by_ref().take(paging.limit()).collect();
    let next = rest.peek().and_then(|_| items.last()).map(|item| item.id.clone());
    Ok(Json(Page { items, next }))
}

async fn known(app: &App, caller: &Caller, name: &str) -> Result<(TableName, phronis_archive::Table), Problem> {
    let unknown =
        || Problem::not_found(format_args!("table `{name}`")).hint("`GET /v1/archive/tables` lists the tables");
    let parsed: TableName = name.parse().map_err(|_| unknown())?;
    if !caller.sees(&parsed.tenant) {
        return Err(unknown());
    }
    let table = of(app)?.catalog().load(name).await?;
    Ok((parsed, table.ok_or_else(unknown)?))
}

impl From<phronis_archive::Error> for Problem {
    fn from(error: phronis_archive::Error) -> Self {
        tracing::warn!(%error, "the archive could not be read");
        Self::new(code::QUERY_FAILED, format!("the archive could not be read: {error}")).retry_after(5)
    }
}
