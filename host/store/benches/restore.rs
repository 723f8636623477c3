//! How long a host takes at start to learn who is halted: 50 000 agents, from SQLite and from a PostgreSQL of its own.
//!
//! Each figure is the median of nine, on connections that are open; the page cache is warm, as it is after a restart.

use std::time::{Duration, Instant};

use phronis_store::conformance::server::Server;
use phronis_store::{Options, Postgres, Store};
use sqlx::{Connection as _, SqliteConnection};

const AGENTS: usize = 50_000;

const ROW: &str = "'default', 'agent', 'agent-' || n, 'agent-' || n, 'halted', 3,
    'more than 500 tool calls in a minute', 'plugin high-rate', NULL, 1732276800000000 + n, NULL, NULL";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure())
}

async fn measure() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("store.sqlite");
    let store = Store::open(&Options::Sqlite(path.clone())).await?;
    let mut db = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await?;
    let numbers = format!("WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {AGENTS})");
    let insert = format!("INSERT INTO agents {numbers} SELECT {ROW} FROM s");
    sqlx::raw_sql(sqlx::AssertSqlSafe(insert)).execute(&mut db).await?;
    report("SQLite", &store).await?;

    let server = Server::start()?;
    let store = Store::open(&Options::Postgres(Postgres::new(server.url().parse()?))).await?;
    server.sql(&format!("INSERT INTO phronis.agents SELECT {ROW} FROM generate_series(1, {AGENTS}) AS s(n)"))?;
    report("PostgreSQL", &store).await
}

async fn report(name: &str, store: &Store) -> Result<(), Box<dyn std::error::Error>> {
    let mut taken = Vec::new();
    for _ in 0..9 {
        let began = Instant::now();
        let found = store.halts().await?.len();
        taken.push(began.elapsed());
        if found != AGENTS {
            return Err(format!("{found} agents came back").into());
        }
    }
    taken.sort_unstable();
    let median: Duration = taken.get(taken.len() / 2).copied().unwrap_or_default();
    println!("{name}: {AGENTS} halted agents in {} ms", median.as_millis());
    Ok(())
}
