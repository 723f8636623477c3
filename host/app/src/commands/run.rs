//! `phronis run`: a host, from its configuration to its orderly end.
//!
//! The parts are started and ended here and nowhere else: log, engine, pipeline, HTTP server.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Once;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use phronis_core::{StreamId, code, time::Time};
use phronis_pipeline::{Node, Pipeline, Role, TopicPolicy};
use phronis_store::Store;

use super::{ConfigArgs, wiring};
use crate::config::{Config, HostFile};
use crate::eventlog::{EventLog, within};
use crate::failure::{Exit, Failure, Outcome};
use crate::signals::Shutdown;
use crate::{node, topics};

/// Upper bounds of duration histograms, in seconds: from a fast batch to an outage.
const BUCKETS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Threads that serve HTTP. The data plane has its own; requests are short.
const HTTP_THREADS: usize = 2;

/// How long a start waits for Kafka to say which topics there are. A host that cannot ask starts all the same.
const ASK_WITHIN: Duration = Duration::from_secs(5);

/// How long an orderly end may take. Twice what a log that is away keeps a delivery waiting;
/// what is lost by ending hard is only work, which the next start does again.
const END_WITHIN: Duration = Duration::from_secs(30);

/// Run a host
///
/// Without a configuration: the streams `sensors` and `agents` on 127.0.0.1:8000, data in ./phronis-data.
/// SIGTERM and Ctrl-C end it orderly: what was taken is judged and committed. A second signal ends it at once.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Run only these parts of a host: process, alert, serve, retry, archive. On Kafka alone; the embedded log has one process
    #[arg(long, value_name = "ROLE", value_delimiter = ',')]
    pub role: Vec<Role>,
}

/// Runs a host until it is told to end.
pub fn run(args: Args) -> Outcome {
    let config = args.config.load()?;
    if !args.role.is_empty() && config.log.kafka().is_none() {
        return Err(Failure::usage("--role: the embedded log belongs to one process, which runs all roles")
            .next("leave out --role, or use Kafka: [log] kind = \"kafka\""));
    }
    crate::allocator::prepare(config.archive.is_some());
    crate::logging::start(&config.logging);
    let metrics = install_metrics()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(HTTP_THREADS)
        .thread_name("http")
        .enable_all()
        .build()
        .map_err(failed)?;
    let shutdown = {
        let _inside = runtime.enter();
        Shutdown::on_signals().map_err(failed)?
    };
    let node_id = node::name(&config)?;
    let log = EventLog::open(&config, &node_id)?;
    expect_topics(&config, &log, &args.config.files)?;
    watch_the_end(&runtime, &shutdown, config.data_dir.clone());
    let store = runtime.block_on(Store::open(&config.store.options()))?;
    let pipeline = start_pipeline(&config, &log, store.clone(), node_id, &args.role)?;
    let served = serve(&config, &pipeline, metrics, &runtime, &shutdown);
    end_in_time(config.data_dir.clone());
    pipeline.stop();
    runtime.block_on(store.close());
    log.close();
    HostFile::remove(&config.data_dir);
    match &served {
        Ok(_) => tracing::info!("ended: what was taken is judged and committed"),
        Err(failure) => tracing::error!(code = failure.code, "ended: {}", failure.message),
    }
    served
}

/// Looks whether Kafka has all topics, before anything is started. Without an answer the host starts and waits for Kafka.
fn expect_topics(config: &Config, log: &EventLog, files: &[PathBuf]) -> Result<(), Failure> {
    let Some(kafka) = config.log.kafka() else { return Ok(()) };
    let (port, wanted) = (log.port(), topics::wanted(config));
    let found = match within(ASK_WITHIN, move || topics::look_up(port.as_ref(), wanted)) {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => return without_answer(&kafka.bootstrap.0, &error.to_string()),
        Err(failure) => return without_answer(&kafka.bootstrap.0, &failure.message),
    };
    let missing = topics::missing(&found);
    if !missing.is_empty() && !kafka.auto_create {
        return Err(super::topics::missing(&missing, &kafka.bootstrap.0, files));
    }
    for (topic, settings) in &found {
        for difference in settings.iter().flat_map(|settings| topics::differences(topic, settings)) {
            tracing::warn!(
                topic = %topic.spec.name, code = %code::TOPICS_DIFFER,
                "not as configured: {difference}; see `phronis topics check`"
            );
        }
    }
    Ok(())
}

fn without_answer(bootstrap: &str, reason: &str) -> Result<(), Failure> {
    let code = code::LOG_UNREACHABLE;
    tracing::warn!(%bootstrap, reason, %code, "Kafka does not answer yet: starting all the same, streams wait for it");
    Ok(())
}

/// Makes sure that an end that was asked for comes, also when a part of the host hangs.
fn watch_the_end(runtime: &tokio::runtime::Runtime, shutdown: &Shutdown, data_dir: PathBuf) {
    let shutdown = shutdown.clone();
    runtime.spawn(async move {
        shutdown.requested().await;
        end_in_time(data_dir);
    });
}

/// From now on, the process has so long to end by itself.
fn end_in_time(data_dir: PathBuf) {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        let watch = move || {
            std::thread::sleep(END_WITHIN);
            tracing::error!(
                seconds = END_WITHIN.as_secs(),
                "the orderly end takes too long, ending hard: what is under way is judged again at the next start"
            );
            HostFile::remove(&data_dir);
            std::process::exit(1);
        };
        if let Err(error) = std::thread::Builder::new().name("watchdog".to_owned()).spawn(watch) {
            tracing::warn!(%error, "nobody watches over the end");
        }
    });
}

fn serve(
    config: &Config,
    pipeline: &Pipeline,
    metrics: PrometheusHandle,
    runtime: &tokio::runtime::Runtime,
    shutdown: &Shutdown,
) -> Outcome {
    let server =
        phronis_admin::Server::bind(wiring::admin_options(config, metrics)?, pipeline.handle()).map_err(|error| {
            Failure::new(Exit::Refused, error.to_string())
                .next("choose another address with `[http] listen`, or end the other process")
        })?;
    let started_at = Time::from_millis(jiff::Timestamp::now().as_millisecond()).to_string();
    let host = HostFile { pid: std::process::id(), listen: server.local_addr(), started_at };
    host.write(&config.data_dir).map_err(failed)?;
    tracing::info!(
        url = %format!("http://{}", host.listen),
        data = %config.data_dir.display(),
        store = %config.store.options(),
        plugins = %config.plugins_dir.display(),
        streams = %names(config.streams.keys()),
        "phronis {} is up", env!("CARGO_PKG_VERSION"),
    );
    let handle = pipeline.handle();
    let mut fatal = None;
    let end = async {
        tokio::select! {
            () = shutdown.requested() => {}
            error = handle.fatal() => fatal = Some(error),
        }
    };
    runtime.block_on(server.run(end)).map_err(|error| failed(error.to_string()))?;
    fatal.map_or(Ok(Exit::Ok), |error| Err(pipeline_failure("the host cannot go on", error)))
}

fn start_pipeline(
    config: &Config,
    log: &EventLog,
    store: Store,
    node_id: String,
    roles: &[Role],
) -> Result<Pipeline, Failure> {
    let makes_topics = config.log.kafka().is_none_or(|kafka| kafka.auto_create);
    let options = phronis_pipeline::Options {
        streams: wiring::streams(config),
        plugins_dir: config.plugins_dir.clone(),
        state_dir: config.data_dir.join("plugins.good"),
        agents_file: config.data_dir.join("agents.halted"),
        store,
        archive: config.archive.as_ref().map(wiring::archive_options),
        node: Node { id: node_id, listen: announced(config.http.listen) },
        roles: if roles.is_empty() { Role::all() } else { roles.iter().copied().collect::<BTreeSet<_>>() },
        topics: if makes_topics { TopicPolicy::Create } else { TopicPolicy::Expect },
    };
    // A folder that is there is watched: what is dropped into it is live at once, and people see where to drop it.
    for id in config.streams.keys() {
        let folder = config.plugins_dir.join(id.tenant.as_str()).join(id.stream.as_str());
        match std::fs::create_dir_all(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
                tracing::warn!(folder = %folder.display(), "is not there, and the plugins folder is read-only");
            }
            outcome => outcome.map_err(failed)?,
        }
    }
    let engine = wiring::engine(config, &config.data_dir.join("cache"))?;
    Pipeline::start(options, log.port(), engine).map_err(|error| pipeline_failure("the pipeline cannot start", error))
}

/// The address that other hosts are told; a port that the system will choose is not known yet.
fn announced(listen: SocketAddr) -> Option<SocketAddr> {
    Some(listen).filter(|listen| listen.port() != 0)
}

fn pipeline_failure(what: &str, error: phronis_pipeline::Error) -> Failure {
    let message = format!("{what}: {error}");
    match error {
        phronis_pipeline::Error::Log(error) => Failure { message, ..Failure::from(error) },
        error => {
            let is_taken = error.code() == Some(code::NODE_ID_TAKEN);
            let failure = Failure::new(if is_taken { Exit::Refused } else { Exit::CheckFailed }, message);
            error.code().into_iter().fold(failure, Failure::code)
        }
    }
}

fn install_metrics() -> Result<PrometheusHandle, Failure> {
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), BUCKETS);
    let handle = builder.map_err(|error| failed(error.to_string()))?.install_recorder();
    let handle = handle.map_err(|error| failed(error.to_string()))?;
    metrics::gauge!("phronis_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::CheckFailed, error.to_string())
}

fn names<'a>(streams: impl Iterator<Item = &'a StreamId>) -> String {
    streams.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
