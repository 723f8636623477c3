//! Starts the real host for a bench, and finds the plugins.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::process;

/// The contract of the built-in stream `sensors`.
pub(crate) const SENSORS_CONTRACT: &str = include_str!("../../host/app/contracts/sensors.yaml");

/// How long a host may take for what should take a moment.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long it may take to end after SIGTERM: an archive commits what it has read.
const GRACE: Duration = Duration::from_secs(60);

/// A running host; killed when dropped.
#[derive(Debug)]
pub(crate) struct Host {
    process: Process,
    pub(crate) url: String,
    dir: TempDir,
}

/// What a host leaves that ended in order.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its folder.
    pub(crate) dir: TempDir,
    /// Seconds of CPU that it used in all.
    pub(crate) cpu: f64,
    /// The most resident memory that it had, in bytes.
    pub(crate) peak: u64,
}

#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Host {
    /// Starts `phronis run` with these plugins on the stream `sensors`.
    pub(crate) fn start(plugins: &[&str]) -> Result<Self> {
        Self::start_with("sensors", "", |folder| plugins.iter().try_for_each(|name| install(name, folder)))
    }

    /// Starts `phronis run` with further lines of configuration; `fill` puts plugins into the folder of the stream.
    pub(crate) fn start_with(stream: &str, settings: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let folder = dir.path().join("data/plugins/default").join(stream);
        std::fs::create_dir_all(&folder)?;
        fill(&folder)?;
        Self::open(dir, settings)
    }

    /// Starts `phronis run` in the folder of an earlier host, or in one like it.
    pub(crate) fn open(dir: TempDir, settings: &str) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = dir.path().join("phronis.toml");
        let http = format!("data_dir = \"data\"\n[http]\nlisten = \"127.0.0.1:{port}\"\n");
        std::fs::write(&config, http + settings)?;
        let log = std::fs::File::create(dir.path().join("stderr"))?;
        let child = Command::new(target("phronis"))
            .arg("run")
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let mut host = Self { process: Process(child), url: format!("http://127.0.0.1:{port}"), dir };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if reqwest_get(&format!("{}/readyz", host.url)).is_ok() {
                return Ok(host);
            }
            ensure!(host.process.0.try_wait()?.is_none(), "the host ended: {}", host.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the host is not ready: {}", host.log())
    }

    /// Ends it in order, and says what it took.
    pub(crate) fn stop(mut self) -> Result<Ended> {
        let pid = self.pid();
        let mut peak = process::peak(pid)?;
        kill_process(Pid::from_child(&self.process.0), Signal::TERM)?;
        let deadline = Instant::now() + GRACE;
        // One that has ended and is not waited for shows its CPU time still, and no memory any more.
        while !process::has_ended(pid)? {
            ensure!(Instant::now() < deadline, "the host did not end within {GRACE:?} after SIGTERM: {}", self.log());
            peak = peak.max(process::peak(pid).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(5));
        }
        let cpu = process::cpu(pid)?;
        let status = self.process.0.wait()?;
        ensure!(status.success(), "the host ended with {status}: {}", self.log());
        Ok(Ended { dir: self.dir, cpu, peak })
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default()
    }

    /// Where plugin files go.
    pub(crate) fn plugins(&self) -> PathBuf {
        self.dir.path().join("data/plugins/default/sensors")
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Waits until this many plugins are active.
    pub(crate) fn until_active(&self, plugins: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let list = reqwest_get(&format!("{}/v1/plugins", self.url))?;
            let items = list.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let is_active = |item: &&Value| item.get("state").and_then(Value::as_str) == Some("active");
            if items.iter().filter(is_active).count() == plugins {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the plugins are not active: {list}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Records that a topic has been given so far.
    pub(crate) fn records(&self, topic: &str) -> Result<u64> {
        Ok(self.ends(topic)?.iter().sum())
    }

    /// The same, by partition.
    pub(crate) fn ends(&self, topic: &str) -> Result<Vec<u64>> {
        let topics = reqwest_get(&format!("{}/v1/topics", self.url))?;
        let items = topics.get("items").and_then(Value::as_array).context("no items")?;
        let topic = items
            .iter()
            .find(|item| item.get("name").and_then(Value::as_str) == Some(topic))
            .context("no such topic")?;
        let partitions = topic.get("partitions").and_then(Value::as_array).context("no partitions")?;
        Ok(partitions.iter().filter_map(|p| p.get("latest").and_then(Value::as_u64)).collect())
    }

    /// What a metric says, over all its labels.
    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        let text = get(&format!("{}/metrics", self.url), |answer| answer.text())?;
        let own = text.lines().filter_map(|line| line.strip_prefix(name)).filter(|rest| rest.starts_with(['{', ' ']));
        Ok(own.filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }
}

/// A blocking GET of JSON.
pub(crate) fn reqwest_get(url: &str) -> Result<Value> {
    get(url, |answer| answer.json())
}

fn get<T, F: Future<Output = reqwest::Result<T>>>(url: &str, read: impl FnOnce(reqwest::Response) -> F) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { Ok(read(reqwest::get(url).await?.error_for_status()?).await?) })
}

/// Puts a shipped plugin into a folder, with the settings that it needs.
pub(crate) fn install(name: &str, folder: &Path) -> Result<()> {
    let settings = match name {
        "severity" => "[params]\nwarning = 80\ncritical = 95\n",
        _ => "[params]\nhigh = 90\n",
    };
    std::fs::write(folder.join(format!("{name}.toml")), settings)?;
    std::fs::copy(plugin(name)?, folder.join(format!("{name}.wasm")))?;
    Ok(())
}

/// The WebAssembly file of a shipped plugin.
pub(crate) fn plugin(name: &str) -> Result<PathBuf> {
    let file = format!("{}.wasm", name.replace('-', "_"));
    let path = target_dir().join("wasm32-wasip2/release").join(file);
    if !path.is_file() {
        bail!("{} is missing: run `make plugins` first", path.display());
    }
    Ok(path)
}

/// An engine with its cache under `dir`.
pub(crate) fn engine(dir: &Path) -> Result<phronis_engine::Engine> {
    let compiler = phronis_engine::Compiler::new(target("phronis"), ["compile-component"]);
    Ok(phronis_engine::Engine::new(phronis_engine::Options::new(dir.join("cache"), compiler))?)
}

fn target(name: &str) -> PathBuf {
    target_dir().join("release").join(name)
}

/// Where everything is built.
pub(crate) fn target_dir() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.parent()?.to_owned()))
        .unwrap_or_else(|| "target".into())
}
