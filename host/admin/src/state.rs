//! What all handlers share: the pipeline's handle, the rules, and the budgets that bound what requests may hold.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use phronis_archive::query::Engine;
use phronis_pipeline::Handle;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};

use crate::access::Keyring;
use crate::browser::Rules;
use crate::once::Answers;
use crate::options::Options;
use crate::problem::Problem;

/// Shared by all handlers; cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

pub(crate) struct Shared {
    /// The pipeline.
    pub(crate) pipeline: Handle,
    /// Who may do what.
    pub(crate) keys: Keyring,
    /// Which Host and Origin are ours.
    pub(crate) browsers: Rules,
    /// Whether only this machine can reach the host.
    pub(crate) is_loopback: bool,
    /// Bytes of request bodies that may still come into memory.
    pub(crate) body_bytes: Arc<Semaphore>,
    /// Requests that may split and check bodies at a time.
    pub(crate) ingests: Arc<Semaphore>,
    /// Log readers that may still be opened.
    pub(crate) readers: Arc<Semaphore>,
    /// Live streams that may still be opened.
    pub(crate) listeners: Arc<Semaphore>,
    /// Guards that may still listen.
    pub(crate) guards: Arc<Semaphore>,
    /// Answers to requests that are carried out once.
    pub(crate) answers: Answers,
    /// What answers queries, once one was asked.
    pub(crate) queries: Mutex<Option<Arc<Engine>>>,
    /// The OpenAPI document without the streams' event schemas.
    pub(crate) openapi: Value,
    /// What was configured.
    pub(crate) options: Options,
    /// Turns true when the server is told to stop: endless answers end then.
    pub(crate) stopping: watch::Receiver<bool>,
}

impl App {
    pub(crate) fn new(
        options: Options,
        local: SocketAddr,
        pipeline: Handle,
        openapi: Value,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        // Splitting takes CPU and may wait for the log: more at a time than cores only grows the queue.
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let permits = |wanted: usize| Arc::new(Semaphore::new(wanted.min(Semaphore::MAX_PERMITS)));
        Self(Arc::new(Shared {
            pipeline,
            keys: Keyring::new(options.keys.clone()),
            browsers: Rules::new(local, &options.allowed_hosts, &options.allowed_origins),
            is_loopback: local.ip().is_loopback(),
            body_bytes: permits(options.max_in_flight),
            ingests: permits(cores.saturating_mul(4)),
            readers: permits(options.max_readers),
            listeners: permits(options.max_listeners),
            guards: permits(options.max_guards),
            answers: Answers::default(),
            queries: Mutex::new(None),
            openapi,
            options,
            stopping,
        }))
    }
}

impl App {
    /// Asks the pipeline something that may wait for the log, off the async threads.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Handle) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let pipeline = self.pipeline.clone();
        let asking = tokio::task::spawn_blocking(move || question(&pipeline)).await;
        asking.map_err(|error| Problem::internal("asking the pipeline", &error))
    }
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// Resolves when the server is told to stop.
pub(crate) async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that the server is gone: stopped as well.
    drop(stopping.wait_for(|is_stopping| *is_stopping).await);
}
