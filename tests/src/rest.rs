//! A real Iceberg REST catalog of a test's own: Iceberg's own server for tests, in Java, on a catalog in SQLite and local files.
//!
//! Its jars come with Maven (`scripts/iceberg-rest.pom.xml`), once, into the cache folder.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;

use crate::plugins::root;
use crate::s3::{TRIES, free_ports, last_lines};

/// The version of `scripts/iceberg-rest.pom.xml`.
const VERSION: &str = "1.10.0";

/// The name that the server gives its catalog in the database.
pub const CATALOG: &str = "rest_backend";

/// Longest time for a start; a cold disk is no failure.
const PATIENCE: Duration = Duration::from_secs(90);

/// A server. Dropping it kills it and removes all that it wrote.
#[derive(Debug)]
pub struct Server {
    folder: TempDir,
    database: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Server {
    /// Starts one with an empty catalog, and waits until it answers.
    ///
    /// # Errors
    /// When it does not; with the last lines of its log.
    pub fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("phronis-rest-").tempdir()?;
        let database = folder.path().join("catalog.sqlite");
        Self::launch(folder, database)
    }

    /// Starts one over a SQLite database that is there: it serves the tables that others made in it.
    ///
    /// # Errors
    /// When it does not answer; with the last lines of its log.
    pub fn over(database: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("phronis-rest-").tempdir()?;
        Self::launch(folder, database.to_owned())
    }

    fn launch(folder: TempDir, database: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir(folder.path().join("warehouse"))?;
        let mut server = Self { folder, database, port: 0, child: None };
        for _ in 0..TRIES {
            if server.attempt()? {
                return Ok(server);
            }
        }
        bail!("the REST catalog ends at once: {}", last_lines(&server.folder.path().join("log")))
    }

    /// Starts it on a port that is free now. False when it ends by itself: somebody may have taken the port before it did.
    fn attempt(&mut self) -> anyhow::Result<bool> {
        let (libs, [port]) = (libs()?, free_ports()?);
        let log = File::create(self.folder.path().join("log"))?;
        let child = Command::new("java")
            .args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp"])
            .arg(libs.join("*"))
            .arg("org.apache.iceberg.rest.RESTCatalogServer")
            .env("CATALOG_REST_PORT", port.to_string())
            .env("CATALOG_WAREHOUSE", self.warehouse())
            .env("CATALOG_URI", format!("jdbc:sqlite:{}", self.database.display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting java: has scripts/bootstrap.sh run?")?;
        (self.port, self.child) = (port, Some(child));
        self.wait()
    }

    /// `http://127.0.0.1:…`.
    pub fn uri(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The database of its catalog.
    pub fn database(&self) -> &Path {
        &self.database
    }

    /// Where its tables are.
    pub fn warehouse(&self) -> PathBuf {
        self.folder.path().join("warehouse")
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

    fn wait(&mut self) -> anyhow::Result<bool> {
        let until = Instant::now() + PATIENCE;
        loop {
            // Who took its port answers too.
            let is_up = TcpStream::connect(("127.0.0.1", self.port)).is_ok();
            if self.child.as_mut().is_none_or(|child| matches!(child.try_wait(), Ok(Some(_)))) {
                return Ok(false);
            }
            if is_up {
                return Ok(true);
            }
            let log = self.folder.path().join("log");
            ensure!(Instant::now() < until, "the REST catalog does not start: {}", last_lines(&log));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("the REST catalog in {} is left behind: {error:#}", self.folder.path().display());
        }
    }
}

/// The jars, fetched when they are not there; who else wants them meanwhile waits.
fn libs() -> anyhow::Result<PathBuf> {
    let cache = PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/phronis/iceberg-rest");
    fs::create_dir_all(&cache)?;
    let libs = cache.join(format!("libs-{VERSION}"));
    let lock = File::create(cache.join("lock"))?;
    lock.lock()?;
    if libs.is_dir() {
        return Ok(libs);
    }
    let fresh = tempfile::Builder::new().prefix("fetch.").tempdir_in(&cache)?;
    let output = Command::new("mvn")
        .args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", "-f"])
        .arg(root().join("scripts/iceberg-rest.pom.xml"))
        .arg(format!("-DoutputDirectory={}", fresh.path().join("libs").display()))
        .output()
        .context("running mvn: has scripts/bootstrap.sh run?")?;
    ensure!(output.status.success(), "the jars could not be fetched: {}", String::from_utf8_lossy(&output.stdout));
    fs::rename(fresh.path().join("libs"), &libs)?;
    Ok(libs)
}
