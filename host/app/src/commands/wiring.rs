//! From the configuration to what the parts want: engine, streams, HTTP. No part is started here.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use phronis_archive::{CatalogSettings, Settings, Span, Upkeep, WriteOptions};
use phronis_core::StreamId;
use phronis_core::plugin::Limits;
use phronis_engine::{Compiler, Engine};
use phronis_log::{PollLimits, Retention};
use phronis_pipeline::agents::OnHalted;
use phronis_pipeline::{archive, stream};

use crate::config::{self, Config, OnMissing};
use crate::failure::{Exit, Failure};

/// What our catalog is called in the database: those who read it name it too.
const CATALOG: &str = "phronis";

/// All streams, as the pipeline wants them.
pub fn streams(config: &Config) -> Vec<stream::Options> {
    config.streams.iter().map(|(id, stream)| stream_options(config, id, stream)).collect()
}

/// The engine of this host: compiles in a child process of this very program.
pub fn engine(config: &Config, cache: &Path) -> Result<Engine, Failure> {
    let program = std::env::current_exe().map_err(failed)?;
    let compiler = Compiler::new(program, ["compile-component"]);
    let mut options = phronis_engine::Options::new(cache, compiler);
    options.ceiling = highest_ceiling(config);
    Engine::new(options).map_err(|error| failed(error.to_string()))
}

/// A stream, as the pipeline wants it.
pub fn stream_options(config: &Config, id: &StreamId, stream: &config::Stream) -> stream::Options {
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
    options.exactly_once = stream.exactly_once;
    options.batch = PollLimits {
        records: stream.batch_records,
        bytes: usize::try_from(stream.batch_bytes.0).unwrap_or(usize::MAX),
    };
    options.retention = retention(&stream.retention);
    options.letters_retention = retention(&stream.letters_retention);
    options.ordered = stream.ordered;
    options.letter_rates = stream.letter_rates;
    options.retry = stream.retry;
    options.holds_when_missing = stream.on_missing == OnMissing::Hold;
    options.may_halt = may_halt;
    options.on_halted = match stream.on_halted {
        config::OnHalted::Pass => OnHalted::Pass,
        config::OnHalted::Mark => OnHalted::Mark,
        config::OnHalted::Drop => OnHalted::Drop,
    };
    options.limits_default = tenant.map_or_else(Limits::default, |tenant| tenant.default);
    options.limits_ceiling = tenant.map_or_else(Limits::default, |tenant| tenant.ceiling);
    options
}

/// The archive, as the pipeline wants it.
pub fn archive_options(archive: &config::Archive) -> archive::Options {
    let bytes = |bytes: config::Bytes| usize::try_from(bytes.0).unwrap_or(usize::MAX);
    archive::Options {
        settings: archive_settings(archive),
        write: WriteOptions {
            span: match archive.partition_by {
                config::archive::PartitionBy::Day => Span::Day,
                config::archive::PartitionBy::Hour => Span::Hour,
            },
            buffer_bytes: bytes(archive.memory),
            file_bytes: bytes(archive.file_size),
            ..WriteOptions::default()
        },
        commit_every: archive.commit_every,
        memory: bytes(archive.memory),
        late_after: archive.late_after,
        skips_gaps: archive.on_gap == config::archive::OnGap::Skip,
        upkeep_every: archive.upkeep.every,
        upkeep: upkeep(archive),
    }
}

/// How tables are looked after.
pub fn upkeep(archive: &config::Archive) -> Upkeep {
    Upkeep {
        file_bytes: archive.file_size.0,
        keep_for: archive.upkeep.keep_snapshots,
        keep_at_least: usize::try_from(archive.upkeep.keep_at_least).unwrap_or(usize::MAX),
        orphans_after: archive.upkeep.orphans_after,
        ..Upkeep::default()
    }
}

/// Where the archive is, for whoever opens it.
pub fn archive_settings(archive: &config::Archive) -> Settings {
    let catalog = match &archive.catalog {
        config::archive::Catalog::Store => CatalogSettings::Sql { name: CATALOG.to_owned() },
        config::archive::Catalog::Rest { uri, warehouse, properties } => {
            let mut properties = properties.0.clone();
            CatalogSettings::Rest {
                uri: uri.clone(),
                warehouse: warehouse.clone(),
                token: properties.remove("token"),
                credential: properties.remove("credential"),
                properties,
            }
        }
    };
    let (warehouse, storage) = (archive.warehouse.clone(), archive.storage.0.clone());
    Settings { namespace: archive.namespace.clone(), catalog, warehouse, storage }
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

/// The HTTP server, as its crate wants it.
pub(super) fn admin_options(config: &Config, metrics: PrometheusHandle) -> Result<phronis_admin::Options, Failure> {
    let http = &config.http;
    let mut options = phronis_admin::Options::new(http.listen, metrics);
    options.allowed_hosts.clone_from(&http.allowed_hosts);
    options.allowed_origins.clone_from(&http.allowed_origins);
    options.query.spill_dir = config.data_dir.join("query");
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

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::CheckFailed, error.to_string())
}
