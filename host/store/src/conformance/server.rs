//! A PostgreSQL of a test's own: the Debian package's binaries, a temporary folder, a free port of this machine.
//!
//! PostgreSQL refuses to run as root; started by root it runs as the user `postgres`, who owns the folder then.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The password of the only user; a test looks for it where it must not be.
pub const PASSWORD: &str = "s3cret-of-the-test";

/// How long a server may take to start: recovery after a kill, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often a server that finds its port taken tries another one.
const TRIES: usize = 20;

/// Ports below the range from which the system gives ports to clients, so that a restart finds them free, and below those
/// of `scripts/kafka`.
const PORTS: Range<u32> = 12_000..19_000;

/// A server. Dropping it kills it and removes all that it wrote.
#[derive(Debug)]
pub struct Server {
    binaries: PathBuf,
    owner: Option<(u32, u32)>,
    folder: TempDir,
    port: u16,
    process: Mutex<Option<Child>>,
}

impl Server {
    /// Makes a cluster and starts it.
    ///
    /// # Errors
    /// When PostgreSQL is not installed, or does not start; with the last lines of its log.
    pub fn start() -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("phronis-postgres-").tempdir()?;
        let owner = owner()?;
        if let Some((user, group)) = owner {
            chown(folder.path(), Some(user), Some(group))?;
        }
        let mut server = Self { binaries: binaries()?, owner, folder, port: 0, process: Mutex::new(None) };
        server.init()?;
        for _ in 0..TRIES {
            [server.port] = free_ports()?;
            match server.try_launch() {
                // Someone else was faster: there are others.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                started => return started.map(|()| server),
            }
        }
        Err(io::Error::other("PostgreSQL finds each port taken"))
    }

    /// The one that those share who neither stop nor kill it; each uses a schema of its own. It ends with the last of them.
    ///
    /// # Errors
    /// When it could not be started.
    pub fn shared() -> io::Result<Arc<Self>> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        shared(&SHARED, Self::start)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of its database, with the password.
    pub fn url(&self) -> String {
        self.url_through(self.port)
    }

    /// The address of its database through a proxy on another port of this machine.
    pub fn url_through(&self, port: u16) -> String {
        format!("postgres://phronis:{PASSWORD}@127.0.0.1:{port}/postgres?sslmode=disable")
    }

    /// Starts it again where it was; does nothing while it runs.
    ///
    /// # Errors
    /// When it does not answer; with the last lines of its log.
    pub fn launch(&self) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.try_launch() {
                // Whoever asks for a port only to see whether it is free holds it for a moment.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                outcome => return outcome,
            }
        }
    }

    fn try_launch(&self) -> io::Result<()> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if process.is_some() {
            return Ok(());
        }
        let log = fs::File::create(self.folder.path().join("log"))?;
        let mut child = self
            .command("postgres")
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "unix_socket_directories=", "-c", "max_connections=60"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.is_ready(child.id()) {
                *process = Some(child);
                return Ok(());
            }
            let ended = child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(10).collect();
                let is_taken = log.contains("Address already in use");
                let kind = if is_taken { io::ErrorKind::AddrInUse } else { io::ErrorKind::Other };
                return Err(io::Error::new(kind, format!("PostgreSQL does not start: {tail:#?}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether this very process takes connections, as it writes into its folder: on its port another one might answer.
    fn is_ready(&self, pid: u32) -> bool {
        let told = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = told.lines().map(str::trim).collect();
        lines.first() == Some(&pid.to_string().as_str()) && lines.get(7) == Some(&"ready")
    }

    /// Ends it in order, whoever is connected.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn stop(&self) -> io::Result<()> {
        self.end(Signal::INT)
    }

    /// Ends it where it stands, as `pg_ctl stop -m immediate` does: it recovers at the next start.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&self) -> io::Result<()> {
        self.end(Signal::QUIT)
    }

    /// What `psql` prints for a statement.
    ///
    /// # Errors
    /// When the statement fails; with what `psql` says.
    pub fn sql(&self, statement: &str) -> io::Result<String> {
        self.sql_in("postgres", statement)
    }

    /// The same in another database than the usual one.
    ///
    /// # Errors
    /// When the statement fails; with what `psql` says.
    pub fn sql_in(&self, database: &str, statement: &str) -> io::Result<String> {
        let url = self.url().replace("/postgres?", &format!("/{database}?"));
        let statements = statement.split_inclusive(';').flat_map(|statement| ["-c", statement]);
        let output =
            self.command("psql").args(["-qAtX", "-v", "ON_ERROR_STOP=1"]).args(statements).arg(&url).output()?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    fn end(&self, signal: Signal) -> io::Result<()> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut child) = process.take() else { return Ok(()) };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| child.try_wait().is_ok_and(|ended| ended.is_none())) {
            kill_process(pid, signal)?;
        }
        child.wait().map(drop)
    }

    fn init(&self) -> io::Result<()> {
        let password = self.folder.path().join("password");
        fs::write(&password, PASSWORD)?;
        let output = self
            .command("initdb")
            .arg("-D")
            .arg(self.data())
            .args(["-U", "phronis", "-E", "UTF8", "--locale=C", "--auth=scram-sha-256", "--no-sync", "--pwfile"])
            .arg(&password)
            .output()?;
        if !output.status.success() {
            return Err(io::Error::other(format!("initdb: {}", String::from_utf8_lossy(&output.stderr))));
        }
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.binaries.join(name));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        // What a person has set for a server of their own is not for this one.
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(variable);
        }
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("a PostgreSQL in {} is left behind: {error}", self.folder.path().display());
        }
    }
}

/// What all share who ask while somebody has it; `start` makes another one once the last has let go.
///
/// # Errors
/// Those of `start`.
pub fn shared<T, E>(place: &Mutex<Weak<T>>, start: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
    let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(shared) = place.upgrade() {
        return Ok(shared);
    }
    let started = Arc::new(start()?);
    *place = Arc::downgrade(&started);
    Ok(started)
}

/// Ports of this machine that are free now, none of which this process was given before.
///
/// # Errors
/// When there are no more.
pub fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut free = Vec::with_capacity(N);
    for _ in PORTS {
        if free.len() == N {
            break;
        }
        // Processes begin at different places, and each goes on from its own.
        let place = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + place % (PORTS.end - PORTS.start);
        let port = u16::try_from(port).map_err(io::Error::other)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            free.push(port);
        }
    }
    free.try_into().map_err(|_| io::Error::other("there are no free ports"))
}

/// The newest version that is installed.
fn binaries() -> io::Result<PathBuf> {
    let version = |folder: &Path| folder.file_name()?.to_str()?.parse::<u32>().ok();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path());
    let newest = versions.filter(|folder| folder.join("bin/initdb").exists()).max_by_key(|folder| version(folder));
    newest
        .map(|folder| folder.join("bin"))
        .ok_or_else(|| io::Error::other("PostgreSQL is not installed: `make setup` installs the package `postgresql`"))
}

/// Whom root lets the server run as; nobody else where this is not root.
fn owner() -> io::Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let ids = fields.into_iter().find_map(|fields| match fields.as_slice() {
        ["postgres", _, user, group, ..] => Some((user.parse().ok()?, group.parse().ok()?)),
        _ => None,
    });
    ids.map(Some).ok_or_else(|| io::Error::other("there is no user `postgres` to run PostgreSQL as"))
}
