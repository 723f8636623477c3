//! A real host in a room of its own: folders that outlive it, a port of its own, and HTTP to speak with it.

mod http;
mod listen;
mod room;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use phronis_core::StreamId;
use phronis_core::partition::Topics;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub use http::Answer;
pub use listen::{Event, Listener};
pub use room::Room;

/// How long a host may take for anything that it must do sooner or later, on a machine that stands still now and then.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running host. Dropping it kills it.
#[derive(Debug)]
pub struct Host {
    child: Child,
    base: String,
    http: reqwest::blocking::Client,
    said: Arc<Mutex<String>>,
    /// Takes down what it says, until it says no more.
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Host {
    /// Starts a host in a room and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or does not become ready; with what it said.
    pub fn start(room: &Room) -> anyhow::Result<Self> {
        let host = Self::start_unready(room, &[])?;
        host.until("it is ready", |host| Ok(host.get("/readyz")?.status == 200))?;
        Ok(host)
    }

    /// Starts a host in a room, with further arguments, and waits until it answers at all.
    ///
    /// # Errors
    /// When it ends or does not answer; with what it said.
    pub fn start_unready(room: &Room, more: &[&str]) -> anyhow::Result<Self> {
        let mut command = room.command(&["run"])?;
        command.args(more);
        Self::spawn(room, command)
    }

    /// Starts a host with variables of its environment, and waits until it answers at all.
    ///
    /// # Errors
    /// When it ends or does not answer; with what it said.
    pub fn start_with(room: &Room, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut command = room.command(&["run"])?;
        command.envs(variables.iter().copied());
        Self::spawn(room, command)
    }

    fn spawn(room: &Room, mut command: Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting phronis")?;
        let said = Arc::new(Mutex::new(String::new()));
        let reader = child.stderr.take().map(|stderr| collect(stderr, Arc::clone(&said)));
        let http = reqwest::blocking::Client::builder().timeout(PATIENCE).build()?;
        let mut host = Self { child, base: String::new(), http, said, reader };
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = host.child.try_wait()? {
                bail!("the host ended with {status}: {}", host.said());
            }
            if let Some(base) = address(room.data(), host.child.id()) {
                host.base = base;
                if host.get("/livez").is_ok_and(|answer| answer.status == 200) {
                    return Ok(host);
                }
            }
            if Instant::now() > until {
                bail!("the host does not answer: {}", host.said());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its address: `http://127.0.0.1:…`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stderr so far; all of it, once it is gone.
    pub fn said(&self) -> String {
        let until = Instant::now() + PATIENCE;
        let is_reading = || self.reader.as_ref().is_some_and(|reader| !reader.is_finished());
        while self.is_gone() && is_reading() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether its process has ended; one that nobody has asked after yet is a zombie.
    pub fn is_gone(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    }

    /// Kills it from wherever it stands: SIGKILL, no goodbye.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&self) -> anyhow::Result<()> {
        Ok(kill_process(self.process()?, Signal::KILL)?)
    }

    /// Stops it where it stands: SIGSTOP. It knows nothing of the time that passes.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn pause(&self) -> anyhow::Result<()> {
        Ok(kill_process(self.process()?, Signal::STOP)?)
    }

    /// Lets it go on after [`Host::pause`].
    ///
    /// # Errors
    /// When the system refuses.
    pub fn resume(&self) -> anyhow::Result<()> {
        Ok(kill_process(self.process()?, Signal::CONT)?)
    }

    fn process(&self) -> anyhow::Result<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process")
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    /// When it does not end; it is killed then.
    pub fn stop(mut self) -> anyhow::Result<ExitStatus> {
        self.end()
    }

    /// Ends it as [`Host::stop`] does, and well.
    ///
    /// # Errors
    /// When it does not end in order; with what it said.
    pub fn ends_well(mut self) -> anyhow::Result<()> {
        let status = self.end()?;
        ensure!(status.success(), "the host ended with {status}: {}", self.said());
        Ok(())
    }

    /// Sends SIGTERM and waits for the end; what it said can still be read.
    ///
    /// # Errors
    /// When it does not end.
    pub fn end(&mut self) -> anyhow::Result<ExitStatus> {
        kill_process(self.process()?, Signal::TERM)?;
        self.ended()
    }

    /// Waits for its end; what it said can still be read.
    ///
    /// # Errors
    /// When it does not end.
    pub fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        // A host that cannot end in order ends itself before this time, and says so.
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("the host does not end: {}", self.said())
    }

    /// Waits until something holds.
    ///
    /// # Errors
    /// When it does not within [`PATIENCE`]; with what the host said.
    pub fn until(&self, what: &str, holds: impl FnMut(&Self) -> anyhow::Result<bool>) -> anyhow::Result<()> {
        self.until_within(PATIENCE, what, holds)
    }

    /// Waits until something holds that may take longer: what steps back behind others, or tries again after longer and longer pauses.
    ///
    /// # Errors
    /// When it does not within this time; with what the host said.
    pub fn until_within(
        &self,
        patience: Duration,
        what: &str,
        mut holds: impl FnMut(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let until = Instant::now() + patience;
        loop {
            let last = holds(self);
            if matches!(last, Ok(true)) {
                return Ok(());
            }
            if Instant::now() > until {
                let said = self.said();
                let tail = said.get(said.len().saturating_sub(4000)..).unwrap_or(&said);
                let is_gone = if self.is_gone() { " and is gone" } else { "" };
                bail!("waited in vain until {what} ({last:?}); the host{is_gone} said: {tail}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a stream has nothing left to judge.
    ///
    /// # Errors
    /// When it does not within [`PATIENCE`].
    pub fn drained(&self, stream: &str) -> anyhow::Result<()> {
        self.until("the stream is drained", |host| {
            let status = host.stream(stream)?;
            Ok(status.pointer("/lag/records").and_then(Value::as_u64) == Some(0))
        })
    }

    /// Waits until all that stands in a stream's topics now is archived. The archive steps back behind the events: on a busy
    /// machine it is long behind a stream that is drained.
    ///
    /// # Errors
    /// When it is not within three times [`PATIENCE`].
    pub fn caught_up(&self, stream: &str) -> anyhow::Result<()> {
        let id: StreamId = stream.parse()?;
        let topics = Topics::of(&id);
        let tables = [("events", &topics.processed), ("alerts", &topics.alerts), ("letters", &topics.dlq)];
        self.until_within(PATIENCE * 3, "all of the log is archived", |host| {
            let all = host.get("/v1/topics")?.json;
            for (kind, topic) in tables {
                let table = host.get(&format!("/v1/archive/tables/{}_{}_{kind}", id.tenant, id.stream))?.json;
                let partitions = item(&all, topic)?.get("partitions").and_then(Value::as_array).cloned();
                let is_archived = |info: &Value| {
                    let number = |key: &str| info.get(key).and_then(Value::as_i64);
                    let next = number("partition").map(|number| format!("/progress/partitions/{number}/next"));
                    let next = next.and_then(|next| table.pointer(&next)?.as_i64());
                    // A partition without records need not be in the table.
                    number("earliest") == number("latest") || next.is_some() && next >= number("latest")
                };
                if !partitions.context("partitions")?.iter().all(is_archived) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// What `/v1/streams` says of a stream.
    ///
    /// # Errors
    /// When it says nothing of it.
    pub fn stream(&self, stream: &str) -> anyhow::Result<Value> {
        item(&self.get("/v1/streams")?.json, stream)
    }

    /// What `/v1/plugins` says of a plugin, `tenant/stream/name`.
    ///
    /// # Errors
    /// When it says nothing of it.
    pub fn plugin(&self, id: &str) -> anyhow::Result<Value> {
        item(&self.get("/v1/plugins")?.json, id)
    }

    /// Waits until a plugin is in a state.
    ///
    /// # Errors
    /// When it is not within [`PATIENCE`].
    pub fn plugin_is(&self, id: &str, state: &str) -> anyhow::Result<Value> {
        self.until(&format!("{id} is {state}"), |host| {
            Ok(host.plugin(id)?.get("state").and_then(Value::as_str) == Some(state))
        })?;
        self.plugin(id)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Already ended is fine.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs a command to its end: exit code, stdout, stderr.
///
/// # Errors
/// When it cannot be started, or does not end within [`PATIENCE`].
pub fn run(mut command: Command) -> anyhow::Result<(Option<i32>, String, String)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let said = Arc::new(Mutex::new(String::new()));
    let told = Arc::new(Mutex::new(String::new()));
    let readers = [
        child.stderr.take().map(|pipe| collect(pipe, Arc::clone(&said))),
        child.stdout.take().map(|pipe| collect(pipe, Arc::clone(&told))),
    ];
    let until = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > until {
            child.kill()?;
            child.wait()?;
            bail!("{command:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    for reader in readers.into_iter().flatten() {
        drop(reader.join());
    }
    let text = |text: &Mutex<String>| text.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok((status.code(), text(&told), text(&said)))
}

fn collect(pipe: impl std::io::Read + Send + 'static, into: Arc<Mutex<String>>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut lines = BufReader::new(pipe);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
            into.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    })
}

/// The address that a host left in its data folder, if it is this process's.
fn address(data: &Path, pid: u32) -> Option<String> {
    let json: Value = serde_json::from_slice(&std::fs::read(data.join("host.json")).ok()?).ok()?;
    (json.get("pid")?.as_u64()? == u64::from(pid)).then(|| Some(format!("http://{}", json.get("listen")?.as_str()?)))?
}

fn item(page: &Value, id: &str) -> anyhow::Result<Value> {
    let items = page.get("items").unwrap_or(page).as_array().map(Vec::as_slice).unwrap_or_default();
    let is_it = |item: &&Value| ["id", "name"].iter().any(|key| item.get(key).and_then(Value::as_str) == Some(id));
    items.iter().find(is_it).cloned().with_context(|| format!("{id} is not in {page}"))
}
