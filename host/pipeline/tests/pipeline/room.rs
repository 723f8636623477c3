//! A room with one log for several hosts, each with folders of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use phronis_core::contract::Contract;
use phronis_core::delivery::{Append, Delivery};
use phronis_core::records::{HeadersBuilder, Records, RecordsBuilder};
use phronis_core::{PluginId, StreamId};
use phronis_engine::{Compiler, Engine};
use phronis_log::{Log, PollLimits, Start, embedded};
use phronis_pipeline::{Handle, Node, Options, Pipeline, Role, TopicPolicy, status, stream};
use tempfile::TempDir;

use crate::away::Away;

/// What a busy machine needs at worst; nothing here takes a second on an idle one.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// A detector: `high` is its threshold.
pub const PLUGIN: &str = "default/sensors/hot";

static GUESTS: LazyLock<PathBuf> = LazyLock::new(|| {
    if let Some(folder) = std::env::var_os("PHRONIS_GUESTS_DIR") {
        return folder.into();
    }
    let root = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../..");
    let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--target", "wasm32-wasip2", "-p", "phronis-guests", "--examples"])
        .current_dir(&root)
        .status()
        .unwrap();
    assert!(built.success(), "the guests do not build");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    target.join("wasm32-wasip2/release/examples")
});

/// One log, and folders.
pub struct Room {
    pub folder: TempDir,
    pub away: Away,
}

impl Room {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let log = embedded::Log::open(embedded::Options::new(folder.path().join("log"))).unwrap();
        Self { folder, away: Away::new(log) }
    }

    /// The streams `sensors` and `acme.press`, one partition each.
    pub fn options(&self, node: &str) -> Options {
        let contract = Arc::new(Contract::parse(CONTRACT, "readings.yaml").unwrap());
        let stream = |id: &str| {
            let mut stream = stream::Options::new(id.parse().unwrap(), Arc::clone(&contract));
            stream.partitions = 1;
            stream
        };
        let folder = self.folder.path().join(node);
        std::fs::create_dir_all(folder.join("plugins/default/sensors")).unwrap();
        Options {
            node: Node { id: node.to_owned(), listen: None },
            roles: Role::all(),
            topics: TopicPolicy::Create,
            streams: vec![stream("sensors"), stream("acme.press")],
            plugins_dir: folder.join("plugins"),
            state_dir: folder.join("state"),
            agents_file: folder.join("agents.halted"),
            archive: None,
            store: phronis_store::conformance::local(&folder),
        }
    }

    pub fn start(&self, options: Options) -> Pipeline {
        self.try_start(options).unwrap()
    }

    pub fn try_start(&self, options: Options) -> Result<Pipeline, phronis_pipeline::Error> {
        Pipeline::start(options, Arc::new(self.away.clone()), engine(&self.folder.path().join("cache")))
    }

    /// Drops the detector into a host's folder, in this version.
    pub fn drop_plugin(&self, node: &str, version: &str) {
        let mut bytes = std::fs::read(GUESTS.join("detector.wasm")).unwrap();
        let own = b"1.2.3";
        let places: Vec<usize> =
            bytes.windows(own.len()).enumerate().filter(|(_, w)| w == own).map(|(at, _)| at).collect();
        assert!(!places.is_empty(), "the guest's version is not in it");
        for at in places {
            bytes[at..at + own.len()].copy_from_slice(version.as_bytes());
        }
        self.write_file(node, "hot.wasm", &bytes);
    }

    /// Drops a guest into a host's folder as it is.
    pub fn drop_guest(&self, node: &str, guest: &str, name: &str) {
        self.write_file(node, name, &std::fs::read(GUESTS.join(guest)).unwrap());
    }

    /// Puts a file beside the detector, whole at once.
    pub fn write_file(&self, node: &str, name: &str, bytes: &[u8]) {
        let folder = self.folder.path().join(node).join("plugins/default/sensors");
        std::fs::create_dir_all(&folder).unwrap();
        let temporary = self.folder.path().join(format!("{node}-{name}"));
        std::fs::write(&temporary, bytes).unwrap();
        std::fs::rename(temporary, folder.join(name)).unwrap();
    }

    /// Writes a record as any producer could.
    pub fn append(&self, topic: &str, key: &str, value: Option<&str>) {
        let mut records = RecordsBuilder::default();
        records.push(0, Some(key.as_bytes()), value.map(str::as_bytes), &[]);
        let append = Append { topic: topic.into(), partition: 0, records: records.finish() };
        let sink = self.away.log.sink().unwrap();
        sink.submit(Delivery { appends: vec![append], commits: Vec::new() }).unwrap().wait().unwrap();
    }

    /// All records of a topic's first partition.
    pub fn records(&self, topic: &str) -> Vec<Records> {
        let mut follower = self.away.log.follow(&[topic.into()], Start::Earliest).unwrap();
        let mut found = Vec::new();
        while let Some(records) = follower.next(PollLimits { records: 1, bytes: 1 }, Duration::ZERO).unwrap() {
            found.push(records);
        }
        found
    }

    /// Writes one record with its headers to a topic's first partition.
    pub fn write(&self, topic: &str, key: Option<&[u8]>, value: Option<&[u8]>, headers: &HeadersBuilder) {
        let mut records = RecordsBuilder::default();
        records.push(0, key, value, headers.as_bytes());
        let append = Append { topic: topic.into(), partition: 0, records: records.finish() };
        let sink = self.away.log.sink().unwrap();
        sink.submit(Delivery { appends: vec![append], commits: Vec::new() }).unwrap().wait().unwrap();
    }

    /// Sets the detector's live settings as `kcat` would.
    pub fn configure(&self, value: Option<&str>) {
        self.append("phronis.config", &format!("plugins/{PLUGIN}"), value);
    }

    /// The values of a topic from its beginning.
    pub fn values(&self, topic: &str) -> Vec<Option<String>> {
        let mut follower = self.away.log.follow(&[topic.into()], Start::Earliest).unwrap();
        let mut values = Vec::new();
        let all = PollLimits { records: 1000, bytes: 1 << 20 };
        while let Some(records) = follower.next(all, Duration::ZERO).unwrap() {
            let value = |row| records.body.value(row).map(|value| String::from_utf8_lossy(value).into_owned());
            values.extend((0..records.len()).map(value));
        }
        values
    }
}

/// An engine that compiles in the compile child, with patience.
pub fn engine(cache: &Path) -> Engine {
    let child = env!("CARGO_BIN_EXE_phronis-pipeline-compile-child");
    let mut options = phronis_engine::Options::new(cache, Compiler::new(child, [] as [&str; 0]));
    options.compiler.cpu = PATIENCE;
    options.compiler.wall = PATIENCE;
    Engine::new(options).unwrap()
}

/// The bytes of a guest.
pub fn guest(file: &str) -> Vec<u8> {
    std::fs::read(GUESTS.join(file)).unwrap()
}

pub fn sensors() -> StreamId {
    "sensors".parse().unwrap()
}

pub fn plugin(handle: &Handle) -> Option<status::Plugin> {
    handle.plugin(&PLUGIN.parse::<PluginId>().unwrap())
}

/// The threshold in force.
pub fn high(handle: &Handle) -> Option<f64> {
    let plugin = plugin(handle)?;
    plugin.active.as_ref()?;
    plugin.params["high"].as_f64()
}

pub fn is_ready(handle: &Handle) -> bool {
    handle.checks().iter().all(|check| check.is_ok)
}

/// Waits for an answer, on a thread that may block otherwise.
pub fn block<T>(answer: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(answer)
}

/// Waits until it is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
