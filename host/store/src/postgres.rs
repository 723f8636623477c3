//! PostgreSQL: connections that never wait for long, migrations that several hosts may start at once, and what errors mean.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgPool};

use crate::database::{Begin as _, of_postgres};
use crate::options::Postgres;
use crate::sqlite::{NEWEST, of_migration, refuse_newer};
use crate::{Error, Result};

/// What the server itself cuts off: statements whose host has given up on them, and transactions whose host is gone.
const SERVER_LIMITS: [(&str, &str); 3] =
    [("statement_timeout", "30s"), ("lock_timeout", "5s"), ("idle_in_transaction_session_timeout", "10s")];

/// "phronis" on a telephone: the same for all hosts.
const LOCK: i64 = 0x0074_7664_7747;

/// Connections that are made when they are needed.
pub(crate) fn pool(postgres: &Postgres) -> PgPool {
    let options = PgConnectOptions::clone(&postgres.url.options)
        .application_name("phronis")
        .options(SERVER_LIMITS)
        .options([("search_path", postgres.schema.as_str())])
        .disable_statement_logging();
    PgPoolOptions::new()
        .max_connections(postgres.connections)
        .acquire_timeout(postgres.patience.mul_f32(0.75))
        .idle_timeout(Duration::from_secs(600))
        .connect_lazy_with(options)
}

/// Makes the schema and brings its tables up to date, in one transaction behind a lock.
pub(crate) async fn migrate(postgres: &Postgres, pool: &PgPool) -> Result<()> {
    let doing = "bringing the store's tables up to date";
    let failed = |error| meaning(doing, error);
    let mut transaction = pool.write().await.map_err(failed)?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *transaction).await.map_err(failed)?;
    // Asked first: who may not create schemas may use one that is there.
    let found: Option<i32> = sqlx::query_scalar("SELECT 1 FROM pg_namespace WHERE nspname = $1")
        .bind(&postgres.schema)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(failed)?;
    if found.is_none() {
        let create = format!("CREATE SCHEMA \"{}\"", postgres.schema.replace('"', "\"\""));
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut *transaction).await.map_err(failed)?;
    }
    let migrated = of_postgres().run_direct(None, &mut *transaction, false).await;
    migrated.map_err(|error| of_migration(error, &postgres.url.to_string(), failed))?;
    transaction.commit().await.map_err(failed)
}

/// Looks whether the database can be used, and makes nothing.
pub(crate) async fn look(postgres: &Postgres) -> Result<()> {
    let failed = |error| meaning("looking at the store", error);
    let pool = pool(postgres);
    let found: Option<String> =
        sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations')::text").fetch_one(&pool).await.map_err(failed)?;
    let mut newest = None;
    if found.is_some() {
        newest = sqlx::query_scalar(NEWEST).fetch_one(&pool).await.map_err(failed)?;
    }
    pool.close().await;
    refuse_newer(&postgres.url.to_string(), newest)
}

/// What an error of PostgreSQL, or of the way to it, means to the store.
pub(crate) fn meaning(doing: &'static str, error: sqlx::Error) -> Error {
    let sqlx::Error::Database(database) = &error else {
        return match error {
            sqlx::Error::PoolTimedOut => Error::Unreachable { reason: "no connection in time".to_owned() },
            sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
                Error::Unreachable { reason: "the connection was given up".to_owned() }
            }
            sqlx::Error::Io(error) => Error::Unreachable { reason: error.to_string() },
            sqlx::Error::Protocol(reason) => Error::Unreachable { reason },
            sqlx::Error::Tls(error) => Error::Refused { reason: format!("TLS: {}", deepest(error.as_ref())) },
            sqlx::Error::Configuration(error) => Error::Refused { reason: error.to_string() },
            error => Error::Failed { doing, source: Arc::new(error) },
        };
    };
    let reason = database.message().to_owned();
    let code = database.code().unwrap_or_default();
    match (code.get(..2).unwrap_or_default(), &*code) {
        // Starting, stopping, too many connections, too slow: https://www.postgresql.org/docs/current/errcodes-appendix.html.
        ("08" | "57", _) | (_, "53300" | "55P03" | "25P03") => Error::Unreachable { reason },
        // Who it is, which database, what it may do; a standby takes no writes.
        ("28" | "3D" | "3F", _) | (_, "42501" | "25006") => Error::Refused { reason },
        (_, "53100") => Error::Full { reason },
        _ => Error::Failed { doing, source: Arc::new(error) },
    }
}

/// What lies behind an error that only says that something failed.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
