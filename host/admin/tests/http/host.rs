//! A whole host on a free port: embedded log, pipeline without plugins, and the server.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use phronis_admin::{Key, Options, Role, Server};
use phronis_core::contract::Contract;
use phronis_core::delivery::{Append, Delivery};
use phronis_core::records::RecordsBuilder;
use phronis_engine::{Compiler, Engine};
use phronis_log::{Log, embedded};
use phronis_pipeline::{Pipeline, stream};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::sync::oneshot;

const CONTRACT: &str = "
apiVersion: v3.1.0
kind: DataContract
id: readings
name: readings
version: 1.0.0
status: active
schema:
  - name: readings
    logicalType: object
    customProperties:
      - property: phronis.key
        value: sensor_id
    properties:
      - name: sensor_id
        logicalType: string
        required: true
      - name: value
        logicalType: number
        required: true
";

/// A running host; stops in good order when dropped.
pub(crate) struct Host {
    pub(crate) at: SocketAddr,
    pub(crate) log: embedded::Log,
    folder: TempDir,
    stop: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<()>>,
    pipeline: Option<Pipeline>,
}

impl Host {
    /// A host with the streams `sensors`, `agents` and `acme.press`.
    pub(crate) fn start(change: impl FnOnce(&mut Options)) -> Self {
        Self::start_as(&phronis_pipeline::Role::ALL, change)
    }

    /// A host that does only this.
    pub(crate) fn start_as(roles: &[phronis_pipeline::Role], change: impl FnOnce(&mut Options)) -> Self {
        Self::begin(roles, false, change)
    }

    fn begin(roles: &[phronis_pipeline::Role], is_archived: bool, change: impl FnOnce(&mut Options)) -> Self {
        let folder = TempDir::new().unwrap();
        let log = embedded::Log::open(embedded::Options::new(folder.path().join("log"))).unwrap();
        let pipeline = pipeline(&folder, &log, roles, is_archived);
        let mut options = Options::new("127.0.0.1:0".parse().unwrap(), recorder());
        options.query.spill_dir = folder.path().join("spill");
        change(&mut options);
        let server = Server::bind(options, pipeline.handle()).unwrap();
        let at = server.local_addr();
        let (stop, stopped) = oneshot::channel();
        let served = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(server.run(async { drop(stopped.await) })).unwrap();
        });
        Self { at, log, folder, stop: Some(stop), served: Some(served), pipeline: Some(pipeline) }
    }

    /// Tells the server to stop and waits until it has.
    pub(crate) fn stop_server(&mut self) {
        drop(self.stop.take());
        if let Some(served) = self.served.take() {
            served.join().unwrap();
        }
    }

    /// Writes alerts to a stream's topic, as a worker would.
    pub(crate) fn alert(&self, topic: &str, ids: std::ops::Range<usize>, padding: usize) {
        let mut records = RecordsBuilder::default();
        for id in ids {
            let (padding, plugin) = ("x".repeat(padding), r#"{"name":"hot"}"#);
            let alert = format!(r#"{{"id":"a{id}","plugin":{plugin},"severity":"warning","message":"{padding}"}}"#);
            records.push(0, None, Some(alert.as_bytes()), &[]);
        }
        let append = Append { topic: topic.into(), partition: 0, records: records.finish() };
        let delivery = Delivery { appends: vec![append], commits: Vec::new() };
        self.log.sink().unwrap().submit(delivery).unwrap().wait().unwrap();
    }

    /// Says something on the control topic, as another host would.
    pub(crate) fn say(&self, key: &str, value: &serde_json::Value) {
        let mut records = RecordsBuilder::default();
        records.push(0, Some(key.as_bytes()), Some(value.to_string().as_bytes()), &[]);
        let append = Append { topic: "phronis.control".into(), partition: 0, records: records.finish() };
        let delivery = Delivery { appends: vec![append], commits: Vec::new() };
        self.log.sink().unwrap().submit(delivery).unwrap().wait().unwrap();
    }

    /// A host with an archive in its folder; nothing is archived by itself.
    pub(crate) fn start_archived(change: impl FnOnce(&mut Options)) -> Self {
        Self::begin(&[phronis_pipeline::Role::Serve], true, change)
    }

    /// Waits until the archive can be asked.
    pub(crate) fn until_archive_answers(&self) {
        let is_open = || self.pipeline.as_ref().unwrap().handle().archive().is_some();
        crate::client::until("the archive is opened", is_open);
    }

    /// Where all of it is.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it keeps beside the log.
    pub(crate) fn store(&self) -> phronis_store::Store {
        self.pipeline.as_ref().unwrap().handle().store().clone()
    }

    /// How many records a topic holds.
    pub(crate) fn count(&self, topic: &str) -> i64 {
        let topics = self.log.topics().unwrap();
        let topic = topics.iter().find(|info| *info.name == *topic).unwrap();
        topic.partitions.iter().map(|partition| partition.latest).sum()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop_server();
        if let Some(pipeline) = self.pipeline.take() {
            pipeline.stop();
        }
        self.log.close();
    }
}

/// Only takes the port.
pub(crate) fn bind(change: impl FnOnce(&mut Options)) -> Result<Server, phronis_admin::Error> {
    let folder = TempDir::new().unwrap();
    let log = embedded::Log::open(embedded::Options::new(folder.path().join("log"))).unwrap();
    let pipeline = pipeline(&folder, &log, &phronis_pipeline::Role::ALL, false);
    let mut options = Options::new("127.0.0.1:0".parse().unwrap(), recorder());
    change(&mut options);
    let server = Server::bind(options, pipeline.handle());
    pipeline.stop();
    log.close();
    server
}

fn pipeline(folder: &TempDir, log: &embedded::Log, roles: &[phronis_pipeline::Role], is_archived: bool) -> Pipeline {
    let contract = Arc::new(Contract::parse(CONTRACT, "readings.yaml").unwrap());
    let streams = ["sensors", "agents", "acme.press"];
    let streams = streams.map(|id| stream::Options::new(id.parse().unwrap(), Arc::clone(&contract)));
    let plugins_dir = folder.path().join("plugins");
    std::fs::create_dir(&plugins_dir).unwrap();
    // No plugin is ever compiled here.
    let compiler = Compiler::new("/bin/false", Vec::<String>::new());
    let engine = Engine::new(phronis_engine::Options::new(folder.path().join("cache"), compiler)).unwrap();
    let options = phronis_pipeline::Options {
        node: phronis_pipeline::Node { id: "node-1".to_owned(), listen: None },
        roles: roles.iter().copied().collect(),
        topics: phronis_pipeline::TopicPolicy::Create,
        streams: streams.into(),
        plugins_dir,
        state_dir: folder.path().join("state"),
        store: phronis_store::conformance::local(folder.path()),
        agents_file: folder.path().join("agents.halted"),
        archive: is_archived.then(|| phronis_pipeline::archive::Options {
            settings: archive_settings(folder.path()),
            write: phronis_archive::WriteOptions::default(),
            commit_every: Duration::from_secs(60),
            memory: 64 << 20,
            late_after: Duration::from_secs(600),
            skips_gaps: false,
            upkeep_every: None,
            upkeep: phronis_archive::Upkeep::default(),
        }),
    };
    Pipeline::start(options, Arc::new(log.clone()), engine).unwrap()
}

/// An archive in a folder.
pub(crate) fn archive_settings(folder: &Path) -> phronis_archive::Settings {
    phronis_archive::Settings {
        namespace: phronis_archive::NAMESPACE.to_owned(),
        catalog: phronis_archive::CatalogSettings::Sql { name: "phronis".to_owned() },
        warehouse: format!("file://{}", folder.join("warehouse").display()),
        storage: std::collections::BTreeMap::new(),
    }
}

/// A key; the secret is its name.
pub(crate) fn key(name: &str, tenant: Option<&str>, role: Role) -> Key {
    let hash: String = Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
    Key {
        name: name.to_owned(),
        hash: hash.parse().unwrap(),
        tenant: tenant.map(|tenant| tenant.parse().unwrap()),
        role,
    }
}

/// The one recorder of the test process.
fn recorder() -> PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap()).clone()
}
