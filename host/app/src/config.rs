//! The configuration: layered, checked once, and right ever after.
//!
//! Defaults, then the files in order, then `PHRONIS__A__B` of the environment, then options of the command line.
//! [`load`] reads everything into [`Config`] or tells every problem at once; nobody checks a value again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use phronis_core::{Name, StreamId};

pub mod archive;
pub mod http;
pub mod kafka;
pub mod log;
pub mod problem;
pub mod reader;
pub mod store;
pub mod streams;
pub mod tenants;
pub mod topics;
pub mod tree;
pub mod units;
pub mod value;

pub use archive::Archive;
pub use http::{Http, Key, Role};
pub use kafka::Kafka;
pub use log::{Durability, Embedded, Log, LogFormat, LogKind, Logging};
pub use problem::{Origin, Problem, Problems};
pub use reader::Effective;
pub use store::Store;
pub use streams::{OnHalted, OnMissing, Stream};
pub use tenants::Tenant;
pub use units::Bytes;

use reader::Reader;
use tree::{Node, Table, Value};

/// The commented example that `phronis config example` prints.
pub const EXAMPLE: &str = include_str!("config/example.toml");

/// What a host is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the log, the cache and the state are.
    pub data_dir: PathBuf,
    /// Where plugins are dropped: `<tenant>/<stream>/<name>.wasm`.
    pub plugins_dir: PathBuf,
    /// Where the host listens and who may do what.
    pub http: Http,
    /// The event log.
    pub log: Log,
    /// The state beside the log.
    pub store: Store,
    /// The archive, where one is kept.
    pub archive: Option<Archive>,
    /// How the host logs.
    pub logging: Logging,
    /// The tenants, `default` among them, with ceilings and defaults for their plugins.
    pub tenants: BTreeMap<Name, Tenant>,
    /// The streams.
    pub streams: BTreeMap<StreamId, Stream>,
    /// Every setting in force, with where it came from.
    pub effective: Vec<Effective>,
}

/// What lies above the files.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Environment variables; those that do not begin with `PHRONIS__` are ignored.
    pub env: Vec<(String, String)>,
    /// Options of the command line: the name of the option, the path of the key, the value.
    pub flags: Vec<(&'static str, &'static str, String)>,
}

impl Overrides {
    /// The environment of this process.
    pub fn from_env() -> Self {
        let text = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((key.into_string().ok()?, value.into_string().ok()?))
        };
        let mut env: Vec<_> = std::env::vars_os().filter_map(text).collect();
        env.sort();
        Self { env, flags: Vec::new() }
    }

    /// Adds an option, when it was given.
    #[must_use]
    pub fn flag(mut self, option: &'static str, path: &'static str, value: Option<impl ToString>) -> Self {
        self.flags.extend(value.map(|value| (option, path, value.to_string())));
        self
    }
}

/// Reads the files, lays the overrides over them, and checks all of it.
///
/// # Errors
/// Every problem, not only the first; only a file that cannot be read or parsed hides the problems behind it.
pub fn load(files: &[PathBuf], overrides: &Overrides) -> Result<Config, Problems> {
    let tree = layers(files, overrides).map_err(Problems)?;
    let mut reader = Reader::default();
    let mut root = reader.root(&tree);

    let beside = files.first().and_then(|file| file.parent()).unwrap_or_else(|| Path::new(""));
    let data_dir = root.file(&mut reader, "data_dir").unwrap_or_else(|| beside.join("phronis-data"));
    root.derived(&mut reader, "data_dir", show(&data_dir));
    let plugins_dir = root.file(&mut reader, "plugins_dir").unwrap_or_else(|| data_dir.join("plugins"));
    root.derived(&mut reader, "plugins_dir", show(&plugins_dir));
    let logging = log::read_logging(&mut reader, &mut root);
    let log = log::read_log(&mut reader, &mut root);
    let store = store::read(&mut reader, &mut root, &data_dir);
    let archive = archive::read(&mut reader, &mut root, &data_dir);
    let tenants = tenants::read(&mut reader, &mut root);
    let http = http::read(&mut reader, &mut root, &tenants);
    let streams = streams::read(&mut reader, &mut root, &tenants);
    root.finish(&mut reader);

    let Reader { problems, effective } = reader;
    if problems.is_empty() {
        Ok(Config { data_dir, plugins_dir, http, log, store, archive, logging, tenants, streams, effective })
    } else {
        Err(Problems(problems))
    }
}

/// The settings in force as TOML, each with its origin when `with_origin`; what it prints can be read again.
pub fn show_effective(effective: &[Effective], with_origin: bool) -> String {
    let mut lines = Vec::new();
    let mut header = "";
    for setting in effective {
        if setting.header != header {
            header = &setting.header;
            lines.push(format!("\n{header}"));
        }
        let line = match &setting.value {
            Some(value) if value.starts_with('#') => format!("# {} {}", setting.key, value.trim_start_matches("# ")),
            Some(value) => format!("{} = {value}", setting.key),
            None => continue,
        };
        lines.push(if with_origin { format!("{line:<44} # {}", setting.origin) } else { line });
    }
    lines.join("\n").trim_start().to_owned()
}

fn show(path: &Path) -> String {
    value::Setting::show(&path.display().to_string())
}

fn layers(files: &[PathBuf], overrides: &Overrides) -> Result<Node, Vec<Problem>> {
    let empty = || Node { origin: Origin::Default, value: Value::Table(Table::new()) };
    let mut problems = Vec::new();
    let mut root = empty();
    for path in files {
        let origin = Origin::File { path: path.as_path().into(), line: 0 };
        match std::fs::read_to_string(path) {
            Ok(text) => match tree::parse(path, &text) {
                Ok(layer) => tree::merge(&mut root, layer),
                Err(found) => problems.extend(found),
            },
            Err(error) => problems.push(
                Problem::new(&origin, "", format!("cannot read the file: {error}"))
                    .help("`phronis config example` prints one to start from"),
            ),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    // Files that name no stream leave the built-in ones, which the environment may still adjust.
    if !matches!(&root.value, Value::Table(table) if table.contains_key("streams")) {
        for (name, _) in streams::BUILT_IN {
            tree::set(&mut root, &["streams", name], empty());
        }
    }
    for (variable, text) in &overrides.env {
        tree::set_env(&mut root, variable, text);
    }
    for (option, path, text) in &overrides.flags {
        let path: Vec<&str> = path.split('.').collect();
        tree::set(&mut root, &path, Node { origin: Origin::Flag(option), value: Value::Env(text.clone()) });
    }
    Ok(root)
}

/// The file that a running host leaves in its data folder, so that commands find it.
pub fn host_file(data_dir: &Path) -> PathBuf {
    data_dir.join("host.json")
}

/// What stands in [`host_file`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HostFile {
    /// The host's process.
    pub pid: u32,
    /// Where it listens.
    pub listen: std::net::SocketAddr,
    /// When it started, RFC 3339.
    pub started_at: String,
}

impl HostFile {
    /// Leaves the file in the data folder: whole or not at all.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self, data_dir: &Path) -> std::io::Result<()> {
        let draft = data_dir.join(format!(".host.json.{}", self.pid));
        std::fs::write(&draft, serde_json::to_vec(self)?)?;
        std::fs::rename(draft, host_file(data_dir))
    }

    /// Takes the file away, at the end of the host; that it is gone already is fine.
    pub fn remove(data_dir: &Path) {
        if let Err(error) = std::fs::remove_file(host_file(data_dir)) {
            tracing::debug!(%error, "host.json was gone");
        }
    }
}

impl Config {
    /// Whether a stream is configured.
    pub fn has_stream(&self, id: &StreamId) -> bool {
        self.streams.contains_key(id)
    }

    /// The ceilings and defaults of a tenant.
    pub fn tenant(&self, name: &Name) -> Option<&Tenant> {
        self.tenants.get(name)
    }

    /// The contract of a stream.
    pub fn contract(&self, id: &StreamId) -> Option<Arc<phronis_core::contract::Contract>> {
        self.streams.get(id).map(|stream| Arc::clone(&stream.contract))
    }
}

/// The folder of the embedded log.
pub fn log_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("log")
}

#[cfg(test)]
mod tests;
