//! `phronis run`: a host, from its configuration to its orderly end.
//!
//! The wiring of all parts stands here and nowhere else: log, engine, pipeline, HTTP server.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use phronis_core::plugin::Limits;
use phronis_core::{StreamId, time::Time};
use phronis_engine::{Compiler, Engine};
use phronis_log::{PollLimits, Retention, embedded};
use phronis_pipeline::{Pipeline, stream};

use super::ConfigArgs;
use crate::config::{self, Config, HostFile, OnMissing};
use crate::failure::{Exit, Failure, Outcome};
use crate::signals::Shutdown;

/// Upper bounds of duration histograms, in seconds: from a fast batch to an outage.
const BUCKETS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Threads that serve HTTP. The data plane has its own; requests are short.
const HTTP_THREADS: usize = 2;

/// Run a host
///
/// Without a configuration: the streams `sensors` and `agents` on 127.0.0.1:8000, data in ./phronis-data.
/// SIGTERM and Ctrl-C end it orderly: what was taken is judged and committed. A second signal ends it at once.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Run only these parts of a host (not on the embedded log, which has one process)
    #[arg(long, value_name = "ROLE", value_delimiter = ',')]
    pub role: Vec<String>,
}

/// Runs a host until it is told to end.
pub fn run(args: Args) -> Outcome {
    if !args.role.is_empty() {
        return Err(Failure::usage("--role: the embedded log belongs to one process, which runs all roles")
            .next("leave out --role"));
    }
    let config = args.config.load()?;
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
    let log = embedded::Log::open(config.log.options(&config.data_dir)).map_err(|error| log_failure(&error))?;
    let pipeline = start_pipeline(&config, log.clone())?;
    let served = serve(&config, &pipeline, metrics, &runtime, &shutdown);
    pipeline.stop();
    log.close();
    HostFile::remove(&config.data_dir);
    tracing::info!("ended: what was taken is judged and committed");
    served
}

fn serve(
    config: &Config,
    pipeline: &Pipeline,
    metrics: PrometheusHandle,
    runtime: &tokio::runtime::Runtime,
    shutdown: &Shutdown,
) -> Outcome {
    let server = phronis_admin::Server::bind(admin_options(config, metrics)?, pipeline.handle()).map_err(|error| {
        Failure::new(Exit::Refused, error.to_string())
            .next("choose another address with `[http] listen`, or end the other process")
    })?;
    let started_at = Time::from_millis(jiff::Timestamp::now().as_millisecond()).to_string();
    let host = HostFile { pid: std::process::id(), listen: server.local_addr(), started_at };
    host.write(&config.data_dir).map_err(failed)?;
    tracing::info!(
        url = %format!("http://{}", host.listen),
        data = %config.data_dir.display(),
        plugins = %config.plugins_dir.display(),
        streams = %names(config.streams.keys()),
        "phronis {} is up", env!("CARGO_PKG_VERSION"),
    );
    runtime.block_on(server.run(shutdown.requested())).map_err(|error| failed(error.to_string()))?;
    Ok(Exit::Ok)
}

fn start_pipeline(config: &Config, log: embedded::Log) -> Result<Pipeline, Failure> {
    let options = phronis_pipeline::Options {
        streams: config.streams.iter().map(|(id, stream)| stream_options(config, id, stream)).collect(),
        plugins_dir: config.plugins_dir.clone(),
        state_dir: config.data_dir.join("plugins.good"),
    };
    // A folder that is there is watched: what is dropped into it is live at once, and people see where to drop it.
    for id in config.streams.keys() {
        let folder = config.plugins_dir.join(id.tenant.as_str()).join(id.stream.as_str());
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let pipeline = Pipeline::start(options, Arc::new(log), engine(config, &config.data_dir.join("cache"))?);
    pipeline.map_err(|error| failed(format!("the pipeline cannot start: {error}")))
}

/// The engine of this host: compiles in a child process of this very program.
pub fn engine(config: &Config, cache: &Path) -> Result<Engine, Failure> {
    let program = std::env::current_exe().map_err(failed)?;
    let compiler = Compiler::new(program, ["compile-component"]);
    let mut options = phronis_engine::Options::new(cache, compiler);
    options.ceiling = highest_ceiling(config);
    Engine::new(options).map_err(|error| failed(error.to_string()))
}

fn stream_options(config: &Config, id: &StreamId, stream: &config::Stream) -> stream::Options {
    let tenant = config.tenant(&id.tenant);
    let retention = |retention: &config::streams::Retention| Retention {
        age: retention.age,
        bytes: retention.bytes.map(|bytes| bytes.0),
        compact: false,
    };
    let may_halt: BTreeSet<_> =
        stream.plugins.iter().filter(|(_, plugin)| plugin.may_halt).map(|(name, _)| name.clone()).collect();
    let mut options = stream::Options::new(id.clone(), Arc::clone(&stream.contract));
    options.topics = stream.topics.clone();
    options.partitions = stream.partitions;
    options.workers = stream.workers;
    options.batch = PollLimits {
        records: stream.batch_records,
        bytes: usize::try_from(stream.batch_bytes.0).unwrap_or(usize::MAX),
    };
    options.retention = retention(&stream.retention);
    options.letters_retention = retention(&stream.letters_retention);
    options.holds_when_missing = stream.on_missing == OnMissing::Hold;
    options.may_halt = may_halt;
    options.limits_default = tenant.map_or_else(Limits::default, |tenant| tenant.default);
    options.limits_ceiling = tenant.map_or_else(Limits::default, |tenant| tenant.ceiling);
    options
}

/// The engine's own ceiling: what any tenant may have. The control of plugins applies each tenant's.
fn highest_ceiling(config: &Config) -> Limits {
    let ceilings = config.tenants.values().map(|tenant| tenant.ceiling);
    let higher = |a: Limits, b: Limits| Limits {
        memory: a.memory.max(b.memory),
        deadline_ms: a.deadline_ms.max(b.deadline_ms),
        output_rows: a.output_rows.max(b.output_rows),
        output_bytes: a.output_bytes.max(b.output_bytes),
        log_bytes: a.log_bytes.max(b.log_bytes),
    };
    ceilings.reduce(higher).unwrap_or_default()
}

fn admin_options(config: &Config, metrics: PrometheusHandle) -> Result<phronis_admin::Options, Failure> {
    let http = &config.http;
    let mut options = phronis_admin::Options::new(http.listen, metrics);
    options.allowed_hosts.clone_from(&http.allowed_hosts);
    options.allowed_origins.clone_from(&http.allowed_origins);
    options.max_body = usize::try_from(http.max_body.0).unwrap_or(usize::MAX);
    for key in &http.keys {
        options.keys.push(phronis_admin::Key {
            name: key.name.to_string(),
            hash: key.hash_hex().parse().map_err(|_| failed(format!("the hash of key {} is not valid", key.name)))?,
            tenant: key.tenant.clone(),
            role: match key.role {
                config::Role::Read => phronis_admin::Role::Read,
                config::Role::Write => phronis_admin::Role::Write,
                config::Role::Admin => phronis_admin::Role::Admin,
            },
        });
    }
    Ok(options)
}

fn install_metrics() -> Result<PrometheusHandle, Failure> {
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), BUCKETS);
    let handle = builder.map_err(|error| failed(error.to_string()))?.install_recorder();
    let handle = handle.map_err(|error| failed(error.to_string()))?;
    metrics::gauge!("phronis_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

fn log_failure(error: &phronis_log::Error) -> Failure {
    let exit = if matches!(error, phronis_log::Error::Locked { .. }) { Exit::Refused } else { Exit::CheckFailed };
    Failure::new(exit, error.to_string()).code(error.code())
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::CheckFailed, error.to_string())
}

fn names<'a>(streams: impl Iterator<Item = &'a StreamId>) -> String {
    streams.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
