//! The handle: which database, whether it can be reached, and the time limit of every call.
//!
//! A watcher asks PostgreSQL every second whether it is there, and oftener while it is not. While it is known to be away,
//! calls fail at once instead of waiting each for itself.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use sqlx::SqlitePool;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, watch};
use tokio::time::{sleep, timeout};

use crate::audit::Backlog;
use crate::database::Pool;
use crate::options::{Options, Postgres};
use crate::{Error, Result, postgres, sqlite};

/// How often PostgreSQL is asked whether it is there.
const BEAT: Duration = Duration::from_secs(1);

/// How often it is asked while it is away.
const KNOCK: Duration = Duration::from_millis(200);

/// Longest time that SQLite may take: the disk may be busy, but is not far away.
const LOCAL: Duration = Duration::from_secs(10);

/// How long a call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// As long as is configured: two seconds.
    Short,
    /// For loads of everything, at start.
    Long,
}

/// A handle of the store. Clones share it; it is closed when the last is dropped.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    backend: Backend,
    health: watch::Sender<Option<Error>>,
    runtime: Handle,
    /// Rows of the audit that wait for the store.
    backlog: Backlog,
}

enum Backend {
    Sqlite { pool: SqlitePool, path: PathBuf },
    Postgres { options: Postgres, pool: RwLock<sqlx::PgPool>, is_migrated: OnceCell<()> },
}

impl Store {
    /// Opens the store and brings its tables up to date. PostgreSQL may be away: its tables are seen to when it comes.
    ///
    /// The store lives on the runtime that this is called on, which must have worker threads of its own for [`Store::wait`].
    ///
    /// # Errors
    /// A file that cannot be opened, is damaged or of another program; a database that a newer version made.
    pub async fn open(options: &Options) -> Result<Self> {
        let backend = match options {
            Options::Sqlite(path) => Backend::Sqlite { pool: sqlite::open(path).await?, path: path.clone() },
            Options::Postgres(options) => Backend::Postgres {
                pool: RwLock::new(postgres::pool(options)),
                options: options.clone(),
                is_migrated: OnceCell::new(),
            },
        };
        let (health, runtime) = (watch::Sender::new(None), Handle::current());
        let store = Self(Arc::new(Inner { backend, health, runtime, backlog: Backlog::default() }));
        if matches!(options, Options::Postgres(_)) {
            match store.knock().await {
                Err(error @ Error::Newer { .. }) => return Err(error),
                Err(error) => tracing::warn!(%error, store = %options, "going on without the store until it answers"),
                Ok(()) => {}
            }
            tokio::spawn(watch_over(Arc::downgrade(&store.0)));
        }
        Ok(store)
    }

    /// Looks whether a store answers and can be used, and makes and changes nothing.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub async fn look(options: &Options) -> Result<()> {
        match options {
            Options::Sqlite(path) => sqlite::look(path).await,
            Options::Postgres(options) => match timeout(options.patience, postgres::look(options)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Error::Unreachable { reason: "no answer in time".to_owned() }),
            },
        }
    }

    /// Whether the store answered when it was last asked; asks nobody.
    ///
    /// # Errors
    /// What it answered instead.
    pub fn health(&self) -> Result<()> {
        self.0.health.borrow().clone().map_or(Ok(()), Err)
    }

    /// Tells when the answer of [`Store::health`] changes: who wrote nothing while the store was away does so now.
    pub fn watch_health(&self) -> watch::Receiver<Option<Error>> {
        self.0.health.subscribe()
    }

    /// Asks the store whether it is there, also while it is known to be away.
    ///
    /// # Errors
    /// That it is not.
    pub async fn knock(&self) -> Result<()> {
        let outcome = match self.pool() {
            Pool::Sqlite(pool) => {
                self.limited("asking the store", Patience::Short, async move {
                    sqlx::query("SELECT 1").execute(&pool).await.map(drop)
                })
                .await
            }
            Pool::Postgres(pool) => {
                self.limited("asking the store", Patience::Short, async move {
                    sqlx::query("SELECT 1").execute(&pool).await.map(drop)
                })
                .await
            }
        };
        self.note(&outcome);
        outcome
    }

    /// Waits for a call, on a thread that is no worker of a runtime.
    pub fn wait<T>(&self, call: impl Future<Output = T>) -> T {
        self.0.runtime.block_on(call)
    }

    /// Does something beside the caller.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.0.runtime.spawn(work));
    }

    /// Where the store is, without secrets.
    pub fn place(&self) -> String {
        match &self.0.backend {
            Backend::Sqlite { path, .. } => path.display().to_string(),
            Backend::Postgres { options, .. } => options.url.to_string(),
        }
    }

    /// Closes all connections, and waits until they are; not for one that never answers.
    pub async fn close(&self) {
        let closing = async {
            match self.pool() {
                Pool::Sqlite(pool) => pool.close().await,
                Pool::Postgres(pool) => pool.close().await,
            }
        };
        if timeout(self.limit(Patience::Short), closing).await.is_err() {
            tracing::debug!("a connection of the store was left open");
        }
    }

    /// Rows of the audit that wait.
    pub(crate) fn backlog(&self) -> &Backlog {
        &self.0.backlog
    }

    /// The connections of now.
    pub(crate) fn pool(&self) -> Pool {
        match &self.0.backend {
            Backend::Sqlite { pool, .. } => Pool::Sqlite(pool.clone()),
            Backend::Postgres { pool, .. } => {
                Pool::Postgres(pool.read().unwrap_or_else(PoisonError::into_inner).clone())
            }
        }
    }

    /// Does the work of one call, when the store is there and its tables are.
    ///
    /// # Cancel safety
    /// What was begun and not committed is rolled back; whether a commit under way took place is not known.
    pub(crate) async fn call<T>(&self, doing: &'static str, patience: Patience, work: Work<'_, T>) -> Result<T> {
        // Only PostgreSQL has a watcher that notices when this is over.
        if let (Backend::Postgres { .. }, Err(error @ (Error::Unreachable { .. } | Error::Newer { .. }))) =
            (&self.0.backend, self.health())
        {
            return Err(error);
        }
        let outcome = self.limited(doing, patience, work).await;
        self.note(&outcome);
        outcome
    }

    async fn limited<T>(
        &self,
        doing: &'static str,
        patience: Patience,
        work: impl Future<Output = sqlx::Result<T>>,
    ) -> Result<T> {
        let limit = self.limit(patience);
        let whole = async {
            self.be_ready().await?;
            work.await.map_err(|error| self.meaning(doing, error))
        };
        match timeout(limit, whole).await {
            Ok(outcome) => outcome,
            Err(_) => {
                self.renew();
                Err(Error::Unreachable { reason: format!("no answer within {} s", limit.as_secs_f32()) })
            }
        }
    }

    fn limit(&self, patience: Patience) -> Duration {
        match (&self.0.backend, patience) {
            (Backend::Sqlite { .. }, _) => LOCAL,
            (Backend::Postgres { options, .. }, Patience::Short) => options.patience,
            (Backend::Postgres { options, .. }, Patience::Long) => options.patience.saturating_mul(15),
        }
    }

    async fn be_ready(&self) -> Result<()> {
        let Backend::Postgres { options, is_migrated, .. } = &self.0.backend else { return Ok(()) };
        let Pool::Postgres(pool) = self.pool() else { return Ok(()) };
        is_migrated.get_or_try_init(|| Box::pin(postgres::migrate(options, &pool))).await.copied()
    }

    fn meaning(&self, doing: &'static str, error: sqlx::Error) -> Error {
        match &self.0.backend {
            Backend::Sqlite { path, .. } => sqlite::meaning(path, doing, error),
            Backend::Postgres { .. } => postgres::meaning(doing, error),
        }
    }

    /// Forgets all connections: one that does not answer would be given back and asked for an answer once more.
    fn renew(&self) {
        if let Backend::Postgres { options, pool, .. } = &self.0.backend {
            *pool.write().unwrap_or_else(PoisonError::into_inner) = postgres::pool(options);
        }
    }

    fn note<T>(&self, outcome: &Result<T>) {
        let now = outcome.as_ref().err();
        self.0.health.send_if_modified(|known| {
            let told = |error: &Error| error.to_string();
            let is_news = known.as_ref().map(told) != now.map(told);
            match (&known, now) {
                (None, Some(error)) => tracing::warn!(code = %error.code(), %error, "the store does not serve"),
                (Some(_), None) => tracing::info!("the store serves again"),
                _ => {}
            }
            known.clone_from(&now.cloned());
            is_news
        });
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("place", &self.place()).finish_non_exhaustive()
    }
}

/// What a call does.
pub(crate) type Work<'a, T> = Pin<Box<dyn Future<Output = sqlx::Result<T>> + Send + 'a>>;

async fn watch_over(inner: Weak<Inner>) {
    loop {
        let Some(store) = inner.upgrade().map(Store) else { return };
        let pause = if store.knock().await.is_ok() { BEAT } else { KNOCK };
        drop(store);
        sleep(pause).await;
    }
}
