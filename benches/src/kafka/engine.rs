//! A host under measurement: `benches/w1/run` as a process, as any harness would start it.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::host::target_dir;

/// How long a host may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(30);

/// What a stream promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Offsets are committed after what follows from them is durable.
    AtLeastOnce,
    /// Outputs and offsets in one transaction.
    ExactlyOnce,
}

impl Mode {
    /// How a person says it.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::AtLeastOnce => "at least once",
            Self::ExactlyOnce => "exactly once",
        }
    }
}

/// What a host is to do.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) bootstrap: &'a str,
    /// Of its topics.
    pub(crate) prefix: &'a str,
    /// A new one for each run.
    pub(crate) group: &'a str,
    /// An alert above this value.
    pub(crate) alert_at: u32,
    /// 0 where latency counts.
    pub(crate) linger_ms: u32,
    pub(crate) mode: Mode,
}

/// A running host; killed when dropped.
#[derive(Debug)]
pub(crate) struct Engine {
    child: Child,
    room: TempDir,
}

impl Engine {
    /// Starts a host; it is not ready yet.
    pub(crate) fn start(job: &Job<'_>) -> Result<Self> {
        let script = match job.mode {
            Mode::AtLeastOnce => "benches/w1/run",
            Mode::ExactlyOnce => "benches/w1/run-eos",
        };
        let room = tempfile::Builder::new().prefix("phronis-bench-host-").tempdir()?;
        let log = std::fs::File::create(room.path().join("log"))?;
        let child = Command::new(crate::repository(script))
            .env("BOOTSTRAP", job.bootstrap)
            .env("PREFIX", job.prefix)
            .env("GROUP", job.group)
            .env("ALERT_AT", job.alert_at.to_string())
            .env("LINGER_MS", job.linger_ms.to_string())
            .env("THREADS", "2")
            .env_remove("PARTITIONS")
            .env_remove("EXACTLY_ONCE")
            // The host that was built with this bench, and a room that no other run shares.
            .env("CARGO_TARGET_DIR", target_dir())
            .env("TMPDIR", room.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self { child, room })
    }

    /// Its process: the script becomes the host.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of its log, when it is gone.
    pub(crate) fn ensure_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the host ended with {status}: {}", self.log()),
        }
    }

    /// The last lines that it logged.
    pub(crate) fn log(&self) -> String {
        const LINES: usize = 20;
        let log = std::fs::read_to_string(self.room.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join("\n")
    }

    /// Ends it in order.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.ensure_runs()?;
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let status = self.ended()?;
        ensure!(status.success(), "the host ended with {status}: {}", self.log());
        Ok(())
    }

    fn ended(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the host did not end within {GRACE:?} after SIGTERM: {}", self.log())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
