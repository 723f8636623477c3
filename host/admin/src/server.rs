//! The listener: accepts connections, bounds them, and ends them in good order.
//!
//! HTTP/1.1 only: it needs no TLS to negotiate, and its cost for each connection is small and known.

use std::future::Future;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use phronis_pipeline::Handle;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use crate::connection::Impatient;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::routes;
use crate::state::{App, stopped};

/// Largest head of a request. Our longest is a query with a few names; browsers send 1 to 2 KiB of headers.
const MAX_HEAD_BYTES: usize = 32 << 10;

/// How often histograms are folded, so that they do not grow when nobody scrapes.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// A server that has its port and does not serve yet.
pub struct Server {
    listener: TcpListener,
    local: SocketAddr,
    app: App,
    router: Router,
    stop: watch::Sender<bool>,
}

impl Server {
    /// Takes the port.
    ///
    /// # Errors
    /// [`Error::KeyNeeded`] without keys on an address that others can reach, [`Error::PortTaken`], [`Error::Bind`].
    pub fn bind(options: Options, pipeline: Handle) -> Result<Self> {
        let address = options.listen;
        if options.keys.is_empty() && !address.ip().is_loopback() {
            return Err(Error::KeyNeeded { address });
        }
        let bind = |source: std::io::Error| match source.kind() {
            ErrorKind::AddrInUse => Error::PortTaken { address },
            _ => Error::Bind { address, source },
        };
        let listener = TcpListener::bind(address).map_err(bind)?;
        listener.set_nonblocking(true).map_err(bind)?;
        let local = listener.local_addr().map_err(bind)?;
        let (stop, stopping) = watch::channel(false);
        let (router, openapi) = routes::all();
        let app = App::new(options, local, pipeline, openapi, stopping);
        let router = routes::layered(router, &app);
        Ok(Self { listener, local, app, router, stop })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Serves until `shutdown` resolves; then takes no more connections, ends endless answers,
    /// and waits for the others as long as [`Options::drain_for`].
    ///
    /// # Cancel safety
    /// Dropping it closes all connections at once.
    ///
    /// # Errors
    /// [`Error::Listener`] when the socket cannot be used.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener).map_err(Error::Listener)?;
        let places = Arc::new(Semaphore::new(self.app.options.max_connections));
        let mut connections = JoinSet::new();
        let mut upkeep = interval(METRICS_UPKEEP);
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                _ = upkeep.tick() => self.app.options.metrics.run_upkeep(),
                Some(_) = connections.join_next() => {}
                accepted = accept(&listener, &places) => {
                    if let Some((socket, place)) = accepted {
                        let stopping = stopped(self.app.stopping.clone());
                        connections.spawn(serve(socket, place, self.router.clone(), self.app.clone(), stopping));
                    }
                }
            }
        }
        drop(listener);
        self.stop.send_replace(true);
        let ended = timeout(self.app.options.drain_for, async { while connections.join_next().await.is_some() {} });
        if ended.await.is_err() {
            tracing::warn!(connections = connections.len(), "requests are still open after draining: cutting them off");
            connections.shutdown().await;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("local", &self.local).finish_non_exhaustive()
    }
}

/// The next connection, once there is a place for it. `None` when accepting failed; the caller tries again.
async fn accept(
    listener: &tokio::net::TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((socket, _)) => Some((socket, place)),
        Err(error) => {
            // Out of file descriptors, mostly: waiting gives others time to close theirs.
            if !matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(200)).await;
            }
            None
        }
    }
}

async fn serve(
    socket: TcpStream,
    place: OwnedSemaphorePermit,
    router: Router,
    app: App,
    stopping: impl Future<Output = ()>,
) {
    // Alerts are small and must leave at once.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "the connection is gone already");
        return;
    }
    let socket = TokioIo::new(Impatient::new(socket, app.options.stall_timeout));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.options.head_timeout)
        .max_header_size(MAX_HEAD_BYTES)
        .serve_connection(socket, TowerToHyperService::new(router));
    tokio::pin!(connection, stopping);
    let outcome = tokio::select! {
        outcome = &mut connection => outcome,
        () = &mut stopping => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended early");
    }
    drop(place);
}
