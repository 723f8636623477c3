//! Breakers as each host last knew them, so that an open one stays open through a restart.

use phronis_core::{PluginId, Time};
use serde_json::Value;
use sqlx::FromRow;

use crate::database::{Begin as _, count, int, strange, with};
use crate::store::Patience;
use crate::text::{stored, told};
use crate::{Result, Store};

/// The breaker of a plugin on a host.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The host.
    pub node: String,
    /// The plugin.
    pub plugin: PluginId,
    /// Its state, in the words of `core::breaker`.
    pub state: String,
    /// Since when it is open.
    pub opened_at: Option<Time>,
    /// When it lets something through to try.
    pub retry_at: Option<Time>,
    /// How often it opened without a sustained close between: the exponent of its open time.
    pub trips: u64,
    /// The numbers that opened it last.
    pub last_trip: Option<Value>,
}

impl Store {
    /// Stores breakers over what was known of them, in one transaction.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn save_breakers(&self, rows: &[Row]) -> Result<()> {
        with!(self, "storing the state of breakers", Patience::Short, |pool| {
            let mut tx = pool.write().await?;
            for row in rows {
                sqlx::query(
                    "INSERT INTO breakers (node, plugin, state, opened_at, retry_at, trips, last_trip)
                     VALUES ($1, $2, $3, $4, $5, $6, $7)
                     ON CONFLICT (node, plugin) DO UPDATE SET state = excluded.state, opened_at = excluded.opened_at,
                     retry_at = excluded.retry_at, trips = excluded.trips, last_trip = excluded.last_trip",
                )
                .bind(stored(&row.node))
                .bind(row.plugin.to_string())
                .bind(stored(&row.state))
                .bind(row.opened_at.map(|at| at.0))
                .bind(row.retry_at.map(|at| at.0))
                .bind(int(row.trips))
                .bind(row.last_trip.as_ref().map(Value::to_string))
                .execute(&mut *tx)
                .await?;
            }
            tx.commit().await
        })
    }

    /// The breakers of a host.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn load_breakers(&self, node: &str) -> Result<Vec<Row>> {
        with!(self, "reading the state of breakers", Patience::Short, |pool| {
            sqlx::query_as::<_, Stored>(
                "SELECT node, plugin, state, opened_at, retry_at, trips, last_trip FROM breakers
                 WHERE node = $1 ORDER BY plugin",
            )
            .bind(stored(node))
            .fetch_all(&pool)
            .await?
            .into_iter()
            .map(Stored::row)
            .collect::<sqlx::Result<Vec<Row>>>()
        })
    }
}

#[derive(Debug, FromRow)]
struct Stored {
    node: String,
    plugin: String,
    state: String,
    opened_at: Option<i64>,
    retry_at: Option<i64>,
    trips: i64,
    last_trip: Option<String>,
}

impl Stored {
    fn row(self) -> sqlx::Result<Row> {
        let last_trip = self.last_trip.map(|text| serde_json::from_str(&text).map_err(|_| strange("trip", text)));
        Ok(Row {
            node: told(self.node),
            plugin: self.plugin.parse().map_err(|_| strange("plugin", &self.plugin))?,
            state: told(self.state),
            opened_at: self.opened_at.map(Time),
            retry_at: self.retry_at.map(Time),
            trips: count(self.trips),
            last_trip: last_trip.transpose()?,
        })
    }
}
