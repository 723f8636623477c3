//! What topics there are: `GET /v1/topics`. Which topics a caller may know of is decided here, for records too.

use std::collections::BTreeSet;

use axum::extract::{Extension, State};
use axum::response::Json;
use phronis_core::partition::Topics;
use phronis_core::records::TopicName;
use serde::Serialize;
use utoipa::ToSchema;

use crate::access::Caller;
use crate::problem::Problem;
use crate::state::App;

/// All topics.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct List {
    /// The topics, by name.
    items: Vec<Topic>,
}

/// A topic.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Topic {
    /// Its name.
    name: String,
    /// Its partitions.
    partitions: Vec<Partition>,
}

/// What a partition holds.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Partition {
    /// Its number, from 0.
    partition: i32,
    /// Offset of the oldest record that is still there.
    earliest: i64,
    /// Offset that the next record will get.
    latest: i64,
    /// Bytes stored.
    bytes: Option<u64>,
}

/// All topics that the key opens.
#[utoipa::path(
    get, path = "/v1/topics", tag = "topics",
    responses((status = 200, description = "the topics", body = List)),
    security(("key" = []), ("bearer" = [])),
)]
pub(crate) async fn list(State(app): State<App>, Extension(caller): Extension<Caller>) -> Result<Json<List>, Problem> {
    let log = app.pipeline.log();
    let listing = tokio::task::spawn_blocking(move || log.topics()).await;
    let mut topics = listing.map_err(|error| Problem::internal("listing the topics", &error))??;
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    let readable = Readable::by(&app, &caller);
    let items = topics.into_iter().filter(|topic| readable.has(&topic.name)).map(|topic| Topic {
        name: topic.name.to_string(),
        partitions: (0..)
            .zip(topic.partitions)
            .map(|(partition, info)| Partition {
                partition,
                earliest: info.earliest,
                latest: info.latest,
                bytes: info.bytes,
            })
            .collect(),
    });
    Ok(Json(List { items: items.collect() }))
}

/// The topics that a caller may read: those of streams that they see, or all with a key of all tenants.
///
/// A topic that streams of several tenants share is for keys of all tenants alone.
pub(crate) struct Readable {
    own: BTreeSet<TopicName>,
    has_all: bool,
}

impl Readable {
    pub(crate) fn by(app: &App, caller: &Caller) -> Self {
        if caller.sees_all() {
            return Self { own: BTreeSet::new(), has_all: true };
        }
        let mut own = BTreeSet::new();
        let mut others = BTreeSet::new();
        for (id, topics) in app.pipeline.topics() {
            let Topics { raw, processed, alerts, dlq, retry, state } = topics;
            let side = if caller.sees(&id.tenant) { &mut own } else { &mut others };
            side.extend([raw, processed, alerts, dlq, retry, state]);
        }
        own.retain(|topic| !others.contains(topic));
        Self { own, has_all: false }
    }

    pub(crate) fn has(&self, topic: &str) -> bool {
        self.has_all || self.own.contains(topic)
    }
}
